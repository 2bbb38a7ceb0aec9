"""How much each layer can lose within an accuracy bound: each by itself, and all together."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from torch import nn

from secateur._model import copied
from secateur._options import did_you_mean
from secateur.cost import CostModel
from secateur.criteria import score, score_weights
from secateur.data import Split, Splits
from secateur.errors import SettingsError
from secateur.evaluate import evaluate
from secateur.methods.protocol import Granularity, StepSettings
from secateur.methods.seeds import seed_for
from secateur.methods.steps import channels_of, scopes_of
from secateur.methods.stepwise import stepwise
from secateur.observe import weights_of
from secateur.plan import plan
from secateur.surgery import Masks, apply, mask, plan_weights

Shares = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Threshold:
    """How much of one layer can go within a bound, all other layers being whole.

    Attributes:
        layer: Its name.
        units: Units, kernels or weights that it has.
        removed: How many of these can go.
        drop: Points of validation accuracy that this costs; below 0 where it rose.
        looks: Cuts that were evaluated.
        monotone: Whether, of these, none that removes less was beyond the bound.
    """

    layer: str
    units: int
    removed: int
    drop: float
    looks: int
    monotone: bool

    @property
    def share(self) -> float:
        """The share of the layer that can go."""
        return self.removed / self.units


@dataclass(frozen=True, slots=True)
class Thresholds:
    """How much of each layer can go by itself. Printed, it is a table.

    Attributes:
        max_drop: The bound, in points.
        granularity: What goes.
        criterion: Which go first.
        accuracy: Of the unreduced network on the validation examples, in percent.
        layers: One a layer.
    """

    max_drop: float
    granularity: Granularity
    criterion: str
    accuracy: float
    layers: tuple[Threshold, ...]

    def shares(self) -> dict[str, float]:
        """The share of each layer that can go."""
        return {one.layer: one.share for one in self.layers}

    def __str__(self) -> str:
        width = max(len(one.layer) for one in self.layers)
        lines = [
            f"within {self.max_drop:g} points of {self.accuracy:.2f} % on validation examples, each layer by itself"
        ]
        lines += [
            f"{one.layer:{width}s}  {100 * one.share:5.1f} %  {one.removed:,} of {one.units:,}, {one.drop:+.2f} points lost"
            + ("" if one.monotone else "; less was beyond the bound, too")
            for one in self.layers
        ]
        return "\n".join(lines)


def thresholds(
    model: nn.Module,
    data: Splits,
    *,
    max_drop: float,
    granularity: Granularity = "unit",
    criterion: str = "taylor",
    layers: Sequence[str] | None = None,
    resolution: float = 0.001,
    judge_examples: int | None = None,
    score_examples: int = 1024,
    seed: int = 0,
    on_layer: Callable[[Threshold], None] | None = None,
) -> Thresholds:
    """The largest share of each layer that can go within a bound, without retraining, the other layers being whole.

    Scores are taken once, so that a larger cut holds a smaller one; the share is found by bisection and verified by looks at
    larger ones (`secateur.methods.largest_within`).

    Args:
        model: The network; it is left as found.
        data: Scores see the training split, decisions the validation split; the test split is not read.
        max_drop: Points of accuracy that may be lost.
        granularity: ``unit``, ``kernel`` or ``weight``: what goes.
        criterion: Which go first.
        layers: Names of layers; None for all.
        resolution: The share of a layer to which its threshold is found; never finer than one unit.
        judge_examples: Validation examples on which it is judged; None for all.
        score_examples: Training examples on which scores are computed.
        seed: What every random choice follows from.
        on_layer: Told of each layer.

    Raises:
        SettingsError: A layer or the criterion is unknown, or a number is out of its range.
        NothingToCutError: A layer has a single unit.

    Example:
        >>> from secateur import data, networks
        >>> digits = data.load("digits", limit=300)
        >>> net = networks.build("digits-net", seed=0)
        >>> found = thresholds(net, digits, max_drop=5.0, criterion="l1", layers=["conv2", "conv3"])
        >>> [one.layer for one in found.layers]
        ['conv2', 'conv3']

    Source:
        SNARE (KIT, 2020), section 4.3, table 4.3: the largest share of a layer's weights that can go while the accuracy falls by less
        than a point, to 0.1 %.
    """
    found: list[Threshold] = []
    accuracy = 0.0
    for layer in _known(layers, scopes_of(model, data, granularity)):
        settings = StepSettings(
            granularity=granularity, criterion=criterion, scope=layer, step=resolution, search="bisection", until=1 - 1e-9,
            max_drop=max_drop, recompute=0, judge_examples=judge_examples, score_examples=score_examples, seed=seed,
        )  # fmt: skip
        points = stepwise(model, data, settings).points
        accuracy = points[0].accuracy
        held = [accuracy - point.accuracy <= max_drop + 1e-9 for point in points]
        place = max(place for place, within in enumerate(held) if within)
        most = points[place]
        units = round(points[-1].removed / points[-1].share) if points[-1].removed else 1
        found.append(
            Threshold(
                layer, units, most.removed, accuracy - most.accuracy, len(points) - 1, all(held[:place])
            )
        )
        if on_layer is not None:
            on_layer(found[-1])
    return Thresholds(max_drop, granularity, criterion, accuracy, tuple(found))


@dataclass(frozen=True, eq=False)
class JointThresholds:
    """How much of all layers can go together within a bound.

    Attributes:
        shares: The share of each layer that goes.
        model: The network, cut (units) or masked (kernels, weights).
        masks: Which weights stay, where they are masked.
        accuracy: Its accuracy on the validation examples, in percent.
        drop: Points below the unreduced network.
        left: Parameters that are left, as a share.
        looks: Cuts that were evaluated.
    """

    shares: Mapping[str, float]
    model: nn.Module
    masks: Masks | None
    accuracy: float
    drop: float
    left: float
    looks: int

    def __str__(self) -> str:
        width = max(map(len, self.shares))
        first = (
            f"{100 * self.left:.1f} % of the parameters are left, {self.drop:+.2f} points lost on validation examples"
            f" ({self.looks} looks)"
        )
        return "\n".join(
            [first, *(f"{layer:{width}s}  {100 * share:5.1f} %" for layer, share in self.shares.items())]
        )


def joint_thresholds(
    model: nn.Module,
    data: Splits,
    *,
    max_drop: float,
    granularity: Granularity | None = None,
    criterion: str | None = None,
    start: Thresholds | Mapping[str, float] | None = None,
    layers: Sequence[str] | None = None,
    looks: int = 300,
    judge_examples: int | None = None,
    score_examples: int = 1024,
    seed: int = 0,
) -> JointThresholds:
    """Search, for all layers together, the shares that leave fewest parameters within a bound; without retraining.

    Minimises the parameters left over the vector of the layers' shares, the drop on validation examples being within the bound,
    by differential evolution (scipy) from a population around ``start``, scaled down as far as the bound asks. The result is never worse
    than that scaled start.

    Args:
        model: The network; it is left as found.
        data: Scores see the training split, decisions the validation split; the test split is not read.
        max_drop: Points of accuracy that may be lost, on the validation examples as measured.
        granularity: ``unit``, ``kernel`` or ``weight``: what goes; by default as for ``start``, or units.
        criterion: Which go first; by default as for ``start``, or ``taylor``.
        start: What each layer can lose by itself (`thresholds`), which is found where it is not given; or shares by layer.
        layers: Names of layers; None for those of ``start``, or all.
        looks: Cuts that are evaluated, about.
        judge_examples: Validation examples on which they are judged; None for all. Fewer are quicker, and less sure.
        score_examples: Training examples on which scores are computed.
        seed: What every random choice follows from.

    Raises:
        SettingsError: A layer or the criterion is unknown, or a number is out of its range.

    Example:
        >>> from secateur import data, networks
        >>> digits = data.load("digits", limit=300)
        >>> net = networks.build("digits-net", seed=0)
        >>> found = joint_thresholds(net, digits, max_drop=5.0, start={"conv2": 0.3, "conv3": 0.3}, looks=20)
        >>> found.drop <= 5.0, sorted(found.shares)
        (True, ['conv2', 'conv3'])

    Source:
        Li et al. 2018, Optimization based Layer-wise Magnitude-based Pruning for DNN Compression, IJCAI: thresholds of all layers by
        derivative-free search under an accuracy constraint. There negatively correlated search is used, thresholds are in
        deviations of a layer's weights, and splicing follows; here shares, which have the same orders.
    """
    if looks < 1:
        raise SettingsError(f"looks={looks} must be at least 1")
    if not 0 <= max_drop < 100:
        raise SettingsError(f"max_drop={max_drop} must be points of accuracy, from 0 up to 100")
    alone = start if isinstance(start, Thresholds) else None
    granularity = granularity or (alone.granularity if alone else "unit")
    criterion = criterion or (alone.criterion if alone else "taylor")
    if alone and alone.granularity != granularity:
        raise SettingsError(
            f"start says how many {alone.granularity}s can go, and {granularity}s are asked for; take thresholds of these, or leave start out"
        )
    shares = start.shares() if isinstance(start, Thresholds) else start
    chosen = _known(
        layers if layers is not None or shares is None else list(shares), scopes_of(model, data, granularity)
    )
    if shares is None:
        shares = thresholds(
            model, data, max_drop=max_drop, granularity=granularity, criterion=criterion, layers=chosen, resolution=0.01,
            judge_examples=judge_examples, score_examples=score_examples, seed=seed,
        ).shares()  # fmt: skip
    first = _first(shares, chosen)
    tries = _Tries(
        model, data, granularity=granularity, criterion=criterion, chosen=chosen, judge_examples=judge_examples,
        score_examples=score_examples, seed=seed,
    )  # fmt: skip
    return _searched(tries, first, max_drop=max_drop, looks=looks, seed=seed)


def _searched(tries: _Tries, first: Shares, *, max_drop: float, looks: int, seed: int) -> JointThresholds:
    best = (1.0, np.zeros(len(first)))

    def worth(shares: Shares) -> float:
        """Parameters left, as a share; beyond the bound always more than all of them."""
        nonlocal best
        accuracy, left = tries.of(shares)
        beyond = tries.accuracy - accuracy - max_drop
        if beyond > 1e-9:
            return 1.0 + beyond
        if left < best[0]:
            best = (left, shares.copy())
        return left

    low, high = 0.0, 1.0
    for _ in range(6):  # how far the start must be scaled down for all layers together
        middle = (low + high) / 2
        low, high = (middle, high) if worth(first * middle) <= 1.0 else (low, middle)
    dimensions = len(first)
    size = max(5, min(4 * dimensions, looks // 6))
    rounds = max(0, looks // size - 1)
    if rounds:
        from scipy.optimize import differential_evolution  # noqa: PLC0415  # pyright: ignore[reportMissingTypeStubs,reportUnknownVariableType]

        generator = np.random.default_rng(seed_for(seed, "population"))
        around = np.clip(first * low * generator.uniform(0.6, 1.4, (size, dimensions)), 0.0, 0.999)
        around[0] = first * low
        differential_evolution(
            worth, bounds=[(0.0, 0.999)] * dimensions, init=cast("Any", around), maxiter=rounds, tol=0.0, polish=False,
            rng=np.random.default_rng(seed_for(seed, "search")),
        )  # fmt: skip
    _, shares = best
    reduced, masks, left = tries.cut(shares)
    accuracy = evaluate(reduced, tries.judged).accuracy
    return JointThresholds(
        dict(zip(tries.chosen, _rounded(shares), strict=True)),
        reduced, masks, accuracy, tries.accuracy - accuracy, left, tries.looks,
    )  # fmt: skip


class _Tries:
    """Cuts of one network by one order of its units, evaluated."""

    def __init__(
        self, model: nn.Module, data: Splits, *, granularity: Granularity, criterion: str, chosen: list[str],
        judge_examples: int | None, score_examples: int, seed: int,
    ) -> None:  # fmt: skip
        self.model, self.granularity, self.chosen = copied(model, {}).eval(), granularity, chosen
        self.judged: Split = data.validation
        if judge_examples is not None and judge_examples < len(data.validation):
            self.judged = data.validation.take(judge_examples, seed=0)
        sample = data.train.take(min(score_examples, len(data.train)), seed=seed_for(seed, "sample") % 2**31)
        drawn = seed_for(seed, "score", 0)
        self.channels = channels_of(self.model, data)
        self.whole = CostModel(self.channels).total().parameters
        if granularity == "unit":
            self.units = score(self.model, self.channels, criterion, data=sample, seed=drawn, groups=chosen)
        else:
            self.weights = score_weights(
                self.model, criterion, data=sample, granularity=granularity, layers=chosen, seed=drawn
            )
        self.accuracy = evaluate(self.model, self.judged).accuracy
        self.looks = 0
        self._known: dict[tuple[int, ...], tuple[float, float]] = {}

    def of(self, shares: Shares) -> tuple[float, float]:
        """Accuracy in percent, and the share of parameters left; the same shares (to 0.1 %) are evaluated once."""
        key = tuple(math.floor(share * 1000) for share in shares.tolist())
        if key not in self._known:
            self.looks += 1
            reduced, _, left = self.cut(shares)
            self._known[key] = evaluate(reduced, self.judged).accuracy, left
        return self._known[key]

    def cut(self, shares: Shares) -> tuple[nn.Module, Masks | None, float]:
        """The network without these shares (rounded down to 0.1 %) of its layers, its masks, and the share of parameters left."""
        wanted = {
            layer: share for layer, share in zip(self.chosen, _rounded(shares), strict=True) if share > 0
        }
        if not wanted:
            return self.model, None, 1.0
        if self.granularity == "unit":
            widths = {layer: self.channels.group(layer).width for layer in wanted}
            wanted = {
                layer: min(share, 1 - 1 / widths[layer])  # one unit stays
                for layer, share in wanted.items()
                if share * widths[layer] >= 1 and widths[layer] > 1
            }
            if not wanted:
                return self.model, None, 1.0
            made = plan(self.channels, self.units, remove=wanted, groups=list(wanted))
            return apply(self.model, made), None, made.after.parameters / self.whole
        names = weights_of(self.model)
        masks = plan_weights(
            self.model, self.weights, remove={names[layer]: share for layer, share in wanted.items()}
        )
        return mask(self.model, masks), masks, 1 - (masks.total - masks.left) / self.whole


def _first(shares: Mapping[str, float], chosen: Sequence[str]) -> Shares:
    """The shares to begin with, of exactly the layers that take part."""
    if set(shares) != set(chosen):
        odd = min(set(shares) ^ set(chosen))
        raise SettingsError(
            f"start and layers differ: {odd!r} is in one of them alone; give start a share for each of the layers, or leave layers out"
        )
    for layer, share in shares.items():
        if not 0 <= share <= 1:
            raise SettingsError(f"start={share} for {layer!r} is no share between 0 and 1")
    return np.array([min(float(shares[layer]), 0.999) for layer in chosen])


def _rounded(shares: Shares) -> list[float]:
    """Shares rounded down to 0.1 %: what is cut."""
    return [math.floor(share * 1000) / 1000 for share in shares.tolist()]


def _known(asked: Sequence[str] | None, known: Sequence[str]) -> list[str]:
    """The layers that were asked for, all by default."""
    if asked is not None and not asked:
        raise SettingsError("layers= is empty; name at least one, or leave it out for all")
    for layer in asked or ():
        if layer not in known:
            raise SettingsError(f"no layer that can be cut is named {layer!r}; {did_you_mean(layer, known)}")
    return list(known if asked is None else asked)
