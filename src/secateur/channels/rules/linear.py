"""Dense layers, matrix products and embeddings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from secateur.channels.rules.conv import INPUT_READ, unmet
from secateur.channels.rules.reduce import TOGETHER
from secateur.channels.ties import Axes, Call, Labels, Ties

_ACTIVATIONS = "is summed over in a product of two activations, which no weight reads"


def _contract(ties: Ties, a: torch.Tensor, axis_a: int, b: torch.Tensor, axis_b: int) -> None:
    """Tie the axis over which two matrices are multiplied."""
    labels_a, labels_b = ties.axes(a)[axis_a], ties.axes(b)[axis_b]
    if not ties.is_weight(a) and not ties.is_weight(b):
        _without_reader(ties, labels_a, labels_b)
        return
    first = ties.is_weight(a) and ties.parameter(b) is None and (ties.parameter(a) or not ties.is_weight(b))
    ties.tie(labels_a, labels_b, unmet(labels_b if first else labels_a))
    weight, column = (a, axis_a) if first else (b, axis_b)
    if ties.parameter(weight) is None:
        # its own code may divide it by its size, or take a statistic
        ties.norm(labels_a if first else labels_b)
    ties.read(weight, column)
    ties.write(weight, 2 * weight.dim() - 3 - column)  # the other one of the last two axes


def _without_reader(ties: Ties, a: Labels | None, b: Labels | None) -> None:
    """Tie what is summed over in a product of two activations, which no weight reads.

    Such channels go together or not at all. Only as the width of heads, where that is asked for, they may go one by one: each
    is one term of the products, which are then those of what is left, as with a norm.
    """
    for labels in (a, b):
        if labels is not None:
            ties.norm(labels) if ties.attention == "width" else ties.tie_rows(labels[:, None])
    ties.tie(a, b, _ACTIVATIONS)


def settle_heads(ties: Ties, tensor: torch.Tensor) -> None:
    """Of an axis that was divided into heads and their widths, whole heads are what can go, or else positions of the width.

    A narrower head divides by the root of its width in most networks' code, so that cutting it is not exact.
    """
    joint = ties.parts(tensor)[1]
    if joint is None:
        return
    width = [axis for axis in joint.axes if axis >= tensor.dim() - 2]
    batch = [axis for axis in joint.axes if axis < tensor.dim() - 2]
    chosen = (width or batch) if ties.attention == "width" else (batch or width)
    ties.settle(tensor, chosen[-1])


def _matmul(ties: Ties, a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> None:
    """``a [.., n, k] @ b [.., k, m]``, with the same leading axes."""
    for operand in (a, b):
        settle_heads(ties, operand)
    axes_a, axes_b = ties.axes(a), ties.axes(b)
    _contract(ties, a, a.dim() - 1, b, b.dim() - 2)
    for left, right in zip(axes_a[:-2], axes_b[:-2], strict=True):
        ties.tie(left, right)
    leading = tuple(
        left if left is not None else right for left, right in zip(axes_a[:-2], axes_b[:-2], strict=True)
    )
    batch = [(labels, size) for labels, size in zip(leading, a.shape[:-2], strict=True)]
    ties.macs(1.0, *batch, (axes_a[-2], a.shape[-2]), (axes_b[-2], b.shape[-2]), (axes_b[-1], b.shape[-1]))
    ties.set(out, (*leading, axes_a[-2], axes_b[-1]))


def mm(ties: Ties, call: Call) -> None:
    """Matrix product, one or a batch of them."""
    _matmul(ties, call.args[0], call.args[1], call.out)


def addmm(ties: Ties, call: Call) -> None:
    """Matrix product plus a bias that is broadcast."""
    bias, a, b = call.args[:3]
    _matmul(ties, a, b, call.out)
    axes = ties.axes(call.out)
    for axis, labels in enumerate(reversed(ties.axes(bias)), start=1):
        if bias.shape[-axis] == call.out.shape[-axis]:
            ties.tie(axes[-axis], labels)
    ties.bias(b, bias)


def linear(ties: Ties, call: Call) -> None:
    """``x [.., k] @ weight [m, k].T + bias [m]`` where the operator is not taken apart."""
    x, weight = call.args[0], call.args[1]
    bias = call.arg(2, "bias")
    axes_x, axes_w = ties.axes(x), ties.axes(weight)
    _contract(ties, x, x.dim() - 1, weight, 1)
    ties.macs(1.0, *zip(axes_x[:-1], x.shape[:-1], strict=True), *zip(axes_w, weight.shape, strict=True))
    ties.set(call.out, (*axes_x[:-1], axes_w[0]))
    if bias is not None:
        ties.tie(axes_w[0], ties.axes(bias)[0])
        ties.bias(weight, bias)


_BILINEAR = ([1, 3], [0], [1, 2], [2, 3])
"""The axes by which `torch.nn.functional.bilinear` calls its operator."""


def trilinear(ties: Ties, call: Call) -> None:
    """``out [n, o] = sum of a [n, i] * weight [o, i, j] * b [n, j]``, as bilinear layers call it."""
    a, weight, b = call.args[:3]
    if tuple(list(dims) for dims in call.args[3:7]) != _BILINEAR:
        raise ValueError("its axes are not those of a bilinear layer")
    rows, *columns = ties.axes(weight)
    batch = ties.axes(a)[0]
    ties.tie(batch, ties.axes(b)[0])
    for axis, (x, labels) in enumerate(zip((a, b), columns, strict=True), start=1):
        ties.tie(ties.axes(x)[1], labels, INPUT_READ)
        ties.read(weight, axis)
    ties.write(weight, 0)
    ties.macs(1.0, (batch, a.shape[0]), *zip((rows, *columns), weight.shape, strict=True))
    ties.set(call.out, (batch, rows))


def mv(ties: Ties, call: Call) -> None:
    """Matrix times vector."""
    a, b = call.args[0], call.args[1]
    _contract(ties, a, 1, b, 0) if ties.parameter(a) is not None else _fix_all(ties, a, b)
    ties.macs(1.0, *zip(ties.axes(a), a.shape, strict=True))
    ties.set(call.out, (ties.axes(a)[0],))


def _fix_all(ties: Ties, *tensors: torch.Tensor) -> None:
    for tensor in tensors:
        for labels in ties.axes(tensor):
            ties.fix(labels, _ACTIVATIONS)


def embedding(ties: Ties, call: Call) -> None:
    """A table's rows chosen by indices: the vocabulary stays, the width is a channel axis."""
    weight, indices = call.args[0], call.args[1]
    rows, width = ties.axes(weight)
    ties.fix(rows, "is a vocabulary")
    ties.write(weight, 1)
    ties.set(call.out, (*ties.axes(indices), width))


def attention(ties: Ties, call: Call) -> None:
    """``softmax(q k^T / root of width) v`` in one operator: ``q [b, heads, n, d]``, ``k [b, heads, m, d]``, ``v [b, heads, m, e]``."""
    q, k, v = call.tensor(0), call.tensor(1), call.tensor(2)
    for operand in (q, k, v):
        settle_heads(ties, operand)
    axes = [ties.axes(operand) for operand in (q, k, v)]
    if ties.attention == "width":
        _without_reader(ties, axes[0][-1], axes[1][-1])
    else:
        for labels in (axes[0][-1], axes[1][-1]):
            ties.fix(labels, "is the width of a head, by whose root the products are divided")
    heads = axes[0][1]
    for other in axes[1:]:
        if other[1] is None or heads is None or len(other[1]) == len(heads):
            ties.tie(heads, other[1])
        else:  # grouped queries: each of k and v serves several heads
            ties.tie(heads, np.repeat(other[1], len(heads) // len(other[1])))
    for labels in (axes[1][2], axes[2][2]):
        ties.fix(labels, TOGETHER.format("softmax"))
    _masked(ties, call.arg(3, "attn_mask"), (axes[0][0], heads, axes[0][2], None))
    count = float(q.shape[0] * q.shape[2] * k.shape[2])
    ties.macs(count, (heads, q.shape[1]), (axes[0][-1], q.shape[3]))
    ties.macs(count, (heads, q.shape[1]), (axes[2][-1], v.shape[3]))
    out = call.result
    ties.set(out, (axes[0][0], heads, axes[0][2], axes[2][-1]))


def _masked(ties: Ties, mask: object, scores: Axes) -> None:
    """Tie what is added to the products ``[b, heads, n, m]`` to them, such as a table of positions that has a column a head."""
    if not isinstance(mask, torch.Tensor):  # in its place some operators have the share that is dropped
        return
    for place, labels in enumerate(reversed(ties.axes(mask)), start=1):
        if mask.shape[-place] > 1 and mask.stride(-place) > 0:  # else it is the same all along the axis
            ties.tie(scores[-place], labels)


def as_wide_as_queries(ties: Ties, call: Call) -> None:
    """PyTorch's own attention takes the width of its queries for that of all its heads together, so both lose as much."""
    query, out_weight = call.tensor(0), call.arg(11, "out_proj_weight")
    ties.tie(
        ties.axes(query)[-1],
        ties.axes(out_weight)[1],
        "is as wide as the queries that PyTorch's attention is given, which stay",
    )


BEFORE: dict[Any, Callable[[Ties, Call], None]] = {F.multi_head_attention_forward: as_wide_as_queries}
"""What a function's own code asks for, beside what its operators do."""

aten = torch.ops.aten
RULES = {
    aten._scaled_dot_product_flash_attention_for_cpu: attention,
    aten._scaled_dot_product_flash_attention: attention,
    aten._scaled_dot_product_efficient_attention: attention,
    aten._scaled_dot_product_cudnn_attention: attention,
    aten._scaled_dot_product_fused_attention_overrideable: attention,
    aten.mm: mm,
    aten.bmm: mm,
    aten.addmm: addmm,
    aten.baddbmm: addmm,
    aten.linear: linear,
    aten.mv: mv,
    aten._trilinear: trilinear,
    aten.embedding: embedding,
}
