"""Trainings as one self-contained page: their curves in one picture, the widths over the epochs, and what each cost in time."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from secateur.report import text
from secateur.report.curves import Chart, Points, chart
from secateur.report.page import environment, replace, resource
from secateur.report.picture import check_place
from secateur.report.training import (
    TRAINING_FILE,
    Arm,
    Epoch,
    Interval,
    Training,
    arms_of,
    difference,
    differing,
    ratio,
)

PAGE: Final = "report.html"
_MINUTE: Final = 60.0
_LEAST: Final = 2
"""Epochs of which curves can be drawn."""


@dataclass(frozen=True, slots=True)
class Row:
    """A group's widths: what it is left with after each epoch, as a share of the start, and in units."""

    group: str
    cells: tuple[tuple[float, float, float, str], ...]
    """Where a stretch begins and how long it is, in percent of the epochs; the share of units left; what it says."""
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class Line:
    """An arm in the table, as text."""

    name: str
    seeds: int
    cells: tuple[str, ...]


COLUMNS: Final = (
    "Test, %",
    "against the first, points",
    "Parameters",
    "MACs",
    "MACs of training",
    "Time",
    "against the first",
    "An epoch, s",
)


def render_trainings(trainings: Sequence[Training]) -> str:
    """The page of one training or several on the same data; the same trainings give the same page.

    Args:
        trainings: The first is what others are compared with. Those that differ in their seed alone are one arm.

    Raises:
        SettingsError: They are on different data, or one comes twice.
    """
    arms = arms_of(trainings)
    first = arms[0].trainings[0]
    context: dict[str, Any] = {
        "title": _title(arms),
        "verdict": " ".join(verdicts(arms)),
        "style": resource("report.css") + resource("study.css") + resource("training.css"),
        "arms": arms,
        "labels": [arm.name for arm in arms],
        "columns": COLUMNS,
        "lines": lines_of(arms),
        "differing": differing(arms) if len(arms) > 1 else {},
        "charts": _charts(arms),
        "pictures": [
            (arm.name, one.seed, len(one.epochs), rows_of(one))
            for arm in arms
            if (one := arm.trainings[0]).changes
        ],
        "settings": {name: text.setting(value) for name, value in first.settings.items()},
        "conditions": _conditions(arms),
    }
    return environment().get_template("training.html.jinja").render(context)


def write_training(training: Training, folder: Path) -> Path:
    """Write a training's values and its page into a folder, each whole or not at all.

    Returns:
        The page.

    Raises:
        StoreError: A file could not be written.
    """
    replace(folder / TRAINING_FILE, training.model_dump_json(indent=1) + "\n")
    return replace(folder / PAGE, render_trainings([training]))


def compare_trainings(trainings: Sequence[Training], file: Path) -> Path:
    """Write the page of several trainings, whole or not at all.

    Args:
        trainings: The first is what others are compared with.
        file: Where. A page that Secateur wrote is replaced, any other file is left alone.

    Raises:
        SettingsError: They are on different data, or one comes twice.
        StoreError: The folder is not there, the file exists and is no such page, or it could not be written.
    """
    check_place(file)
    return replace(file, render_trainings(trainings))


def _title(arms: Sequence[Arm]) -> str:
    first = arms[0].trainings[0]
    if len(arms) > 1:
        return f"{' and '.join(arm.name for arm in arms)} on {first.data}"
    return f"{first.network} on {first.data}"


def verdicts(arms: Sequence[Arm]) -> tuple[str, ...]:
    """A sentence for each arm: what it reaches, what it cost, and how that is beside the first."""
    said = [_alone(arms[0])]
    for arm in arms[1:]:
        points, time = difference(arm, arms[0], _test), ratio(arm, arms[0], _seconds)
        work = ratio(arm, arms[0], _work)
        said.append(
            f"{arm.name}: {text.points(points.mean)} points{limits(points)} against {arms[0].name}, with"
            f" {work.mean:.0%} of its multiply-adds and {time.mean:.0%} of its time{limits(time)}."
        )
    return tuple(said)


def _alone(arm: Arm) -> str:
    one = arm.trainings[0]
    seeds = "" if len(arm.trainings) == 1 else f", the mean of {len(arm.trainings)} seeds"
    said = (
        f"{arm.name}: {len(one.epochs)} epochs in {text.duration(arm.mean(_seconds))},"
        f" {text.percent(arm.mean(_test))} on test examples{seeds}"
    )
    if one.changes:
        said += (
            f"; parameters ÷ {text.factor(*one.parameters)}, MACs ÷ {text.factor(*one.macs)},"
            f" and {text.share(arm.mean(lambda found: found.saved))} of the multiply-adds of a training without cuts"
        )
    return f"{said}."


def limits(found: Interval) -> str:
    """An interval as text; nothing with a single seed."""
    if math.isnan(found.low):
        return ""
    if found.one:
        return f" [{found.low:.0%}, {found.high:.0%}]"
    return f" [{text.points(found.low)}, {text.points(found.high)}]"


def _test(one: Training) -> float:
    return one.test.accuracy


def _seconds(one: Training) -> float:
    return one.seconds


def _work(one: Training) -> float:
    return float(one.training_macs[0])


def lines_of(arms: Sequence[Arm]) -> tuple[Line, ...]:
    """The table: a line for each arm, beside the first."""
    return tuple(_line(arm, arms[0]) for arm in arms)


def _line(arm: Arm, first: Arm) -> Line:
    spread = arm.spread(_test)
    points, time = difference(arm, first, _test), ratio(arm, first, _seconds)
    epochs = [one.seconds for training in arm.trainings for one in training.epochs]
    low, _, high = _quartiles(epochs)
    return Line(
        arm.name,
        len(arm.trainings),
        (
            f"{arm.mean(_test):.2f}" + ("" if spread is None else f" ± {spread:.2f}"),
            "–" if arm is first else f"{text.points(points.mean)}{limits(points)}",
            text.short(arm.mean(lambda one: one.parameters[1])),
            text.short(arm.mean(lambda one: one.macs[1])),
            f"{text.short(arm.mean(_work))} ({text.share(arm.mean(lambda one: one.saved))})",
            text.duration(arm.mean(_seconds)),
            "–" if arm is first else f"{time.mean:.0%}{limits(time)}",
            f"{statistics.median(epochs):.3g} [{low:.3g}, {high:.3g}]",
        ),
    )


def _quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    if len(values) < _LEAST:
        return values[0], values[0], values[0]
    first, second, third = statistics.quantiles(values, n=4, method="inclusive")
    return first, second, third


def _charts(arms: Sequence[Arm]) -> tuple[Chart, ...]:
    """Accuracy over epochs and over time, time and work of an epoch, and what was penalised."""
    if min(len(one.epochs) for arm in arms for one in arm.trainings) < _LEAST:
        return ()
    labels = [arm.name for arm in arms]

    def drawn(title: str, of: Callable[[Training], Points], **how: Any) -> Chart:
        return chart(title, {arm.name: [of(one) for one in arm.trainings] for arm in arms}, labels, **how)

    judged = all(
        epoch.validation_accuracy is not None for arm in arms for one in arm.trainings for epoch in one.epochs
    )
    found: list[Chart] = []
    if judged:
        found += [
            drawn("Accuracy on validation, % by epoch", _over(lambda e: e.validation_accuracy or 0.0), most=100.0, start=1.0),
            drawn("Accuracy on validation, % by minutes", _over_time, most=100.0),
        ]  # fmt: skip
    found += [
        drawn("Time of an epoch, seconds", _over(lambda e: e.seconds), from_zero=True, start=1.0),
        drawn("Multiply-adds of an example, forward", _stairs(lambda e: e.macs), from_zero=True, start=1.0),
        drawn("Loss that is minimised", _over(lambda e: e.train_loss), from_zero=True, start=1.0),
        drawn("Learning rate", _over(lambda e: e.lr), from_zero=True, start=1.0),
    ]
    if any(len({e.batch_size for e in one.epochs}) > 1 for arm in arms for one in arm.trainings):
        found.append(
            drawn("Examples of a step", _stairs(lambda e: e.batch_size or 0), from_zero=True, start=1.0)
        )
    penalised = {arm.name: arm for arm in arms if any(one.changes for one in arm.trainings)}
    if penalised:
        found.append(
            chart(
                "The penalty's share of loss and penalty, %",
                {
                    name: [_over(lambda e: 100 * (e.ratio or 0.0))(one) for one in arm.trainings]
                    for name, arm in penalised.items()
                },
                labels,
                from_zero=True,
                start=1.0,
            )
        )
    return tuple(found)


def _over(of: Callable[[Epoch], float]) -> Callable[[Training], Points]:
    return lambda one: ([float(e.epoch) for e in one.epochs], [of(e) for e in one.epochs])


def _stairs(of: Callable[[Epoch], float]) -> Callable[[Training], Points]:
    """A value that holds for a whole epoch."""

    def points(one: Training) -> Points:
        x = [place for e in one.epochs for place in (float(e.epoch), float(e.epoch + 1))]
        return x, [value for e in one.epochs for value in (of(e), of(e))]

    return points


def _over_time(one: Training) -> Points:
    x: list[float] = []
    passed = 0.0
    for epoch in one.epochs:
        passed += epoch.seconds / _MINUTE
        x.append(passed)
    return x, [epoch.validation_accuracy or 0.0 for epoch in one.epochs]


def rows_of(training: Training) -> tuple[Row, ...]:
    """The picture of the widths: for each group the stretches of epochs in which it has so many units.

    Args:
        training: One in which something was cut.
    """
    count = len(training.epochs)
    rows: list[Row] = []
    for group, before in training.widths.items():
        steps = training.width_of(group)
        ends = [*(epoch for epoch, _ in steps[1:]), count]
        cells = tuple(
            (
                round(100 * start / count, 3),
                round(100 * (end - start) / count, 3),
                round(width / before, 4) if before else 0.0,
                f"{group}: {width} of {before} units in epochs {start + 1} to {end}",
            )
            for (start, width), end in zip(steps, ends, strict=True)
            if end > start
        )
        rows.append(Row(group, cells, before, steps[-1][1]))
    return tuple(rows)


def _conditions(arms: Sequence[Arm]) -> Mapping[str, str]:
    first = arms[0].trainings[0]
    found = {name: text.setting(value) for name, value in first.conditions.items() if name != "versions"}
    versions = first.conditions.get("versions")
    if isinstance(versions, Mapping):
        found["versions"] = ", ".join(f"{name} {value}" for name, value in versions.items())
    return {
        "data": first.data,
        "seeds": "; ".join(f"{arm.name}: {', '.join(map(str, arm.seeds))}" for arm in arms),
        **found,
    }
