"""What each operator does to the labels of its tensors: one short file per family of operators.

A rule takes the collected ties and one call, ties what is the same axis and labels the result. An operator without a rule
fixes what it touches and is reported by name. Operators that PyTorch itself tags as pointwise need no entry. Rules of your
own are added by :func:`secateur.rule`; what a rule may say is in :class:`~secateur.channels.ties.Ties`, what it sees in
:class:`~secateur.channels.ties.Call`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeAlias

import torch

from secateur.channels.rules import (
    constants,
    conv,
    elementwise,
    index,
    linear,
    norm,
    recurrent,
    reduce,
    shape,
    view,
    weights,
    windows,
)
from secateur.channels.ties import Call, Ties, Whole, tensors_of

Rule: TypeAlias = Callable[[Ties, Call], None]


def _merge(*tables: dict[Any, Rule]) -> dict[Any, Rule]:
    merged: dict[Any, Rule] = {}
    for table in tables:
        twice = merged.keys() & table.keys()
        if twice:
            raise RuntimeError(f"two rules for {sorted(map(str, twice))}; an operator has one")
        merged.update(table)
    return merged


RULES: dict[Any, Rule] = _merge(
    constants.RULES,
    conv.RULES,
    elementwise.RULES,
    index.RULES,
    linear.RULES,
    norm.RULES,
    recurrent.RULES,
    reduce.RULES,
    shape.RULES,
    view.RULES,
    weights.RULES,
    windows.RULES,
)
RULES.update({operator: constants.passed_on(RULES[operator]) for operator in constants.COPIES})
RULES.update(
    {operator: constants.met(RULES[operator], place) for operator, place in constants.PRODUCTS.items()}
)
RULES[torch.ops.aten.mv] = weights.of_weights(RULES[torch.ops.aten.mv])


BEFORE: dict[Any, Rule] = {**linear.BEFORE}
"""What functions ask for whose operators are looked at, too: asked before they run."""

WHOLE: dict[Any, Whole] = {**norm.WHOLE, **recurrent.WHOLE, **weights.WHOLE}
"""Functions that are seen as one operator."""


def unknown(ties: Ties, call: Call) -> None:
    """Fix what an operator without a rule touches, and report it."""
    labelled = False
    for tensor in tensors_of(call.args) + tensors_of(call.kwargs):
        for labels in ties.axes(tensor):
            if labels is not None:
                labelled = True
                ties.fix(labels, f"goes through the operator {call.name}, which has no rule")
    if labelled:
        ties.unknown[call.name] += 1
    for tensor in tensors_of(call.out):  # in place, it may have another shape now
        ties.set(tensor, (None,) * tensor.dim())


_QUIET: ContextVar[bool] = ContextVar("_QUIET", default=False)


@contextmanager
def quiet() -> Generator[None]:
    """Inside, no operator's rule is asked: what runs here is seen as a whole, by a rule of its own."""
    token = _QUIET.set(True)
    try:
        yield
    finally:
        _QUIET.reset(token)


def is_quiet() -> bool:
    """Whether what runs now is part of something that is seen as a whole."""
    return _QUIET.get()


def has_rule(packet: Any) -> bool:
    """Whether an operator (all its overloads) has a rule, or needs none.

    >>> has_rule(torch.ops.aten.relu), has_rule(torch.ops.aten.histc)
    (True, False)
    """
    overloads = (getattr(packet, name) for name in packet.overloads())
    return packet in RULES or any(torch.Tag.pointwise in overload.tags for overload in overloads)


def rule_for(function: Any) -> Rule:
    """The rule of an operator as the dispatcher names it."""
    if is_quiet():
        return elementwise.nothing
    rule = RULES.get(function.overloadpacket)
    if rule is not None:
        return rule
    return elementwise.elementwise if torch.Tag.pointwise in function.tags else unknown
