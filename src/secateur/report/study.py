"""A study as one self-contained page: each question with its answer in words, its curves, and what it was made with."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np

from secateur.methods import Point
from secateur.methods.protocol import Granularity
from secateur.report import text
from secateur.report.conditions import here
from secateur.report.curves import Chart, chart
from secateur.report.page import environment, replace, resource
from secateur.studies import FACTORS, KEPT, CellResult, Comparison, Experiment, Study, share_found, verdicts

PAGE: Final = "report.html"


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
    drawn = {
        label: [(of(r.points), [point.accuracy for point in r.points]) for r in found]
        for label, found in groups.items()
    }
    return chart(title, drawn, labels, most=100.0)


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
