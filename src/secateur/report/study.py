"""A study as one self-contained page: each question with its answer in words, its curves, and what it was made with."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np
from numpy.typing import NDArray

from secateur.methods import Point
from secateur.methods.protocol import Granularity
from secateur.report import text
from secateur.report.charts import Axis
from secateur.report.conditions import here
from secateur.report.page import environment, replace, resource
from secateur.studies import FACTORS, KEPT, CellResult, Comparison, Experiment, Study, share_found, verdicts

PAGE: Final = "report.html"
_GRID: Final = 60
"""Places along a curve at which the mean over seeds is drawn."""

Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Curve:
    """One value of the compared factor in one chart: the mean over seeds as a line, least and greatest as a band.

    Both are SVG paths on a field of 100 by 100.
    """

    number: int
    label: str
    line: str
    band: str
    seeds: int


@dataclass(frozen=True, slots=True)
class Chart:
    """Accuracy against one kind of what was removed."""

    title: str
    curves: tuple[Curve, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]


@dataclass(frozen=True, slots=True)
class Panel:
    """One setting of all that is not compared: three charts."""

    title: str
    charts: tuple[Chart, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """One experiment on the page."""

    experiment: Experiment
    curves: tuple[Comparison, ...]
    scratch: tuple[Comparison, ...]
    shares: tuple[dict[str, Any], ...]
    panels: tuple[Panel, ...]
    labels: tuple[str, ...]
    kept: tuple[dict[str, Any], ...]
    failed: tuple[CellResult, ...]
    notes: tuple[str, ...]
    missing: int


def render_study(study: Study, results: Sequence[CellResult]) -> str:
    """The page of a study; the same results give the same page.

    Args:
        study: What was asked.
        results: What is known of its cells.
    """
    found = verdicts(study, results)
    context: dict[str, Any] = {
        "study": study,
        "style": resource("report.css") + resource("study.css"),
        "questions": [_question(study, experiment, results, found) for experiment in study.experiment],
        "cells": len(study.cells()),
        "done": sum(result.done for result in results),
        "conditions": _conditions(results),
    }
    return environment().get_template("study.html.jinja").render(context)


def write_study(study: Study, results: Sequence[CellResult], folder: Path) -> Path:
    """Write the page into a folder, whole or not at all.

    Raises:
        StoreError: It could not be written.
    """
    return replace(folder / PAGE, render_study(study, results))


def _conditions(results: Sequence[CellResult]) -> dict[str, str]:
    found: dict[str, Any] = here()
    versions = ", ".join(f"{name} {version}" for name, version in found.pop("versions").items())
    seconds = sum(result.seconds for result in results)
    return {
        "versions": versions,
        **{name: str(value) for name, value in found.items()},
        "time of all cells": text.duration(seconds),
    }


def _question(
    study: Study, experiment: Experiment, results: Sequence[CellResult], found: Sequence[Comparison]
) -> Question:
    own = [result for result in results if experiment.name in result.cell.experiments]
    done = [result for result in own if result.done]
    mine = [one for one in found if one.experiment == experiment.name]
    labels = [str(level) for level in experiment.levels()[experiment.compare]]
    scratch = tuple(one for one in mine if one.what == KEPT)
    return Question(
        experiment=experiment,
        curves=tuple(one for one in mine if one not in scratch),
        scratch=scratch,
        shares=tuple(_shares(experiment, done, labels)) if experiment.measure == "share" else (),
        panels=() if experiment.search == "bisection" else tuple(_panels(experiment, done, labels)),
        labels=tuple(labels),
        kept=tuple(_kept(experiment, done)),
        failed=tuple(result for result in own if not result.done),
        notes=notes_of(done),
        missing=sum(experiment.name in cell.experiments for cell in study.cells()) - len(own),
    )


def notes_of(results: Sequence[CellResult]) -> tuple[str, ...]:
    """What was done otherwise than asked, and in how many cells."""
    cells = Counter(note for result in results for note in dict.fromkeys(result.notes))
    return tuple(f"In {count} of {len(results)} cells {note}." for note, count in cells.items())


def _shares(
    experiment: Experiment, results: Sequence[CellResult], labels: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """By setting, how much can go within the bound, for each value of what is compared: mean, deviation, what was printed."""
    groups: defaultdict[str, defaultdict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    scopes: dict[str, str] = {}
    for result in results:
        rest, level = _rest(experiment, result), str(getattr(result.cell.settings, experiment.compare))
        groups[rest][level].append(share_found(experiment, result.points))
        scopes[rest] = result.cell.settings.scope
    for rest, found in groups.items():
        printed = experiment.printed.get(scopes[rest], {})
        yield {
            "rest": rest,
            "values": [
                {
                    "mean": float(np.mean(found[label])) if found[label] else None,
                    "spread": float(np.std(found[label], ddof=1)) if len(found[label]) > 1 else None,
                    "printed": printed.get(label),
                }
                for label in labels
            ],
        }


def _panels(experiment: Experiment, results: Sequence[CellResult], labels: Sequence[str]) -> list[Panel]:
    by_rest: defaultdict[str, defaultdict[str, list[CellResult]]] = defaultdict(lambda: defaultdict(list))
    for result in results:
        level = str(getattr(result.cell.settings, experiment.compare))
        by_rest[_rest(experiment, result)][level].append(result)
    return [
        Panel(
            rest,
            tuple(
                _chart(title, of, {label: group[label] for label in labels if label in group}, labels)
                for title, of in _kinds(itertools.chain.from_iterable(group.values()))
            ),
        )
        for rest, group in by_rest.items()
    ]


def _rest(experiment: Experiment, result: CellResult) -> str:
    """What is not compared and differs between panels, in words."""
    levels, cell = experiment.levels(), result.cell
    along = (
        {"retrain", "iterations"} if experiment.compare in ("retrain", "iterations") else {experiment.compare}
    )
    said = [cell.network, f"on {cell.data}"]
    said += [
        f"{name} {getattr(cell.settings, name)}"
        for name in FACTORS
        if name not in along and (len(levels[name]) > 1 or name == "scope")
    ]
    return ", ".join(said)


def _removed(of: Callable[[Point], int]) -> Callable[[Sequence[Point]], list[float]]:
    return lambda points: [100 * (1 - of(point) / max(of(points[0]), 1)) for point in points]


def _kinds(
    results: Iterable[CellResult],
) -> tuple[tuple[str, Callable[[Sequence[Point]], list[float]]], ...]:
    """What curves are drawn along: what went at a time, in its own word, and what the network lost by it."""
    went = {result.cell.settings.granularity for result in results}
    return (
        (
            " or ".join(f"{one}s" for one in get_args(Granularity) if one in went),
            lambda points: [100 * point.share for point in points],
        ),
        ("parameters", _removed(lambda point: point.parameters)),
        ("MACs", _removed(lambda point: point.macs)),
    )


def _chart(
    title: str,
    of: Callable[[Sequence[Point]], list[float]],
    groups: Mapping[str, Sequence[CellResult]],
    labels: Sequence[str],
) -> Chart:
    """Curves over one kind of what was removed, in percent."""
    drawn = {label: [_drawn(of(r.points), r.points) for r in found] for label, found in groups.items()}
    everything = [pair for found in drawn.values() for pair in found]
    far = max((float(x[-1]) for x, _ in everything), default=1.0)
    low = min((float(y.min()) for _, y in everything), default=0.0)
    high = max((float(y.max()) for _, y in everything), default=100.0)
    room = max(high - low, 1.0) * 0.06
    x_axis = Axis(0.0, max(far, 1e-9))
    y_axis = Axis(max(low - room, 0.0), min(high + room, 100.0 + room), flip=True)
    curves = tuple(
        _curve(labels.index(label), label, found, x_axis, y_axis) for label, found in drawn.items()
    )
    return Chart(
        title,
        curves,
        tuple((x_axis.at(value), f"{value:g}") for value in x_axis.ticks(6)),
        tuple((y_axis.at(value), f"{value:g}") for value in y_axis.ticks(7) if value <= 100),
    )


def _drawn(x: list[float], points: Sequence[Point]) -> tuple[Numbers, Numbers]:
    return np.array(x), np.array([point.accuracy for point in points])


def _curve(
    number: int, label: str, found: Sequence[tuple[Numbers, Numbers]], x_axis: Axis, y_axis: Axis
) -> Curve:
    """The mean as far as every seed goes; the band there, too."""
    end = min(float(x[-1]) for x, _ in found)
    places = np.linspace(0.0, end, _GRID)
    heights = np.array([np.interp(places, x, y) for x, y in found])
    low, high = heights.min(axis=0), heights.max(axis=0)
    line = _path(places, heights.mean(axis=0), x_axis, y_axis)
    band = f"{_path(places, high, x_axis, y_axis)}L{_path(places[::-1], low[::-1], x_axis, y_axis)[1:]}Z"
    return Curve(number, label, line, band if len(found) > 1 else "", len(found))


def _path(x: Numbers, y: Numbers, x_axis: Axis, y_axis: Axis) -> str:
    pairs = zip(x.tolist(), y.tolist(), strict=True)
    return "M" + "L".join(f"{x_axis.at(a):.1f} {y_axis.at(b):.1f}" for a, b in pairs)


def _kept(experiment: Experiment, results: Sequence[CellResult]) -> list[dict[str, Any]]:
    """By setting, the networks that were kept: how small, and how good on test examples; means over seeds."""
    groups: defaultdict[tuple[str, str], list[CellResult]] = defaultdict(list)
    for result in results:
        level = str(getattr(result.cell.settings, experiment.compare))
        groups[_rest(experiment, result), level].append(result)
    rows: list[dict[str, Any]] = []
    for (rest, level), found in groups.items():

        def mean(name: str, found: list[CellResult] = found) -> float | None:
            values = [one.figures[name] for one in found if name in one.figures]
            return sum(values) / len(values) if values else None

        before, after = mean("base_parameters") or 0.0, mean("kept_parameters") or 1.0
        macs = mean("base_macs") or 0.0, mean("kept_macs") or 1.0
        tests = [one.figures["kept_test_accuracy"] for one in found]
        rows.append(
            {
                "rest": rest,
                "level": level,
                "seeds": len(found),
                "parameters": text.factor(round(before), round(after)),
                "macs": text.factor(round(macs[0]), round(macs[1])),
                "base": mean("base_test_accuracy"),
                "test": mean("kept_test_accuracy"),
                "spread": float(np.std(tests, ddof=1)) if len(tests) > 1 else None,
                "scratch": None if experiment.scratch is False else mean("scratch_test_accuracy"),
            }
        )
    return rows
