"""Operators that cut windows out of images or sequences, and those that put them together again."""

from __future__ import annotations

import numpy as np
import torch

from secateur.channels.ties import Call, Ties

WINDOWS = "is divided into windows"


def unfold(ties: Ties, call: Call) -> None:
    """An axis is divided into windows that overlap: it stays, others pass."""
    x, dim = call.tensor(0), int(call.args[1]) % call.tensor(0).dim()
    axes = list(ties.axes(x))
    ties.fix(axes[dim], WINDOWS)
    axes[dim] = None
    ties.set(call.out, [*axes, None])


def im2col(ties: Ties, call: Call) -> None:
    """``[.., c, h, w]`` as ``[.., c k k, places]``: a channel becomes the k x k entries of its windows."""
    x, (height, width) = call.tensor(0), call.args[1]
    axes = ties.axes(x)
    for labels in axes[-2:]:
        ties.fix(labels, WINDOWS)
    own = axes[-3]
    ties.set(call.out, [*axes[:-3], None if own is None else np.repeat(own, height * width), None])


def col2im(ties: Ties, call: Call) -> None:
    """``[.., c k k, places]`` as ``[.., c, h, w]``: the k x k entries that are summed into one channel go together."""
    x, (height, width) = call.tensor(0), call.args[2]
    axes = ties.axes(x)
    ties.fix(axes[-1], WINDOWS)
    own = axes[-2]
    if own is not None:
        table = own.reshape(-1, height * width)
        ties.tie_rows(np.ascontiguousarray(table.T))
        own = table[:, 0]
    ties.set(call.out, [*axes[:-2], own, None, None])


aten = torch.ops.aten
RULES = {
    aten.unfold: unfold,
    aten.im2col: im2col,
    aten.col2im: col2im,
}
