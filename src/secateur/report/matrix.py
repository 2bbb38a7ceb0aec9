"""A matrix as one self-contained page: each network's treatments side by side, what was printed elsewhere, and what each class lost."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from secateur.report import text
from secateur.report.conditions import here
from secateur.report.page import environment, replace, resource
from secateur.studies import Matrix, Measurement, mean_saving, printed_for

PAGE: Final = "report.html"
_MEGA: Final = 1e6
_COLUMNS: Final = (
    ("Top-1, %", "accuracy", 1.0, 2),
    ("Top-3, %", "top3", 1.0, 2),
    ("Points lost", "drop", 1.0, 2),
    ("Parameters", "parameters", 1.0, 0),
    ("Zero, %", "sparsity", 1.0, 1),
    ("File, MB", "bytes", _MEGA, 2),
    ("gzip, MB", "gzip", _MEGA, 2),
    ("Coded, MB", "coded", _MEGA, 3),
    ("One example, ms", "milliseconds", 1.0, 3),
    ("Time, ratio", "time_ratio", 1.0, 2),
    ("Memory, MB", "own_memory", _MEGA, 1),
    ("Same answer, %", "agreement", 1.0, 2),
)


@dataclass(frozen=True, slots=True)
class Line:
    """A treatment of a network: its figures as text, in the order of the columns, with what is printed elsewhere."""

    treatment: str
    cells: tuple[tuple[str, str], ...]
    fell: str
    limits: str
    notes: tuple[str, ...]
    failed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ClassLine:
    """A treatment of a network: by class, the change in points, and whether its limits leave out zero."""

    treatment: str
    cells: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Panel:
    """One network on the page."""

    network: str
    lines: tuple[Line, ...]
    classes: tuple[str, ...]
    class_lines: tuple[ClassLine, ...]
    missing: int


def render_matrix(matrix: Matrix, results: Sequence[Measurement]) -> str:
    """The page of a matrix; the same results give the same page.

    Args:
        matrix: What was asked.
        results: What is known of its cells.
    """
    context: dict[str, Any] = {
        "matrix": matrix,
        "style": resource("report.css") + resource("study.css"),
        "columns": [head for head, _, _, _ in _COLUMNS],
        "panels": [_panel(matrix, network, results) for network in matrix.networks],
        "savings": savings_of(matrix, results),
        "cells": len(matrix.cells()),
        "done": sum(result.done for result in results),
        "conditions": _conditions(matrix, results),
    }
    return environment().get_template("matrix.html.jinja").render(context)


def write_matrix(matrix: Matrix, results: Sequence[Measurement], folder: Path) -> Path:
    """Write the page into a folder, whole or not at all.

    Raises:
        StoreError: It could not be written.
    """
    return replace(folder / PAGE, render_matrix(matrix, results))


def savings_of(matrix: Matrix, results: Sequence[Measurement]) -> tuple[str, ...]:
    """A sentence for each treatment: how much storage it saves on average, and what that costs."""
    said: list[str] = []
    for treatment in matrix.treatment[1:]:
        found = [one for one in results if one.done and one.cell.treatment.name == treatment.name]
        figure = "coded" if treatment.compress is not None else "gzip"
        saved = mean_saving(results, treatment.name, figure)
        if saved is None or not found:
            continue
        what = "the coded file" if figure == "coded" else "the file, packed by gzip,"
        drop = statistics.fmean(one.row["drop"] for one in found)
        said.append(
            f"{treatment.name}: {what} is {saved[0]:.2f} % smaller than the untreated file, at {drop:.2f} points lost (means of"
            f" {saved[1]})."
        )
    return tuple(said)


def _panel(matrix: Matrix, network: str, results: Sequence[Measurement]) -> Panel:
    own = [one for one in results if one.cell.network == network]
    names = [treatment.name for treatment in matrix.treatment]
    by_name = {name: [one for one in own if one.cell.treatment.name == name] for name in names}
    shown = {name: found for name, found in by_name.items() if found}
    classes = next((tuple(one.classes) for one in own if one.done), ())
    return Panel(
        network,
        tuple(_line(matrix, name, found) for name, found in shown.items()),
        classes,
        tuple(
            _class_line(name, done, classes)
            for name, found in shown.items()
            if (done := [one for one in found if one.done]) and name != names[0]
        ),
        len(matrix.seeds) * len(names) - len(own),
    )


def _line(matrix: Matrix, name: str, found: Sequence[Measurement]) -> Line:
    done = [one for one in found if one.done]
    cells: list[tuple[str, str]] = []
    for _, key, unit, digits in _COLUMNS:
        values = [one.row[key] / unit for one in done if one.row.get(key) is not None]
        beside = printed_for(matrix, found[0]).get("memory" if key == "own_memory" else key)
        cells.append(
            (
                _number(statistics.fmean(values), digits) if values else "–",
                "" if beside is None else _number(beside / unit, digits),
            )
        )
    limits, fell = "", ""
    if len(done) == 1:
        row = done[0].row
        limits = f"{row['drop_lower']:.2f} to {row['drop_upper']:.2f}"
    if done:
        means = {
            name: statistics.fmean(one.classes[name]["points"] for one in done) for name in done[0].classes
        }
        worst = min(means, key=lambda one: means[one], default=None)
        if worst is not None and means[worst] < 0:
            fell = f"{worst} {text.points(means[worst])}"
    notes = tuple(dict.fromkeys(note for one in done for note in one.notes))
    return Line(name, tuple(cells), fell, limits, notes, tuple(one.reason for one in found if not one.done))


def _class_line(name: str, done: Sequence[Measurement], classes: Sequence[str]) -> ClassLine:
    cells: list[tuple[str, str]] = []
    for label in classes:
        changes = [one.classes[label] for one in done]
        mean = statistics.fmean(change["points"] for change in changes)
        below = all(change["high"] < 0 for change in changes)
        above = all(change["low"] > 0 for change in changes)
        cells.append((text.points(mean), "down" if below else "up" if above else "even"))
    return ClassLine(name, tuple(cells))


def _number(value: float, digits: int) -> str:
    return f"{value:,.{digits}f}"


def _conditions(matrix: Matrix, results: Sequence[Measurement]) -> dict[str, str]:
    found: dict[str, Any] = here()
    versions = ", ".join(f"{name} {version}" for name, version in found.pop("versions").items())
    trained = {network: matrix.training(network).epochs for network in matrix.networks}
    return {
        "target": matrix.target,
        "training": ", ".join(f"{network}: {epochs} epochs" for network, epochs in trained.items()),
        "seeds": ", ".join(map(str, matrix.seeds)),
        "ranges": f"{matrix.observer} of {matrix.calibration} training examples",
        "passes": f"{matrix.runs} of one example, after {matrix.warmup} that are not timed, one thread; the clock's median",
        "memory": "of the file and its passes, without what the process takes with Python and its libraries",
        "this page was written with": versions,
        **{name: str(value) for name, value in found.items()},
        "time of all cells": text.duration(sum(result.seconds for result in results)),
    }
