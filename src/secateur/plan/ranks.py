"""Which ranks: given, by the energy that they keep, or by what the network may cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from secateur.cost import Cost
from secateur.errors import BudgetError, SettingsError
from secateur.plan.budget import Budget, Macs, Parameters
from secateur.plan.decompose import spectra
from secateur.plan.layers import Candidate

Rank: TypeAlias = "int | tuple[int, int]"
Ranks: TypeAlias = "Rank | Mapping[str, Rank]"
Measure: TypeAlias = Literal["parameters", "macs", "bytes"]

_ROUNDING: Final = 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class Choices:
    """All ranks that a layer could have, and what each would cost and lose.

    Attributes:
        of: The layer.
        sizes: ``[n, 1]`` or ``[n, 2]``: the ranks.
        lost: ``[n]``: the share of its energy that they lose; for Tucker-2 the bound that the truncated unfoldings give, of which the
            factors then lose less.
    """

    of: Candidate
    sizes: NDArray[np.int64]
    lost: NDArray[np.float64]

    def costs(self, measure: Measure) -> NDArray[np.float64]:
        """What the weights of each would cost; the bias stays."""
        terms, _ = self.of.terms(self.of.low_rank, tuple(self.sizes.T))
        counts: list[tuple[NDArray[np.int64], float]] = terms
        size = self.of.layer.weight.element_size() if measure == "bytes" else 1
        each = [numbers * (positions if measure == "macs" else size) for numbers, positions in counts]
        return np.stack(each).sum(axis=0, dtype=np.float64)

    def cost_now(self, measure: Measure) -> float:
        """What the layer's weight costs."""
        outputs, inputs, window = self.of.shape
        size = {"bytes": self.of.layer.weight.element_size(), "macs": self.of.written}.get(measure, 1)
        return float(outputs * inputs * window * size)

    def chosen(self, index: int) -> tuple[int, ...]:
        """The ranks at a place."""
        return tuple(self.sizes[index].tolist())


def choices_of(candidate: Candidate) -> Choices:
    """All ranks of a layer, with what they lose."""
    tails: list[NDArray[np.float64]] = []
    for values in spectra(candidate.kernel, candidate.low_rank):
        kept = np.cumsum(values.cpu().numpy())
        tails.append(np.maximum(1.0 - kept / kept[-1], 0.0) if kept[-1] > 0 else np.zeros(len(kept)))
        tails[-1][-1] = 0.0
    if len(tails) == 1:
        return Choices(candidate, np.arange(1, len(tails[0]) + 1)[:, None], tails[0])
    inputs, outputs = (np.arange(1, len(tail) + 1) for tail in tails)
    sizes = np.stack(np.meshgrid(inputs, outputs, indexing="ij"), axis=-1).reshape(-1, 2)
    return Choices(candidate, sizes, np.add.outer(tails[0], tails[1]).reshape(-1))


def path_of(candidate: Candidate) -> tuple[tuple[int, ...], ...]:
    """The ranks worth having by parameters and energy, from the cheapest on.

    The dearest are those that lose least with fewer parameters than the layer; the others lie on the lower convex hull from there.
    """
    choices = choices_of(candidate)
    costs = choices.costs("parameters")
    fewer = np.flatnonzero(costs < choices.cost_now("parameters"))
    if not len(fewer):
        return ()
    dearest = int(fewer[np.lexsort((costs[fewer], choices.lost[fewer]))[0]])
    steps = _steps(choices, costs, at=float(costs[dearest]), lost=float(choices.lost[dearest]))
    return tuple(choices.chosen(index) for index in (*(step.index for step in reversed(steps)), dearest))


def given_ranks(candidate: Candidate, rank: Ranks) -> tuple[int, ...] | None:
    """The ranks that were asked for, at most the layer's own; None for a layer of which nothing was said.

    Raises:
        SettingsError: One is below 1, or a pair is given for a layer that has one.
    """
    asked = rank.get(candidate.name) if isinstance(rank, Mapping) else rank
    if asked is None:
        return None
    full = candidate.full(candidate.low_rank)
    pair = isinstance(asked, tuple)
    sizes = asked if pair else (asked,) * len(full)
    if pair and len(full) == 1:
        raise SettingsError(
            f"rank={asked} for {candidate.name!r}: a layer without a window has one rank, not two"
        )
    if len(sizes) != len(full):
        raise SettingsError(
            f"rank={asked!r} for {candidate.name!r} has {len(sizes)} numbers; give one, or two: of inputs and of outputs"
        )
    if any(not _whole(size) for size in sizes):
        raise SettingsError(
            f"rank={asked!r} for {candidate.name!r} must be whole numbers of at least 1: one, or a pair such as (4, 8)"
        )
    return tuple(min(size, most) for size, most in zip(sizes, full, strict=True))


def _whole(size: object) -> bool:
    return isinstance(size, int) and not isinstance(size, bool) and size >= 1


def by_energy(choices: Choices, energy: float) -> tuple[int, ...]:
    """The ranks of fewest parameters that keep a share of the energy.

    For Tucker-2 what both unfoldings lose is taken together, so that the factors keep at least the share (De Lathauwer et al. 2000).
    """
    enough = choices.lost <= 1.0 - energy + _ROUNDING
    costs = np.where(enough, choices.costs("parameters"), np.inf)
    return choices.chosen(int(costs.argmin()))


def by_budget(every: Sequence[Choices], budget: Budget, before: Cost) -> dict[str, tuple[int, ...]]:
    """The ranks that bring a network within a budget and lose little: greedily over the layers.

    Each layer's choices are points of cost and lost energy; those on the lower convex hull are steps that lose ever more for what they
    save. Of all layers' next steps the one that loses least for what it saves is taken, until the budget is met; the last layer then gets the
    choice that loses least within it. Layers that are not named stay.

    Raises:
        BudgetError: It is not met with all layers at their lowest.
    """
    measure = measure_of(budget)
    costs = {one.of.name: one.costs(measure) for one in every}
    steps = sorted(
        (step for one in every for step in _steps(one, costs[one.of.name], at=one.cost_now(measure))),
        key=lambda step: (step.slope, step.name),
    )
    chosen: dict[str, int] = {}
    of = {one.of.name: one for one in every}

    def total(taken: Mapping[str, int]) -> Cost:
        return changed(before, [(of[name].of, of[name].chosen(index)) for name, index in taken.items()])

    if budget.met(before, before):
        return {}
    for step in steps:
        chosen[step.name] = step.index
        if not budget.met(total(chosen), before):
            continue
        one = of[step.name]
        for index in np.lexsort((costs[step.name], one.lost)):  # the least loss first
            if budget.met(total({**chosen, step.name: int(index)}), before):
                chosen[step.name] = int(index)
                break
        return {name: of[name].chosen(index) for name, index in chosen.items()}
    least = total(chosen)
    raise BudgetError(
        f"the budget {budget} cannot be reached by low ranks: with all layers at their lowest {least} are left, of {before};"
        " raise it, let more layers go, or cut channels"
    )


def changed(before: Cost, layers: Sequence[tuple[Candidate, tuple[int, ...]]]) -> Cost:
    """A network's cost with some layers at low rank."""
    pairs = [(one.cost, one.cost_of(one.low_rank, sizes)) for one, sizes in layers]
    return with_changes(before, pairs)


def with_changes(before: Cost, pairs: Sequence[tuple[Cost, Cost]]) -> Cost:
    """A network's cost where some layers' costs change from the first to the second of a pair."""

    def summed(what: str) -> int:
        return getattr(before, what) + sum(getattr(new, what) - getattr(old, what) for old, new in pairs)

    return Cost(summed("parameters"), summed("buffers"), summed("macs"), summed("bytes"))


def measure_of(budget: Budget) -> Measure:
    """What a budget counts."""
    if isinstance(budget, Macs):
        return "macs"
    return "parameters" if isinstance(budget, Parameters) else "bytes"


@dataclass(frozen=True, slots=True)
class _Step:
    """From one choice of a layer to a cheaper one, and what it loses for each unit of cost that it saves."""

    name: str
    index: int
    slope: float


def _steps(one: Choices, costs: NDArray[np.float64], *, at: float, lost: float = 0.0) -> list[_Step]:
    """The lower convex hull of a layer's choices, from one cost and loss on."""
    steps: list[_Step] = []
    while True:
        cheaper = np.flatnonzero(costs < at)
        if not len(cheaper):
            return steps
        slopes = np.maximum(one.lost[cheaper] - lost, 0.0) / (at - costs[cheaper])
        best = cheaper[np.lexsort((costs[cheaper], slopes))[0]]
        steps.append(_Step(one.of.name, int(best), float(slopes.min())))
        at, lost = float(costs[best]), float(one.lost[best])
