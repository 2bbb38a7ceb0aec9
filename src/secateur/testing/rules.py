"""Whether a rule for an operator keeps the law: networks are built around the operator, cut, and held against the oracle."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from secateur.channels import Channels, Group, watch
from secateur.channels.watch import untried
from secateur.cost import CostModel
from secateur.criteria import score
from secateur.errors import SettingsError
from secateur.plan import plan
from secateur.surgery import apply
from secateur.testing.laws import LawError, check_cut
from secateur.testing.oracle import randomise

_INSIDE = 3
"""Features that a writer reads."""
_HIDDEN = 4
"""Channels between the two readers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleCheck:
    """What checking a rule found. That there is one means that the law holds wherever something was cut.

    Attributes:
        networks: Networks that were built around the operator.
        cuts: Cuts that were compared with the oracle.
        error: The largest difference, as a share of the largest output.
        whole: Networks in which all that the operator touches stays whole, with the reasons. That is right, but if it is so in
            all of them the rule is of no use.
        inexact: Networks in which the rule says that statistics are taken over the channels; there is no law for those.
    """

    networks: int
    cuts: int
    error: float
    whole: tuple[str, ...]
    inexact: tuple[str, ...]

    @property
    def useful(self) -> bool:
        """Whether anything could be cut."""
        return len(self.whole) < self.networks

    def __str__(self) -> str:
        lines = [f"{self.networks} networks, {self.cuts} cuts, largest difference {self.error:.2g}"]
        if not self.useful:
            lines[0] += "; the rule leaves everything whole, which is right and of no use"
        lines += [f"  stays whole: {line}" for line in self.whole]
        return "\n".join(
            lines + [f"  not compared, statistics over channels: {line}" for line in self.inexact]
        )


class _Writer(nn.Module):
    """Computes a tensor of some shape whose channels lie along an axis; from several layers, joined, where there are parts."""

    def __init__(self, axis: int, parts: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(_INSIDE, part) for part in parts)
        self._axis = axis

    def forward(self, x: Tensor) -> Tensor:
        """``x`` with the features that are read along the axis."""
        last = x.movedim(self._axis, -1).contiguous()  # else PyTorch repeats the layers' weights
        made = [layer(last).sigmoid().movedim(-1, self._axis) for layer in self.layers]
        return made[0] if len(made) == 1 else torch.cat(made, self._axis)


class _Reader(nn.Module):
    """Reads a tensor along axis 1 and along its last axis."""

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.first = nn.Linear(shape[1], _HIDDEN)
        self.last = nn.Linear(shape[-1], _HIDDEN) if len(shape) > 2 else nn.Identity()

    def forward(self, y: Tensor) -> Tensor:
        """One number for each combination of what is left."""
        return self.last(self.first(y.movedim(1, -1).contiguous()).tanh().movedim(-1, 1).contiguous())


def _called(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that calls another: networks are copied, and operators cannot be."""

    def call(*given: Any) -> Any:
        return function(*given)

    return call


class _Around(nn.Module):
    """An operator between writers and readers. Its arguments that are parameters are the network's own."""

    def __init__(
        self, function: Callable[..., Any], examples: Sequence[Any], writers: dict[int, _Writer]
    ) -> None:
        super().__init__()
        self._constants = tuple(None if isinstance(given, Tensor) else given for given in examples)
        self.writers = nn.ModuleDict({str(place): writer for place, writer in writers.items()})
        self.operands = nn.Module()
        for place, given in enumerate(examples):
            if isinstance(given, nn.Parameter):
                self.operands.register_parameter(f"at{place}", nn.Parameter(given.detach().clone()))
            elif isinstance(given, Tensor) and place not in writers:
                self.operands.register_buffer(f"at{place}", given.clone())
        self.operator = copy.deepcopy(function) if isinstance(function, nn.Module) else None
        self._function = _called(function)
        self.readers = nn.ModuleList()

    def made(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """What comes out of the operator."""
        given = list(self._constants)
        for name, tensor in (*self.operands.named_parameters(), *self.operands.named_buffers()):
            given[int(name.removeprefix("at"))] = tensor
        for (place, writer), x in zip(self.writers.items(), inputs, strict=True):
            given[int(place)] = writer(x)
        out = self._function(*given) if self.operator is None else self.operator(*given)
        return [out] if isinstance(out, Tensor) else [entry for entry in out if isinstance(entry, Tensor)]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """What the readers make of it."""
        return tuple(reader(y) for reader, y in zip(self.readers, self.made(inputs), strict=True))


@dataclass(frozen=True, slots=True)
class _Case:
    """A network around the operator."""

    name: str
    model: _Around
    inputs: tuple[Tensor, ...]


def _case(
    function: Callable[..., Any], examples: Sequence[Any], axis: int, *, joined: bool, seed: int
) -> _Case:
    writers: dict[int, _Writer] = {}
    inputs: list[Tensor] = []
    generator = torch.Generator().manual_seed(seed)
    for place, given in enumerate(examples):
        if not _is_written(given):
            continue
        size = given.shape[axis]
        parts = [size // 3 or 1, size - (size // 3 or 1)] if joined and size > 1 else [size]
        writers[place] = _Writer(axis, parts)
        shape = list(given.shape)
        shape[axis] = _INSIDE
        inputs.append(torch.randn(shape, generator=generator))
    model = _Around(function, examples, writers)
    with torch.no_grad():
        made = model.eval().made(inputs)
    for y in made:
        readable = y.is_floating_point() and y.dim() > 1
        model.readers.append(_Reader(y.shape) if readable else nn.Identity())
    fed = "a concat" if joined else "one layer"
    name = f"channels on axis {axis if axis > 0 else 'last'}, written by {fed}"
    return _Case(name, _randomised(model, seed), tuple(inputs))


def _randomised(model: _Around, seed: int) -> _Around:
    """Random weights, but the operator's own arguments as given: they may have a range."""
    kept = {name: tensor.detach().clone() for name, tensor in model.operands.named_parameters()}
    randomise(model, seed)
    with torch.no_grad():
        for name, value in kept.items():
            model.operands.get_parameter(name).copy_(value)
    return model


def _is_written(given: object) -> bool:
    """Whether an argument is an activation: a tensor of numbers with a batch, and no parameter."""
    return (
        isinstance(given, Tensor)
        and not isinstance(given, nn.Parameter)
        and given.is_floating_point()
        and given.dim() > 1
    )


def _touched(groups: Sequence[Group]) -> list[Group]:
    """The groups that the operator takes part in: all but what runs between the readers."""
    return [
        group for group in groups if any(not member.tensor.startswith("readers.") for member in group.members)
    ]


def _hold_on_trial(case: _Case, channels: Channels) -> None:
    """Refuse a rule that could not be right: it raises, or the operator does not take what it says can go."""
    failed = [note for note in channels.notes if " was left whole: " in note]
    if failed:
        raise LawError(f"{case.name}: a rule raised: {'; '.join(failed)}")
    said = _touched(untried(case.model, case.inputs))
    left = {
        (member.tensor, member.axis, int(at))
        for group in channels.groups
        for member in group.members
        for at in member.indices.ravel()
    }
    lost = {
        (member.tensor, member.axis)
        for group in said
        for member in group.members
        for at in member.indices.ravel()
        if (member.tensor, member.axis, int(at)) not in left
    }
    if lost:
        reasons = {fixed.reason for fixed in channels.fixed if (fixed.tensor, fixed.axis) in lost}
        raise LawError(
            f"{case.name}: the rule says that positions of {', '.join(f'{t}[{a}]' for t, a in sorted(lost))} can go, but with"
            f" fewer of them the operator does not fit: {'; '.join(sorted(reasons))}; tie them to what must go with them,"
            " or fix them"
        )


def _cuts(
    case: _Case,
    channels: Channels,
    names: Sequence[str],
    *,
    ratios: Sequence[float],
    seed: int,
    tolerance: float,
) -> Iterator[float]:
    """The difference that each cut makes."""
    scores = score(case.model, channels, "random", seed=seed)
    widest = max(channels.group(name).width for name in names)
    for ratio in ratios:
        if int(ratio * widest + 1e-9) == 0:
            continue
        made = plan(channels, scores, remove=ratio, groups=names)
        try:
            error = check_cut(case.model, case.inputs, made, tolerance=tolerance, forecast=False)
        except LawError as law:
            raise LawError(f"{case.name}, seed {seed}, {ratio:g} removed: {law}") from law
        found = CostModel(watch(apply(case.model, made), case.inputs)).total()
        if found != made.after:
            raise LawError(
                f"{case.name}, {ratio:g} removed: the plan forecasts {made.after!r}, the cut network has {found!r}"
            )
        yield error


@dataclass
class _Tally:
    """What was found so far."""

    networks: int
    errors: list[float]
    whole: list[str]
    inexact: list[str]

    def note(self, case: _Case, channels: Channels, groups: Sequence[Group]) -> None:
        """Note what stays whole in a network, or is not compared."""
        if not groups:
            self.whole.append(f"{case.name}: {_reasons(channels)}")
        if not all(group.exact for group in groups):
            self.inexact.append(case.name)


def _layouts(examples: Sequence[Any], axes: Sequence[int]) -> list[int]:
    """The axes that differ: of a matrix, axis 1 is the last."""
    dims = {given.dim() for given in examples if _is_written(given)}
    return list({tuple(axis % dim for dim in dims): axis for axis in reversed(axes)}.values())[::-1]


def check_rule(
    function: Callable[..., Any],
    *examples: Any,
    axes: Sequence[int] = (1, -1),
    ratios: Sequence[float] = (0.25, 0.5, 0.75),
    seeds: Sequence[int] = (0, 1),
    tolerance: float = 1e-10,
) -> RuleCheck:
    """Prove a rule for an operator against the law that cutting equals not reading.

    Small networks are built around the operator: layers that write its operands along one axis, each operand by one layer and
    by two whose results are joined, and layers that read what comes out. They are watched, cut at several shares, and
    compared with the network in which nobody reads what was removed, in float64. The forecast must be what the cut network
    has. A rule that ties too little, ties other positions, or forgets an operand fails.

    Args:
        function: The operator, a function that calls it, or a module. It must work in float64.
        examples: Its arguments. Tensors of floating numbers are written by layers; only their shapes matter, the batch comes
            first. An ``nn.Parameter`` becomes a parameter of the network; anything else is handed over as it is.
        axes: Along which axes of the operands the channels lie, one after the other.
        ratios: Shares of the units that are removed.
        seeds: For each, other weights, inputs and units.
        tolerance: The largest difference, as a share of the largest output.

    Returns:
        Figures, and where the rule left everything whole: that is right, but if it does so everywhere the rule is of no use.

    Raises:
        LawError: A law does not hold; the figures are in the message.
        SettingsError: No example is an activation.

    Example:
        >>> print(check_rule(torch.mul, torch.zeros(2, 6), torch.zeros(2, 6), seeds=(0,)))
        2 networks, 6 cuts, largest difference ...
    """
    if not any(_is_written(given) for given in examples):
        raise SettingsError(
            "no argument is a tensor of floating numbers with a batch and channels, so nothing can be cut; give such examples"
        )
    tally = _Tally(networks=0, errors=[], whole=[], inexact=[])
    for axis, joined in itertools.product(_layouts(examples, axes), (False, True)):
        tally.networks += 1
        for seed in seeds:
            case = _case(function, examples, axis, joined=joined, seed=seed)
            channels = watch(case.model, case.inputs)
            _hold_on_trial(case, channels)
            groups = _touched(channels.groups)
            exact = [group.name for group in groups if group.exact]
            if exact:
                tally.errors += _cuts(case, channels, exact, ratios=ratios, seed=seed, tolerance=tolerance)
            if seed == seeds[0]:
                tally.note(case, channels, groups)
    return RuleCheck(
        networks=tally.networks,
        cuts=len(tally.errors),
        error=max(tally.errors, default=0.0),
        whole=tuple(tally.whole),
        inexact=tuple(tally.inexact),
    )


def _reasons(channels: Channels) -> str:
    """Why what is written before the operator stays."""
    found = [
        fixed.reason for fixed in channels.fixed if fixed.axis == 0 and fixed.tensor.startswith("writers.")
    ]
    return "; ".join(dict.fromkeys(found))
