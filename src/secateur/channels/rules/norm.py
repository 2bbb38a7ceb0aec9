"""Norms: batch, layer, RMS, group and instance norm."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from secateur.channels.rules.conv import tie_across
from secateur.channels.rules.elementwise import settle_outside
from secateur.channels.ties import Axes, Call, Joint, Ties, Whole, tensors_of


def batch_norm(ties: Ties, call: Call) -> None:
    """One scale, shift, mean and variance a channel (axis 1)."""
    axes = ties.axes(call.args[0])
    for statistic in tensors_of(call.args[1:5]):
        ties.tie(axes[1], ties.axes(statistic)[0], "is normalised by fixed numbers")
    if next((arg for arg in call.args if isinstance(arg, bool)), False):  # statistics are taken, not read
        for labels in (axes[0], *axes[2:]):
            ties.norm(labels)
    outs = tensors_of(call.out)
    ties.set(outs[0], axes)
    for saved in outs[1:]:
        if saved.dim() == 1 and saved.shape[0] == call.args[0].shape[1]:
            ties.set(saved, (axes[1],))


def layer_norm(ties: Ties, call: Call) -> None:
    """Statistics over the last axes, one scale and shift a position of them."""
    weight, bias = call.arg(2, "weight"), call.arg(3, "bias")
    axes, joint = _over_last(ties, call.args[0], len(call.args[1]), weight, bias)
    ties.set(call.result, axes, joint=joint)


def rms_norm(ties: Ties, call: Call) -> None:
    """The root of the mean square over the last axes, one scale a position of them."""
    x, shape = call.arg(0, "input"), call.arg(1, "normalized_shape")
    axes, joint = _over_last(ties, x, len(shape), call.arg(2, "weight"))
    ties.set(call.out, axes, joint=joint)


def _over_last(
    ties: Ties, x: torch.Tensor, count: int, *parameters: torch.Tensor | None
) -> tuple[Axes, Joint | None]:
    """Statistics are taken over the last axes: the labels of the tensor."""
    settle_outside(ties, x, set(range(x.dim() - count, x.dim())))
    axes, joint = ties.parts(x)
    for parameter in parameters:
        if parameter is not None:
            for mine, theirs in zip(axes[-count:], ties.axes(parameter), strict=True):
                ties.tie(mine, theirs, "is normalised by fixed numbers")
    for labels in axes[-count:]:
        ties.norm(labels)
    return axes, joint


def group_norm(ties: Ties, call: Call) -> None:
    """Statistics over groups of channels: every group loses the same positions. One channel a group is plain."""
    x, weight, bias = call.args[:3]
    channels, groups = int(call.args[4]), int(call.args[6])
    axes = ties.axes(x)
    for parameter in (weight, bias):
        if parameter is not None:
            ties.tie(axes[1], ties.axes(parameter)[0], "is normalised by fixed numbers")
    if groups < channels:
        tie_across(ties, axes[1], groups)
        ties.norm(axes[1])
    ties.set(call.out[0], axes)


aten = torch.ops.aten
WHOLE: dict[Any, Whole] = {
    F.rms_norm: Whole("torch.rms_norm", rms_norm),
    torch.rms_norm: Whole("torch.rms_norm", rms_norm),
}
RULES = {
    aten.native_batch_norm: batch_norm,
    aten.cudnn_batch_norm: batch_norm,
    aten.miopen_batch_norm: batch_norm,
    aten._native_batch_norm_legit: batch_norm,
    aten._native_batch_norm_legit_no_training: batch_norm,
    aten._batch_norm_with_update: batch_norm,
    aten._batch_norm_no_update: batch_norm,
    aten.native_layer_norm: layer_norm,
    aten.native_group_norm: group_norm,
}
