"""What a reduced network may cost."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

from secateur.cost import Cost
from secateur.errors import SettingsError


def _limit(at_most: float, before: int) -> int:
    """A share of what it was (up to 1), or a number."""
    return math.floor(at_most * before) if at_most <= 1 else math.floor(at_most)


def _check(at_most: float) -> None:
    if not at_most > 0:
        raise SettingsError(
            f"a budget of {at_most} is not positive; give a share up to 1 or a number above 1"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Macs:
    """At most this many multiply-adds: a share of the network's own up to 1, a number above.

    >>> Macs(at_most=0.5).met(Cost(10, 0, 50, 40), Cost(20, 0, 100, 80))
    True
    """

    at_most: float

    def __post_init__(self) -> None:
        _check(self.at_most)

    def met(self, cost: Cost, before: Cost) -> bool:
        """Whether a cost is within the budget."""
        return cost.macs <= _limit(self.at_most, before.macs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """At most this many parameters: a share of the network's own up to 1, a number above."""

    at_most: float

    def __post_init__(self) -> None:
        _check(self.at_most)

    def met(self, cost: Cost, before: Cost) -> bool:
        """Whether a cost is within the budget."""
        return cost.parameters <= _limit(self.at_most, before.parameters)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bytes:
    """At most this many bytes of tensors: a share of the network's own up to 1, a number above."""

    at_most: float

    def __post_init__(self) -> None:
        _check(self.at_most)

    def met(self, cost: Cost, before: Cost) -> bool:
        """Whether a cost is within the budget."""
        return cost.bytes <= _limit(self.at_most, before.bytes)


Budget: TypeAlias = Macs | Parameters | Bytes
