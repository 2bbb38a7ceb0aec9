"""Tensors that are one number repeated, such as the zeros that a recurrence starts from.

They have no channels of their own: what meets them is cut without a change of what they do, as long as the network's code
makes fewer of them then. Whether it does is found when cuts are tried.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from secateur.channels.ties import Call, Ties, tensors_of


def made(ties: Ties, call: Call) -> None:
    """A tensor of one number."""
    out = call.result
    ties.set(out, (None,) * out.dim(), uniform=True)


def passed_on(rule: Callable[[Ties, Call], None]) -> Callable[[Ties, Call], None]:
    """The rule of an operator that moves or copies: what it makes of one number repeated is that, too."""

    def extended(ties: Ties, call: Call) -> None:
        uniform = ties.is_uniform(call.args[0])
        rule(ties, call)
        if uniform:
            for out in tensors_of(call.out):
                ties.set(out, (None,) * out.dim(), uniform=True)

    return extended


def met(rule: Callable[[Ties, Call], None], place: int) -> Callable[[Ties, Call], None]:
    """The rule of a matrix product: one number repeated (at ``place``) takes the labels of the columns that read it."""

    def extended(ties: Ties, call: Call) -> None:
        a, b = call.args[place], call.args[place + 1]
        if ties.is_uniform(a):
            ties.set(a, (*(None,) * (a.dim() - 1), ties.axes(b)[-2]))
        rule(ties, call)

    return extended


aten = torch.ops.aten
RULES: dict[Any, Callable[[Ties, Call], None]] = {
    aten.zeros: made,
    aten.ones: made,
    aten.full: made,
    aten.new_zeros: made,
    aten.new_ones: made,
    aten.new_full: made,
}
COPIES = (
    aten.clone, aten.detach, aten._to_copy, aten.expand, aten.view, aten.unsqueeze, aten.squeeze, aten.transpose,
    aten.permute, aten.select, aten.slice, aten.unbind, aten.split,
)  # fmt: skip
PRODUCTS = {aten.mm: 0, aten.addmm: 1}
