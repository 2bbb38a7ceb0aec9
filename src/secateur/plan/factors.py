"""From a network to a plan of smaller layers: low rank, or modules of a smaller kind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Real
from typing import Any, Literal, TypeAlias, get_args

from torch import nn

from secateur._model import unwrapped
from secateur._options import expect, expect_names
from secateur.channels import digest_of, watch
from secateur.cost import Cost, CostModel
from secateur.errors import NothingToCutError, SettingsError
from secateur.plan.budget import Budget
from secateur.plan.decompose import Kind, composed, decomposed, energy
from secateur.plan.factor_plan import FactorPlan, Factors
from secateur.plan.layers import Candidate, candidates, check_weights, layers_of
from secateur.plan.left import gathered
from secateur.plan.ranks import Ranks, by_budget, by_energy, choices_of, given_ranks, with_changes

Replacement: TypeAlias = Literal["depthwise-separable", "fire", "shift"]
"""What a convolution can be replaced by."""

_SQUEEZE = 0.125
"""Squeezed channels as a share of the outputs, as in SqueezeNet."""


def plan_factors(
    model: nn.Module,
    example: Any,
    *,
    layers: Iterable[str] | None = None,
    rank: Ranks | None = None,
    energy: float | None = None,
    budget: Budget | None = None,
) -> FactorPlan:
    r"""Decide which layers are replaced by products of smaller ones, and at which ranks. Nothing is changed yet.

    A dense layer (or a convolution without a window) of m inputs and n outputs becomes two of rank r, :math:`W \approx U V`:
    mn weights become (m + n) r. A convolution becomes three, by Tucker-2: 1x1 to r channels, its own window from r to s, 1x1 to
    its outputs. A side at full rank gets no factor. A layer that would not have fewer parameters stays, and the plan says so.

    Args:
        model: The network; it is left as found.
        example: An input as the network takes it. Values do not matter, shapes do.
        layers: Names of layers, or patterns of them (``conv*``); None for all dense and convolutional ones.
        rank: The rank of all layers, or by name (those not named stay): a number, or a pair (of inputs, of outputs) for
            convolutions. At most the layer's own is taken.
        energy: Instead: the fewest parameters that keep this share of each layer's squared singular values, above 0 and at most 1.
        budget: Instead: what the network may then cost (``Parameters``, ``Macs`` or ``Bytes``); ranks fall where that loses the
            least energy for what it saves.

    Returns:
        The plan, with the exact cost of the network after it.

    Raises:
        SettingsError: Not exactly one of ``rank``, ``energy`` and ``budget`` is given, one is out of its range, or a name fits no layer.
        NothingToCutError: No layer would become smaller; it says why.
        BudgetError: The budget cannot be reached.
        ModelError: The network has no values, or some are not finite.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 2))
        >>> print(plan_factors(net, torch.zeros(1, 64), rank=4))  # doctest: +ELLIPSIS
        1 layer replaced: 2,146 -> 482 parameters, 2,112 -> 448 MACs
          layer  by   ranks    parameters    MACs          energy
          0      svd  32 -> 4  2,080 -> 416  2,048 -> 384  ... %
          stays: 2: would not have fewer parameters at rank 2 of 2; it would at 1

    Source:
        Dense layers: Denil et al. 2013, arXiv:1306.0543, and Denton et al. 2014, arXiv:1404.0736. Convolutions: Kim et al. 2016,
        arXiv:1511.06530, which chooses ranks by variational Bayes; here they are given, by energy or by cost.
    """
    expect("plan_factors(model, example, rank=8)", model=(model, nn.Module))
    expect_names(layers=layers)
    if budget is not None:
        expect("plan_factors(..., budget=Parameters(at_most=0.5))", budget=(budget, get_args(Budget)))
    if sum(one is not None for one in (rank, energy, budget)) != 1:
        raise SettingsError("give one of rank=, energy= and budget=: how the ranks are chosen")
    if energy is not None and not (isinstance(energy, Real) and 0 < energy <= 1):
        raise SettingsError(f"energy={energy!r} must be a share above 0, at most 1")
    network = unwrapped(model)
    check_weights(network)
    found, left = candidates(network, example, layers, lambda _: None)
    _check_named(rank, found, left, list(layers_of(network)))
    before = CostModel(watch(network, example)).total()
    if budget is not None:
        chosen = by_budget([choices_of(one) for one in found], budget, before)
    elif energy is not None:
        chosen = {one.name: by_energy(choices_of(one), energy) for one in found}
    else:
        ranks = {one.name: given_ranks(one, rank) for one in found} if rank is not None else {}
        chosen = {name: sizes for name, sizes in ranks.items() if sizes is not None}
    none = "no rank was given" if rank is not None else "the budget is met without"
    made = at_ranks(network, found, chosen, before=before, left=left, none=none)
    return made if budget is not None else _some(made, "ask for lower ranks or other layers")


def plan_replacements(
    model: nn.Module,
    example: Any,
    *,
    kind: Replacement,
    layers: Iterable[str] | None = None,
    squeeze: float = _SQUEEZE,
) -> FactorPlan:
    r"""Decide which convolutions are replaced by modules of a smaller kind. Nothing is changed yet.

    - ``depthwise-separable``: the window over each channel, then 1x1; of D outputs and a window of k x k positions
      :math:`1/D + 1/k^2` of the multiply-adds are left.
    - ``shift``: each channel moves by one position of the window, then 1x1. The shift is a fixed depthwise convolution: no parameters,
      but its multiply-adds are counted, since they are done.
    - ``fire``: 1x1 to few channels, from which half of the outputs are read by 1x1, the others by the window.

    The factors are those nearest to the convolution's weights, or, where `secateur.factor` is given data, those whose outputs are.

    Args:
        model: The network; it is left as found.
        example: An input as the network takes it. Values do not matter, shapes do.
        kind: By what.
        layers: Names of layers, or patterns of them; None for all convolutions that can be replaced.
        squeeze: For ``fire``: squeezed channels as a share of the outputs.

    Returns:
        The plan, with the exact cost of the network after it.

    Raises:
        SettingsError: The kind is unknown, an option is out of its range, or a name fits no layer.
        NothingToCutError: No layer would become smaller; it says why.
        ModelError: The network has no values, or some are not finite.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1))
        >>> plan_replacements(net, torch.zeros(1, 8, 6, 6), kind="depthwise-separable").after.parameters
        216

    Source:
        Howard et al. 2017, arXiv:1704.04861; Wu et al. 2018, arXiv:1711.08141; Iandola et al. 2016, arXiv:1602.07360. There networks
        are built of these modules and trained from the start; here they begin as the convolution's nearest.
    """
    expect("plan_replacements(model, example, kind='depthwise-separable')", model=(model, nn.Module))
    expect_names(layers=layers)
    if kind not in ("depthwise-separable", "fire", "shift"):
        raise SettingsError(f"kind={kind!r} must be 'depthwise-separable', 'fire' or 'shift'")
    if not (isinstance(squeeze, Real) and 0 < squeeze <= 1):
        raise SettingsError(f"squeeze={squeeze!r} must be a share above 0, at most 1")
    network = unwrapped(model)
    check_weights(network)
    found, left = candidates(network, example, layers, _refusal(kind))
    before = CostModel(watch(network, example)).total()
    smaller: list[Factors] = []
    more: list[tuple[str, str]] = []
    for one in found:
        outputs, inputs, _ = one.shape
        sizes = (min(inputs, max(1, round(squeeze * outputs))),) if kind == "fire" else ()
        if one.cost_of(kind, sizes).parameters < one.cost.parameters:
            smaller.append(factors_of(one, kind, sizes))
        else:
            more.append((one.name, "would not have fewer parameters"))
    return _some(
        _made(digest_of(network), smaller, (*left, *more), before=before),
        "take other layers, or another kind",
    )


def factors_of(one: Candidate, kind: Kind, sizes: tuple[int, ...]) -> Factors:
    """What would stand for a layer, with what it costs and keeps."""
    kernel = one.kernel
    kept = energy(kernel, composed(kind, decomposed(kernel, kind, sizes), kernel.shape[2]))
    return Factors(one.name, kind, sizes, one.full(kind), one.cost, one.cost_of(kind, sizes), kept)


def at_ranks(
    model: nn.Module,
    found: Sequence[Candidate],
    chosen: Mapping[str, tuple[int, ...]],
    *,
    before: Cost,
    left: Iterable[tuple[str, str]] = (),
    none: str = "no rank was given",
) -> FactorPlan:
    """The plan of layers at low rank.

    Args:
        model: The network.
        found: Its layers that can be replaced.
        chosen: The ranks of those that are to be.
        before: What the network costs.
        left: Other layers, and why they stay.
        none: Why those stay of which no ranks were chosen.
    """
    smaller: list[Factors] = []
    more: list[tuple[str, str]] = []
    for one in found:
        if one.name not in chosen:
            more.append((one.name, none))
        elif one.cost_of(one.low_rank, chosen[one.name]).parameters >= one.cost.parameters:
            more.append((one.name, f"would not have fewer parameters{_at_which(one, chosen[one.name])}"))
        else:
            smaller.append(factors_of(one, one.low_rank, chosen[one.name]))
    return _made(digest_of(model), smaller, (*left, *more), before=before)


def _made(
    digest: str, layers: Sequence[Factors], left: Iterable[tuple[str, str]], *, before: Cost
) -> FactorPlan:
    after = with_changes(before, [(layer.before, layer.after) for layer in layers])
    return FactorPlan(digest, tuple(layers), before, after, gathered(left))


def _at_which(one: Candidate, sizes: tuple[int, ...]) -> str:
    """At which ranks a layer would not have fewer parameters, and the greatest at which it would."""
    full = one.full(one.low_rank)
    lower = (tuple(min(rank, most) for most in full) for rank in range(max(full), 0, -1))
    most = next(
        (low for low in lower if one.cost_of(one.low_rank, low).parameters < one.cost.parameters), None
    )
    asked = f" at rank {_x(sizes)} of {_x(full)}"
    return f"{asked}; it would at {_x(most)}" if most is not None else f"{asked}, nor at any"


def _x(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes))


def _some(made: FactorPlan, what: str) -> FactorPlan:
    """A plan that replaces something, as was asked; if it does not, what to do."""
    if not made.layers:
        raise NothingToCutError(
            f"no layer would be replaced: {'; '.join(map(str, made.left)) or 'there is no dense or convolutional layer'}; {what}"
        )
    return made


def _check_named(
    rank: Ranks | None, found: Sequence[Candidate], left: Sequence[tuple[str, str]], every: Sequence[str]
) -> None:
    """Refuse ranks for layers that are not there, or that cannot have them."""
    if not isinstance(rank, Mapping):
        return
    known = {one.name for one in found}
    reasons = {**dict.fromkeys(every, "layers= leaves out"), **dict(left)}
    for name in rank:
        if name not in known:
            raise SettingsError(
                f"rank= speaks of {name!r}, {f'which {reasons[name]}' if name in reasons else 'and no layer is named so'};"
                f" ranks can be given for {', '.join(sorted(known)) or 'none'}"
            )


def _refusal(kind: Replacement) -> Callable[[nn.Module], str | None]:
    """Why a layer cannot be replaced by a kind."""

    def refused(layer: nn.Module) -> str | None:
        if not isinstance(layer, nn.Conv2d):
            return "is no 2-D convolution"
        window = layer.kernel_size
        if window == (1, 1):
            return "has a window of one position, and is as small as its replacement"
        if kind != "fire":
            return None
        same = tuple(
            dilation * (size - 1) // 2 for dilation, size in zip(layer.dilation, window, strict=True)
        )
        if any(size % 2 == 0 for size in window) or layer.padding not in (same, "same"):
            return (
                "has no centre that meets each position: its window is even, or its padding changes the size"
            )
        return None if layer.out_channels > 1 else "has a single output"

    return refused
