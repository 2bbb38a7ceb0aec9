"""Trying whether modules hand their input on once there is nothing in their branch."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from secateur._model import named_tensors
from secateur.channels.groups import INPUT, Channels, Group
from secateur.channels.nested import tensors_in, with_tensors

_DIRECTIONS = (".original1", "weight_v")
"""Tensors whose length does not matter (weight norm divides by it), so that zero is none of their values."""


@dataclass(frozen=True, slots=True)
class Branch:
    """A module that was found to hand its input on."""

    name: str
    groups: tuple[str, ...]
    closed_by: tuple[tuple[str, ...], ...]
    alone: bool


@dataclass
class Search:
    """Tries modules of a network on what they are given while the network runs.

    Attributes:
        model: The network.
        channels: What watching it found.
        macs: The modules that are tried, and how many multiply-adds each does.
        calls: How often each was called.
        found: Those that hand their input on.
    """

    model: nn.Module
    channels: Channels
    macs: Mapping[str, float]
    calls: dict[str, int] = field(default_factory=dict[str, int])
    found: list[Branch] = field(default_factory=list[Branch])
    _given: dict[str, tuple[Any, Any]] = field(default_factory=dict[str, tuple[Any, Any]])
    _busy: bool = False

    def listen(self) -> None:
        """Hear of every call of the modules that may be blocks."""
        for name in self.macs:
            module = self.model.get_submodule(name)
            module.register_forward_pre_hook(self._before(name), with_kwargs=True)
            module.register_forward_hook(self._after(name))

    def _before(self, name: str) -> Any:
        def before(_module: nn.Module, args: Any, kwargs: Any) -> None:
            if self._busy:
                return
            self.calls[name] = self.calls.get(name, 0) + 1
            x = next(tensors_in((args, kwargs)), None)
            if self.calls[name] == 1 and x is not None and x.is_floating_point() and bool(x.any()):
                try:
                    self._given[name] = copy.deepcopy((args, kwargs))  # what is given may be written into
                except (TypeError, RuntimeError):  # what cannot be copied (a generator, say) cannot be tried
                    return

        return before

    def _after(self, name: str) -> Any:
        def after(module: nn.Module, _args: Any, out: object) -> None:
            given = None if self._busy else self._given.pop(name, None)
            if given is None or not isinstance(out, Tensor) or self._is_stage(name):
                return
            self._busy = True
            try:
                self._try(name, module, given, out)
            finally:
                self._busy = False

        return after

    def _inside(self, name: str) -> list[Branch]:
        """The blocks that were found in a module."""
        return [
            branch
            for branch in self.found
            if branch.name.startswith(f"{name}.") and self.calls[branch.name] == 1
        ]

    def _is_stage(self, name: str) -> bool:
        """Whether what a module computes is for the most part computed by blocks in it."""
        theirs = sum(self.macs[branch.name] for branch in self._inside(name))
        return theirs > 0 and 2 * theirs >= self.macs[name]

    def _try(self, name: str, module: nn.Module, given: tuple[Any, Any], out: Tensor) -> None:
        x = next(tensors_in(given))
        if out.shape != x.shape or out.dtype != x.dtype:
            return
        off = switched_off(module)
        if not _gives_back(module, given, off):
            return
        negated = with_tensors(given, lambda tensor: -x if tensor is x else tensor)
        if bool((x > 0).all()) and not _gives_back(module, negated, off):
            return  # it hands on what is positive, and nothing shows that it is given nothing else
        groups = _inner(self.model, self.channels, name)
        closed = tuple((group.name,) for group in groups if self._closes(module, given, [group]))
        if not closed and len(groups) > 1 and self._closes(module, given, groups):
            closed = (tuple(group.name for group in groups),)
        args, kwargs = given
        alone = len(args) == 1 and not kwargs and args[0] is x
        smaller = self._inside(name)
        self.found = [branch for branch in self.found if branch not in smaller]
        self.found.append(Branch(name, tuple(group.name for group in groups), closed, alone))

    def _closes(self, module: nn.Module, given: tuple[Any, Any], groups: Iterable[Group]) -> bool:
        """Whether the branch comes to nothing where nobody reads some groups, constants left aside.

        Weights are random meanwhile: those of a fresh branch are often zero, and then everything would seem to close it.
        """
        tensors = named_tensors(self.model)
        values = {id(tensor): (tensor, value) for tensor, value in _random(module)}
        for member in (member for group in groups for member in group.members):
            if member.role == "read" or (member.role == "carry" and member.axis > 0):
                tensor = tensors[member.tensor]
                _, value = values.setdefault(id(tensor), (tensor, tensor.detach().clone()))
                places = torch.as_tensor(member.indices.reshape(-1), device=value.device)
                value.index_fill_(member.axis, places, 0)
        return _gives_back(module, given, values.values())


def switched_off(module: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """A module's tensors with the values at which its branch gives nothing.

    Parameters are zero, running means 0 and variances 1. What weight norm takes only the direction of stays.
    """
    values: list[tuple[Tensor, Tensor]] = []
    for name, tensor in named_tensors(module).items():
        is_weight = isinstance(tensor, nn.Parameter) and not name.endswith(_DIRECTIONS)
        if is_weight or name.endswith("running_mean"):
            values.append((tensor, torch.zeros_like(tensor)))
        elif name.endswith("running_var"):
            values.append((tensor, torch.ones_like(tensor)))
    return values


def _random(module: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """A module's parameters with random values, but nothing that is added without reading anything."""
    generator = torch.Generator().manual_seed(0)
    values: list[tuple[Tensor, Tensor]] = []
    for name, tensor in named_tensors(module).items():
        if name.endswith(("bias", "running_mean")):
            values.append((tensor, torch.zeros_like(tensor)))
        elif isinstance(tensor, nn.Parameter):
            bound = (3 / (tensor[0].numel() if tensor.dim() > 1 else 1)) ** 0.5
            drawn = torch.empty(tensor.shape).uniform_(-bound, bound, generator=generator)
            values.append((tensor, drawn.to(device=tensor.device, dtype=tensor.dtype)))
    return values


def _gives_back(module: nn.Module, given: tuple[Any, Any], values: Iterable[tuple[Tensor, Tensor]]) -> bool:
    """Whether a module with other values hands its first tensor on, to the last bit. Its own values are put back."""
    pairs = [(tensor, tensor.data, value) for tensor, value in values]
    args, kwargs = copy.deepcopy(given)
    try:
        for tensor, _, value in pairs:
            tensor.data = value
        out = module(*args, **kwargs)
    except Exception:  # somebody's forward that fails without its weights: then it cannot do without them
        return False
    finally:
        for tensor, own, _ in pairs:
            tensor.data = own
    return isinstance(out, Tensor) and torch.equal(out, next(tensors_in(given)))


def places_of(model: nn.Module) -> dict[int, list[str]]:
    """Under which names each tensor of a network is held, by its identity."""
    places: dict[int, list[str]] = {}
    for name, tensor in named_tensors(model).items():
        places.setdefault(id(tensor), []).append(name)
    return places


def held_by(model: nn.Module, block: str, places: Mapping[int, list[str]]) -> dict[str, float]:
    """The tensors in a block by the name that stands for them, and the share of their places that are in it."""
    inside = {id(tensor) for tensor in named_tensors(model.get_submodule(block)).values()}
    modules = set(model.get_submodule(block).modules())
    result: dict[str, float] = {}
    for key in inside:
        names = places[key]
        mine = [name for name in names if model.get_submodule(name.rpartition(".")[0]) in modules]
        result[names[0]] = len(mine) / len(names)
    return dict(sorted(result.items()))


def _inner(model: nn.Module, channels: Channels, block: str) -> list[Group]:
    """The groups that run through no tensor outside of a block."""
    own = {name for name, share in held_by(model, block, places_of(model)).items() if share == 1}
    return [
        group
        for group in channels.groups
        if all(member.tensor != INPUT and member.tensor in own for member in group.members)
    ]
