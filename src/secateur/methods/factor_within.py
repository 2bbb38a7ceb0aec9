"""The lowest ranks within an accuracy bound: each layer alone by bisection, then all together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from numbers import Real

from torch import nn

from secateur._model import copied, unwrapped
from secateur._options import expect, expect_names
from secateur.channels import watch
from secateur.cost import Cost, CostModel
from secateur.data import Split, Splits
from secateur.errors import NothingToCutError, SettingsError
from secateur.evaluate import Drop, Evaluation, evaluate, paired_drop
from secateur.methods.judge import least_bound
from secateur.methods.seeds import seed_for
from secateur.observe import Covariance, layer_inputs
from secateur.plan import FactorPlan
from secateur.plan.factors import at_ranks
from secateur.plan.layers import Candidate, candidates, check_weights
from secateur.plan.ranks import path_of
from secateur.surgery import factor
from secateur.train import TrainSettings, fit

_SHOWN = 0.95
"""The confidence of the limit that is told where the bound is on the drop as measured."""

_STAYS = "no lower ranks were tried with the others, or none were within the bound"

_LEVELS = 16
"""Common levels between each layer's own lowest ranks and the layers as they are."""

_ALONE = 5.0
"""How many times the bound a layer may lose alone where retraining makes good."""


@dataclass(frozen=True, slots=True)
class RankTrial:
    """Ranks that were tried.

    Attributes:
        layer: The layer that was replaced alone; empty where all were together.
        ranks: The ranks of the layers that were replaced.
        parameters: What the network then has.
        macs: Multiply-adds for one example.
        accuracy: On the validation examples, in percent.
        drop: How many points that is less than before.
        upper: The drop's upper confidence limit.
        within: Whether it was within the bound.
    """

    layer: str
    ranks: Mapping[str, tuple[int, ...]]
    parameters: int
    macs: int
    accuracy: float
    drop: float
    upper: float
    within: bool


@dataclass(frozen=True, eq=False)
class FactorResult:
    """A network at the lowest ranks that were found within a bound.

    Attributes:
        model: The network with factors in its layers' places, in eval mode.
        plan: What was replaced; `secateur.factor` does the same, without retraining.
        history: Every trial, in order.
        before: The network as given, on the validation examples.
        after: The network as it is now.
        drop: From one to the other.
    """

    model: nn.Module = field(repr=False)
    plan: FactorPlan
    history: tuple[RankTrial, ...]
    before: Evaluation
    after: Evaluation
    drop: Drop = field(repr=False)

    def __str__(self) -> str:
        """What it lost, how it was found, and the plan."""
        return (
            f"validation accuracy {self.before.accuracy:.2f} -> {self.after.accuracy:.2f} % after {len(self.history)} trials\n"
            f"{self.plan}"
        )


def factor_within(
    model: nn.Module,
    data: Splits,
    *,
    max_drop: float,
    confidence: float = 0.95,
    layers: Iterable[str] | None = None,
    retrain: TrainSettings | None = None,
    fit_examples: int | None = 512,
    seed: int = 0,
    on_trial: Callable[[RankTrial], None] | None = None,
) -> FactorResult:
    """Replace layers by factors of the lowest ranks at which the accuracy stays within a bound.

    Each layer has a path of ranks, from few parameters to many. First each alone is brought as low as the drop as measured allows, by bisection: what is
    taken was within the bound, the next lower was not. Together they lose more, so a common level between these ranks and the
    layers as they are is found in the same way, at which all together are within the bound. Then each layer is lowered once more, with the
    others where they are. Bisection supposes that accuracy rises with rank; where it does not, what is taken is within
    the bound all the same, but a lower rank might be, too.

    Args:
        model: The network; it is left as found.
        data: Bounds are judged on the validation split, factors are fitted and retrained on the training split; the test split is not read.
        max_drop: Percentage points of validation accuracy that may be lost.
        confidence: The bound is on the drop's upper confidence limit; 0 takes the drop as measured.
        layers: Names of layers, or patterns of them; None for all dense and convolutional ones.
        retrain: How the network is trained before it is judged, each time that all layers are together, with the given network as its teacher; None
            trains nothing. Each layer alone may then lose five times the bound, since it is not trained alone.
        fit_examples: Training examples on which factors are made nearest to their layers; None takes the weights alone.
        seed: What every random choice follows from.
        on_trial: Told of each trial.

    Returns:
        The network, the plan, and how it was found.

    Raises:
        SettingsError: An option is out of its range, or a name fits no layer.
        NothingToCutError: No layer can be replaced within the bound.

    Example:
        >>> from secateur import data, networks
        >>> from secateur.train import TrainSettings, fit
        >>> digits = data.load("digits", limit=300)
        >>> net = networks.build("digits-net", seed=0)
        >>> _ = fit(net, digits.train, None, TrainSettings(epochs=3, lr=0.05, batch_size=50))
        >>> found = factor_within(net, digits, max_drop=5.0, confidence=0, layers=["dense*"])
        >>> found.drop.points <= 5.0 and found.plan.after.parameters < found.plan.before.parameters
        True

    Source:
        Thresholds for each layer under a bound on the loss of accuracy: Li et al. 2018, "Optimization based layer-wise magnitude-based
        pruning for DNN compression", IJCAI, there found by derivative-free optimisation and for single weights; here by bisection and for ranks.
    """
    expect("factor_within(model, data, max_drop=1.0)", model=(model, nn.Module), data=(data, Splits))
    if retrain is not None:
        expect("factor_within(..., retrain=TrainSettings(epochs=2))", retrain=(retrain, TrainSettings))
    expect_names(layers=layers)
    asked = _Asked(max_drop, confidence, retrain, fit_examples, seed)
    return _Search(model, data, asked, layers, on_trial).result()


@dataclass(frozen=True, slots=True)
class _Asked:
    """The options of a search."""

    max_drop: float
    confidence: float
    retrain: TrainSettings | None
    fit_examples: int | None
    seed: int

    def __post_init__(self) -> None:
        if not (isinstance(self.max_drop, Real) and 0 <= self.max_drop < 100):
            raise SettingsError(f"max_drop={self.max_drop!r} must be points of accuracy, from 0 up to 100")
        if self.confidence and not 0.5 <= self.confidence < 1:
            raise SettingsError(f"confidence={self.confidence} must be 0, or from 0.5 up to 1")
        if self.fit_examples is not None and self.fit_examples < 1:
            raise SettingsError(f"fit_examples={self.fit_examples} must be at least 1, or None")
        if self.seed < 0:
            raise SettingsError(f"seed={self.seed} must be 0 or more")


class _Search:
    """The moving parts of one search."""

    def __init__(
        self,
        model: nn.Module,
        data: Splits,
        asked: _Asked,
        layers: Iterable[str] | None,
        on_trial: Callable[[RankTrial], None] | None,
    ) -> None:
        self.model = copied(unwrapped(model), {}).eval()
        self.data, self.asked, self.on_trial = data, asked, on_trial
        check_weights(self.model)
        example = data.train.inputs[:1]
        found, self.left = candidates(self.model, example, layers, lambda _: None)
        self.paths = {one.name: path_of(one) for one in found}
        self.found: dict[str, Candidate] = {one.name: one for one in found if self.paths[one.name]}
        self.cost: Cost = CostModel(watch(self.model, example)).total()
        self.before = evaluate(self.model, data.validation, classes=data.classes)
        self.seen = self._seen(asked.fit_examples)
        self.history: list[RankTrial] = []
        self.best: tuple[nn.Module, FactorPlan, Evaluation, Drop] | None = None

    def _seen(self, examples: int | None) -> dict[str, Covariance] | None:
        if examples is None or not self.found:
            return None
        sample: Split = self.data.train.take(
            min(examples, len(self.data.train)), seed=seed_for(self.asked.seed, "factors") % 2**31
        )
        return layer_inputs(self.model, list(self.found), sample.batches(128))

    def result(self) -> FactorResult:
        """Search, and give what was found."""
        lowest = {name: self._alone(name) for name in self.found}
        level = _first(0, _LEVELS, lambda level: self._together(_raised(lowest, self.paths, level)))
        if level < _LEVELS:
            self._lowered(lowest, _raised(lowest, self.paths, level))
        if self.best is None:
            least = least_bound(len(self.data.validation), confidence=self.asked.confidence)
            why = f"; of {len(self.data.validation):,} examples a network that answers all as before has a limit of {least:.2f} points"
            raise NothingToCutError(
                f"no layer can be replaced within {self.asked.max_drop:g} points: {'; '.join(f'{n} {r}' for n, r in self.left) or 'all lose more'}"
                f"{why if self.asked.confidence else ''}; widen the bound, or retrain"
            )
        model, plan, after, drop = self.best
        return FactorResult(model, plan, tuple(self.history), self.before, after, drop)

    def _alone(self, name: str) -> int:
        """The lowest place on a layer's path at which it alone is within the bound; its length where none is."""
        path = self.paths[name]
        bound = self.asked.max_drop * (_ALONE if self.asked.retrain is not None else 1.0)

        def within(place: int) -> bool:
            return self._tried({name: path[place]}, layer=name, bound=bound)

        return _first(0, len(path), within)

    def _together(self, places: Mapping[str, int]) -> bool:
        ranks = {name: self.paths[name][at] for name, at in places.items() if at < len(self.paths[name])}
        return bool(ranks) and self._tried(ranks, layer="", bound=self.asked.max_drop)

    def _lowered(self, lowest: Mapping[str, int], places: dict[str, int]) -> None:
        """Lower each layer with the others where they are, those with most parameters first."""
        for name in sorted(places, key=lambda name: -self.found[name].cost.parameters):

            def within(at: int, name: str = name) -> bool:
                return self._together({**places, name: at})

            places[name] = _first(lowest[name], places[name], within)

    def _tried(self, ranks: Mapping[str, tuple[int, ...]], *, layer: str, bound: float) -> bool:
        """Replace, retrain where all are together, judge; keep the network if it is the smallest within the bound."""
        plan = at_ranks(
            self.model, list(self.found.values()), ranks, before=self.cost, left=self.left, none=_STAYS
        )
        candidate = factor(self.model, plan, data=self.seen)
        if self.asked.retrain is not None and not layer:
            number = len(self.history)
            seed = seed_for(self.asked.seed, "retrain", number)
            fit(
                candidate,
                self.data.train,
                self.data.validation,
                self.asked.retrain,
                seed=seed,
                teacher=self.model,
            )
            candidate.eval()
        found = evaluate(candidate, self.data.validation, classes=self.data.classes)
        drop = paired_drop(
            self.before, found, confidence=self.asked.confidence or _SHOWN, groups=self.data.validation.groups
        )
        limit = drop.points if layer or not self.asked.confidence else drop.upper
        within = limit <= bound + 1e-9
        trial = RankTrial(
            layer, dict(ranks), plan.after.parameters, plan.after.macs, found.accuracy, drop.points, drop.upper, within
        )  # fmt: skip
        self.history.append(trial)
        if self.on_trial is not None:
            self.on_trial(trial)
        smaller = self.best is None or plan.after.parameters < self.best[1].after.parameters
        if within and not layer and smaller:
            self.best = candidate, plan, found, drop
        return within


def _first(low: int, high: int, holds: Callable[[int], bool]) -> int:
    """The first number from ``low`` on at which something holds that holds from then on; ``high`` is not asked.

    >>> _first(0, 10, lambda n: n * n >= 20)
    5
    """
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return low


def _raised(
    lowest: Mapping[str, int], paths: Mapping[str, tuple[tuple[int, ...], ...]], level: int
) -> dict[str, int]:
    """Each layer's place at a common level between its lowest and the layer as it is, in equal factors.

    >>> _raised({"a": 0}, {"a": ((1,), (2,), (3,))}, 8)
    {'a': 1}
    """
    share = level / _LEVELS
    return {
        name: max(at, round((at + 1) ** (1 - share) * (len(paths[name]) + 1) ** share) - 1)
        for name, at in lowest.items()
    }
