"""What a study answers: paired comparisons over seeds, with confidence intervals, in plain words."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, cast

import numpy as np
from scipy.special import stdtr, stdtrit  # pyright: ignore[reportMissingTypeStubs]

from secateur.methods import Point
from secateur.studies.cells import Cell
from secateur.studies.run import CellResult
from secateur.studies.study import FACTORS, Experiment, Study

CONFIDENCE: Final = 0.95
SHARE: Final = "share that can go within the bound"
SHARE_OF_PARAMETERS: Final = "share of the parameters that can go within the bound"
KEPT: Final = "test accuracy of the kept network"
FROM_SCRATCH: Final = "the same network trained from scratch"
_LEAST_SEEDS: Final = 2
_TIE: Final = 1e-9
"""Points: differences that are closer than this over the seeds are equal."""
_MOST_SETTINGS: Final = 6
"""A question with more settings beside what it compares is answered over all of them together only."""
_PLAIN: Final = ("criterion", "scope")
"""Factors whose values say by themselves what they are."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two values of a factor, all else being equal.

    Attributes:
        experiment: The question's name.
        what: What is compared: a mean over the curves, or an accuracy on test examples.
        first: One value.
        second: The other.
        points: By how many percentage points the first is better, the mean over seeds.
        low: Lower end of its confidence interval; NaN with a single seed.
        high: Upper end.
        p: Of the paired t-test, two-sided; NaN with a single seed.
        found: Whether a difference was found, all comparisons of the question over all settings, or all of its single settings, taken together
            (Holm).
        seeds: Seeds over which they are paired.
        settings: Settings (layers, protocols, ...) over which each seed's difference is averaged; of the seed that has fewest.
        within: The one setting that it is about, such as "normalise l2"; empty for all of them together.
    """

    experiment: str
    what: str
    first: str
    second: str
    points: float
    low: float
    high: float
    p: float
    found: bool
    seeds: int
    settings: int
    within: str = ""

    def __str__(self) -> str:
        return f"{self.within}: {self._answer()}" if self.within else self._answer()

    def _answer(self) -> str:
        pair = f"{self.first} and {self.second}"
        if self.seeds < _LEAST_SEEDS:
            return f"{pair}: {self.points:+.2f} points with a single seed, which says nothing about others"
        if math.isnan(self.low):
            return f"{pair}: {self.points:+.2f} points in each of {self.seeds} seeds, too alike to say how sure that is"
        seeds = f"{self.seeds} seeds"
        if self.low <= 0 <= self.high:
            limits = f"{self.points:+.2f} points [{self.low:+.2f}, {self.high:+.2f}]"
            return f"no difference found between {pair}: {limits}, {seeds}"
        better, worse = (self.first, self.second) if self.points > 0 else (self.second, self.first)
        least, most = sorted((abs(self.low), abs(self.high)))
        by = f"{abs(self.points):.2f} points [{least:.2f}, {most:.2f}], {seeds}"
        if self.found:
            return f"{better} is better than {worse}: {by}"
        return f"{better} may be better than {worse}: {by}; among so many comparisons that can be chance"


def area(points: Sequence[Point], upto: float) -> float:
    """The mean accuracy of a curve between no unit removed and a share of them, in percent.

    Accuracy is taken to change linearly between points. A curve that ends before (nothing more could go) stays as it ended.

    >>> curve = [Point(0, 0, 0.0, 9, 9, 100.0, 0.0, 0), Point(1, 5, 0.5, 5, 5, 50.0, 0.0, 0)]
    >>> area(curve, 0.5), area(curve, 1.0)
    (75.0, 62.5)
    """
    shares = np.array([*(point.share for point in points if point.share < upto), upto])
    known = [point.share for point in points], [point.accuracy for point in points]
    heights = np.interp(shares, *known)
    return float(np.trapezoid(heights, shares) / upto) if upto > 0 else float(heights[0])


def share_within(points: Sequence[Point], max_drop: float) -> float:
    """The largest share that went within a bound, in percent.

    >>> curve = [Point(0, 0, 0.0, 9, 9, 100.0, 0.0, 0), Point(1, 5, 0.5, 5, 5, 99.5, 0.0, 0), Point(2, 9, 0.9, 1, 1, 9.0, 0.0, 0)]
    >>> share_within(curve, 1.0)
    50.0
    """
    first = points[0].accuracy
    return 100.0 * max(point.share for point in points if first - point.accuracy <= max_drop + 1e-9)


def along_parameters(points: Sequence[Point]) -> tuple[Point, ...]:
    """A curve along the share of parameters that went, so that curves of units and of weights compare.

    >>> curve = [Point(0, 0, 0.0, 8, 9, 100.0, 0.0, 0), Point(1, 5, 0.5, 2, 5, 50.0, 0.0, 0)]
    >>> [point.share for point in along_parameters(curve)]
    [0.0, 0.75]
    """
    whole = max(points[0].parameters, 1)
    return tuple(replace(point, share=1 - point.parameters / whole) for point in points)


def share_found(experiment: Experiment, points: Sequence[Point]) -> float:
    """The share that went within a question's bound, in percent: of parameters where units are compared with kernels or weights."""
    along = along_parameters(points) if experiment.compare == "granularity" else points
    return share_within(along, experiment.max_drop or 0.0)


def verdicts(study: Study, results: Sequence[CellResult]) -> tuple[Comparison, ...]:
    """All comparisons of all questions: over all settings, then, where there are a few, in each by itself."""
    found: list[Comparison] = []
    for experiment in study.experiment:
        own = [result for result in results if experiment.name in result.cell.experiments and result.done]
        found += _holm(
            _answers(experiment, own)
        )  # what was asked; settings one by one are a family of their own
        parts: list[Comparison] = []
        settings = dict.fromkeys(_setting(study, experiment, cell) for cell in study.cells_of(experiment))
        if 1 < len(settings) <= _MOST_SETTINGS:
            for setting in settings:
                part = [one for one in own if _setting(study, experiment, one.cell) == setting]
                parts += [replace(one, within=setting) for one in _answers(experiment, part)]
        found += _holm(parts)
    return tuple(found)


def _setting(study: Study, experiment: Experiment, cell: Cell) -> str:
    """What differs between the cells of a question beside what it compares, in words."""
    levels, bound = experiment.levels(), _bound(experiment.compare)
    said = [f"network {cell.network}"] if len(study.networks) > 1 else []
    said += [f"data {cell.data}"] if len(study.data) > 1 else []
    said += [
        f"{name} {getattr(cell.settings, name)}"
        for name in FACTORS
        if name not in bound and len(levels[name]) > 1
    ]
    return ", ".join(said)


def _answers(experiment: Experiment, results: Sequence[CellResult]) -> list[Comparison]:
    return [*_of_curves(experiment, results), *_with_scratch(experiment, results)]


def _value(factor: str, value: Any) -> str:
    """A value of a factor, so that it says of what it is."""
    return str(value) if factor in _PLAIN else f"{factor} {value}"


def _of_curves(experiment: Experiment, results: Sequence[CellResult]) -> Iterator[Comparison]:
    """The compared factor's values, pair by pair."""
    factor = experiment.compare
    for first, second in itertools.combinations(experiment.levels()[factor], 2):
        pairs = _paired(factor, results, first, second)
        by_seed: defaultdict[int, list[float]] = defaultdict(list)
        what = "mean accuracy over the curve"
        for one, other in pairs:
            if experiment.measure == "share":
                what = SHARE_OF_PARAMETERS if experiment.compare == "granularity" else SHARE
                lost = [share_found(experiment, result.points) for result in (one, other)]
                by_seed[one.cell.seed].append(lost[0] - lost[1])
                continue
            curves, upto = (one.points, other.points), experiment.until
            if experiment.compare == "granularity":  # shares of units and of weights are not the same thing
                what = "mean accuracy over the curve, by parameters removed"
                curves = tuple(along_parameters(points) for points in curves)
                upto = min(points[-1].share for points in curves)
            if factor == "step":  # fewer looks are no better curve
                curves = _where_both_looked(*curves)
            by_seed[one.cell.seed].append(area(curves[0], upto) - area(curves[1], upto))
        if by_seed:
            pair = _value(factor, first), _value(factor, second)
            yield _compared(experiment.name, what, *pair, by_seed)


def _where_both_looked(
    first: Sequence[Point], second: Sequence[Point]
) -> tuple[Sequence[Point], Sequence[Point]]:
    """Two curves at the counts that both of them have; whole, where these are less than two."""
    common = {point.removed for point in first} & {point.removed for point in second}
    if len(common) < 2:
        return first, second
    return [p for p in first if p.removed in common], [p for p in second if p.removed in common]


def _bound(factor: str) -> set[str]:
    """Factors that go with the compared one: whether anything is retrained, and for how long."""
    together = {"retrain", "iterations"}
    return together if factor in together else {factor}


def _paired(
    factor: str, results: Sequence[CellResult], first: Any, second: Any
) -> Iterable[tuple[CellResult, CellResult]]:
    """Cells that differ in one factor alone."""
    bound = _bound(factor)
    by_rest: defaultdict[tuple[Any, ...], dict[Any, CellResult]] = defaultdict(dict)
    for result in results:
        cell = result.cell
        rest = [getattr(cell.settings, name) for name in FACTORS if name not in bound]
        by_rest[(cell.network, cell.data, cell.seed, *rest)][getattr(cell.settings, factor)] = result
    for group in by_rest.values():
        if first in group and second in group:
            yield group[first], group[second]


def _with_scratch(experiment: Experiment, results: Sequence[CellResult]) -> Iterator[Comparison]:
    """Each value's reduced networks with the same architectures trained from scratch, on test examples."""
    if experiment.scratch is False:
        return
    by_level: defaultdict[str, defaultdict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for result in results:
        figures = result.figures
        if "scratch_test_accuracy" in figures and figures["kept_parameters"] < figures["base_parameters"]:
            level = _value(experiment.compare, getattr(result.cell.settings, experiment.compare))
            drop = figures["kept_test_accuracy"] - figures["scratch_test_accuracy"]
            by_level[level][result.cell.seed].append(drop)
    for level, by_seed in by_level.items():
        yield _compared(
            experiment.name,
            KEPT,
            level,
            FROM_SCRATCH,
            by_seed,
        )


def _compared(
    experiment: str, what: str, first: str, second: str, by_seed: dict[int, list[float]]
) -> Comparison:
    """The mean over seeds of a difference, with its interval by Student's t. Seeds are what is independent."""
    each = np.array([np.mean(values) for values in by_seed.values()])
    count, mean = len(each), float(each.mean())
    settings = min(len(values) for values in by_seed.values())
    low = high = p = math.nan
    if count >= _LEAST_SEEDS:
        error = float(each.std(ddof=1)) / math.sqrt(count)
        if error > _TIE:
            reach = cast("float", stdtrit(count - 1, (1 + CONFIDENCE) / 2)) * error
            low, high = mean - reach, mean + reach
            p = 2 * cast("float", stdtr(count - 1, -abs(mean) / error))
        elif abs(mean) <= _TIE:
            low, high, p = 0.0, 0.0, 1.0
        # else the figures are too coarse to tell how much seeds differ: no interval, and nothing is found
    return Comparison(experiment, what, first, second, mean, low, high, p, False, count, settings)


def _holm(comparisons: list[Comparison]) -> list[Comparison]:
    """Which differences were found, so that all of them together are wrong with the given probability at most.

    Source:
        Holm 1979, A simple sequentially rejective multiple test procedure, Scand. J. Statist. 6(2).
    """
    order = sorted(
        range(len(comparisons)), key=lambda place: (math.isnan(comparisons[place].p), comparisons[place].p)
    )
    found: set[int] = set()
    for rank, place in enumerate(order):
        if not comparisons[place].p <= (1 - CONFIDENCE) / (len(order) - rank):
            break
        found.add(place)
    return [replace(one, found=place in found) for place, one in enumerate(comparisons)]
