"""Whole blocks: residual branches that a network can do without, because what goes in then comes out.

Which modules are such blocks is measured. While the network runs once on values, each module is run again on what it was
given, with all of its parameters at zero: one that hands its input on unchanged is a block. No class is known by name.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, cast

import torch
from torch import Tensor, nn

from secateur._model import left_as_found, named_tensors, unwrapped
from secateur._options import expect
from secateur.channels.branches import Branch, Search, held_by, places_of
from secateur.channels.groups import Channels
from secateur.channels.nested import ForwardFn, not_an_example, run, with_tensors
from secateur.channels.removal import products_inside, removable
from secateur.channels.watch import digest_of
from secateur.errors import ModelError, SecateurError, SettingsError, WatchError


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
    model: nn.Module,
    channels: Channels,
    example: Any,
    *,
    only: str | Collection[str] | None = None,
    forward_fn: ForwardFn | None = None,
) -> tuple[Block, ...]:
    """Find the blocks of a network that can be removed whole, so that their input goes on in their place.

    A block is a submodule that is called once, whose output has the shape of the first tensor that it is given, and which
    with all of its parameters zero (and its norms' running means 0, variances 1) gives that tensor back exactly: ``x + f(x)``
    with any ``f`` that is zero then, or ``relu(x + f(x))`` where x is rectified already (which zeros in it show). Of nested ones
    the innermost is the block; a larger one only if it does more multiply-adds of its own than those in it, so that a stage of blocks is
    none, but a block is that holds a small one. A sum that is written in the forward of a larger module (``x = x + self.f(x)``) is none
    of ``f``: give it a module of its own. A module without convolution or matrix product
    (an embedding of positions that is added) is none. This is measured while the network runs on the example in eval mode, one module at a time, so the network must have
    values; it is left as found. Blocks are left out whose removal the network's own code does not stand (it asks them for an
    attribute, say).

    Args:
        model: The network.
        channels: What watching it found.
        example: An input as the network takes it. Floating-point tensors of one repeated number (``torch.zeros``) are
            replaced by random ones, since nothing can be told from them.
        only: Names of the blocks that are wanted, or patterns of names (``"layer3.*"``); all by default.
        forward_fn: How you run the network, as when it was watched.

    Returns:
        The blocks in the order in which they run.

    Raises:
        ModelError: The channels are of another network, or it has no values.
        SettingsError: ``only`` fits no block, or an argument is of another kind.
        WatchError: The forward pass failed.

    Example:
        >>> import secateur
        >>> from secateur.networks import build
        >>> model, x = build("resnet20", seed=0), torch.zeros(1, 3, 32, 32)
        >>> found = blocks(model, secateur.watch(model, x), x)
        >>> len(found), found[0]
        (7, Block('stages.0.0', ...: 4,672 parameters, 4,718,592 MACs))
    """
    expect("blocks(model, channels, example)", model=(model, nn.Module), channels=(channels, Channels))
    model = unwrapped(model)
    _check(model, channels)
    lively = _lively(model, example)
    try:
        candidates, total = _candidates(model), len(channels.macs)
        terms = products_inside(model, lively, candidates, total=total, forward_fn=forward_fn)
        found = _search(model, channels, lively, terms, forward_fn)
    except SecateurError:
        raise
    except Exception as error:  # any error of the user's forward
        wrong = "" if forward_fn is not None else not_an_example(example)
        if wrong:
            raise WatchError(f"the network's forward pass failed, because {wrong}") from error
        raise WatchError(
            f"the network's forward pass failed on values ({type(error).__name__}: {error}); pass an example that it takes"
        ) from error
    free = removable(model, lively, {branch.name: branch.alone for branch in found}, forward_fn)
    places = places_of(model)
    result = tuple(
        _block(model, channels, branch, terms=terms[branch.name], places=places)
        for branch in found
        if branch.name in free
    )
    return result if only is None else _only(result, (only,) if isinstance(only, str) else only)


def _candidates(model: nn.Module) -> list[str]:
    """The modules inside a network that hold parameters, but for PyTorch's own layers, which carry nothing around them."""
    modules = cast("Iterable[tuple[str, nn.Module]]", model.named_modules())
    return [
        name
        for name, module in modules
        if name
        and any(True for _ in module.parameters())
        and (any(module.children()) or not type(module).__module__.startswith("torch.nn.modules"))
    ]


def _search(
    model: nn.Module,
    channels: Channels,
    example: Any,
    terms: Mapping[str, tuple[int, ...]],
    forward_fn: ForwardFn | None,
) -> list[Branch]:
    """Run the network once and try its modules; one that does no multiply-adds only adds a constant, such as positions."""
    macs = {name: _macs(channels, places) for name, places in terms.items() if places}
    search = Search(model, channels, macs)
    with left_as_found(model), torch.no_grad():
        model.eval()
        search.listen()
        run(model, example, forward_fn)
    return [branch for branch in search.found if search.calls[branch.name] == 1]


def _macs(channels: Channels, places: Iterable[int]) -> float:
    """The multiply-adds of some products."""
    terms = (channels.macs[place] for place in places)
    return sum(term.count * math.prod(len(axis) for axis in term.axes) for term in terms)


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


def _block(
    model: nn.Module,
    channels: Channels,
    branch: Branch,
    *,
    terms: tuple[int, ...],
    places: Mapping[int, list[str]],
) -> Block:
    tensors = held_by(model, branch.name, places)
    own = [name for name, share in tensors.items() if share == 1]
    return Block(
        name=branch.name,
        kind=type(model.get_submodule(branch.name)).__name__,
        groups=branch.groups,
        closed_by=branch.closed_by,
        tensors=tensors,
        parameters=sum(math.prod(channels.shapes[name]) for name in own if name in channels.trainable),
        macs=round(_macs(channels, terms)),
        terms=terms,
        alone=branch.alone,
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
