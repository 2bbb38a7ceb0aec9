"""Whole blocks: residual branches that a network can do without, because what goes in then comes out.

Which modules are such blocks is measured. While the network runs once on values, each module is run again on what it was
given, with all of its parameters at zero: one that hands its input on unchanged is a block. No class is known by name.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, cast

import torch
from torch import Tensor, nn

from secateur._model import left_as_found, named_tensors, unwrapped
from secateur.channels.groups import INPUT, Channels, Group
from secateur.channels.nested import as_call, tensors_in, with_tensors
from secateur.channels.removal import products_inside, removable
from secateur.channels.watch import digest_of
from secateur.errors import ModelError, SettingsError, WatchError

_DIRECTIONS = (".original1", "weight_v")
"""Tensors whose length does not matter (weight norm divides by it), so that zero is none of their values."""


@dataclass(frozen=True, slots=True)
class Block:
    """A module that hands its input on once its branch is gone, and what goes with it.

    Attributes:
        name: Name of the module.
        kind: Its class.
        groups: Its inner groups: those that run through no tensor outside of it.
        closed_by: Sets of inner groups. Where nothing is left of every group of one set, nothing of the branch is left.
        tensors: The tensors in it, each with the share of its places that are in the block: below 1 for a tensor that is
            shared with something outside.
        parameters: Parameters that go with it.
        macs: Multiply-adds that go with it, for one example.
        terms: The places in ``Channels.macs`` that are its own.
        alone: Whether it is called with one argument.
        digest: Identifies the structure in which it was found.
    """

    name: str
    kind: str
    groups: tuple[str, ...]
    closed_by: tuple[tuple[str, ...], ...]
    tensors: Mapping[str, float]
    parameters: int
    macs: int
    terms: tuple[int, ...]
    alone: bool
    digest: str

    def __repr__(self) -> str:
        return f"Block({self.name!r}, {self.kind}: {self.parameters:,} parameters, {self.macs:,} MACs)"


def tensors_gone(blocks: Iterable[Block]) -> frozenset[str]:
    """The tensors that a network has no more once all of some blocks are gone: those that nothing else holds."""
    held: dict[str, float] = {}
    for block in blocks:
        for name, share in block.tensors.items():
            held[name] = held.get(name, 0.0) + share
    return frozenset(name for name, share in held.items() if share > 1 - 1e-9)


def blocks(
    model: nn.Module, channels: Channels, example: Any, *, only: str | Collection[str] | None = None
) -> tuple[Block, ...]:
    """Find the blocks of a network that can be removed whole, so that their input goes on in their place.

    A block is a submodule that is called once, whose output has the shape of the first tensor that it is given, and which
    with all of its parameters zero (and its norms' running means 0, variances 1) gives that tensor back exactly: ``x + f(x)``
    with any ``f`` that is zero then, or ``relu(x + f(x))`` where x is rectified already (which zeros in it show). Of nested ones
    the innermost is the block; a larger one only if it has more parameters of its own than those in it, so that a stage of blocks is
    none, but a block is that holds a small one. A module without convolution or matrix product
    (an embedding of positions that is added) is none. This is measured while the network runs on the example in eval mode, one module at a time, so the network must have
    values; it is left as found. Blocks are left out whose removal the network's own code does not stand (it asks them for an
    attribute, say).

    Args:
        model: The network.
        channels: What watching it found.
        example: An input as the network takes it. Floating-point tensors of one repeated number (``torch.zeros``) are
            replaced by random ones, since nothing can be told from them.
        only: Names of the blocks that are wanted, or patterns of names (``"layer3.*"``); all by default.

    Returns:
        The blocks in the order in which they run.

    Raises:
        ModelError: The channels are of another network, or it has no values.
        SettingsError: ``only`` fits no block.
        WatchError: The forward pass failed.

    Example:
        >>> import secateur
        >>> from secateur.networks import build
        >>> model, x = build("resnet20", seed=0), torch.zeros(1, 3, 32, 32)
        >>> found = blocks(model, secateur.watch(model, x), x)
        >>> len(found), found[0]
        (7, Block('stages.0.0', ...: 4,672 parameters, 4,718,592 MACs))
    """
    model = unwrapped(model)
    _check(model, channels)
    lively = _lively(model, example)
    search = _Search(model, channels)
    with left_as_found(model), torch.no_grad():
        model.eval()
        search.listen()
        args, kwargs = as_call(lively)
        try:
            model(*args, **kwargs)
        except Exception as error:  # any error of the user's forward
            raise WatchError(
                f"the network's forward pass failed on values ({type(error).__name__}: {error}); pass an example that it takes"
            ) from error
    trials = [trial for trial in search.trials if search.calls[trial.name] == 1]
    terms = products_inside(model, lively, [trial.name for trial in trials], total=len(channels.macs))
    # without a product it adds what does not depend on its input, such as an embedding of positions
    trials = [trial for trial in trials if terms[trial.name]]
    free = removable(model, lively, {trial.name: trial.alone for trial in trials})
    places = _places(model)
    found = tuple(
        _block(model, channels, trial, terms=terms[trial.name], places=places)
        for trial in trials
        if trial.name in free
    )
    return found if only is None else _only(found, (only,) if isinstance(only, str) else only)


def _check(model: nn.Module, channels: Channels) -> None:
    if digest_of(model) != channels.digest:
        raise ModelError(
            "the channels were found in another network; watch this one, then look for its blocks"
        )
    meta = next((name for name, tensor in named_tensors(model).items() if tensor.is_meta), None)
    if meta is not None:
        raise ModelError(
            f"{meta!r} is on the meta device and has no values, so blocks cannot be tried; load its weights first"
        )


def _lively(model: nn.Module, example: Any) -> Any:
    """The example on the network's device and in its number format; what is one number repeated becomes random."""
    parameters = list(model.parameters())
    device = parameters[0].device if parameters else torch.device("cpu")
    formats = {parameter.dtype for parameter in parameters if parameter.is_floating_point()}
    generator = torch.Generator().manual_seed(0)

    def fitted(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor.to(device)
        dtype = next(iter(formats)) if len(formats) == 1 else tensor.dtype
        if tensor.is_meta or (tensor.numel() > 1 and bool((tensor == tensor.flatten()[0]).all())):
            tensor = torch.randn(tensor.shape, generator=generator)
        return tensor.to(device=device, dtype=dtype)

    return with_tensors(example, fitted)


@dataclass(frozen=True, slots=True)
class _Trial:
    """A module that was found to hand its input on."""

    name: str
    groups: tuple[str, ...]
    closed_by: tuple[tuple[str, ...], ...]
    alone: bool


@dataclass
class _Search:
    """Tries every module of a network on what it is given while the network runs."""

    model: nn.Module
    channels: Channels
    calls: dict[str, int] = field(default_factory=dict[str, int])
    trials: list[_Trial] = field(default_factory=list["_Trial"])
    _given: dict[str, tuple[Any, Any]] = field(default_factory=dict[str, tuple[Any, Any]])
    _busy: bool = False

    def listen(self) -> None:
        """Hear of every call of a module that may be a block."""
        for name, module in _modules(self.model).items():
            plain = type(module).__module__.startswith("torch.nn.modules") and not any(module.children())
            if not name or plain or not any(True for _ in module.parameters()):
                continue
            module.register_forward_pre_hook(self._before(name), with_kwargs=True)
            module.register_forward_hook(self._after(name))

    def _before(self, name: str) -> Any:
        def before(_module: nn.Module, args: Any, kwargs: Any) -> None:
            if self._busy:
                return
            self.calls[name] = self.calls.get(name, 0) + 1
            x = next(tensors_in((args, kwargs)), None)
            if self.calls[name] == 1 and x is not None and x.is_floating_point() and bool(x.any()):
                self._given[name] = copy.deepcopy((args, kwargs))  # what is given may be written into

        return before

    def _after(self, name: str) -> Any:
        def after(module: nn.Module, _args: Any, out: object) -> None:
            given = None if self._busy else self._given.pop(name, None)
            if given is None or not isinstance(out, Tensor) or self._is_stage(name, module):
                return
            self._busy = True
            try:
                self._try(name, module, given, out)
            finally:
                self._busy = False

        return after

    def _inside(self, name: str) -> list[_Trial]:
        """The blocks that were found in a module."""
        return [
            trial
            for trial in self.trials
            if trial.name.startswith(f"{name}.") and self.calls[trial.name] == 1
        ]

    def _is_stage(self, name: str, module: nn.Module) -> bool:
        """Whether a module consists of blocks for the most part, by its parameters."""
        theirs = sum(_numbers(self.model.get_submodule(trial.name)) for trial in self._inside(name))
        return theirs > 0 and 2 * theirs >= _numbers(module)

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
        alone = len(args) == 1 and not kwargs
        smaller = self._inside(name)
        self.trials = [trial for trial in self.trials if trial not in smaller]
        self.trials.append(_Trial(name, tuple(group.name for group in groups), closed, alone))

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


def _numbers(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


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


def _modules(model: nn.Module) -> dict[str, nn.Module]:
    return dict(cast("Iterable[tuple[str, nn.Module]]", model.named_modules()))


def _places(model: nn.Module) -> dict[int, list[str]]:
    """Under which names each tensor of a network is held, by its identity."""
    places: dict[int, list[str]] = {}
    for name, tensor in named_tensors(model).items():
        places.setdefault(id(tensor), []).append(name)
    return places


def _held_by(model: nn.Module, block: str, places: Mapping[int, list[str]]) -> dict[str, float]:
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
    own = {name for name, share in _held_by(model, block, _places(model)).items() if share == 1}
    return [
        group
        for group in channels.groups
        if all(member.tensor != INPUT and member.tensor in own for member in group.members)
    ]


def _block(
    model: nn.Module,
    channels: Channels,
    trial: _Trial,
    *,
    terms: tuple[int, ...],
    places: Mapping[int, list[str]],
) -> Block:
    tensors = _held_by(model, trial.name, places)
    own = [name for name, share in tensors.items() if share == 1]
    macs = sum(
        term.count * math.prod(len(axis) for axis in term.axes)
        for term in (channels.macs[place] for place in terms)
    )
    return Block(
        name=trial.name,
        kind=type(model.get_submodule(trial.name)).__name__,
        groups=trial.groups,
        closed_by=trial.closed_by,
        tensors=tensors,
        parameters=sum(math.prod(channels.shapes[name]) for name in own if name in channels.trainable),
        macs=round(macs),
        terms=terms,
        alone=trial.alone,
        digest=channels.digest,
    )


def _only(found: tuple[Block, ...], patterns: Collection[str]) -> tuple[Block, ...]:
    for pattern in patterns:
        if not any(fnmatchcase(block.name, pattern) for block in found):
            known = ", ".join(block.name for block in found) or "none"
            raise SettingsError(
                f"only= speaks of {pattern!r}, and no block is named so; the blocks are {known}"
            )
    return tuple(block for block in found if any(fnmatchcase(block.name, pattern) for pattern in patterns))
