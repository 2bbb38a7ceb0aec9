"""Which groups are at fault where a cut network does not run and nothing mends it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from secateur.channels.groups import Group
from secateur.channels.ties import Labels, MisfitError
from secateur.channels.trial import PASSES, Failure, Trial


def guilty(trial: Trial, failure: Failure) -> list[Group]:
    """The fewest groups found without which the trial comes further."""
    groups = list(trial.units.groups)
    if trial.passes > PASSES:
        return groups
    tried: set[tuple[str, ...]] = set()
    for suspects in _suspects(trial, failure):
        for chosen in ([[group] for group in suspects] if len(suspects) > 1 else []) + [suspects]:
            names = tuple(group.name for group in chosen)
            if chosen and names not in tried and trial.comes_further(chosen, failure):
                return _and_alike(trial, chosen, failure)
            tried.add(names)
    return _by_halves(trial, groups, failure)


def _suspects(trial: Trial, failure: Failure) -> Iterator[list[Group]]:
    """Sets of groups that may be at fault, the likeliest first."""
    if isinstance(failure.error, MisfitError):  # its labels are components
        members = {int(entry) for labels in failure.error.labels for entry in labels}
        numbers = {int(trial.units.unit_of_component[entry]) for entry in members}
        yield _groups_numbered(trial, np.array(sorted(numbers)))
    seen = trial.watched.ties.seen
    if failure.calls <= len(seen):
        call = seen[failure.calls - 1]
        tracks = [track for track in (*call.into, *(track for _, track in call.out)) if track is not None]
        yield _groups_of(trial, [labels for track in tracks for labels in track.axes if labels is not None])
    if failure.spot is not None:
        yield _groups_of(trial, trial.seen().labels.get((failure.spot.site, failure.spot.path), []))
        prefix = f"{failure.spot.path}." if failure.spot.path else ""
        yield [g for g in trial.units.groups if any(m.tensor.startswith(prefix) for m in g.members)]


def _and_alike(trial: Trial, chosen: list[Group], failure: Failure) -> list[Group]:
    """Groups at fault in one module, and at the second failure on the same line, those of the same names in others of its class.

    Not at once: what is at fault in one module (a single head, say) may well be cut in another.
    """
    if failure.spot is None or not failure.spot.path:
        return chosen
    path = failure.spot.path
    if failure.spot.site not in trial.failed_at:
        trial.failed_at.add(failure.spot.site)
        return chosen
    kind = type(trial.model.get_submodule(path))
    within = [group.name[len(path) :] for group in chosen if group.name.startswith(f"{path}.")]
    names = {f"{other}{name}" for other in trial.paths_of(kind) for name in within}
    others = [group for group in trial.units.groups if group.name in names and group not in chosen]
    return [*chosen, *others] if others and trial.comes_further([*chosen, *others], failure) else chosen


def _by_halves(trial: Trial, groups: list[Group], failure: Failure) -> list[Group]:
    """A small set of groups without which the trial comes further."""
    while len(groups) > 1 and trial.passes <= PASSES:
        half = len(groups) // 2
        if trial.comes_further(groups[:half], failure):
            groups = groups[:half]
        elif trial.comes_further(groups[half:], failure):
            groups = groups[half:]
        else:
            break
    return groups


def _groups_of(trial: Trial, labels: list[Labels]) -> list[Group]:
    """The groups that some labels belong to."""
    if not labels:
        return []
    return _groups_numbered(
        trial, np.unique(trial.units.units(np.concatenate([x.reshape(-1) for x in labels])))
    )


def _groups_numbered(trial: Trial, numbers: Labels) -> list[Group]:
    """The groups of some units."""
    found: list[Group] = []
    start = 0
    for group in trial.units.groups:
        if ((numbers >= start) & (numbers < start + group.width)).any():
            found.append(group)
        start += group.width
    return found
