"""Weights that are computed from other tensors before they are used: weight norm, spectral norm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from secateur.channels.rules.conv import KERNEL
from secateur.channels.ties import Call, Ties, Whole

_SPECTRUM = "is part of the spectral norm by which a whole weight is divided"
_INNER = "is summed over in an inner product"


def weight_norm(ties: Ties, call: Call) -> None:
    """``v`` with each row scaled to the length that ``g`` says. Each row is scaled alone; along it, a statistic is taken."""
    v, g = call.tensor(0), call.tensor(1)
    dim = int(call.arg(2, "dim", 0))  # -1: one length for the whole weight
    axes = ties.axes(v)
    for axis, labels in enumerate(axes):
        if axis == dim:
            ties.tie(labels, ties.axes(g)[axis])
        else:
            ties.norm(labels)
            ties.fix(ties.axes(g)[axis] if g.dim() else None, KERNEL)
    ties.write(v, max(dim, 0))
    ties.set(call.result, axes)


def of_weights(rule: Callable[[Ties, Call], None]) -> Callable[[Ties, Call], None]:
    """The rule of matrix times vector: where both are the network's own, a spectral norm is taken, which is a statistic."""

    def extended(ties: Ties, call: Call) -> None:
        matrix, factor = call.tensor(0), call.tensor(1)
        if ties.parameter(matrix) is not None and ties.parameter(factor) is not None:
            rows, columns = ties.axes(matrix)
            ties.tie(columns, ties.axes(factor)[0], _SPECTRUM)
            ties.norm(columns)
            ties.set(call.result, (rows,))
            return
        rule(ties, call)

    return extended


def inner(ties: Ties, call: Call) -> None:
    """The inner product of two vectors: the end of a spectral norm where one is the network's own, else all counts."""
    a, b = call.tensor(0), call.tensor(1)
    if ties.parameter(a) is not None or ties.parameter(b) is not None:
        ties.tie(ties.axes(a)[0], ties.axes(b)[0], _SPECTRUM)
        ties.norm(ties.axes(a)[0])
        ties.set(call.result, ())
        return
    for tensor in (call.tensor(0), call.tensor(1)):
        for labels in ties.axes(tensor):
            ties.fix(labels, _INNER)
    ties.set(call.result, ())


_function: Any = getattr(torch, "_weight_norm")  # noqa: B009 - PyTorch hides it from type checkers
WHOLE: dict[Any, Whole] = {_function: Whole("torch._weight_norm", weight_norm)}
aten = torch.ops.aten
RULES = {aten.dot: inner, aten.vdot: inner}
