"""What each operator does to the labels of its tensors: one short file per family of operators.

A rule takes the collected ties and one call, ties what is the same axis and labels the result. An operator without a rule
fixes what it touches and is reported by name. Operators that PyTorch itself tags as pointwise need no entry.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch

from secateur.channels.rules import conv, elementwise, index, linear, norm, reduce, shape
from secateur.channels.ties import Call, Ties, tensors_of

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
    conv.RULES, elementwise.RULES, index.RULES, linear.RULES, norm.RULES, reduce.RULES, shape.RULES
)


ON_META: dict[Any, Callable[[Any, Any], Any]] = {**norm.ON_META, **shape.ON_META}
"""What some operators give on meta tensors, without their slow reference implementations."""


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


def rule_for(function: Any) -> Rule:
    """The rule of an operator as the dispatcher names it."""
    rule = RULES.get(function.overloadpacket)
    if rule is not None:
        return rule
    return elementwise.elementwise if torch.Tag.pointwise in function.tags else unknown
