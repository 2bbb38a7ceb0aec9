"""Labels of an earlier pass, given to the same tensors again: to those of a cut copy, or to all as they were."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from secateur.channels.ties import Call, Joint, Labels, MisfitError, Ties, Track, tensors_of
from secateur.channels.units import Units


class Inherited(Ties):
    """Labels of a cut network: those of the positions that are left. New ties between them are misfits."""

    def __init__(
        self,
        expected: dict[tuple[str, int], Labels],
        units: Units,
        alive: Labels,
        uncut: Ties,
        *,
        calls: float = math.inf,
    ) -> None:
        """Know which labels are left, what the uncut network's operators made, and when to end: after so many calls."""
        super().__init__()
        self._expected, self._alive, self._uncut = expected, alive, uncut.seen
        self._component, self._blocked = units.component, units.blocked
        self._unit_of = units.unit_of_component
        self._last = _last_of_their_groups(units, alive)
        self.bases, self.attention = uncut.bases, uncut.attention
        self._statistics = uncut.statistics
        self._left: dict[int, int] = {}
        self._enough = calls

    def base(self, tensor: str, axis: int, size: int, *, buffer: bool = False) -> Labels:  # noqa: ARG002 - it is known
        """The labels that are left of an axis."""
        labels = self._expected[tensor, axis]
        if len(labels) != size:
            raise MisfitError(
                f"{tensor}[{axis}] has {size} positions, {len(labels)} are left", self._component[labels]
            )
        return labels

    def one_unit(self, labels: Labels) -> bool:
        """Whether all of several labels are one unit's of a group that had more, such as those of the only head that is left."""
        met = self._component[labels.reshape(-1)]
        return met.size > 1 and bool(self._unit_of[met[0]] >= 0) and bool((met == met[0]).all())

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
            if differ.any() and not self._both_stay(mine[differ], theirs[differ]).all():
                raise MisfitError("channels meet that are not the same", theirs[differ], mine[differ])

    def fix(self, labels: Labels | None, reason: str) -> None:
        """Check that what is fixed now was fixed before.

        An axis of one position, such as that of the only head that is left of two, is put anywhere by a view, and meets what it did
        not meet. Whether it may go was found when the network was watched whole.
        """
        if labels is not None and not self._stays(self._component[labels]).all():
            raise MisfitError(reason, self._component[labels.reshape(-1)])

    def _stays(self, met: Labels) -> Labels:
        """Whether components were fixed before, or are the only ones that are left of their groups."""
        units = self._unit_of[met]
        return self._blocked[met] | ((units >= 0) & self._last[units])

    def _both_stay(self, mine: Labels, theirs: Labels) -> Labels:
        """The same of pairs, one of which at least was fixed before."""
        return self._stays(mine) & self._stays(theirs) & (self._blocked[mine] | self._blocked[theirs])

    def norm(self, labels: Labels | None) -> None:
        """Check that a statistic is taken over what is left of the same channels: no layer would read another one's."""
        if labels is None or not self._uncut or self.calls not in self._statistics:
            return
        met = self._component[labels]
        before = [known[self._alive[known]] for known in self._statistics[self.calls]]
        if not any(np.array_equal(met, self._component[left]) for left in before):
            raise MisfitError("a statistic is taken over other channels", met, self._component[before[0]])

    def note(self, call: Call) -> None:
        """Check that what came out is as large as what is left of what came out of the uncut network."""
        if self.calls > self._enough:
            raise MisfitError("it came far enough")
        if self.calls > len(self._uncut) or self._uncut[self.calls - 1].name != call.name:
            self._uncut = []  # it runs another way now; labels are still compared
            return
        for (shape, track), tensor in zip(
            self._uncut[self.calls - 1].out, tensors_of(call.out), strict=False
        ):
            if track is None:
                continue
            if track.joint is not None:
                self._check_joint(shape, track, track.joint, tensor)
                continue
            for axis, labels in enumerate(track.axes):
                if labels is None and _spread(call, tensor, axis):
                    continue
                left = shape[axis] if labels is None else self._count(labels)
                if left != tensor.shape[axis]:
                    raise MisfitError(
                        f"{left} positions are left, the network's code makes {tensor.shape[axis]}"
                    )

    def _check_joint(self, shape: Sequence[int], track: Track, joint: Joint, tensor: Tensor) -> None:
        """Check that an axis that was divided is divided into as many as are left: two heads, of which one is left, are one.

        Axes of size one are put anywhere by some operators (einsum), so that only the sizes themselves are compared.
        """
        left = self._alive[joint.table]
        places = range(left.ndim)
        sizes = [int(left.any(axis=tuple(p for p in places if p != place)).sum()) for place in places]
        if math.prod(sizes) != left.sum():
            return  # single positions here and there are left, no whole rows
        expected = [
            size if labels is None else self._count(labels)
            for size, labels in zip(shape, track.axes, strict=True)
        ]
        for axis, size in zip(joint.axes, sizes, strict=True):
            expected[axis] = size
        if sorted(size for size in expected if size > 1) != sorted(size for size in tensor.shape if size > 1):
            raise MisfitError(
                f"positions of {expected} are left, the network's code makes {list(tensor.shape)}"
            )

    def _count(self, labels: Labels) -> int:
        key = id(labels)
        if key not in self._left:
            self._left[key] = int(self._alive[labels].sum())
        return self._left[key]


def _spread(call: Call, out: Tensor, axis: int) -> bool:
    """Whether an axis is one position repeated, which has as many copies as the code asks for."""
    if not call.name.endswith(".expand"):
        return False
    source = call.tensor(0)
    place = axis - out.dim() + source.dim()
    return place < 0 or source.shape[place] == 1


def _last_of_their_groups(units: Units, alive: Labels) -> Labels:
    """Of each unit whether it is the only one that is left of its group."""
    numbers = np.unique(units.unit_of_component[units.component[alive]])
    numbers = numbers[numbers >= 0]
    groups = units.group_of_unit[numbers]
    last = np.zeros(len(units.group_of_unit) + 1, dtype=bool)  # at the end, where -1 looks, what is no unit's
    last[numbers] = np.bincount(groups, minlength=1)[groups] == 1
    return last


class Renamed(Ties):
    """The labels of an earlier pass, given to the same tensors again."""

    def __init__(self, earlier: Ties) -> None:
        """Take the labels of an earlier pass."""
        super().__init__()
        self._labels = {(base.tensor, base.axis): earlier.labels(base) for base in earlier.bases}
        self.bases, self.attention = earlier.bases, earlier.attention
        self.next_label = earlier.next_label

    def base(self, tensor: str, axis: int, size: int, *, buffer: bool = False) -> Labels:  # noqa: ARG002 - it is known
        """The labels that an axis had."""
        labels = self._labels[tensor, axis]
        if len(labels) != size:
            raise RuntimeError(f"{tensor}[{axis}] had {len(labels)} positions, and has {size} now")
        return labels
