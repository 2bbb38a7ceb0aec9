"""Take and mix on one tensor: the only arithmetic of surgery."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateur.plan.change import Mix, Plan

_FORMATS = (torch.channels_last, torch.channels_last_3d)


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One group's part in one axis of a tensor.

    Attributes:
        indices: ``[n, block]``: the positions that each old unit owns.
        take: ``[m]``: the old unit of each new one, ascending.
        mix: How a reader combines old columns; None takes them as they are.
    """

    indices: NDArray[np.int64]
    take: NDArray[np.int64]
    mix: Mix | None = None


Parts: TypeAlias = dict[str, dict[int, list[Part]]]
"""What happens to each axis of each tensor, by its name."""


def parts_of(plan: Plan) -> Parts:
    """What a plan does to each axis of each tensor."""
    parts: Parts = defaultdict(lambda: defaultdict(list))
    for group, change in zip(plan.groups, plan.changes, strict=True):
        for member in group.members:
            mix = change.mix_for(member.tensor) if member.role == "read" else None
            parts[member.tensor][member.axis].append(Part(member.indices, change.take, mix))
    return parts


def new_order(length: int, parts: Sequence[Part]) -> NDArray[np.int64]:
    """The old position of each new position of an axis.

    A unit's positions that lie next to each other stay together; copies of a unit stand beside the original. So the order
    is the same as if the network had been built with the new width.
    """
    copies = np.ones(length, dtype=np.int64)
    for part in parts:
        counts = np.bincount(part.take, minlength=len(part.indices))
        copies[part.indices] = counts[:, None]
    if (copies <= 1).all():
        return np.flatnonzero(copies)
    runs = np.arange(length)  # the run of positions that are copied together begins here
    for part in parts:
        ordered = np.sort(part.indices, axis=1)
        for column in range(1, ordered.shape[1]):
            follows = ordered[:, column] == ordered[:, column - 1] + 1
            runs[ordered[follows, column]] = runs[ordered[follows, column - 1]]
    starts = np.flatnonzero(runs == np.arange(length))
    stretches = np.split(np.arange(length), starts[1:])
    return np.concatenate([np.tile(stretch, int(copies[stretch[0]])) for stretch in stretches])


def new_positions(order: NDArray[np.int64], part: Part) -> NDArray[np.int64]:
    """Where each new unit's positions are on the new axis, ``[m, block]``."""
    block = part.indices.shape[1]
    result = np.empty((len(part.take), block), dtype=np.int64)
    by_old = np.argsort(order, kind="stable")
    sorted_old = order[by_old]
    nth = np.arange(len(part.take)) - np.searchsorted(part.take, part.take)  # which copy of its old unit
    for column in range(block):
        old = part.indices[part.take, column]
        result[:, column] = by_old[np.searchsorted(sorted_old, old) + nth]
    return result


def change_axis(tensor: Tensor, axis: int, parts: Sequence[Part]) -> Tensor:
    """A tensor with one axis taken (and, for readers, mixed). Memory format and number format stay."""
    order = new_order(tensor.shape[axis], parts)
    result = tensor.index_select(axis, torch.as_tensor(order).to(tensor.device))
    for part in parts:
        if part.mix is not None:
            _mix_into(result, tensor, axis, part, new_positions(order, part))
    return result


def changed(tensor: Tensor, axes: Mapping[int, Sequence[Part]], *, mixed: bool = True) -> Tensor:
    """A tensor with all its axes changed; ``mixed=False`` only takes (for what is no weight: squared gradients)."""
    result = tensor
    for axis, parts in axes.items():
        plain = parts if mixed else [Part(part.indices, part.take) for part in parts]
        result = change_axis(result, axis, plain)
    for memory_format, dimensions in zip(_FORMATS, (4, 5), strict=True):
        if (
            tensor.dim() == dimensions
            and not tensor.is_contiguous()
            and tensor.is_contiguous(memory_format=memory_format)
        ):
            return result.contiguous(memory_format=memory_format)
    return result if result is not tensor else tensor.clone()


def _mix_into(result: Tensor, tensor: Tensor, axis: int, part: Part, places: NDArray[np.int64]) -> None:
    """Replace a part's new columns by combinations of the old ones: W' = W @ matrix on every block."""
    mix = part.mix
    if mix is None:
        return
    matrix = torch.as_tensor(mix.matrix).to(device=tensor.device, dtype=torch.float64)
    for column in range(part.indices.shape[1]):
        old = torch.as_tensor(np.ascontiguousarray(part.indices[:, column])).to(tensor.device)
        new = torch.as_tensor(np.ascontiguousarray(places[:, column])).to(tensor.device)
        weights = tensor.index_select(axis, old).movedim(axis, -1).to(torch.float64)
        result.index_copy_(axis, new, (weights @ matrix).movedim(-1, axis).to(tensor.dtype))


def bias_shift(weight: Tensor, axis: int, part: Part, *, length: int) -> Tensor | None:
    """What the reader's bias gains where a constant stands for removed units: the sum of shift times weight.

    Args:
        weight: The reader's weight, which reads on ``axis`` (0 or 1) and writes on the other one.
        axis: The axis that reads.
        part: The part of the group on that axis.
        length: The length of the bias: a multiple of the writing axis, where a transposed convolution has groups.
    """
    if part.mix is None or part.mix.shift is None:
        return None
    shift = torch.as_tensor(part.mix.shift, dtype=torch.float64, device=weight.device)
    constant = torch.zeros(weight.shape[axis], dtype=torch.float64, device=weight.device)
    for column in range(part.indices.shape[1]):
        constant[torch.as_tensor(part.indices[:, column], device=weight.device)] = shift
    table = weight.to(torch.float64).movedim(axis, 0)
    summed = table.flatten(2).sum(2) if table.dim() > 2 else table  # [reads, writes]
    groups = length // summed.shape[1]
    return (constant.reshape(groups, -1, 1) * summed.reshape(groups, -1, summed.shape[1])).sum(1).flatten()
