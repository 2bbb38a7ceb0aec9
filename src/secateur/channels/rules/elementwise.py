"""Operators that act on each element alone, and copies."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from secateur.channels.ties import Call, Joint, Labels, Ties, tensors_of


def broadcast(ties: Ties, operands: Sequence[torch.Tensor], shape: Sequence[int]) -> list[Labels | None]:
    """Tie operands along the axes they share, aligned from the right; the labels of the result.

    An operand of size 1 on an axis is repeated along it and says nothing about it, nor does one that is a single number
    throughout. Joint axes are the caller's.
    """
    result: list[Labels | None] = []
    tracked = [
        (ties.parts(operand)[0], operand.shape) for operand in operands if not ties.is_uniform(operand)
    ]
    for axis in range(-len(shape), 0):
        labels: Labels | None = None
        full: list[Labels | None] = []
        for axes, sizes in tracked:
            if -axis <= len(sizes) and sizes[axis] == shape[axis]:
                full.append(axes[axis])
        if shape[axis] == 1:  # a constant of one number fits whatever is there
            full = [entry for entry in full if entry is not None]
        if any(entry is not None for entry in full):
            labels = next(entry for entry in full if entry is not None)
            for other in full:
                ties.tie(labels, other)
        # what is fixed needs no labels, which would be taken for a channel axis further on
        result.append(labels if all(entry is not None for entry in full) else None)
    return result


def settle_outside(ties: Ties, tensor: torch.Tensor, dims: set[int]) -> None:
    """Where some of its joint axes are run over, one is to carry that is not, if there is one."""
    joint = ties.parts(tensor)[1]
    if joint is not None and dims.intersection(joint.axes):
        free = [axis for axis in joint.axes if axis not in dims]
        ties.settle(tensor, free[-1] if free else joint.axes[-1])


def _constrained(
    ties: Ties, operands: Sequence[torch.Tensor], shape: Sequence[int], joint: Joint
) -> tuple[set[int], set[int]]:
    """The joint axes (counted in the result) along which some operand has labels of its own, or is a table of numbers."""
    labelled: set[int] = set()
    constant: set[int] = set()
    for operand in operands:
        axes, own = ties.parts(operand)
        lead = len(shape) - operand.dim()
        if own is not None and tuple(axis + lead for axis in own.axes) == joint.axes:
            continue
        if own is not None:
            axes = ties.axes(operand)
        for axis in joint.axes:
            if axis >= lead and operand.shape[axis - lead] == shape[axis]:
                labels = axes[axis - lead]
                if labels is not None and not ties.of_buffer(labels):
                    labelled.add(axis)
                elif shape[axis] > 1:  # a constant of one number fits whatever is there
                    constant.add(axis)
    return labelled, constant


def _joint_of(ties: Ties, operands: Sequence[torch.Tensor], shape: Sequence[int]) -> Joint | None:
    """What the joint operands have in common, counted in the result; settled where others do not leave it open."""
    found: list[tuple[torch.Tensor, Joint]] = []
    for operand in operands:
        own = ties.parts(operand)[1]
        if own is not None:
            lead = len(shape) - operand.dim()
            found.append((operand, Joint(tuple(axis + lead for axis in own.axes), own.table)))
    if not found:
        return None
    first = found[0][1]
    labelled, constant = _constrained(ties, operands, shape, first)
    alike = [(operand, own) for operand, own in found if own.axes == first.axes]
    if not labelled and not constant and all(own.table.shape == first.table.shape for _, own in alike):
        for _, other in alike[1:]:
            ties.tie(first.table.reshape(-1), other.table.reshape(-1))
        return first
    free = [axis for axis in first.axes if axis not in constant] or [first.axes[-1]]
    carrier = next((axis for axis in free if axis in labelled), free[0])
    for operand, _ in alike:
        ties.settle(operand, carrier - (len(shape) - operand.dim()))
    return None


def elementwise(ties: Ties, call: Call) -> None:
    """All operands are the same axes; so is the result."""
    operands = tensors_of(call.args) + tensors_of(call.kwargs)
    for out in tensors_of(call.out):
        if len(operands) == 1 and out.shape == operands[0].shape:
            axes, joint = ties.parts(operands[0])
            ties.set(out, axes, joint=None if joint is None else Joint(joint.axes, joint.table))
            continue
        joint = _joint_of(ties, operands, out.shape)
        ties.set(out, broadcast(ties, operands, out.shape), joint=joint)


def same(ties: Ties, call: Call) -> None:
    """The result has the first argument's axes (copies, casts, dropout, ``*_like``)."""
    source = call.args[0]
    for out in tensors_of(call.out):
        if out.shape == source.shape:
            axes, joint = ties.parts(source)
            ties.set(out, axes, joint=joint)


def alias(ties: Ties, call: Call) -> None:
    """The result is the first argument under another name; a parameter stays a parameter."""
    axes, joint = ties.parts(call.args[0])
    ties.set(call.out, axes, parameter=ties.parameter(call.args[0]), joint=joint)


def copy_into(ties: Ties, call: Call) -> None:
    """What is written into a tensor has that tensor's axes. Views carry their base's labels, so the base is tied too.

    Where nothing is known of the tensor, it may be a view of anything: what is written into it stays whole.
    """
    operands = [call.tensor(0), call.tensor(1)]
    for operand in operands:
        ties.axes(operand)  # joint axes are settled
    broadcast(ties, operands, call.tensor(0).shape)


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
    aten._prelu_kernel: elementwise,  # from here on: PyTorch does not tag them as pointwise
    aten.hardswish: elementwise,
    aten.hardswish_: elementwise,
    aten.mish_: elementwise,
    aten.log_sigmoid_forward: same,
    aten.rrelu_with_noise: same,
    aten.masked_fill: elementwise,
    aten.masked_fill_: elementwise,
}
