"""Modules and functions that are seen as a whole: one rule for all that runs inside."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn
from torch.autograd.function import FunctionCtx

from secateur.channels.nested import tensors_in
from secateur.channels.rules import Rule, is_quiet, quiet, unknown
from secateur.channels.ties import Call, MisfitError, ties_of

LEAVES: dict[type, Rule] = {}
"""The rules of classes of modules, and of functions with a backward pass of their own (``torch.autograd.Function``)."""


@contextmanager
def leaves_closed() -> Generator[None]:
    """Inside, the forward of every class that has a rule is seen as one operator; afterwards it is what it was."""
    with ExitStack() as stack:
        for kind, rule in LEAVES.items():
            stack.enter_context(_closed(kind, rule))
        yield


@contextmanager
def _closed(kind: type, rule: Rule) -> Generator[None]:
    own = vars(kind).get("forward")
    inner: Any = inspect.getattr_static(kind, "forward")
    is_module = nn.Module in kind.__mro__
    forward = _of_module(rule, inner) if is_module else _of_function(kind, rule, inner)
    setattr(kind, "forward", forward)  # noqa: B010 - a type checker takes no assignment to a class's method
    try:
        yield
    finally:
        if own is None:
            delattr(kind, "forward")
        else:
            setattr(kind, "forward", own)  # noqa: B010


def _of_module(rule: Rule, inner: Callable[..., Any]) -> Callable[..., Any]:
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        name = type(self).__name__
        return _through(rule, Call(name, args, kwargs, None, self), lambda: inner(self, *args, **kwargs))

    return forward


def _of_function(kind: type, rule: Rule, inner: Any) -> Any:
    def forward(*args: Any) -> Any:
        given = args[1:] if args and isinstance(args[0], FunctionCtx) else args
        return _through(rule, Call(kind.__name__, given, {}, None), lambda: inner.__func__(*args))

    return staticmethod(forward)


def _through(rule: Rule, call: Call, run: Callable[[], Any]) -> Any:
    """Run something as one operator: nothing inside is seen, then its rule is asked."""
    own = () if call.module is None else (*call.module.parameters(), *call.module.buffers())
    ties = None if is_quiet() else ties_of([*tensors_in((call.args, call.kwargs)), *own])
    if ties is None:
        return run()
    with quiet():
        out = run()
        ties.calls += 1
        seen = Call(call.name, call.args, call.kwargs, out, call.module)
        try:
            rule(ties, seen)
        except MisfitError:
            raise
        except Exception as error:  # a call that its rule does not foresee: left whole, and told
            ties.notes.append(f"{call.name} was left whole: {type(error).__name__}: {error}")
            unknown(ties, seen)
        ties.note(seen)
    return out
