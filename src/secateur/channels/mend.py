"""What lets a cut network run: an attribute that follows, or two axes that go in step."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

import numpy as np

from secateur.channels.attributes import integers_of, parts_of
from secateur.channels.copies import Repair, labels_left, positions_left
from secateur.channels.sites import Spot, names_of
from secateur.channels.ties import Labels
from secateur.channels.trial import PASSES, Failure, Trial
from secateur.channels.units import Units

_PAIRS = 12
"""Pairs of axes that are tried in step."""


def repair(trial: Trial, failure: Failure) -> tuple[Failure | None] | None:
    """Set one kind of attribute so that the trial comes further; None if there is none."""
    if failure.spot is None or trial.passes > PASSES:
        return None
    alive = labels_left(
        trial.watched.ties, trial.units, positions_left(trial.watched.ties, trial.units.groups)
    )
    names = names_of(trial.model)
    paths = [path for path in _paths(failure.spot) if path in names.values()]
    for more in (repairs for path in paths for repairs in _repairs(trial, path, alive)):
        known = {(r.module, r.attribute, r.index) for r in more}
        others = [r for r in trial.repairs if (r.module, r.attribute, r.index) not in known]
        if all(_carried_out(trial, r, alive) for r in more):
            continue  # nothing would change
        found = trial.attempt([*others, *more])
        # an integer that is the same number by chance may be an option: then the code goes another way
        if trial.same_way and (found is None or found.calls > failure.calls):
            trial.repairs = [*others, *more]
            return (found,)
    return None


def _carried_out(trial: Trial, repair: Repair, alive: Labels) -> bool:
    """Whether the integer is set to that number already."""
    return any(
        (known.module, known.attribute, known.index) == (repair.module, repair.attribute, repair.index)
        and alive[known.labels].sum() == alive[repair.labels].sum()
        for known in trial.repairs
    )


def _repairs(trial: Trial, path: str, alive: Labels) -> Iterator[list[Repair]]:
    """What may follow an axis, in all modules of one class: the sizes of its parts, or one integer."""
    module = trial.model.get_submodule(path)
    for attribute, sizes in parts_of(module):
        for choice in _choices(trial, path, sum(sizes), alive):
            yield _parts_alike(trial, path, attribute, choice)
    for attribute, index, value in integers_of(module):
        for choice in _choices(trial, path, value, alive):
            yield _alike(trial, path, attribute, index, choice)


def keep_in_step(trial: Trial, failure: Failure) -> tuple[Failure | None] | None:
    """Tie two axes of one length, position by position, where the code takes the size of one for the other's.

    ``x.reshape(b, c, -1)`` with the ``c`` of another tensor runs if both lose as many channels.
    """
    seen = trial.watched.ties.seen
    if failure.spot is None or failure.calls > len(seen) or trial.passes > PASSES:
        return None
    path = failure.spot.path
    vectors = trial.vectors(path)
    kinds = {trial.units.component[labels].tobytes(): n for n, labels in reversed([*enumerate(vectors)])}
    different = sorted(kinds.values())
    pairs = [(a, b) for n, a in enumerate(different) for b in different[n + 1 :]]
    near = {id(labels) for track in seen[failure.calls - 1].into if track for labels in track.axes}
    # those that meet there come first
    pairs.sort(key=lambda pair: not any(id(vectors[n]) in near for n in pair))
    for a, b in [pair for pair in pairs if _in_step(trial, *(vectors[n] for n in pair))][:_PAIRS]:
        found = _with_ties(trial, _pairs_alike(trial, path, a, b), failure)
        if found is not None:
            return found
    return None


def _paths(spot: Spot) -> Iterator[str]:
    """The module that was running, that whose code it is in, and the one around that."""
    paths = [f"{spot.path}.{spot.site.child}".strip("."), spot.path, spot.path.rpartition(".")[0]]
    yield from dict.fromkeys(paths)


def _choices(trial: Trial, path: str, value: int, alive: Labels) -> Iterator[int]:
    """Vectors (by their number) of a length, each of which has another length now."""
    seen: set[int] = set()
    for number, labels in enumerate(trial.vectors(path)):
        if labels.ndim == 1 and len(labels) == value:
            left = int(alive[labels].sum())
            if left != value and left not in seen:
                seen.add(left)
                yield number


def _alike(trial: Trial, path: str, attribute: str, index: int | None, choice: int) -> list[Repair]:
    """The same repair in all modules of one class."""
    kind = type(trial.model.get_submodule(path))
    found: list[Repair] = []
    for other in trial.paths_of(kind):
        module = trial.model.get_submodule(other)
        vectors = trial.vectors(other)
        values = {(name, place): value for name, place, value in integers_of(module)}
        if choice < len(vectors) and values.get((attribute, index)) == len(vectors[choice]):
            found.append(Repair(other, attribute, index, vectors[choice]))
    return found


def _parts_alike(trial: Trial, path: str, attribute: str, choice: int) -> list[Repair]:
    """The sizes of an axis' parts, in all modules of one class."""
    found: list[Repair] = []
    for other in trial.paths_of(type(trial.model.get_submodule(path))):
        vectors, sizes = trial.vectors(other), dict(parts_of(trial.model.get_submodule(other))).get(attribute)
        if sizes is None or choice >= len(vectors) or sum(sizes) != len(vectors[choice]):
            continue
        ends = accumulate(sizes)
        found += [
            Repair(other, attribute, place, vectors[choice][end - size : end])
            for place, (size, end) in enumerate(zip(sizes, ends, strict=True))
        ]
    return found


def _in_step(trial: Trial, a: Labels, b: Labels) -> bool:
    """Whether two axes could lose the same positions: several units each, nothing fixed (a head may go with its width)."""
    if len(a) != len(b) or a.ndim != 1 or b.ndim != 1:
        return False
    units = trial.units.units(a), trial.units.units(b)
    return all(bool((own >= 0).all()) and len(np.unique(own)) > 1 for own in units)


def _pairs_alike(trial: Trial, path: str, a: int, b: int) -> list[tuple[Labels, Labels]]:
    """A pair of axes by their numbers, in all modules of one class."""
    pairs: list[tuple[Labels, Labels]] = []
    for name in trial.paths_of(type(trial.model.get_submodule(path))):
        vectors = trial.vectors(name)
        if max(a, b) < len(vectors) and _in_step(trial, vectors[a], vectors[b]):
            pairs.append((vectors[a], vectors[b]))
    return pairs


def _with_ties(
    trial: Trial, pairs: list[tuple[Labels, Labels]], failure: Failure
) -> tuple[Failure | None] | None:
    """Add ties for good if the trial comes further with them."""
    ties, units = trial.watched.ties, trial.units
    count = len(ties.pairs)
    ties.pairs += pairs
    trial.units = Units(ties, trial.kind_of)
    # with a single unit left they would be left whole at once
    if all(len(np.unique(trial.units.units(a))) > 1 for a, _ in pairs):
        found = trial.attempt(trial.repairs)
        if found is None or found.calls > failure.calls:
            return (found,)
        mended = repair(trial, found) if found.calls == failure.calls else None
        if mended is not None:
            return mended
    del ties.pairs[count:]
    trial.units = units
    return None
