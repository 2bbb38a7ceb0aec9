"""Pooling, resampling, sums and other operators that run over whole axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from secateur.channels.rules.elementwise import settle_outside
from secateur.channels.ties import Call, Ties, moved, tensors_of

TOGETHER = "has all of its positions taken together by {}"
"""Why an axis stays that is summed or searched over: every result depends on all of it."""


def spatial(dimensions: int) -> Callable[[Ties, Call], None]:
    """The last axes are pooled, padded or resampled; the channels before them pass."""

    def rule(ties: Ties, call: Call) -> None:
        axes = ties.axes(call.args[0])
        for labels in axes[-dimensions:]:
            ties.fix(labels, f"is pooled or resampled by {call.name}")
        for out in tensors_of(call.out):
            ties.set(out, (*axes[:-dimensions], *(None,) * dimensions))

    return rule


def _dims(value: int | Sequence[int] | None, count: int) -> set[int]:
    if value is None or (isinstance(value, (list, tuple)) and not value):
        return set(range(count))
    chosen = (value,) if isinstance(value, int) else value
    return {int(dim) % max(count, 1) for dim in chosen}


def reduction(
    position: int = 1, name: str = "dim", *, statistic: bool = False
) -> Callable[[Ties, Call], None]:
    """Some axes are summed or searched over: their channels stay. A statistic is taken over those that are left, as in a norm."""

    def rule(ties: Ties, call: Call) -> None:
        x = call.tensor(0)
        value = call.arg(position, name)
        dims = _dims(None if isinstance(value, (bool, torch.dtype, float)) else value, x.dim())
        settle_outside(ties, x, dims)
        axes, joint = ties.parts(x)
        for dim in dims:
            ties.norm(axes[dim]) if statistic else ties.fix(axes[dim], TOGETHER.format(call.name))
        for out in tensors_of(call.out):
            order = [dim for dim in range(x.dim()) if out.dim() == x.dim() or dim not in dims]
            if len(order) == out.dim():
                kept = [None if dim in dims else axes[dim] for dim in order]
                ties.set(out, kept, joint=moved(joint, {dim: place for place, dim in enumerate(order)}))

    return rule


def along(position: int = 1, name: str = "dim", default: int = -1) -> Callable[[Ties, Call], None]:
    """An operator mixes the positions of one axis and keeps the shape (softmax, sort, cumulative sum)."""

    def rule(ties: Ties, call: Call) -> None:
        x = call.tensor(0)
        dim = int(call.arg(position, name, default)) % max(x.dim(), 1)
        settle_outside(ties, x, {dim})
        found, joint = ties.parts(x)
        axes = list(found)
        if axes:
            ties.fix(axes[dim], TOGETHER.format(call.name))
            axes[dim] = None
        for out in tensors_of(call.out):
            ties.set(out, axes, joint=joint)

    return rule


aten = torch.ops.aten
RULES = {
    aten.avg_pool2d: spatial(2),
    aten.avg_pool3d: spatial(3),
    aten.max_pool2d_with_indices: spatial(2),
    aten.max_pool3d_with_indices: spatial(3),
    aten._adaptive_avg_pool2d: spatial(2),
    aten._adaptive_avg_pool3d: spatial(3),
    aten.adaptive_max_pool2d: spatial(2),
    aten.adaptive_max_pool3d: spatial(3),
    aten.reflection_pad1d: spatial(1),
    aten.reflection_pad2d: spatial(2),
    aten.reflection_pad3d: spatial(3),
    aten.replication_pad1d: spatial(1),
    aten.replication_pad2d: spatial(2),
    aten.replication_pad3d: spatial(3),
    aten.upsample_nearest1d: spatial(1),
    aten.upsample_nearest2d: spatial(2),
    aten.upsample_nearest3d: spatial(3),
    aten._upsample_nearest_exact1d: spatial(1),
    aten._upsample_nearest_exact2d: spatial(2),
    aten.upsample_linear1d: spatial(1),
    aten.upsample_bilinear2d: spatial(2),
    aten._upsample_bilinear2d_aa: spatial(2),
    aten.upsample_bicubic2d: spatial(2),
    aten.upsample_trilinear3d: spatial(3),
    aten.mean: reduction(statistic=True),
    aten.sum: reduction(),
    aten.amax: reduction(statistic=True),
    aten.amin: reduction(statistic=True),
    aten.max: reduction(),
    aten.min: reduction(),
    aten.argmax: reduction(),
    aten.argmin: reduction(),
    aten.prod: reduction(),
    aten.any: reduction(),
    aten.all: reduction(),
    aten.var: reduction(statistic=True),
    aten.std: reduction(statistic=True),
    aten.var_mean: reduction(statistic=True),
    aten.std_mean: reduction(statistic=True),
    aten.logsumexp: reduction(),
    aten.linalg_vector_norm: reduction(2, statistic=True),
    aten._softmax: along(),
    aten._log_softmax: along(),
    aten._safe_softmax: along(),
    aten.cumsum: along(),
    aten.sort: along(),
    aten.topk: along(2),
}
