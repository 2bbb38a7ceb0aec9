"""Cut on trial: what a network's own code pins to a size is mended where it can be, and left whole where it cannot.

Slicing weights is not enough for a forward that says ``x.view(b, n, self.heads, 64)`` or ``x.split(self.half, 1)``. So some
units of every group are removed from a copy on meta tensors, which is watched again with the labels of what is left. Each
operator must meet the channels that it met before. Where one does not, integers among the attributes of the modules that are
running there are set to what the axis has now; where none helps, the groups at that place are left whole, with file and
line. Nothing is computed.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from secateur._model import kept_randomness, left_as_found, named_tensors
from secateur.channels.attributes import fit_attributes, integers_of, set_attribute
from secateur.channels.dispatch import Pass
from secateur.channels.groups import INPUT, Group
from secateur.channels.sites import Sites, Spot, names_of, spot_of_error, text_of
from secateur.channels.ties import Call, Labels, MisfitError, Ties, tensors_of
from secateur.channels.units import Units

_PASSES = 200
"""Passes at most; groups that are still at fault then are left whole together."""


_PAIRS = 12
"""Pairs of axes that are tried in step."""


class _Inherited(Ties):
    """Labels of a cut network: those of the positions that are left. New ties between them are misfits."""

    def __init__(
        self, expected: dict[tuple[str, int], Labels], units: Units, alive: Labels, uncut: Ties
    ) -> None:
        super().__init__()
        self._expected, self._alive, self._uncut = expected, alive, uncut.seen
        self._component, self._blocked = units.component, units.blocked
        self._left: dict[int, int] = {}

    def base(self, tensor: str, axis: int, size: int) -> Labels:
        """The labels that are left of an axis."""
        labels = self._expected[tensor, axis]
        if len(labels) != size:
            raise MisfitError(
                f"{tensor}[{axis}] has {size} positions, {len(labels)} are left", self._component[labels]
            )
        return labels

    def tie(
        self,
        a: Labels | None,
        b: Labels | None,
        reason: str = "is added to or multiplied with something fixed",
    ) -> None:
        """Check that two axes are still the same."""
        if a is b:
            return
        if a is None or b is None:
            self.fix(a if b is None else b, reason)
        elif a.shape != b.shape:
            met = self._component[a.reshape(-1)], self._component[b.reshape(-1)]
            raise MisfitError(f"{a.size} channels meet {b.size}", *met)
        else:
            mine, theirs = self._component[a], self._component[b]
            differ = mine != theirs
            if differ.any() and not (self._blocked[mine[differ]] & self._blocked[theirs[differ]]).all():
                raise MisfitError("channels meet that are not the same", theirs[differ], mine[differ])

    def fix(self, labels: Labels | None, reason: str) -> None:
        """Check that what is fixed now was fixed before."""
        if labels is not None and not self._blocked[self._component[labels]].all():
            raise MisfitError(reason, self._component[labels.reshape(-1)])

    def note(self, call: Call) -> None:
        """Check that what came out is as large as what is left of what came out of the uncut network."""
        if self.calls > len(self._uncut) or self._uncut[self.calls - 1].name != call.name:
            self._uncut = []  # it runs another way now; labels are still compared
            return
        for (shape, track), tensor in zip(
            self._uncut[self.calls - 1].out, tensors_of(call.out), strict=False
        ):
            if track is None or track.joint is not None:
                continue
            for axis, labels in enumerate(track.axes):
                left = shape[axis] if labels is None else self._count(labels)
                if left != tensor.shape[axis]:
                    raise MisfitError(
                        f"{left} positions are left, the network's code makes {tensor.shape[axis]}"
                    )

    def _count(self, labels: Labels) -> int:
        key = id(labels)
        if key not in self._left:
            self._left[key] = int(self._alive[labels].sum())
        return self._left[key]


@dataclass(frozen=True, slots=True, eq=False)
class Repair:
    """An integer that a module keeps, which is the length of an axis: it follows the units along that axis.

    Attributes:
        module: Name of the module.
        attribute: Name of the attribute.
        index: The place in the attribute, where it is a tuple or list.
        labels: The labels along the axis when the network was watched.
    """

    module: str
    attribute: str
    index: int | None
    labels: Labels


@dataclass(frozen=True, slots=True)
class _Failure:
    """How far a trial came, and where it failed."""

    calls: int
    spot: Spot | None
    error: Exception


@dataclass
class Trial:
    """Tries cuts of a watched network until one runs and every operator meets the channels that it met before."""

    model: nn.Module
    example: Any
    watched: Pass
    kind_of: Any
    units: Units = field(init=False)
    repairs: list[Repair] = field(default_factory=list[Repair])
    passes: int = 0
    _sites: Sites | None = None

    def __post_init__(self) -> None:
        self.units = Units(self.watched.ties, self.kind_of)
        self._sizes = {(base.tensor, base.axis): base.size for base in self.watched.ties.bases}

    def run(self) -> None:
        """Try, mend, leave whole, until a trial succeeds."""
        with kept_randomness():
            self._run()

    def _run(self) -> None:
        failure = self._attempt(self.repairs)
        while failure is not None:
            mended = self._repair(failure) or self._keep_in_step(failure)
            if mended is not None:
                failure = mended[0]
                continue
            self._leave(self._guilty(failure), failure)
            failure = self._attempt(self.repairs)

    # --- one trial --------------------------------------------------------------------------------------------------

    def _removed(self, group: Group) -> Labels:
        """About a third of the units, scattered; of neighbouring groups not the same ones.

        A prime number stays, so that it is no multiple of a width of something else by chance.

        Of two in a convolution's group none goes: with a single one it would be taken for a depthwise one.
        """
        if group.width == 2 and any(
            (member.block > 1 or self._sizes[member.tensor, member.axis] == 2)
            and (member.tensor, 2) in self._sizes
            for member in group.by_role("read", "write")
        ):
            return np.arange(0)
        count = group.width - _prime_near_two_thirds(group.width)
        spread = np.linspace(0, group.width - 1, count).round().astype(np.int64)
        return (spread + self.units.groups.index(group) % 2) % group.width

    def _kept(self) -> dict[tuple[str, int], Labels]:
        """The positions that are left of each axis that loses some."""
        left: dict[tuple[str, int], NDArray[np.bool_]] = {}
        for group in self.units.groups:
            if group.by_role("input"):
                continue
            removed = self._removed(group)
            for member in group.members:
                key = member.tensor, member.axis
                if key not in left:
                    left[key] = np.ones(self._sizes[key], dtype=bool)
                left[key][member.indices[removed]] = False
        return {key: np.flatnonzero(alive) for key, alive in left.items()}

    def _cut(self, kept: dict[tuple[str, int], Labels], repairs: list[Repair]) -> nn.Module:
        """The network cut on trial: on meta tensors, or on its own where its forward reads values."""
        by_tensor: dict[str, dict[int, Labels]] = {}
        for (tensor, axis), positions in kept.items():
            by_tensor.setdefault(tensor, {})[axis] = positions
        memo: dict[int, Any] = {}
        for name, tensor in named_tensors(self.model).items():
            if id(tensor) in memo:
                continue
            if self.watched.meta:
                shape = [
                    len(by_tensor.get(name, {}).get(axis, range(n))) for axis, n in enumerate(tensor.shape)
                ]
                new = torch.empty(shape, dtype=tensor.dtype, device="meta")
            else:
                new = tensor.detach()
                for axis, positions in by_tensor.get(name, {}).items():
                    new = new.index_select(axis, torch.as_tensor(positions, device=new.device))
            is_parameter = isinstance(tensor, nn.Parameter)
            memo[id(tensor)] = nn.Parameter(new, requires_grad=False) if is_parameter else new
        result = copy.deepcopy(self.model, memo)
        for module in {tensor.rpartition(".")[0] for tensor in by_tensor}:
            fit_attributes(result.get_submodule(owner_of(module)))
        self._set(result, kept, repairs)
        return result

    def _set(self, model: nn.Module, kept: dict[tuple[str, int], Labels], repairs: list[Repair]) -> None:
        alive = self._alive(kept)
        for repair in repairs:
            count = int(alive[repair.labels].sum())
            set_attribute(model.get_submodule(repair.module), repair.attribute, repair.index, count)

    def _alive(self, kept: dict[tuple[str, int], Labels]) -> Labels:
        """For each label whether its component is left."""
        alive = np.ones(len(self.units.blocked), dtype=bool)
        for base in self.watched.ties.bases:
            positions = kept.get((base.tensor, base.axis))
            if positions is not None:
                components = self.units.component[base.start : base.start + base.size]
                alive[np.delete(components, positions)] = False
        return alive[self.units.component]

    def _attempt(self, repairs: list[Repair]) -> _Failure | None:
        """One trial; None if it succeeds."""
        self.passes += 1
        if not self.units.groups:
            return None
        kept = self._kept()
        cut = self._cut(kept, repairs)
        expected: dict[tuple[str, int], Labels] = {}
        for base in self.watched.ties.bases:
            labels = self.watched.ties.labels(base)
            expected[base.tensor, base.axis] = labels[kept.get((base.tensor, base.axis), slice(None))]
        ties = _Inherited(expected, self.units, self._alive(kept), self.watched.ties)
        try:
            cut.eval()
            again = Pass(cut, inputs=self.watched.inputs, meta=self.watched.meta, ties=ties)
            again.run(self.example, counting=False)
        except Exception as error:  # whatever the network's code raises when its sizes change
            found = spot_of_error(error, names_of(cut))
            failure = _Failure(ties.calls, found, error)
            error.__traceback__ = None
            return failure
        return None

    # --- mending ------------------------------------------------------------------------------------------------------

    def _seen(self) -> Sites:
        """What the uncut network does where, found when it is needed."""
        if self._sites is None:
            ties = _Renamed(self.watched.ties)
            self._sites = Sites(ties, names_of(self.model))
            with left_as_found(self.model, values=not self.watched.meta):
                self.model.eval()
                again = Pass(
                    self.model,
                    inputs=self.watched.inputs,
                    meta=self.watched.meta,
                    ties=ties,
                    recorder=self._sites,
                )
                again.run(self.example, counting=False)
        return self._sites

    def _repair(self, failure: _Failure) -> tuple[_Failure | None] | None:
        """Set one kind of attribute so that the trial comes further; None if there is none."""
        if failure.spot is None or self.passes > _PASSES:
            return None
        alive = self._alive(self._kept())
        names = names_of(self.model)
        paths = [path for path in self._paths(failure.spot) if path in names.values()]
        for path in paths:
            for attribute, index, value in integers_of(self.model.get_submodule(path)):
                for choice in self._choices(path, value, alive):
                    more = self._alike(path, attribute, index, choice)
                    known = {(r.module, r.attribute, r.index) for r in more}
                    others = [r for r in self.repairs if (r.module, r.attribute, r.index) not in known]
                    found = self._attempt([*others, *more])
                    if found is None or found.calls > failure.calls:
                        self.repairs = [*others, *more]
                        return (found,)
        return None

    def _paths(self, spot: Spot) -> Iterator[str]:
        """The module that was running, that whose code it is in, and the one around that."""
        paths = [f"{spot.path}.{spot.site.child}".strip("."), spot.path, spot.path.rpartition(".")[0]]
        yield from dict.fromkeys(paths)

    def _vectors(self, path: str) -> list[Labels]:
        """The label vectors that a module's forward and its own tensors have, in the order in which they were met."""
        own = [
            self.watched.ties.labels(base)
            for base in self.watched.ties.bases
            if base.tensor.rpartition(".")[0].startswith(path) and base.tensor != INPUT
        ]
        return self._seen().vectors.get(path, []) + own

    def _choices(self, path: str, value: int, alive: Labels) -> Iterator[int]:
        """Vectors (by their number) of a length, each of which has another length now."""
        seen: set[int] = set()
        for number, labels in enumerate(self._vectors(path)):
            if labels.ndim == 1 and len(labels) == value:
                left = int(alive[labels].sum())
                if left != value and left not in seen:
                    seen.add(left)
                    yield number

    def _alike(self, path: str, attribute: str, index: int | None, choice: int) -> list[Repair]:
        """The same repair in all modules of one class."""
        kind = type(self.model.get_submodule(path))
        found: list[Repair] = []
        for other in self._paths_of(kind):
            module = self.model.get_submodule(other)
            vectors = self._vectors(other)
            values = {(name, place): value for name, place, value in integers_of(module)}
            if choice < len(vectors) and values.get((attribute, index)) == len(vectors[choice]):
                found.append(Repair(other, attribute, index, vectors[choice]))
        return found

    def _keep_in_step(self, failure: _Failure) -> tuple[_Failure | None] | None:
        """Tie two axes of one length, position by position, where the code takes the size of one for the other's.

        ``x.reshape(b, c, -1)`` with the ``c`` of another tensor runs if both lose as many channels.
        """
        seen = self.watched.ties.seen
        if failure.spot is None or failure.calls > len(seen) or self.passes > _PASSES:
            return None
        path = failure.spot.path
        vectors = self._vectors(path)
        kinds = {self.units.component[labels].tobytes(): n for n, labels in reversed([*enumerate(vectors)])}
        different = sorted(kinds.values())
        pairs = [(a, b) for n, a in enumerate(different) for b in different[n + 1 :]]
        near = {id(labels) for track in seen[failure.calls - 1].into if track for labels in track.axes}
        pairs.sort(
            key=lambda pair: not any(id(vectors[n]) in near for n in pair)
        )  # those that meet there come first
        for a, b in [pair for pair in pairs if self._in_step(*(vectors[n] for n in pair))][:_PAIRS]:
            found = self._with_ties(self._pairs_alike(path, a, b), failure)
            if found is not None:
                return found
        return None

    def _in_step(self, a: Labels, b: Labels) -> bool:
        """Whether two axes could lose the same positions: several units each, nothing fixed (a head may go with its width)."""
        if len(a) != len(b) or a.ndim != 1 or b.ndim != 1:
            return False
        units = self.units.units(a), self.units.units(b)
        return all(bool((own >= 0).all()) and len(np.unique(own)) > 1 for own in units)

    def _pairs_alike(self, path: str, a: int, b: int) -> list[tuple[Labels, Labels]]:
        """A pair of axes by their numbers, in all modules of one class."""
        pairs: list[tuple[Labels, Labels]] = []
        for name in self._paths_of(type(self.model.get_submodule(path))):
            vectors = self._vectors(name)
            if max(a, b) < len(vectors) and self._in_step(vectors[a], vectors[b]):
                pairs.append((vectors[a], vectors[b]))
        return pairs

    def _with_ties(
        self, pairs: list[tuple[Labels, Labels]], failure: _Failure
    ) -> tuple[_Failure | None] | None:
        """Add ties for good if the trial comes further with them."""
        ties, units = self.watched.ties, self.units
        count = len(ties.pairs)
        ties.pairs += pairs
        self.units = Units(ties, self.kind_of)
        if all(
            len(np.unique(self.units.units(a))) > 1 for a, _ in pairs
        ):  # else they would be left whole at once
            found = self._attempt(self.repairs)
            if found is None or found.calls > failure.calls:
                return (found,)
            mended = self._repair(found) if found.calls == failure.calls else None
            if mended is not None:
                return mended
        del ties.pairs[count:]
        self.units = units
        return None

    # --- leaving whole ------------------------------------------------------------------------------------------------

    def _groups_of(self, labels: list[Labels]) -> list[Group]:
        """The groups that some labels belong to."""
        if not labels:
            return []
        return self._groups_numbered(
            np.unique(self.units.units(np.concatenate([x.reshape(-1) for x in labels])))
        )

    def _groups_numbered(self, numbers: Labels) -> list[Group]:
        """The groups of some units."""
        found: list[Group] = []
        start = 0
        for group in self.units.groups:
            if ((numbers >= start) & (numbers < start + group.width)).any():
                found.append(group)
            start += group.width
        return found

    def _guilty(self, failure: _Failure) -> list[Group]:
        """The fewest groups found without which the trial comes further."""
        groups = list(self.units.groups)
        if self.passes > _PASSES:
            return groups
        tried: set[tuple[str, ...]] = set()
        for suspects in self._suspects(failure):
            for chosen in ([[group] for group in suspects] if len(suspects) > 1 else []) + [suspects]:
                names = tuple(group.name for group in chosen)
                if chosen and names not in tried and self._comes_further(chosen, failure):
                    return self._and_alike(chosen, failure)
                tried.add(names)
        return self._by_halves(groups, failure)

    def _suspects(self, failure: _Failure) -> Iterator[list[Group]]:
        """Sets of groups that may be at fault, the likeliest first."""
        if isinstance(failure.error, MisfitError):  # its labels are components
            members = {int(entry) for labels in failure.error.labels for entry in labels}
            numbers = {int(self.units.unit_of_component[entry]) for entry in members}
            yield self._groups_numbered(np.array(sorted(numbers)))
        seen = self.watched.ties.seen
        if failure.calls <= len(seen):
            call = seen[failure.calls - 1]
            tracks = [track for track in (*call.into, *(track for _, track in call.out)) if track is not None]
            yield self._groups_of([labels for track in tracks for labels in track.axes if labels is not None])
        if failure.spot is not None:
            yield self._groups_of(self._seen().labels.get((failure.spot.site, failure.spot.path), []))
            prefix = f"{failure.spot.path}." if failure.spot.path else ""
            yield [g for g in self.units.groups if any(m.tensor.startswith(prefix) for m in g.members)]

    def _and_alike(self, chosen: list[Group], failure: _Failure) -> list[Group]:
        """Groups at fault in one module, and those of the same names in other modules of its class."""
        if failure.spot is None or not failure.spot.path:
            return chosen
        path = failure.spot.path
        kind = type(self.model.get_submodule(path))
        within = [group.name[len(path) :] for group in chosen if group.name.startswith(f"{path}.")]
        names = {f"{other}{name}" for other in self._paths_of(kind) for name in within}
        others = [group for group in self.units.groups if group.name in names and group not in chosen]
        return [*chosen, *others] if others and self._comes_further([*chosen, *others], failure) else chosen

    def _paths_of(self, kind: type[nn.Module]) -> list[str]:
        modules = cast("Iterator[tuple[str, nn.Module]]", self.model.named_modules())
        return [name for name, module in modules if type(module) is kind]

    def _comes_further(self, without: list[Group], failure: _Failure) -> bool:
        everything = self.units.groups
        names = {group.name for group in without}
        self.units.groups = tuple(group for group in everything if group.name not in names)
        try:
            found = self._attempt(self.repairs)
        finally:
            self.units.groups = everything
        return found is None or found.calls > failure.calls

    def _by_halves(self, groups: list[Group], failure: _Failure) -> list[Group]:
        """A small set of groups without which the trial comes further."""
        while len(groups) > 1 and self.passes <= _PASSES:
            half = len(groups) // 2
            if self._comes_further(groups[:half], failure):
                groups = groups[:half]
            elif self._comes_further(groups[half:], failure):
                groups = groups[half:]
            else:
                break
        return groups

    def _leave(self, groups: list[Group], failure: _Failure) -> None:
        """Fix groups, with the reason."""
        if failure.spot is not None:
            reason = f"has a size that the network's code fixes at {text_of(failure.spot.site)}"
        else:
            lines = str(failure.error).strip().split("\n")
            reason = f"cannot be cut: {type(failure.error).__name__}: {lines[0][:200]}"
        ties = self.watched.ties
        names = {group.name for group in groups}
        for base in ties.bases:
            for group in groups:
                for member in group.members:
                    if (member.tensor, member.axis) == (base.tensor, base.axis):
                        ties.fix(ties.labels(base)[member.indices.reshape(-1)], reason)
        if not names:
            raise RuntimeError("a trial failed though nothing was cut") from failure.error
        self.units = Units(ties, self.kind_of)


class _Renamed(Ties):
    """The labels of an earlier pass, given to the same tensors again."""

    def __init__(self, earlier: Ties) -> None:
        super().__init__()
        self._labels = {(base.tensor, base.axis): earlier.labels(base) for base in earlier.bases}
        self.next_label = earlier.next_label

    def base(self, tensor: str, axis: int, size: int) -> Labels:
        """The labels that an axis had."""
        labels = self._labels[tensor, axis]
        if len(labels) != size:
            raise RuntimeError(f"{tensor}[{axis}] had {len(labels)} positions, and has {size} now")
        return labels


@cache
def _prime_near_two_thirds(width: int) -> int:
    """The prime number (or 1) below a width that is nearest to two thirds of it.

    >>> [_prime_near_two_thirds(width) for width in (2, 3, 4, 8, 12, 768)]
    [1, 2, 3, 5, 7, 509]
    """
    size = 2 * width / 3
    candidates = sorted(range(1, width), key=lambda n: abs(n - size))
    return next(n for n in candidates if all(n % d for d in range(2, math.isqrt(n) + 1)))


def owner_of(module: str) -> str:
    """The module whose attributes repeat a tensor's sizes; for a parametrised tensor, the module that it belongs to."""
    return module.rpartition("parametrizations.")[0].rstrip(".") if "parametrizations." in module else module
