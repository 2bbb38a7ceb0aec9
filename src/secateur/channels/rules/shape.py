"""Operators that move, join, split and index axes without computing anything."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from secateur.channels.rules.view import Block, varying
from secateur.channels.ties import FIXED, Axes, Call, Joint, Labels, Ties, moved, vector

CODE = "is divided at positions that the network's code fixes"


# --- moving axes ---------------------------------------------------------------------------------------------------


def _arranged(ties: Ties, call: Call, order: Sequence[int]) -> None:
    """The result's axis i is the argument's axis ``order[i]``; -1 is a new axis of size one. A parameter stays one."""
    x = call.tensor(0)
    axes, joint = ties.parts(x)
    places = {old: new for new, old in enumerate(order) if old >= 0}
    if joint is not None and not all(axis in places for axis in joint.axes):
        axes, joint = ties.axes(x), None
    labels = [axes[old] if old >= 0 else None for old in order]
    ties.set(call.out, labels, parameter=ties.parameter(x), joint=moved(joint, places))


def permute(ties: Ties, call: Call) -> None:
    """Axes change places."""
    count = call.tensor(0).dim()
    _arranged(ties, call, [int(dim) % count for dim in call.args[1]])


def transpose(ties: Ties, call: Call) -> None:
    """Two axes change places."""
    count = call.out.dim()
    a, b = (call.args[1] % count, call.args[2] % count) if len(call.args) > 2 else (0, count - 1)
    order = list(range(count))
    if count >= 2:
        order[a], order[b] = order[b], order[a]
    _arranged(ties, call, order)


def unsqueeze(ties: Ties, call: Call) -> None:
    """An axis of size one is added."""
    count = call.tensor(0).dim()
    order = list(range(count))
    order.insert(int(call.args[1]) % (count + 1), -1)
    _arranged(ties, call, order)


def squeeze(ties: Ties, call: Call) -> None:
    """Axes of size one are dropped."""
    x = call.tensor(0)
    chosen = call.arg(1, "dim")
    dims = range(x.dim()) if chosen is None else [chosen] if isinstance(chosen, int) else chosen
    gone = {int(dim) % max(x.dim(), 1) for dim in dims}
    _arranged(ties, call, [dim for dim in range(x.dim()) if not (dim in gone and x.shape[dim] == 1)])


def expand(ties: Ties, call: Call) -> None:
    """Axes of size one are repeated without copying; a weight stays one (a product of many takes it as so many)."""
    x, out = call.tensor(0), call.result
    axes, joint = ties.parts(x)
    lead = out.dim() - x.dim()
    kept = [labels if x.shape[dim] == out.shape[lead + dim] else None for dim, labels in enumerate(axes)]
    ties.set(
        out,
        [*(None,) * lead, *kept],
        parameter=ties.parameter(x),
        joint=moved(joint, {dim: lead + dim for dim in range(x.dim())}),
    )


def repeat(ties: Ties, call: Call) -> None:
    """Every axis is repeated end to end."""
    x, times = call.tensor(0), [int(n) for n in call.args[1]]
    lead = len(times) - x.dim()
    axes = [
        labels if labels is None or n == 1 else np.tile(labels, n)
        for labels, n in zip(ties.axes(x), times[lead:], strict=True)
    ]
    ties.set(call.out, [*(None,) * lead, *axes])


def flip(ties: Ties, call: Call) -> None:
    """Axes are reversed."""
    x = call.tensor(0)
    dims = {int(dim) % x.dim() for dim in call.args[1]}
    axes = [
        labels[::-1] if labels is not None and dim in dims else labels
        for dim, labels in enumerate(ties.axes(x))
    ]
    ties.set(call.out, axes)


def roll(ties: Ties, call: Call) -> None:
    """Axes are shifted around by fixed numbers of positions."""
    x = call.tensor(0)
    shifts, dims = _numbers(call.args[1]), _numbers(call.arg(2, "dims", ()))
    axes = list(ties.axes(x))
    if not dims:  # the flattened tensor is rolled
        for labels in axes:
            ties.fix(labels, CODE)
    for shift, dim in zip(shifts, dims, strict=bool(dims)):
        labels = axes[dim]
        axes[dim] = None if labels is None else np.roll(labels, shift)
    ties.set(call.out, axes)


def _numbers(value: int | Sequence[int]) -> list[int]:
    return [int(value)] if isinstance(value, int) else [int(entry) for entry in value]


def pixel_shuffle(ties: Ties, call: Call) -> None:
    """``[.., c r r, h, w]`` as ``[.., c, h r, w r]``: the r x r channels that become one channel's pixels go together."""
    x, factor = call.tensor(0), int(call.args[1])
    axes = list(ties.axes(x))
    labels = axes[-3]
    if labels is not None:
        table = labels.reshape(-1, factor * factor)
        ties.tie_rows(np.ascontiguousarray(table.T))
        axes[-3] = table[:, 0]
    ties.set(call.out, axes)


def pixel_unshuffle(ties: Ties, call: Call) -> None:
    """``[.., c, h r, w r]`` as ``[.., c r r, h, w]``: a channel becomes r x r channels that go together."""
    x, factor = call.tensor(0), int(call.args[1])
    axes = list(ties.axes(x))
    axes[-3] = None if axes[-3] is None else np.repeat(axes[-3], factor * factor)
    ties.set(call.out, axes)


def channel_shuffle(ties: Ties, call: Call) -> None:
    """Channels of g blocks are dealt out in turn: all blocks lose the same positions."""
    x, blocks = call.tensor(0), int(call.args[1])
    axes = list(ties.axes(x))
    labels = axes[1]
    if labels is not None:
        table = labels.reshape(blocks, -1)
        ties.tie_rows(table)
        axes[1] = np.ascontiguousarray(table.T).reshape(-1)
    ties.set(call.out, axes)


def as_strided_(ties: Ties, call: Call) -> None:
    """The same elements in another order in memory, where every axis keeps its length."""
    x = call.tensor(0)
    axes = ties.axes(x)
    if len(axes) == x.dim() and all(
        own is None or len(own) == n for own, n in zip(axes, x.shape, strict=True)
    ):
        ties.set(call.out, axes, parameter=ties.parameter(x))
        return
    for labels in axes:
        ties.fix(labels, f"goes through {call.name}, which gives it another shape")
    ties.set(call.out, (None,) * x.dim())


# --- joining and dividing -----------------------------------------------------------------------------------------


def _settle_alike(ties: Ties, parts: Sequence[torch.Tensor]) -> None:
    """Of joint axes the one carries that carries in another tensor, if one does."""
    known = [axes for axes, joint in map(ties.parts, parts) if joint is None]
    for part in parts:
        joint = ties.parts(part)[1]
        carriers = (
            [axis for axis in joint.axes if any(axes[axis] is not None for axes in known)] if joint else []
        )
        if carriers:
            ties.settle(part, carriers[-1])


def cat(ties: Ties, call: Call) -> None:
    """Tensors are joined along an axis, which carries their labels one after the other."""
    parts = [part for part in call.args[0] if part.dim() == call.out.dim()]
    dim = int(call.arg(1, "dim", 0)) % call.out.dim()
    _settle_alike(ties, parts)
    axes = [ties.axes(part) for part in parts]
    result: list[Labels | None] = []
    for axis in range(call.out.dim()):
        columns = [entry[axis] for entry in axes]
        if all(labels is None for labels in columns):
            result.append(None)
        elif axis == dim:
            sized = zip(columns, parts, strict=True)
            result.append(np.concatenate([vector(labels, part.shape[axis]) for labels, part in sized]))
        else:
            first = next(labels for labels in columns if labels is not None)
            for labels in columns:
                ties.tie(first, labels)
            result.append(first)
    ties.set(call.out, result)


def stack(ties: Ties, call: Call) -> None:
    """Tensors of one shape are joined along a new axis."""
    parts = list(call.args[0])
    dim = int(call.arg(1, "dim", 0)) % call.out.dim()
    first = list(ties.axes(parts[0]))
    for part in parts[1:]:
        for axis, labels in enumerate(ties.axes(part)):
            ties.tie(first[axis], labels)
            first[axis] = labels if first[axis] is None else first[axis]
    first.insert(dim, None)
    ties.set(call.out, first)


def split(ties: Ties, call: Call) -> None:
    """An axis is divided. Equal parts lose the same positions each, so that they stay equal."""
    x = call.tensor(0)
    dim = int(call.arg(2, "dim", 0)) % x.dim()
    axes, joint = ties.parts(x)
    sizes = [part.shape[dim] for part in call.out]
    if joint is not None and dim in joint.axes:
        _split_joint(ties, call.out, axes, joint, dim)
        return
    labels = axes[dim]
    equal = len(set(sizes)) == 1
    start = 0
    for part, size in zip(call.out, sizes, strict=True):
        piece = None if labels is None else labels[start : start + size]
        if labels is not None and equal and start:
            ties.tie(labels[:size], piece)
        parts = [piece if axis == dim else entry for axis, entry in enumerate(axes)]
        ties.set(part, parts, parameter=ties.parameter(x), joint=joint)  # of a weight, each is a weight
        start += size


def _split_joint(ties: Ties, parts: Sequence[torch.Tensor], axes: Axes, joint: Joint, dim: int) -> None:
    """Each part has its share of the joint labels."""
    start = 0
    _alike(ties, joint, dim)
    for part in parts:
        size = part.shape[dim]
        piece = joint.table.take(range(start, start + size), axis=joint.axes.index(dim))
        _set_block(ties, part, axes, (joint.axes, piece))
        start += size


def _alike(ties: Ties, joint: Joint, dim: int) -> None:
    """What a view has divided into equal parts loses the same positions in each."""
    table = np.moveaxis(joint.table, joint.axes.index(dim), 0)
    ties.tie_rows(table.reshape(len(table), -1))


def _set_block(ties: Ties, tensor: torch.Tensor, axes: Sequence[Labels | None], block: Block) -> None:
    """Give a tensor its labels and what is left of a joint."""
    chosen, table = varying(block)
    if len(chosen) > 1:
        ties.set(tensor, axes, joint=Joint(chosen, table, chosen[-1]))
    else:
        ties.set(tensor, [table if axis in chosen else labels for axis, labels in enumerate(axes)])


def pick(ties: Ties, call: Call, out: torch.Tensor, dim: int, position: int) -> None:
    """One position of an axis, which the result does not have."""
    axes, joint = ties.parts(call.tensor(0))
    kept = [labels for axis, labels in enumerate(axes) if axis != dim]
    if joint is None or dim not in joint.axes:
        chosen = axes[dim]
        ties.fix(None if chosen is None else chosen[[position]], CODE)
        places = {axis: axis - (axis > dim) for axis in range(len(axes)) if axis != dim}
        ties.set(out, kept, joint=moved(joint, places))
        return
    _alike(ties, joint, dim)
    table = np.asarray(joint.table.take(position, axis=joint.axes.index(dim)))
    _set_block(ties, out, kept, (tuple(axis - (axis > dim) for axis in joint.without(dim)), table))


def glu(ties: Ties, call: Call) -> None:
    """The first half of an axis, gated by the second: both lose the same positions."""
    x = call.tensor(0)
    dim = int(call.arg(1, "dim", -1)) % x.dim()
    axes = list(ties.axes(x))
    labels = axes[dim]
    if labels is not None:
        half = len(labels) // 2
        ties.tie(labels[:half], labels[half:])
        axes[dim] = labels[:half]
    ties.set(call.out, axes)


def unbind(ties: Ties, call: Call) -> None:
    """Every position of an axis becomes a tensor of its own."""
    dim = int(call.arg(1, "dim", 0)) % call.tensor(0).dim()
    for position, part in enumerate(call.out):
        pick(ties, call, part, dim, position)


def pad(ties: Ties, call: Call) -> None:
    """Axes are lengthened by constants, which can never be cut; a negative amount cuts at fixed positions."""
    x, amounts = call.tensor(0), [int(n) for n in call.args[1]]
    axes = list(ties.axes(x))
    for pair in range(len(amounts) // 2):
        before, after = amounts[2 * pair], amounts[2 * pair + 1]
        dim = x.dim() - 1 - pair
        labels = axes[dim]
        if labels is None or (before == 0 and after == 0):
            continue
        cut = labels[max(-before, 0) : len(labels) - max(-after, 0)]
        axes[dim] = np.pad(cut, (max(before, 0), max(after, 0)), constant_values=FIXED)
    ties.set(call.out, axes)


aten = torch.ops.aten
RULES = {
    aten.permute: permute,
    aten.transpose: transpose,
    aten.transpose_: transpose,
    aten.t: transpose,
    aten.unsqueeze: unsqueeze,
    aten.squeeze: squeeze,
    aten.expand: expand,
    aten.repeat: repeat,
    aten.flip: flip,
    aten.roll: roll,
    aten.pixel_shuffle: pixel_shuffle,
    aten.pixel_unshuffle: pixel_unshuffle,
    aten.channel_shuffle: channel_shuffle,
    aten.native_channel_shuffle: channel_shuffle,
    aten.as_strided_: as_strided_,
    aten.cat: cat,
    aten.stack: stack,
    aten.split: split,
    aten.split_with_sizes: split,
    aten.unsafe_split: split,
    aten.unbind: unbind,
    aten.glu: glu,
    aten.constant_pad_nd: pad,
}
