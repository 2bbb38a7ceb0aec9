"""Tensors inside tuples, lists, dictionaries and dataclasses: what networks take and give."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FunctionType, ModuleType
from typing import Any, TypeAlias, cast

import torch
from torch import nn

ForwardFn: TypeAlias = "Callable[[nn.Module, Any], Any]"
"""Runs a network on an example in its user's way, where that is not ``model(example)``: ``forward_fn(model, example)``."""


def tensors_in(value: object) -> Iterator[torch.Tensor]:
    """The tensors in a value: tuples, lists, dictionaries and dataclasses of any depth.

    >>> [tuple(x.shape) for x in tensors_in({"a": (torch.zeros(2), 1), "b": [torch.zeros(3)]})]
    [(2,), (3,)]
    """
    if isinstance(value, torch.Tensor):
        yield value
        return
    for part in _parts(value) or ():
        yield from tensors_in(part)


def outputs_in(value: object) -> list[torch.Tensor]:
    """The tensors in what a network returns, each once: those of `tensors_in`, and those in sets and in attributes of objects.

    Not those in objects of a class that is named a cache: a decoder's keys and values, which only the network itself reads.

    >>> from types import SimpleNamespace
    >>> [tuple(x.shape) for x in outputs_in([SimpleNamespace(boxes=torch.zeros(3, 4)), torch.zeros(2)])]
    [(3, 4), (2,)]
    """
    found: list[torch.Tensor] = []
    seen: dict[int, object] = {}
    waiting = [value]
    while waiting:
        now = waiting.pop()
        if id(now) in seen or isinstance(now, _NO_OUTPUT) or _is_cache(now):  # objects can hold each other
            continue
        seen[id(now)] = now
        if isinstance(now, torch.Tensor):
            found.append(now)
        else:
            waiting += reversed([*(_parts(now) or ()), *_attributes(now)])
    return found


_NO_OUTPUT = (type, ModuleType, FunctionType, nn.Module, str, bytes)


def _is_cache(value: object) -> bool:
    """Whether an object is what decoders keep keys and values in: handed back to them, and as wide as they are."""
    return any(kind.__name__.endswith("Cache") for kind in type(value).__mro__)


def _attributes(value: object) -> Iterator[object]:
    """What an object keeps under names, and what a set or a queue holds."""
    if hasattr(value, "__dict__"):
        yield from list(vars(value).values())
    for kind in type(value).__mro__:
        slots: Any = vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__"):
                yield getattr(value, name, None)
    if isinstance(value, (set, frozenset, deque)):
        yield from list(cast("set[object]", value))


def _parts(value: object) -> list[object] | None:
    """What a tuple, list, dictionary or dataclass holds; None for anything else."""
    if isinstance(value, Mapping):
        return list(cast("Mapping[object, object]", value).values())
    if isinstance(value, (list, tuple)):
        return list(cast("Sequence[object]", value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [getattr(value, field.name) for field in dataclasses.fields(value)]
    return None


def with_tensors(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """The same value with every tensor replaced. Anything that is no tuple, list, dictionary or dataclass stays.

    >>> with_tensors({"a": (torch.zeros(2), 1)}, lambda x: x + 1)
    {'a': (tensor([1., 1.]), 1)}
    """
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {key: with_tensors(entry, change) for key, entry in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, (list, tuple)):
        entries = [with_tensors(entry, change) for entry in cast("Sequence[Any]", value)]
        kind: Any = type(cast("object", value))
        return kind._make(entries) if hasattr(kind, "_make") else kind(entries)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {
            f.name: with_tensors(getattr(value, f.name), change) for f in dataclasses.fields(value) if f.init
        }
        return dataclasses.replace(value, **fields)
    return value


def as_call(example: object) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """An example input as positional and keyword arguments: a tensor, a tuple of them, or a dictionary."""
    if isinstance(example, Mapping):
        return (), dict(cast("Mapping[str, Any]", example))
    return (cast("tuple[Any, ...]", example) if isinstance(example, tuple) else (example,)), {}


def not_an_example(example: object) -> str:
    """What to do where an example is no example: a shape, numbers in lists, an array; empty where it may be one.

    >>> not_an_example((1, 3, 8, 8)), not_an_example([[5, 7]])
    ('(1, 3, 8, 8) is a shape or numbers, no tensor; pass torch.zeros(1, 3, 8, 8), or torch.tensor([(1, 3, 8, 8)])', \
'[[5, 7]] are numbers in lists, no tensor; pass torch.tensor([[5, 7]])')
    """
    said = f"{example!r:.60}"
    if isinstance(example, (list, tuple)) and example:
        entries = cast("Sequence[object]", example)
        if all(isinstance(entry, int) for entry in entries):
            sizes = ", ".join(map(str, entries))
            return f"{said} is a shape or numbers, no tensor; pass torch.zeros({sizes:.60}), or torch.tensor([{said}])"
        if all(isinstance(entry, (list, tuple)) for entry in entries) and not any(tensors_in(entries)):
            return f"{said} are numbers in lists, no tensor; pass torch.tensor({said})"
    if not isinstance(example, (torch.Tensor, list, tuple)) and hasattr(example, "__array__"):
        return f"the example is of class {type(example).__name__}, no tensor; pass torch.as_tensor(example)"
    if isinstance(example, (str, bytes)):
        return f"the example is the text {said}, no tensor; pass what the network takes"
    return ""


def run(model: nn.Module, example: Any, forward_fn: ForwardFn | None = None) -> Any:
    """Run a network on an example: as its arguments, or as its user says.

    >>> run(nn.Flatten(), torch.zeros(1, 2, 3)).shape
    torch.Size([1, 6])
    >>> run(nn.Flatten(), {"x": torch.zeros(1, 2, 3)}, lambda model, example: model(example["x"])).shape
    torch.Size([1, 6])
    """
    if forward_fn is not None:
        return forward_fn(model, example)
    args, kwargs = as_call(example)
    return model(*args, **kwargs)
