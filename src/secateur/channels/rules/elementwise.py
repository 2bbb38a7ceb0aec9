"""Operators that act on each element alone, and copies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch

from secateur.channels.ties import Call, Labels, Ties


def tensors_of(values: object) -> list[torch.Tensor]:
    """The tensors among arguments, lists included."""
    if isinstance(values, torch.Tensor):
        return [values]
    if isinstance(values, (list, tuple)):
        return [tensor for value in cast("Sequence[object]", values) for tensor in tensors_of(value)]
    if isinstance(values, dict):
        return tensors_of(list(cast("dict[object, object]", values).values()))
    return []


def broadcast(ties: Ties, operands: Sequence[torch.Tensor], shape: Sequence[int]) -> list[Labels | None]:
    """Tie operands along the axes they share, aligned from the right; the labels of the result.

    An operand of size 1 on an axis is repeated along it and says nothing about it.
    """
    result: list[Labels | None] = []
    tracked = [(ties.axes(operand), operand.shape) for operand in operands]
    for axis in range(-len(shape), 0):
        labels: Labels | None = None
        full: list[Labels | None] = []
        for axes, sizes in tracked:
            if -axis <= len(sizes) and sizes[axis] == shape[axis]:
                full.append(axes[axis])
        if any(entry is not None for entry in full):
            labels = next(entry for entry in full if entry is not None)
            for other in full:
                ties.tie(labels, other)
        result.append(labels)
    return result


def elementwise(ties: Ties, call: Call) -> None:
    """All operands are the same axes; so is the result."""
    operands = tensors_of(call.args) + tensors_of(call.kwargs)
    for out in tensors_of(call.out):
        ties.set(out, broadcast(ties, operands, out.shape))


def same(ties: Ties, call: Call) -> None:
    """The result has the first argument's axes (copies, casts, dropout, ``*_like``)."""
    source = call.args[0]
    for out in tensors_of(call.out):
        if out.shape == source.shape:
            ties.set(out, ties.axes(source))


def alias(ties: Ties, call: Call) -> None:
    """The result is the first argument under another name; a parameter stays a parameter."""
    ties.set(call.out, ties.axes(call.args[0]), parameter=ties.parameter(call.args[0]))


def copy_into(ties: Ties, call: Call) -> None:
    """What is written into a tensor has that tensor's axes. Views carry their base's labels, so the base is tied too.

    Where nothing is known of the tensor, it may be a view of anything: what is written into it stays whole.
    """
    broadcast(ties, [call.tensor(0), call.tensor(1)], call.tensor(0).shape)


def nothing(ties: Ties, call: Call) -> None:
    """The operator ties nothing (it fills a tensor with a number, say)."""


aten = torch.ops.aten
RULES = {
    aten.clone: alias,
    aten.detach: alias,
    aten.alias: alias,
    aten.lift_fresh: alias,
    aten._to_copy: alias,
    aten.native_dropout: same,
    aten.bernoulli: same,
    aten.zeros_like: same,
    aten.ones_like: same,
    aten.empty_like: same,
    aten.full_like: same,
    aten.rand_like: same,
    aten.randn_like: same,
    aten.copy_: copy_into,
    aten.copy: copy_into,
    aten.fill_: nothing,
    aten.zero_: nothing,
    aten.bernoulli_: nothing,
    aten.uniform_: nothing,
    aten.normal_: nothing,
    aten.new_empty: nothing,
    aten.new_zeros: nothing,
    aten.new_ones: nothing,
    aten.new_full: nothing,
    aten._prelu_kernel: elementwise,  # from here on: PyTorch does not tag them as pointwise
    aten.hardswish: elementwise,
    aten.hardswish_: elementwise,
    aten.mish_: elementwise,
    aten.log_sigmoid_forward: same,
    aten.rrelu_with_noise: same,
    aten.masked_fill: elementwise,
    aten.masked_fill_: elementwise,
}
