"""Operators that pick positions of an axis: what they pick from stays whole, unless they pick all of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from secateur.channels.rules.elementwise import settle_outside
from secateur.channels.rules.shape import CODE, pick
from secateur.channels.ties import Call, Labels, Ties, tensors_of

_MASKS = (torch.bool, torch.uint8)


def slice_(ties: Ties, call: Call) -> None:
    """A stretch of an axis, or every n-th position of it. All of it is the axis itself."""
    x, out = call.tensor(0), call.result
    dim = int(call.arg(1, "dim", 0)) % x.dim()
    axes, joint = ties.parts(x)
    if out.shape[dim] == x.shape[dim]:
        ties.set(out, axes, parameter=ties.parameter(x), joint=joint)
        return
    if joint is not None and dim in joint.axes:  # a stretch of a head's width, say: then heads carry
        settle_outside(ties, x, {dim})
        axes, joint = ties.parts(x)
    labels, whole = list(axes), axes[dim]
    if whole is not None:
        stretch: Labels = whole[call.arg(2, "start") : call.arg(3, "end") : call.arg(4, "step", 1)]
        step = int(call.arg(4, "step", 1))
        if len(stretch) == 1:  # without it, the code would take its neighbour
            ties.fix(stretch, CODE)
        elif step > 1 and len(whole) % step == 0:
            # each step goes as a whole, so that the others stay in place
            ties.tie_rows(np.ascontiguousarray(whole.reshape(-1, step).T))
        labels[dim] = stretch
    ties.set(out, labels, parameter=ties.parameter(x), joint=joint)


def select(ties: Ties, call: Call) -> None:
    """One position of an axis."""
    x = call.tensor(0)
    dim = int(call.args[1]) % x.dim()
    pick(ties, call, call.out, dim, int(call.args[2]) % x.shape[dim])


def _chosen(ties: Ties, axes: list[Labels | None], indices: Sequence[torch.Tensor | None]) -> set[int]:
    """The axes that are indexed by tensors of positions, or by masks (of one axis or more): they stay as they are."""
    used: set[int] = set()
    dim = 0
    for entry in indices:
        count = 1
        if entry is not None:
            count = entry.dim() if entry.dtype in _MASKS else 1
            used.update(range(dim, dim + count))
            for labels in ties.axes(entry):
                ties.fix(labels, "chooses positions of another tensor")
        dim += count
    for dim in used:
        ties.fix(axes[dim], "is indexed by positions that are data")
    return used


def _indexed(axes: Sequence[Labels | None], used: set[int], count: int) -> list[Labels | None]:
    """The labels of what was chosen, which has so many axes: those of the axes that are not indexed, around the others."""
    first = min(used)
    adjacent = used == set(range(first, first + len(used)))
    kept = [labels for dim, labels in enumerate(axes) if dim not in used]
    place = first if adjacent else 0
    return kept[:place] + [None] * (count - len(kept)) + kept[place:]


def index(ties: Ties, call: Call) -> None:
    """Axes are indexed by tensors of positions: those axes and the positions stay as they are."""
    axes = list(ties.axes(call.tensor(0)))
    used = _chosen(ties, axes, call.args[1])
    ties.set(call.out, _indexed(axes, used, call.out.dim()))


def index_put(ties: Ties, call: Call) -> None:
    """Values are written to positions that are data: axes that are not indexed are those of the values, too."""
    x, indices, values = call.tensor(0), call.args[1], call.tensor(2)
    axes = list(ties.axes(x))
    used = _chosen(ties, axes, indices)
    rank = max(1 if entry.dtype in _MASKS else entry.dim() for entry in tensors_of(indices))
    chosen = _indexed(axes, used, len(axes) - len(used) + rank)
    for place, labels in enumerate(reversed(ties.axes(values)), start=1):
        if values.shape[-place] > 1:
            ties.tie(chosen[-place], labels)
    for dim in used:
        axes[dim] = None
    ties.set(call.out, axes)


def nonzero(ties: Ties, call: Call) -> None:
    """Positions are found in data: how many there are, no channel says."""
    for labels in ties.axes(call.tensor(0)):
        ties.fix(labels, "chooses positions of another tensor")
    ties.set(call.out, (None, None))


def index_select(ties: Ties, call: Call) -> None:
    """One axis is indexed by a vector of positions: it stays as it is."""
    x = call.tensor(0)
    axes = list(ties.axes(x))
    dim = int(call.args[1]) % x.dim()
    ties.fix(axes[dim], "is indexed by positions that are data")
    axes[dim] = None
    ties.set(call.out, axes)


def gather(ties: Ties, call: Call) -> None:
    """Along one axis, every element comes from a position that is data: that axis stays; others of full length pass.

    Along these the positions are a tensor of the same length, which networks' code expands to it.
    """
    x, dim, positions = call.tensor(0), int(call.args[1]) % call.tensor(0).dim(), call.args[2]
    axes = list(ties.axes(x))
    ties.fix(axes[dim], "is indexed by positions that are data")
    for axis, labels in enumerate(ties.axes(positions)):
        if axis == dim or positions.shape[axis] != x.shape[axis]:
            ties.fix(labels, "chooses positions of another tensor")
            ties.fix(axes[axis], "is indexed by positions that are data")
            axes[axis] = None
        elif labels is not None:
            ties.tie(axes[axis], labels)
    ties.set(call.out, axes)


aten = torch.ops.aten
RULES = {
    aten.slice: slice_,
    aten.select: select,
    aten.index: index,
    aten.index_put: index_put,
    aten.index_put_: index_put,
    aten.nonzero: nonzero,
    aten.index_select: index_select,
    aten.gather: gather,
}
