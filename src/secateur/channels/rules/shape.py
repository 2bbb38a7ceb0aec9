"""Operators that move, join, split and index axes without computing anything."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from secateur.channels.ties import FIXED, Axes, Call, Labels, Ties, vector

CODE = "is divided at positions that the network's code fixes"


# --- views ------------------------------------------------------------------------------------------------------


def _segments(old: Sequence[int], new: Sequence[int]) -> list[tuple[range, range]]:
    """Cut two shapes of the same size into the smallest stretches whose products agree.

    >>> _segments((2, 6, 5, 5), (2, 150))
    [(range(0, 1), range(0, 1)), (range(1, 4), range(1, 2))]
    """
    result: list[tuple[range, range]] = []
    i = j = 0
    while i < len(old) and j < len(new):
        a, b, left, right = i, j, old[i], new[j]
        i, j = i + 1, j + 1
        while left != right:
            if left < right:
                left, i = left * old[i], i + 1
            else:
                right, j = right * new[j], j + 1
        result.append((range(a, i), range(b, j)))
    return result


def _joint(axes: Axes, sizes: Sequence[int]) -> Labels:
    """One label for each combination of several axes, exactly one of which carries labels."""
    axis, labels = next((axis, labels) for axis, labels in enumerate(axes) if labels is not None)
    spread = labels.reshape([-1 if dim == axis else 1 for dim in range(len(sizes))])
    return np.broadcast_to(spread, tuple(sizes))


def _spread(ties: Ties, table: Labels) -> list[Labels | None]:
    """The labels of each axis of a table: one axis carries them, the others repeat it.

    Where several axes vary (a channel axis divided into blocks), all but the last varying one stay whole: positions are
    tied along them, so that every block loses the same positions.
    """
    varying = [axis for axis in range(table.ndim) if (table != table.take([0], axis=axis)).any()]
    carrier = varying[-1] if varying else int(np.argmax(table.shape))
    rows = np.moveaxis(table, carrier, -1).reshape(-1, table.shape[carrier])
    if len(varying) > 1:
        for row in rows[1:]:
            ties.tie(rows[0], row)
    return [rows[0] if axis == carrier else None for axis in range(table.ndim)]


def reshape(
    ties: Ties, axes: Axes, old: Sequence[int], new: Sequence[int], *, inferred: int | None = None
) -> list[Labels | None]:
    """The labels after a view of shape ``old`` as shape ``new``.

    ``inferred`` is the axis that the code gives as -1. Where channels are merged or divided elsewhere, the sizes there are
    literal, and a narrower tensor would silently be taken for one with fewer examples: they stay whole.
    """
    result: list[Labels | None] = [None] * len(new)
    for before, after in _segments(old, new):
        if len(before) == 1 and len(after) == 1:
            result[after[0]] = axes[before[0]]
            continue
        if inferred is not None and inferred not in after:
            for axis in before:
                ties.fix(axes[axis], "is viewed with a size that the network's code fixes")
        present = [axis for axis in before if axes[axis] is not None]
        wide = [axis for axis in present if old[axis] > 1] or present[:1]
        if len(wide) > 1:
            for axis in wide:
                ties.fix(axes[axis], "is merged with another channel axis by a view")
            continue
        if wide:
            joint = _joint(
                tuple(axes[axis] if axis in wide else None for axis in before), [old[axis] for axis in before]
            )
            if len(after) == 1:
                result[after[0]] = joint.reshape(-1)
                continue
            spread = _spread(ties, joint.reshape([new[axis] for axis in after]))
            for axis, labels in zip(after, spread, strict=True):
                result[axis] = labels
    return result


def view(ties: Ties, call: Call) -> None:
    """Axes are merged or divided; the order of the elements stays."""
    x, out = call.tensor(0), call.result
    if _flattens_input(ties, x, out):
        return
    if x.numel() == 0:
        ties.set(out, (None,) * out.dim())
        return
    given = [int(size) for size in call.args[1]]
    inferred = given.index(-1) if -1 in given else None
    ties.set(
        out, reshape(ties, ties.axes(x), x.shape, out.shape, inferred=inferred), parameter=ties.parameter(x)
    )


def _flattens_input(ties: Ties, x: torch.Tensor, out: torch.Tensor) -> bool:
    """Where removable inputs are flattened at once, every position is a feature of its own."""
    track = ties.look(x)
    flat = (
        track is not None
        and track.is_input
        and out.dim() == 2
        and out.shape[0] == x.shape[0]
        and out.shape[1] == math.prod(x.shape[1:])
    )
    if not flat or ties.flat_input is None:
        return False
    ties.flattened = True
    ties.set(out, (None, ties.flat_input))
    return True


def permute(ties: Ties, call: Call) -> None:
    """Axes change places."""
    x = call.tensor(0)
    ties.set(
        call.out, [ties.axes(x)[int(dim) % x.dim()] for dim in call.args[1]], parameter=ties.parameter(x)
    )


def transpose(ties: Ties, call: Call) -> None:
    """Two axes change places."""
    x = call.tensor(0)
    axes = list(ties.axes(x))
    a, b = (call.args[1] % x.dim(), call.args[2] % x.dim()) if len(call.args) > 2 else (0, x.dim() - 1)
    if x.dim() >= 2:
        axes[a], axes[b] = axes[b], axes[a]
    ties.set(call.out, axes, parameter=ties.parameter(x))


def unsqueeze(ties: Ties, call: Call) -> None:
    """An axis of size one is added."""
    x = call.tensor(0)
    axes = list(ties.axes(x))
    axes.insert(int(call.args[1]) % (x.dim() + 1), None)
    ties.set(call.out, axes, parameter=ties.parameter(x))


def squeeze(ties: Ties, call: Call) -> None:
    """Axes of size one are dropped."""
    x = call.tensor(0)
    chosen = call.arg(1, "dim")
    dims = range(x.dim()) if chosen is None else [chosen] if isinstance(chosen, int) else chosen
    gone = {int(dim) % max(x.dim(), 1) for dim in dims}
    axes = [labels for dim, labels in enumerate(ties.axes(x)) if not (dim in gone and x.shape[dim] == 1)]
    ties.set(call.out, axes, parameter=ties.parameter(x))


def expand(ties: Ties, call: Call) -> None:
    """Axes of size one are repeated without copying."""
    x, out = call.tensor(0), call.result
    axes = ties.axes(x)
    lead = out.dim() - x.dim()
    kept = [labels if x.shape[dim] == out.shape[lead + dim] else None for dim, labels in enumerate(axes)]
    ties.set(out, [*(None,) * lead, *kept])


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
    """Axes are shifted around: a channel axis stays whole, since the one that wraps would be another one."""
    x = call.tensor(0)
    given = call.arg(2, "dims", ())
    dims = {int(dim) % x.dim() for dim in given} or set(range(x.dim()))
    axes = list(ties.axes(x))
    for dim in dims:
        ties.fix(axes[dim], CODE)
    ties.set(call.out, axes)


# --- joining and dividing -----------------------------------------------------------------------------------------


def cat(ties: Ties, call: Call) -> None:
    """Tensors are joined along an axis, which carries their labels one after the other."""
    parts = [part for part in call.args[0] if part.dim() == call.out.dim()]
    dim = int(call.arg(1, "dim", 0)) % call.out.dim()
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
    """An axis is divided.

    A number of equal parts (``chunk``) fits any width: the parts lose the same positions each, so that they stay equal.
    Sizes (``split``) are the code's own: the axis stays whole, as it does where the parts differ.
    """
    x = call.tensor(0)
    dim = int(call.arg(2, "dim", 0)) % x.dim()
    axes = list(ties.axes(x))
    labels = axes[dim]
    sizes = [part.shape[dim] for part in call.out]
    equal = ties.chunking and len(set(sizes)) == 1
    if len(sizes) == 1:
        ties.set(call.out[0], axes)
        return
    if labels is not None and not equal:
        ties.fix(labels, CODE)
    start = 0
    for part, size in zip(call.out, sizes, strict=True):
        piece = None if labels is None else labels[start : start + size]
        if labels is not None and equal and start:
            ties.tie(labels[:size], piece)
        ties.set(part, [piece if axis == dim else entry for axis, entry in enumerate(axes)])
        start += size


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
    """Every position of an axis becomes a tensor of its own: the axis stays whole."""
    x = call.tensor(0)
    dim = int(call.arg(1, "dim", 0)) % x.dim()
    axes = list(ties.axes(x))
    ties.fix(axes.pop(dim), CODE)
    for part in call.out:
        ties.set(part, axes)


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
        if before < 0 or after < 0:
            ties.fix(labels, CODE)
            axes[dim] = None
        else:
            axes[dim] = np.pad(labels, (before, after), constant_values=FIXED)
    ties.set(call.out, axes)


def _like_cat(args: Any, kwargs: Any) -> torch.Tensor:
    """What ``cat`` gives on meta tensors. Anything unusual goes the slow way, which checks it."""
    parts: list[torch.Tensor] = list(args[0])
    first = parts[0]
    dim = int(args[1] if len(args) > 1 else kwargs.get("dim", 0)) % max(first.dim(), 1)
    shape = list(first.shape)
    plain = all(
        part.dtype == first.dtype
        and part.dim() == len(shape) > 0
        and all(part.shape[axis] == size for axis, size in enumerate(shape) if axis != dim)
        for part in parts
    )
    if not plain or not all(part.is_contiguous() for part in parts):
        return aten.cat.default(*args, **kwargs)
    shape[dim] = sum(part.shape[dim] for part in parts)
    return first.new_empty(shape)


aten = torch.ops.aten
ON_META = {aten.cat: _like_cat}
RULES = {
    aten.view: view,
    aten._unsafe_view: view,
    aten.reshape: view,
    aten._reshape_alias: view,
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
    aten.cat: cat,
    aten.stack: stack,
    aten.split: split,
    aten.split_with_sizes: split,
    aten.unsafe_split: split,
    aten.unbind: unbind,
    aten.glu: glu,
    aten.constant_pad_nd: pad,
}
