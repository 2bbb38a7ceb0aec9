"""Operators that pick positions of an axis: what they pick from stays whole, unless they pick all of it."""

from __future__ import annotations

import torch

from secateur.channels.rules.elementwise import settle_outside
from secateur.channels.rules.shape import CODE, pick
from secateur.channels.ties import Call, Labels, Ties, tensors_of


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
        if len(stretch) == 1:  # without it, the code would take its neighbour
            ties.fix(stretch, CODE)
        labels[dim] = stretch
    ties.set(out, labels, joint=joint)


def select(ties: Ties, call: Call) -> None:
    """One position of an axis."""
    x = call.tensor(0)
    dim = int(call.args[1]) % x.dim()
    pick(ties, call, call.out, dim, int(call.args[2]) % x.shape[dim])


def index(ties: Ties, call: Call) -> None:
    """Axes are indexed by tensors of positions: those axes and the positions stay as they are."""
    x, indices = call.tensor(0), list(call.args[1])
    axes = list(ties.axes(x))
    used = [dim for dim, entry in enumerate(indices) if entry is not None]
    for entry in tensors_of(indices):
        for labels in ties.axes(entry):
            ties.fix(labels, "chooses positions of another tensor")
    for dim in used:
        ties.fix(axes[dim], "is indexed by positions that are data")
    kept: list[Labels | None] = [labels for dim, labels in enumerate(axes) if dim not in used]
    adjacent = used == list(range(used[0], used[0] + len(used)))
    place = used[0] if adjacent else 0
    result = kept[:place] + [None] * (call.out.dim() - len(kept)) + kept[place:]
    ties.set(call.out, result)


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
    aten.index_select: index_select,
    aten.gather: gather,
}
