"""What the number of units that are left in a group must be: as data, found by watching or given by the user."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from secateur.errors import SettingsError


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraints:
    """What holds for a group's width, however it is cut.

    ``shares`` and ``block`` were found by watching, and hold by themselves: a unit is what can go at once. ``minimum`` and
    ``multiple_of`` are what a plan was asked for.

    Attributes:
        shares: Equal shares of the axis, from each of which a unit takes the same positions (the two halves of a gated
            product, the groups of a convolution, the gates of a recurrent layer).
        block: Consecutive positions that go together (the width of an attention head).
        minimum: Units that must be left.
        multiple_of: The number of units that are left is a multiple of it.

    Raises:
        SettingsError: One is below 1.

    Example:
        >>> heads = Constraints(shares=3, block=32)
        >>> print(heads)
        3 equal shares, whole blocks of 32
        >>> print(heads.given(minimum=2, grain=16).least(1, width=12), Constraints().given(grain=16).least(33, width=64))
        2 48
    """

    shares: int = 1
    block: int = 1
    minimum: int = 1
    multiple_of: int = 1

    def __post_init__(self) -> None:
        for name in ("shares", "block", "minimum", "multiple_of"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name}={getattr(self, name)} must be at least 1")

    def given(self, *, minimum: int = 1, grain: int = 1) -> Self:
        """With what a user asks for: a minimum, and positions on an axis (in each share) that are a multiple of a grain.

        Whole blocks that are multiples of the grain need no rounding of their number.
        """
        return replace(self, minimum=minimum, multiple_of=grain // math.gcd(grain, self.block))

    def least(self, units: int, *, width: int) -> int:
        """The smallest allowed number of units that is not below some number; never more than there are.

        >>> [Constraints(minimum=3, multiple_of=4).least(n, width=10) for n in (1, 4, 5, 9)]
        [4, 4, 8, 10]
        """
        wanted = max(units, self.minimum)
        return min(-(-wanted // self.multiple_of) * self.multiple_of, width)

    def __str__(self) -> str:
        said = [f"{self.shares} equal shares"] if self.shares > 1 else []
        said += [f"whole blocks of {self.block}"] if self.block > 1 else []
        said += [f"at least {self.minimum}"] if self.minimum > 1 else []
        said += [f"multiples of {self.multiple_of}"] if self.multiple_of > 1 else []
        return ", ".join(said)


def constraints_of(axes: Iterable[NDArray[np.int64]]) -> Constraints:
    """What is seen of a group on the axes that write it, each as the positions of every unit, ``[width, positions]``.

    >>> constraints_of([np.array([[0, 1, 8, 9], [2, 3, 10, 11]])])
    Constraints(shares=2, block=2, minimum=1, multiple_of=1)
    """
    shares, block = 1, 0
    for positions in axes:
        count = positions.shape[1]
        runs = 1 + (np.diff(np.sort(positions, axis=1), axis=1) != 1).sum(axis=1)
        own = int(runs[0]) if (runs == runs[0]).all() and count % int(runs[0]) == 0 else count
        shares, block = max(shares, own), math.gcd(block, count // own)
    return Constraints(shares=shares, block=max(block, 1))
