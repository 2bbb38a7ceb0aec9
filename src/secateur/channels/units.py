"""From ties to units and groups: one call of connected components, the rest is sorting."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse  # pyright: ignore[reportMissingTypeStubs] - scipy ships none
from scipy.sparse import csgraph  # pyright: ignore[reportMissingTypeStubs]

from secateur.channels.groups import INPUT, Fixed, Group, Member, Role
from secateur.channels.rules.conv import KERNEL
from secateur.channels.ties import FIXED, Base, Labels, Ties

_FIXED = "is added to or multiplied with something fixed"
_BOTH = "is written and read by the same weight"
_TABLE = "is neither written nor read as a channel: a place in a table, of which another input may need more"
_UNWRITTEN = "is read, but nothing that can be cut writes it"
_SINGLE = "has a single channel, or channels that can only go together"


def components(ties: Ties) -> NDArray[np.int64]:
    """The component of every label."""
    count = ties.next_label
    if not ties.pairs:
        return np.arange(count)
    a = np.concatenate([pair[0] for pair in ties.pairs])
    b = np.concatenate([pair[1] for pair in ties.pairs])
    scipy_csgraph: Any = csgraph  # untyped
    graph: Any = sparse.coo_matrix((np.ones(len(a), dtype=np.int8), (a, b)), shape=(count, count))
    found = scipy_csgraph.connected_components(graph, directed=False)
    return np.asarray(found[1], dtype=np.int64)


def _joined(parts: list[Labels]) -> Labels:
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)


def _mix(values: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Spread integers over 64 bits (splitmix64), so that sums of them identify sets."""
    z = values.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@dataclass(frozen=True, slots=True, eq=False)
class _Runs:
    """Positions of axes, sorted by component: each component is a run, in which each axis is a shorter run.

    Attributes:
        component: The component of each entry, ascending.
        axis: The number of the axis.
        position: The position on it.
    """

    component: Labels
    axis: Labels
    position: Labels

    def units(self) -> tuple[Labels, Labels]:
        """The components, and where the run of each begins."""
        starts = np.flatnonzero(np.r_[True, self.component[1:] != self.component[:-1]])
        return self.component[starts], starts

    def signatures(self, starts: Labels) -> NDArray[np.uint64]:
        """A number for each component that says how many positions of which axes it has."""
        other_axis = self.axis[1:] != self.axis[:-1]
        other_component = self.component[1:] != self.component[:-1]
        at = np.flatnonzero(np.r_[True, other_axis | other_component])
        counts = np.r_[at[1:], len(self.axis)] - at
        numbers = _mix(self.axis[at] * 1_000_003 + counts)
        return np.add.reduceat(numbers, np.searchsorted(at, starts))

    def tables(self, mine: Labels, starts: Labels) -> list[tuple[int, Labels]]:
        """For components of one signature: each of their axes, and the positions on it, ``[width, block]``."""
        end = int(np.append(starts[starts > mine[0]], len(self.axis))[0])
        axes = self.axis[mine[0] : end]
        table = self.position[mine[:, None] + np.arange(len(axes))]
        cuts = np.flatnonzero(np.r_[True, axes[1:] != axes[:-1], True])
        return [(int(axes[a]), np.ascontiguousarray(table[:, a:b])) for a, b in pairwise(cuts.tolist())]


def _owner(tensor: str) -> str:
    """A tensor's name; for one from which a parametrisation computes a weight, that weight's.

    >>> _owner("body.0.bias"), _owner("body.0.parametrizations.weight.original0")
    ('body.0.bias', 'body.0.weight')
    """
    before, found, after = f".{tensor}".rpartition(".parametrizations.")
    return f"{before}.{after.partition('.')[0]}".lstrip(".") if found else tensor


class Units:
    """The units of a watched pass: the smallest things that can go.

    Positions of parameter axes whose components are not fixed are sorted by component; components that touch the same axes
    with the same number of positions form a group.
    """

    def __init__(self, ties: Ties, kind_of: Callable[[str], str]) -> None:
        """Find the groups; ``kind_of`` names the class of the module that owns a tensor."""
        self.ties = ties
        self.component = components(ties)
        self._kind_of = kind_of
        count = int(self.component.max()) + 1 if len(self.component) else 1
        self.blocked = np.zeros(count, dtype=bool)
        self.blocked[self.component[FIXED]] = True
        self.blocked[self.component[_joined([labels for labels, _ in ties.fixed])]] = True
        self._roles = self._roles_of_labels()
        self._inexact = np.zeros(count, dtype=bool)
        self._inexact[self.component[_joined(ties.inexact)]] = True
        self.unit_of_component = np.full(count, -1, dtype=np.int64)
        self.groups = self._groups()
        self.group_of_unit = np.repeat(
            np.arange(len(self.groups)), np.array([group.width for group in self.groups], dtype=np.int64)
        )

    def _roles_of_labels(self) -> NDArray[np.int8]:
        roles = np.zeros(self.ties.next_label, dtype=np.int8)
        written, read = _joined(self.ties.writers), _joined(self.ties.readers)
        roles[written] = 1
        both = read[roles[read] == 1]
        roles[read] = 2
        roles[both] = 0  # as what it is in an embedding that is a head, too: its columns go with the channels
        rows = both[self._axes_of(both) == 0]  # units of a layer whose weight, transposed, reads them
        self.blocked[self.component[rows]] = True
        if len(rows):
            self.ties.fix(rows, _BOTH)
        return roles

    def _axes_of(self, labels: Labels) -> NDArray[np.int64]:
        """On which axes of their tensors labels are."""
        starts = np.array([base.start for base in self.ties.bases], dtype=np.int64)
        axes = np.array([base.axis for base in self.ties.bases], dtype=np.int64)
        return axes[np.searchsorted(starts, labels, side="right") - 1]

    def _role(self, base: Base, indices: Labels) -> Role | None:
        """What the positions of some units do on an axis; None if some are written there and others read."""
        if base.tensor == INPUT:
            return "input"
        found = set(np.unique(self._roles[base.start + indices]).tolist())
        if found >= {1, 2}:
            return None
        return "write" if 1 in found else "read" if 2 in found else "carry"

    def _runs(self) -> _Runs:
        """The positions of all axes that can be cut, sorted by component, then by axis and position."""
        bases = self.ties.bases
        sizes = np.array([base.size for base in bases], dtype=np.int64)
        firsts = np.array([base.start for base in bases], dtype=np.int64)
        axis = np.repeat(np.arange(len(bases)), sizes)
        position = np.arange(len(axis)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        component = self.component[np.repeat(firsts, sizes) + position]
        free = np.flatnonzero(~self.blocked[component])
        order = free[np.argsort(component[free], kind="stable")]
        return _Runs(component[order], axis[order], position[order])

    def _groups(self) -> tuple[Group, ...]:
        if not self.ties.bases:
            return ()
        runs = self._runs()
        if not len(runs.component):
            return ()
        owners, starts = runs.units()
        _, first, number = np.unique(runs.signatures(starts), return_index=True, return_inverse=True)
        members: list[list[tuple[Base, Labels]]] = []
        units: list[Labels] = []
        for which in np.argsort(first):
            mine = np.flatnonzero(number == which)
            members.append(
                [(self.ties.bases[axis], table) for axis, table in runs.tables(starts[mine], starts)]
            )
            units.append(owners[mine])
        return self._named(members, units)

    def _named(self, members: list[list[tuple[Base, Labels]]], units: list[Labels]) -> tuple[Group, ...]:
        groups: list[Group] = []
        taken: dict[str, int] = {}
        next_unit = 0
        for entries, owners in zip(members, units, strict=True):
            if len(owners) < 2:
                continue
            parts: list[tuple[Base, Labels, Role | None]] = [
                (base, indices, self._role(base, indices)) for base, indices in entries
            ]
            if any(role is None for *_, role in parts):
                for base, indices in entries:
                    self.ties.fix(self.ties.labels(base)[indices.reshape(-1)], _BOTH)
                continue
            made = tuple(
                Member(base.tensor, base.axis, role, indices)
                for base, indices, role in parts
                if role is not None
            )
            roles = {member.role for member in made}
            if len(roles) == 1 and roles <= {"read", "carry"}:
                reason = _UNWRITTEN if "read" in roles else _TABLE
                for base, indices in entries:
                    self.ties.fix(self.ties.labels(base)[indices.reshape(-1)], reason)
                continue
            leader = next((m for m in made if m.role in ("input", "write")), made[0])
            if any(base.tensor == INPUT and indices.size != base.size for base, indices in entries):
                continue  # an input of which only a part could go is left whole
            owner = _owner(leader.tensor)
            name = INPUT if leader.role == "input" else owner.rpartition(".")[0] or owner
            taken[name] = taken.get(name, 0) + 1
            if taken[name] > 1:
                name = f"{name}#{taken[name]}"
            kind = "Input" if leader.role == "input" else self._kind_of(owner).removeprefix("Parametrized")
            exact = not self._inexact[owners].any()
            groups.append(Group(name, len(owners), made, exact=bool(exact), kind=kind))
            self.unit_of_component[owners] = next_unit + np.arange(len(owners))
            next_unit += len(owners)
        return tuple(groups)

    def units(self, labels: Labels) -> Labels:
        """The unit of each label, numbered through all groups; -1 for what stays."""
        return self.unit_of_component[self.component[labels]]

    def fixed(self, unused: Mapping[str, str]) -> tuple[Fixed, ...]:
        """The parameter axes, or parts of them, that stay, with the first reason found."""
        ties = self.ties
        reasons = np.full(len(self.blocked), -1, dtype=np.int64)
        kernel = np.zeros(len(self.blocked), dtype=bool)
        for number in reversed(range(len(ties.fixed))):
            labels, reason = ties.fixed[number]
            owners = self.component[labels]
            reasons[owners] = number
            if reason == KERNEL:
                kernel[owners] = True
        found: list[Fixed] = []
        for base in ties.bases:
            parts = self.component[base.start : base.start + base.size]
            stay = parts[self.unit_of_component[parts] < 0]
            if not len(stay) or kernel[stay[0]] or base.tensor == INPUT:
                continue
            reason = unused.get(base.tensor)
            if reason is None and reasons[stay[0]] >= 0:
                reason = ties.fixed[reasons[stay[0]]][1]
            if reason is None:
                reason = _FIXED if self.blocked[stay[0]] else _SINGLE
            found.append(Fixed(base.tensor, base.axis, len(stay), reason))
        return tuple(found)
