"""From ties to units and groups: one call of connected components, the rest is sorting."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse  # pyright: ignore[reportMissingTypeStubs] - scipy ships none
from scipy.sparse import csgraph  # pyright: ignore[reportMissingTypeStubs]

from secateur.channels.groups import INPUT, Fixed, Group, Member, Role
from secateur.channels.rules.conv import KERNEL
from secateur.channels.ties import FIXED, Base, Labels, Ties

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


def _mix(values: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Spread integers over 64 bits (splitmix64), so that sums of them identify sets."""
    z = values.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


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
        self._blocked = np.zeros(count, dtype=bool)
        self._blocked[self.component[FIXED]] = True
        for labels, _ in ties.fixed:
            self._blocked[self.component[labels]] = True
        self._roles = self._roles_of_labels()
        self._inexact = np.zeros(count, dtype=bool)
        for labels in ties.inexact:
            self._inexact[self.component[labels]] = True
        self.unit_of_component = np.full(count, -1, dtype=np.int64)
        self.groups = self._groups()

    def _roles_of_labels(self) -> NDArray[np.int8]:
        roles = np.zeros(self.ties.next_label, dtype=np.int8)
        for labels in self.ties.writers:
            roles[labels] = 1
        for labels in self.ties.readers:
            roles[labels] = 2
        return roles

    def _role(self, base: Base) -> Role:
        if base.tensor == INPUT:
            return "input"
        return ("carry", "write", "read")[int(self._roles[base.start])]  # type: ignore[return-value]

    def _positions(self) -> tuple[Labels, Labels, Labels]:
        """Component, axis number and position of every index of every parameter axis that can be cut."""
        bases = self.ties.bases
        sizes = np.array([base.size for base in bases], dtype=np.int64)
        labels = np.concatenate([np.arange(base.start, base.start + base.size) for base in bases])
        axis = np.repeat(np.arange(len(bases)), sizes)
        position = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        component = self.component[labels]
        free = ~self._blocked[component]
        return component[free], axis[free], position[free]

    def _groups(self) -> tuple[Group, ...]:
        component, axis, position = self._positions() if self.ties.bases else (np.zeros(0, np.int64),) * 3
        if not len(component):
            return ()
        pair, counts = np.unique(np.stack([component, axis]), axis=1, return_counts=True)
        signature = np.zeros(len(self._blocked), dtype=np.uint64)
        np.add.at(signature, pair[0], _mix(pair[1] * 1_000_003 + counts))
        names, first, number = np.unique(signature[component], return_index=True, return_inverse=True)
        order_of_group = np.argsort(np.argsort(component[first], kind="stable"), kind="stable")
        group = order_of_group[number]
        order = np.lexsort((position, component, axis, group))
        group, axis, position, component = group[order], axis[order], position[order], component[order]
        starts = np.flatnonzero(np.r_[True, (group[1:] != group[:-1]) | (axis[1:] != axis[:-1])])
        ends = np.r_[starts[1:], len(group)]
        members: list[list[tuple[Base, Labels]]] = [[] for _ in names]
        units: list[Labels] = [np.zeros(0, np.int64)] * len(names)
        for start, end in zip(starts, ends, strict=True):
            which = int(group[start])
            owners = np.unique(component[start:end])
            units[which] = owners
            members[which].append(
                (self.ties.bases[int(axis[start])], position[start:end].reshape(len(owners), -1))
            )
        return self._named(members, units)

    def _named(self, members: list[list[tuple[Base, Labels]]], units: list[Labels]) -> tuple[Group, ...]:
        groups: list[Group] = []
        taken: dict[str, int] = {}
        next_unit = 0
        for entries, owners in zip(members, units, strict=True):
            if len(owners) < 2:
                continue
            made = tuple(
                Member(base.tensor, base.axis, self._role(base), indices) for base, indices in entries
            )
            leader = next((m for m in made if m.role in ("input", "write")), made[0])
            if any(base.tensor == INPUT and indices.size != base.size for base, indices in entries):
                continue  # an input of which only a part could go is left whole
            name = INPUT if leader.role == "input" else leader.tensor.rpartition(".")[0] or leader.tensor
            taken[name] = taken.get(name, 0) + 1
            if taken[name] > 1:
                name = f"{name}#{taken[name]}"
            kind = "Input" if leader.role == "input" else self._kind_of(leader.tensor)
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
        reasons: dict[int, str] = {}
        for labels, reason in self.ties.fixed:
            for component in np.unique(self.component[labels]):
                reasons.setdefault(int(component), reason)
        kernel = {
            int(c) for labels, reason in self.ties.fixed if reason == KERNEL for c in self.component[labels]
        }
        found: list[Fixed] = []
        for base in self.ties.bases:
            parts = self.component[np.arange(base.start, base.start + base.size)]
            stay = parts[self.unit_of_component[parts] < 0]
            if not len(stay) or int(stay[0]) in kernel or base.tensor == INPUT:
                continue
            reason = unused.get(base.tensor) or reasons.get(int(stay[0]))
            if reason is None:
                reason = (
                    _SINGLE
                    if not self._blocked[stay[0]]
                    else "is added to or multiplied with something fixed"
                )
            found.append(Fixed(base.tensor, base.axis, len(stay), reason))
        return tuple(found)
