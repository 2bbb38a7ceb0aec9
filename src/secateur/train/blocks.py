"""The block around a cut: the smallest piece of a network outside of which a cut changes nothing.

It is found in one watched pass. Of each call of a module it is known what came in and what went out, and whose units these
carry. A block is a run of calls that one module makes one after the other, each handing its result on to the next unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from secateur._model import left_as_found, named_tensors, unwrapped
from secateur._options import expect, expect_names
from secateur.channels import INPUT, Channels, Passage, Visit, Visits, digest_of, visits
from secateur.errors import ModelError, NoBlockError, SettingsError
from secateur.observe.calls import calls
from secateur.surgery import kept_units
from secateur.train.forward import device_of, dtype_of

Kept = tuple[Tensor | None, ...]
"""For each axis the positions that a cut network has left; None for all."""


@dataclass(frozen=True, slots=True, eq=False)
class TrainingBlock:
    """A piece of a network that is trained by itself: modules that run one after the other, one tensor in and one out.

    Attributes:
        modules: Names of the modules, in the order in which they run.
        groups: The groups whose cut changes nothing outside of it.
        parameters: Numbers in it that are trained, before any cut.
        macs: Its multiply-adds for one example.
        parameter_share: Its share of the network's parameters.
        mac_share: Its share of the network's multiply-adds.
        taken: What goes in, by the units on its axes.
        given: What comes out, likewise.
        channels: Those of the network in which it was found.
    """

    modules: tuple[str, ...]
    groups: tuple[str, ...]
    parameters: int
    macs: int
    parameter_share: float
    mac_share: float
    taken: Passage = field(repr=False)
    given: Passage = field(repr=False)
    channels: Channels = field(repr=False)

    def __str__(self) -> str:
        """What it spans, and its shares of the network."""
        first, last = self.modules[0], self.modules[-1]
        count = len(self.modules)
        spans = first if count == 1 else f"{first} to {last} ({count} modules)"
        return (
            f"{spans}: {self.parameters:,} parameters ({100 * self.parameter_share:.1f} %),"
            f" {self.macs:,} MACs ({100 * self.mac_share:.1f} %)"
        )

    def of(self, model: nn.Module) -> nn.Sequential:
        """The block of a network: the network's own modules, in a row.

        Raises:
            ModelError: The network has no such modules.
        """
        try:
            return nn.Sequential(*(model.get_submodule(name) for name in self.modules))
        except AttributeError as error:
            raise ModelError(
                f"the block {self} is of another network ({error}); look for it with block_around in this one"
            ) from error

    def kept(self, unreduced: nn.Module, reduced: nn.Module) -> tuple[Kept, Kept]:
        """Which positions of what goes in and of what comes out are left in a network that was cut from this one.

        Raises:
            ModelError: The block was found in another network.
        """
        self.check(unreduced)
        left = np.ones(self.channels.units() + 1, dtype=bool)  # the last entry answers for -1, what stays
        starts = self.channels.starts()
        for name, units in kept_units(self.channels, unreduced, reduced).items():
            width = self.channels.group(name).width
            left[starts[name] : starts[name] + width] = np.isin(np.arange(width), units)
        return _kept(self.taken, left), _kept(self.given, left)

    def check(self, unreduced: nn.Module) -> None:
        """Raise ModelError unless it was found in this network."""
        if digest_of(unreduced) != self.channels.digest:
            raise ModelError(
                "the block was found in another network than the unreduced one; look for it with block_around in that one"
            )


def _kept(passage: Passage, left: Any) -> Kept:
    return tuple(
        None if units is None or left[units].all() else torch.as_tensor(np.flatnonzero(left[units]))
        for units in passage.units
    )


def block_around(
    model: nn.Module,
    channels: Channels,
    groups: str | Collection[str],
    example: Tensor,
    *,
    seen: Visits | None = None,
) -> TrainingBlock:
    """The smallest piece of a network that holds all that writes, carries or reads some groups.

    It is a run of modules that one module (or the network) calls one after the other: the first takes one tensor, each hands
    its result on to the next, the last gives one tensor, and no unit of the groups lies on the tensor that goes in or on that
    which comes out. So a cut of the groups changes no shape outside. That nobody else reads what runs inside is tried: the
    network must give the same with nothing but NaN there.

    Args:
        model: The network, unreduced, as it was watched; it is left as found.
        channels: Its channels.
        groups: The name of a group, or names of several that are cut together.
        example: An input, the batch first.
        seen: What `secateur.channels.visits` saw of it, to be shared by many blocks; by default it is watched again.

    Returns:
        The block.

    Raises:
        NoBlockError: There is none that is smaller than the whole network.
        ModelError: The channels are of another network, or have no such group.
        SettingsError: No group is named.

    Example:
        >>> import secateur
        >>> from secateur import networks
        >>> net, x = networks.build("digits-net", seed=0), torch.zeros(1, 1, 8, 8)
        >>> print(block_around(net, secateur.watch(net, x), "conv1", x))
        conv1 to conv2 (4 modules): 4,832 parameters (11.9 %), 304,128 MACs (49.4 %)

    Source:
        SNARE (KIT, 2020), sections 6.1 and 6.2, names block training and leaves open what a block is.
    """
    call = "block_around(model, channels, 'conv1', example)"
    expect(call, model=(model, nn.Module), channels=(channels, Channels), groups=(groups, (str, Collection)))
    if not isinstance(groups, str):
        expect_names(groups=groups)
    model = unwrapped(model)
    if digest_of(model) != channels.digest:
        raise ModelError(
            "the channels were found in another network; watch this one, then look for its blocks"
        )
    names = (groups,) if isinstance(groups, str) else tuple(groups)
    if not names:
        raise SettingsError("no group is named; name those that are cut")
    chosen = [channels.group(name) for name in names]
    if any(member.tensor == INPUT for group in chosen for member in group.members):
        raise NoBlockError(
            f"there is no block around {', '.join(names)}: features of the network's input are cut, which reach into it from"
            " outside; train the whole network"
        )
    if seen is None:
        taken = any(group.by_role("input") for group in channels.groups)
        seen = visits(model, example, inputs=taken)
    if dict(seen.widths) != {group.name: group.width for group in channels.groups}:
        raise ModelError(
            "the channels were watched in another way than the visits; pass seen=visits(...) with the options of watch"
        )
    starts = channels.starts()
    cut = np.concatenate([starts[group.name] + np.arange(group.width) for group in chosen])
    needed = _owners(model, {member.tensor for group in chosen for member in group.members})
    total = sum(parameter.numel() for parameter in model.parameters())
    macs = calls(model, example).macs
    for run in _runs(seen.calls, needed, cut):
        modules = tuple(visit.module for visit in run)
        first, last = run[0].taken, run[-1].given
        own = {id(p): p.numel() for name in modules for p in model.get_submodule(name).parameters()}
        parameters = sum(own.values())
        if parameters == total or first is None or last is None or not _stands_alone(model, modules, example):
            continue
        done = sum(macs.get(name, 0) for name in modules)
        return TrainingBlock(
            modules, names, parameters, done, parameters / total, done / max(macs.get("", 0), 1),
            first, last, channels,
        )  # fmt: skip
    raise NoBlockError(
        f"there is no block around {', '.join(names)} that is smaller than the network: nothing less that takes one tensor and"
        f" gives one holds {_listed(needed)}; train the whole network"
    )


def _listed(names: Collection[str], most: int = 4) -> str:
    """Some names.

    >>> _listed(["a", "b"]), _listed("abcdefg")
    ('a, b', 'a, b, c, d and 3 more')
    """
    some = ", ".join(sorted(names)[:most])
    return some if len(names) <= most else f"{some} and {len(names) - most} more"


def _owners(model: nn.Module, tensors: Collection[str]) -> set[str]:
    """The modules that hold some tensors, each under every name that it has there."""
    everything = named_tensors(model)
    wanted = {id(everything[name]) for name in tensors}
    return {name.rpartition(".")[0] for name, tensor in everything.items() if id(tensor) in wanted}


def _inside(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")


def _runs(seen: Sequence[Visit], needed: Collection[str], cut: Any) -> Iterator[list[Visit]]:
    """The runs of calls that hold all that is needed and carry no unit that is cut in or out, the smallest first."""
    inner: dict[int, list[Visit]] = {}
    depth: list[int] = []
    for visit in seen:
        depth.append(0 if visit.caller < 0 else depth[visit.caller] + 1)
        inner.setdefault(visit.caller, []).append(visit)
    often: dict[str, int] = {}
    for visit in seen:
        often[visit.module] = often.get(visit.module, 0) + 1
    for caller in sorted(inner, key=lambda place: depth[place] if place >= 0 else -1, reverse=True):
        for run in _in_a_row(inner[caller]):
            if (
                all(often[visit.module] == 1 for visit in run)
                and _holds(run, needed, seen)
                and _passes(run[0].taken, cut)
                and _passes(run[-1].given, cut)
            ):
                yield run


def _in_a_row(made: Sequence[Visit]) -> Iterator[list[Visit]]:
    """All runs of calls of which each takes what the one before gave; short ones first."""
    handed = [
        before.given is not None and after.taken is not None and before.given.tensor == after.taken.tensor
        for before, after in pairwise(made)
    ]
    for length in range(1, len(made) + 1):
        for start in range(len(made) - length + 1):
            if all(handed[start : start + length - 1]):
                yield list(made[start : start + length])


def _holds(run: Sequence[Visit], needed: Collection[str], seen: Sequence[Visit]) -> bool:
    """Whether every needed module is in a run, and is called nowhere else."""
    if not all(any(_inside(name, visit.module) for visit in run) for name in needed):
        return False
    for visit in seen:
        if visit.module in needed:
            up = visit
            while up not in run and up.caller >= 0:
                up = seen[up.caller]
            if up not in run:
                return False
    return True


def _passes(passage: Passage | None, cut: Any) -> bool:
    """Whether it is known of a tensor that no unit that is cut lies on it."""
    return passage is not None and not any(
        units is not None and np.isin(units, cut).any() for units in passage.units
    )


def _stands_alone(model: nn.Module, modules: Sequence[str], example: Tensor) -> bool:
    """Whether a run of modules gives by itself what it gives in the network, and nobody else reads what is inside."""
    x = example.to(device_of(model), dtype_of(model)) if example.is_floating_point() else example
    run = [model.get_submodule(name) for name in modules]
    with left_as_found(model), torch.no_grad():
        model.eval()
        whole = model(x.clone())
        taken, given = reached(model, run[0], x, before=True), reached(model, run[-1], x)
        try:
            y = nn.Sequential(*run)(taken.clone())
            with ExitStack() as stack:
                for module in run[:-1]:
                    stack.enter_context(_instead(module, _nothing))
                stack.enter_context(_instead(run[-1], lambda _out: given.clone()))
                again = model(x.clone())
        except Exception:  # somebody's forward that needs more than one tensor, or looks at what runs inside
            return False
    same = y.shape == given.shape and torch.allclose(y, given, rtol=1e-4, atol=1e-5)
    return same and torch.equal(whole, again)


def _nothing(out: Tensor) -> Tensor:
    """A tensor that no one can read without its being seen."""
    return torch.full_like(out, math.nan)


@contextmanager
def _instead(module: nn.Module, change: Callable[[Tensor], Tensor]) -> Generator[None]:
    """Let something else come out of a module."""

    def after(_module: nn.Module, _args: Any, out: Tensor) -> Tensor:
        return change(out)

    handle = module.register_forward_hook(after)
    try:
        yield
    finally:
        handle.remove()


class _ReachedError(BaseException):
    """Ends a forward pass where nothing more is wanted of it; not an Exception, which a network's own code may catch."""


def reached(model: nn.Module, module: nn.Module, inputs: Tensor, *, before: bool = False) -> Tensor:
    """What goes into a module of a network, or comes out of it; what would run after it does not run.

    Args:
        model: The network, in the mode in which it is to run.
        module: One of its modules, which is called once.
        inputs: The network's input; a forward may write into it.
        before: What goes in.

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> reached(net, net[1], torch.ones(1, 2, 2), before=True)
        tensor([[1., 1., 1., 1.]])
    """
    found: list[Tensor] = []

    def take(_module: nn.Module, args: tuple[Any, ...], *out: Any) -> None:
        value: Tensor = args[0] if before else out[0]
        found.append(value.clone())  # what runs behind may write into it
        raise _ReachedError

    handle = module.register_forward_pre_hook(take) if before else module.register_forward_hook(take)
    try:
        model(inputs.clone())
    except _ReachedError:
        pass
    finally:
        handle.remove()
    return found[0]
