"""In which order the modules of a network run, on what shapes, and how many multiply-adds each does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

import torch
from torch import nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from secateur._model import left_as_found, tensors_in_place
from secateur.channels.nested import as_call, tensors_in, with_tensors
from secateur.errors import WatchError

_EVERYTHING = "Global"

Shapes: TypeAlias = tuple[tuple[int, ...], tuple[int, ...]]
"""Of what a module was given and of what it gave back."""


@dataclass(frozen=True, slots=True)
class Calls:
    """What one forward pass called.

    Attributes:
        order: The modules that ran, by the time of their first call; the network itself is the empty name.
        macs: Multiply-adds for one example of each module that did any, those of the modules inside it included.
        shapes: Of each module the shapes of the first tensor that it took and of the one that it gave, one pair a call; nothing of
            calls that took or gave no single tensor.
        batch: Examples in the pass.
    """

    order: tuple[str, ...]
    macs: Mapping[str, int]
    shapes: Mapping[str, tuple[Shapes, ...]] = field(
        default_factory=dict[str, tuple[Shapes, ...]], repr=False
    )
    batch: int = field(default=1, repr=False)


def calls(model: nn.Module, example: Any) -> Calls:
    """Run a network once in eval mode, on tensors without data where it can, and note which modules it calls.

    Args:
        model: The network; it is left as found.
        example: An input as the network takes it: a tensor with a batch axis, a tuple of arguments, or a dictionary of
            keyword arguments. Values do not matter, shapes do.

    Raises:
        WatchError: The forward pass failed.

    Example:
        >>> net = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
        >>> calls(net, torch.zeros(1, 8))
        Calls(order=('', '0', '1', '2'), macs={'': 60, '0': 48, '2': 12})
    """
    try:
        return _called(model, example, meta=True)
    except Exception:  # a forward that reads values cannot run without data: it runs on real tensors
        try:
            return _called(model, example, meta=False)
        except Exception as error:
            raise WatchError(
                f"the network's forward pass failed ({type(error).__name__}: {error}); pass an example that it takes"
            ) from error


def _called(model: nn.Module, example: Any, *, meta: bool) -> Calls:
    formats = {p.dtype for p in model.parameters() if p.is_floating_point()}
    dtype = formats.pop() if len(formats) == 1 else None

    def fitted(tensor: torch.Tensor) -> torch.Tensor:
        made = tensor.to(dtype) if tensor.is_floating_point() and dtype is not None else tensor
        return torch.empty_like(made, device="meta") if meta else made

    args, kwargs = as_call(with_tensors(example, fitted))
    first = next(tensors_in([*args, kwargs]), None)
    batch = int(first.shape[0]) if first is not None and first.dim() else 1
    state = {
        name: torch.empty_like(tensor, device="meta") if meta else tensor.detach()
        for name, tensor in tensors_in_place(model).items()
    }
    order: list[str] = []
    shapes: dict[str, list[Shapes]] = {}
    counter = FlopCounterMode(display=False)
    with left_as_found(model, values=not meta), torch.no_grad():
        model.eval()
        for name, module in cast("Iterator[tuple[str, nn.Module]]", model.named_modules()):
            module.register_forward_pre_hook(_noting(name, order))
            module.register_forward_hook(_measuring(shapes.setdefault(name, [])), with_kwargs=True)
        with counter:
            functional_call(model, state, args, kwargs, tie_weights=False)
    counts = counter.get_flop_counts()
    macs = {
        name.partition(".")[2]: sum(found.values()) // 2 // batch
        for name, found in counts.items()
        if name != _EVERYTHING
    }
    return Calls(
        tuple(dict.fromkeys(order)),
        {name: macs[name] for name in order if name in macs},
        {name: tuple(found) for name, found in shapes.items() if found},
        batch,
    )


def _noting(name: str, order: list[str]) -> Any:
    def note(_module: nn.Module, _args: Any) -> None:
        order.append(name)

    return note


def _measuring(found: list[Shapes]) -> Any:
    def measure(_module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        given = next(tensors_in([args, kwargs]), None)
        if given is not None and isinstance(output, torch.Tensor):
            found.append((tuple(given.shape), tuple(output.shape)))

    return measure
