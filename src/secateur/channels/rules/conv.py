"""Convolutions in one to three dimensions: plain, grouped, depthwise, transposed."""

from __future__ import annotations

import math

import numpy as np
import torch

from secateur.channels.ties import Call, Labels, Ties

KERNEL = "is the size of a kernel"
INPUT_READ = "reads the network's input"
_COMPUTED = "is read by a weight that is computed from all of its columns"
_SPATIAL = "is a spatial axis of a convolution"


def tie_across(ties: Ties, labels: Labels | None, blocks: int) -> None:
    """Tie position j of every block: an axis of ``blocks`` equal blocks loses the same positions in each."""
    if labels is None or blocks == 1:
        return
    table = labels.reshape(blocks, -1)
    for row in table[1:]:
        ties.tie(table[0], row)


def convolution(ties: Ties, call: Call) -> None:
    """Tie the input's channels to what reads them in the weight; the result's channels are what the weight writes."""
    x, weight = call.tensor(0), call.tensor(1)
    bias: torch.Tensor | None = call.args[2]
    transposed, groups = bool(call.args[6]), int(call.args[8])
    axes_x, axes_w = ties.axes(x), ties.axes(weight)
    spatial = weight.dim() - 2
    channel = x.dim() - spatial - 1
    for labels in axes_x[channel + 1 :]:
        ties.fix(labels, _SPATIAL)
    for labels in axes_w[2:]:
        ties.fix(labels, KERNEL)
    positions = math.prod((x if transposed else call.result).shape[channel + 1 :])
    examples = zip(axes_x[:channel], x.shape[:channel], strict=True)
    ties.macs(float(positions), *examples, *zip(axes_w, weight.shape, strict=True))
    connect = _transposed if transposed else _plain
    written = connect(ties, axes_x[channel], weight, groups)
    if bias is not None:
        ties.tie(written, ties.axes(bias)[0])
        ties.bias(weight, bias)
    ties.set(call.out, (*axes_x[:channel], written, *(None,) * spatial))


def unmet(channels: Labels | None) -> str:
    """Why an axis stays that meets none: that of a weight where the channels that it reads have no labels, or theirs."""
    return INPUT_READ if channels is None else _COMPUTED


def _plain(ties: Ties, channels: Labels | None, weight: torch.Tensor, groups: int) -> Labels | None:
    """``weight [out, in/groups, ..]``: the labels of the output channels."""
    rows, columns = ties.axes(weight)[:2]
    if groups == 1:
        ties.tie(channels, columns, unmet(channels))
        ties.read(weight, 1)
        ties.write(weight, 0)
        return rows
    if weight.shape[1] == 1:
        _depthwise(ties, channels, rows, groups)
        ties.fix(columns, KERNEL)
        return rows
    tie_across(ties, channels, groups)
    tie_across(ties, rows, groups)
    ties.tie(None if channels is None else channels.reshape(groups, -1)[0], columns, unmet(channels))
    ties.read(weight, 1)
    ties.write(weight, 0)
    return rows


def _transposed(ties: Ties, channels: Labels | None, weight: torch.Tensor, groups: int) -> Labels | None:
    """``weight [in, out/groups, ..]``: the labels of the output channels."""
    rows, columns = ties.axes(weight)[:2]
    if groups > 1 and weight.shape[0] == groups and weight.shape[1] == 1:
        _depthwise(ties, channels, rows, groups)
        ties.fix(columns, KERNEL)
        return rows
    ties.tie(channels, rows, unmet(channels))
    if ties.parameter(weight) is None:
        ties.fix(rows, _COMPUTED)
    ties.read(weight, 0)
    ties.write(weight, 1)
    if groups == 1:
        return columns
    tie_across(ties, rows, groups)
    return None if columns is None else np.tile(columns, groups)


def _depthwise(ties: Ties, channels: Labels | None, rows: Labels | None, groups: int) -> None:
    """Channel i is filtered by rows i*m .. i*m + m - 1 alone: it carries through."""
    if rows is None:
        ties.fix(channels, "is filtered by a fixed kernel")
        return
    for column in rows.reshape(groups, -1).T:
        ties.tie(channels, column, INPUT_READ)


aten = torch.ops.aten
RULES = {aten.convolution: convolution}
