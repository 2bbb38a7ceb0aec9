"""Cut on trial: what a network's own code pins to a size is mended where it can be, and left whole where it cannot.

Slicing weights is not enough for a forward that says ``x.view(b, n, self.heads, 64)`` or ``x.split(self.half, 1)``. So some
units of every group are removed from a copy on meta tensors, which is watched again with the labels of what is left. Each
operator must meet the channels that it met before. Where one does not, integers among the attributes of the modules that are
running there are set to what the axis has now; where none helps, the groups at that place are left whole, with file and
line. Nothing is computed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from torch import nn

from secateur.channels.copies import Copies, Repair, carry_out, labels_left, positions_left
from secateur.channels.dispatch import Pass
from secateur.channels.groups import INPUT, Group
from secateur.channels.inherited import Inherited, Renamed
from secateur.channels.sites import Site, Sites, Spot, names_of, spot_of_error, text_of
from secateur.channels.ties import Labels
from secateur.channels.units import Units

PASSES = 200
"""Passes at most; groups that are still at fault then are left whole together."""


@dataclass(frozen=True, slots=True)
class Failure:
    """How far a trial came, and where it failed."""

    calls: int
    spot: Spot | None
    error: Exception


@dataclass
class Trial:
    """Tries cuts of a watched network, which is in eval mode, until one runs and every operator meets the channels that it met before."""

    model: nn.Module
    example: Any
    watched: Pass
    kind_of: Any
    units: Units = field(init=False)
    repairs: list[Repair] = field(default_factory=list[Repair])
    passes: int = 0
    failed_at: set[Site] = field(default_factory=set[Site])
    same_way: bool = True
    _sites: Sites | None = None
    _copies: Copies = field(init=False)
    _labels: dict[tuple[str, int], Labels] = field(init=False)

    def __post_init__(self) -> None:
        ties = self.watched.ties
        self.units = Units(ties, self.kind_of)
        self._copies = Copies(self.model, meta=self.watched.meta)
        self._labels = {(base.tensor, base.axis): ties.labels(base) for base in ties.bases}

    def attempt(self, repairs: list[Repair], *, calls: float = math.inf) -> Failure | None:
        """One trial; None if it succeeds. One that comes further than so many calls may be ended there."""
        self.passes += 1
        if not self.units.groups:
            return None
        kept = positions_left(self.watched.ties, self.units.groups)
        cut, tensors = self._copies.cut(kept)
        alive = labels_left(self.watched.ties, self.units, kept)
        carry_out(cut, repairs, alive)
        expected = {key: labels[kept[key]] if key in kept else labels for key, labels in self._labels.items()}
        ties = Inherited(expected, self.units, alive, self.watched.ties, calls=calls)
        try:
            again = Pass(
                cut,
                inputs=self.watched.inputs,
                meta=self.watched.meta,
                forward_fn=self.watched.forward_fn,
                ties=ties,
                tensors=tensors,
            )
            again.run(self.example, counting=False)
        except Exception as error:  # whatever the network's code raises when its sizes change
            found = spot_of_error(error, names_of(cut))
            failure = Failure(ties.calls, found, error)
            error.__traceback__ = None
            return failure
        finally:  # the parameters in the order in which they were first used, so far as it came
            self.same_way = list(ties.used) == list(self.watched.ties.used)[: len(ties.used)]
        return None

    def comes_further(self, without: Sequence[Group], failure: Failure) -> bool:
        """Whether a trial that leaves some groups whole comes further than another did."""
        everything = self.units.groups
        names = {group.name for group in without}
        self.units.groups = tuple(group for group in everything if group.name not in names)
        try:
            found = self.attempt(self.repairs, calls=failure.calls)
        finally:
            self.units.groups = everything
        return found is None or found.calls > failure.calls

    def leave(self, groups: Sequence[Group], failure: Failure) -> None:
        """Fix groups, with the reason."""
        if failure.spot is not None:
            reason = f"has a size that the network's code fixes at {text_of(failure.spot.site)}"
        else:
            lines = str(failure.error).strip().split("\n")
            reason = f"cannot be cut: {type(failure.error).__name__}: {lines[0][:200]}"
        if not groups:
            raise RuntimeError("a trial failed though nothing was cut") from failure.error
        self.fix(groups, reason)

    def fix(self, groups: Sequence[Group], reason: str) -> None:
        """Fix groups for a reason."""
        ties = self.watched.ties
        bases = {(base.tensor, base.axis): base for base in ties.bases}
        for member in (member for group in groups for member in group.members):
            ties.fix(ties.labels(bases[member.tensor, member.axis])[member.indices.reshape(-1)], reason)
        self.units = Units(ties, self.kind_of)

    def seen(self) -> Sites:
        """What the uncut network does where, found when it is needed."""
        if self._sites is None:
            ties = Renamed(self.watched.ties)
            self._sites = Sites(ties, names_of(self.model))
            self.model.eval()  # empties what some modules keep from an earlier pass
            again = Pass(
                self.model,
                inputs=self.watched.inputs,
                meta=self.watched.meta,
                forward_fn=self.watched.forward_fn,
                ties=ties,
                recorder=self._sites,
            )
            again.run(self.example, counting=False)
        return self._sites

    def vectors(self, path: str) -> list[Labels]:
        """The label vectors that a module's forward and its own tensors have, in the order in which they were met."""
        own = [
            self.watched.ties.labels(base)
            for base in self.watched.ties.bases
            if base.tensor != INPUT and (not path or base.tensor.startswith(f"{path}."))
        ]
        return self.seen().vectors.get(path, []) + own

    def paths_of(self, kind: type[nn.Module]) -> list[str]:
        """The names of all modules of one class."""
        modules = cast("Iterator[tuple[str, nn.Module]]", self.model.named_modules())
        return [name for name, module in modules if type(module) is kind]
