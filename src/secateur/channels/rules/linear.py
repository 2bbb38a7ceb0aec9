"""Dense layers, matrix products and embeddings."""

from __future__ import annotations

import torch

from secateur.channels.ties import Call, Ties

_ACTIVATIONS = "takes part in a product of two activations, around which code divides axes at its own sizes"
"""Attention: head widths stand in the network's code as numbers, so what is multiplied there stays whole."""


def _contract(ties: Ties, a: torch.Tensor, axis_a: int, b: torch.Tensor, axis_b: int) -> None:
    """Tie the axis over which two matrices are multiplied."""
    labels_a, labels_b = ties.axes(a)[axis_a], ties.axes(b)[axis_b]
    if ties.parameter(a) is None and ties.parameter(b) is None:
        _fix_all(ties, a, b)
        return
    ties.tie(labels_a, labels_b, "reads an axis of the input")
    weight, column = (b, axis_b) if ties.parameter(b) is not None else (a, axis_a)
    ties.read(weight, column)
    ties.write(weight, 2 * weight.dim() - 3 - column)  # the other one of the last two axes


def _matmul(ties: Ties, a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> None:
    """``a [.., n, k] @ b [.., k, m]``, with the same leading axes."""
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


aten = torch.ops.aten
RULES = {
    aten.mm: mm,
    aten.bmm: mm,
    aten.addmm: addmm,
    aten.baddbmm: addmm,
    aten.linear: linear,
    aten.mv: mv,
    aten.embedding: embedding,
}
