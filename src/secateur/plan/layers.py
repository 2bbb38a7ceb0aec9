"""Which layers can be replaced by smaller ones, on what shapes they run, and what each would cost."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn

from secateur._model import copied, hook_tables, named_tensors
from secateur.cost import Cost
from secateur.errors import ModelError, SecateurError, SettingsError
from secateur.observe.calls import Calls, calls
from secateur.observe.layers import CONVOLUTIONS, LAYERS
from secateur.plan.decompose import Kind

Terms: TypeAlias = "list[tuple[Any, float]]"
"""Tensors: how many numbers each has, and at how many positions each number is multiplied."""


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A layer that can be replaced.

    Attributes:
        name: Its module's name.
        layer: The module.
        read: Positions of its inputs in one example, over all of its calls.
        written: Positions of its outputs, likewise.
    """

    name: str
    layer: nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
    read: float
    written: float

    @property
    def kernel(self) -> Tensor:
        """Its weight in double precision, ``[o, c, k]``."""
        weight = self.layer.weight.detach().double()
        return weight.flatten(2) if weight.dim() > 2 else weight[:, :, None]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Outputs, inputs, and positions of the window."""
        weight = self.layer.weight
        return weight.shape[0], weight.shape[1], math.prod(weight.shape[2:])

    @property
    def low_rank(self) -> Kind:
        """Its kind of low rank: Tucker-2 where it has a window, else an SVD."""
        return "tucker" if self.shape[2] > 1 else "svd"

    def full(self, kind: Kind) -> tuple[int, ...]:
        """The sizes of a kind at which nothing is lost; of a fire module, its inputs."""
        outputs, inputs, _ = self.shape
        sizes = {"svd": (min(outputs, inputs),), "tucker": (inputs, outputs), "fire": (inputs,)}
        return sizes.get(kind, ())

    @property
    def cost(self) -> Cost:
        """What it costs as it is."""
        outputs, inputs, window = self.shape
        return self._summed([(outputs * inputs * window, self.written)], [])

    def cost_of(self, kind: Kind, sizes: Sequence[int]) -> Cost:
        """What it would cost as factors of these sizes."""
        return self._summed(*self.terms(kind, sizes))

    def terms(self, kind: Kind, sizes: Sequence[Any]) -> tuple[Terms, Terms]:
        """The parameters and the buffers that its factors would have; sizes may be arrays of whole numbers."""
        outputs, inputs, window = self.shape
        if kind == "svd":
            (rank,) = sizes
            return [(rank * (inputs + outputs), self.written)], []
        if kind == "tucker":
            r, s = sizes
            first, last = (r < inputs) * r * inputs, (s < outputs) * s * outputs
            return [(first, self.read), (r * s * window, self.written), (last, self.written)], []
        if kind == "fire":
            (squeeze,), half = sizes, outputs // 2
            expand = squeeze * (half + (outputs - half) * window)
            return [(squeeze * inputs, self.read), (expand, self.written)], []
        inner, pointwise = (inputs * window, self.written), (outputs * inputs, self.written)
        return ([pointwise], [inner]) if kind == "shift" else ([inner, pointwise], [])

    def _summed(self, trained: Terms, kept: Terms) -> Cost:
        count = sum(numbers for numbers, _ in trained) + (self.shape[0] if self.layer.bias is not None else 0)
        stored = sum(numbers for numbers, _ in kept)
        macs = sum(numbers * positions for numbers, positions in (*trained, *kept))
        return Cost(count, stored, round(macs), (count + stored) * self.layer.weight.element_size())


def candidates(
    model: nn.Module,
    example: Any,
    layers: Iterable[str] | None,
    refused: Callable[[nn.Module], str | None],
) -> tuple[tuple[Candidate, ...], tuple[tuple[str, str], ...]]:
    """The layers that can be replaced, and why others cannot.

    Args:
        model: The network.
        example: An input.
        layers: Names of modules, or patterns of them; None for all dense and convolutional layers.
        refused: Why a layer is none of those that are wanted, or None.

    Raises:
        SettingsError: A name or pattern fits no dense or convolutional layer.
    """
    ran = calls(model, example)
    named = layers_of(model)
    patterns = None if layers is None else list(layers)
    for pattern in patterns or ():
        if not any(_fits(name, pattern) for name in named):
            raise SettingsError(
                f"layers= speaks of {pattern!r}, and no dense or convolutional layer is named so; there are"
                f" {', '.join(named) or 'none'}"
            )
    shared = Counter(id(tensor) for tensor in named_tensors(model).values())
    modules = Counter(id(module) for _, module in _all_names(model))
    found: list[Candidate] = []
    left: list[tuple[str, str]] = []
    for name, layer in named.items():
        if patterns is not None and not any(_fits(name, pattern) for pattern in patterns):
            continue
        holders = shared[id(layer.weight)] / modules[id(layer)]
        reason = _why_not(name, layer, ran, holders=holders) or refused(layer)
        if reason is None:
            found.append(_candidate(name, layer, ran))
        else:
            left.append((name, reason))
    bad = _used_otherwise(model, example, found)
    return tuple(one for one in found if one.name not in bad), (*left, *bad.items())


def layers_of(model: nn.Module) -> dict[str, nn.Module]:
    """The dense and convolutional layers of a network by name."""
    named = cast("Iterator[tuple[str, nn.Module]]", model.named_modules())
    return {name: module for name, module in named if isinstance(module, LAYERS)}


def _all_names(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return cast("Iterator[tuple[str, nn.Module]]", model.named_modules(remove_duplicate=False))


def _fits(name: str, pattern: str) -> bool:
    return name == pattern or fnmatchcase(name, pattern)


def _why_not(name: str, layer: nn.Module, ran: Calls, *, holders: float) -> str | None:
    """Why a layer cannot be replaced."""
    if type(layer) not in LAYERS:  # a subclass may compute something else
        return f"is a {type(layer).__name__}, which may compute more than its class does"
    if not name:
        return "is the network itself"
    if isinstance(layer, CONVOLUTIONS) and layer.groups > 1:
        return "is a grouped convolution"
    if holders > 1:
        return "shares its weight with another layer"
    if any(hook_tables(layer)):
        return "has hooks, which would be lost"
    if name not in ran.shapes:
        return "is not called in the pass on the example"
    return None


def _candidate(name: str, layer: Any, ran: Calls) -> Candidate:
    outputs, inputs = layer.weight.shape[:2]
    read = sum(math.prod(given) for given, _ in ran.shapes[name]) / (inputs * ran.batch)
    written = sum(math.prod(made) for _, made in ran.shapes[name]) / (outputs * ran.batch)
    return Candidate(name, layer, read, written)


def _used_otherwise(model: nn.Module, example: Any, found: Sequence[Candidate]) -> dict[str, str]:
    """Layers that the network's code asks for more than to be called, with the reason: it is run with each in a sequence."""
    if not found or _fails(model, example, found) is None:
        return {}
    reasons = {one.name: _fails(model, example, [one]) for one in found}
    return {
        name: f"is used by the network's code in another way than by calling it ({reason})"
        for name, reason in reasons.items()
        if reason is not None
    }


def _fails(model: nn.Module, example: Any, wrapped: Sequence[Candidate]) -> str | None:
    memo: dict[int, Any] = {
        id(tensor): tensor for tensor in named_tensors(model).values()
    }  # nothing is copied
    memo |= {id(one.layer): nn.Sequential(one.layer) for one in wrapped}
    try:
        calls(copied(model, memo), example)
    except SecateurError as error:
        return str(error.__cause__ or error)
    return None


def check_weights(model: nn.Module) -> None:
    """Refuse a network without values: ranks are chosen by its weights.

    Raises:
        ModelError: A tensor is on the meta device.
    """
    meta = next((name for name, tensor in named_tensors(model).items() if tensor.is_meta), None)
    if meta is not None:
        raise ModelError(f"{meta!r} is on the meta device and has no values; load the network's weights")
    for name, tensor in named_tensors(model).items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor.sum())):
            raise ModelError(f"{name!r} is not finite; load the network from before its training diverged")
