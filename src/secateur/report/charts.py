"""Where marks go in the page's charts: pure functions from a report to positions in percent of the plot's size.

The page draws with what is computed here, so that it shows its charts without running a script, prints them, and lets
them stretch to any width while labels keep their size.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from secateur.report.document import FixedAxis, Iteration, Report
from secateur.report.text import percent, short
from secateur.report.values import ClassChange

_LOG_FROM: Final = 6.0
"""Ratio of the largest to the smallest value from which an axis is logarithmic."""
_PAD: Final = 0.08
"""Room at both ends of an axis, as a share of its span."""


@dataclass(frozen=True, slots=True)
class Axis:
    """A range of values on a line of length 100; ``flip`` puts the smallest at 100, as the height on a page."""

    low: float
    high: float
    log: bool = False
    flip: bool = False

    def at(self, value: float) -> float:
        """The position of a value, held within the axis.

        >>> Axis(0, 10).at(2.5), Axis(0, 10, flip=True).at(12), Axis(1, 100, log=True).at(10)
        (25.0, 0.0, 50.0)
        """
        low, high = self._scaled(self.low), self._scaled(self.high)
        inner = min(max(value, self.low), self.high)
        part = (self._scaled(inner) - low) / (high - low)
        return round(100 * (1 - part if self.flip else part), 3)

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self.log else value

    def ticks(self, most: int = 5) -> tuple[float, ...]:
        """Round values along the axis, at most ``most`` of them.

        >>> Axis(98.2, 99.1).ticks(), Axis(2000, 70000, log=True).ticks()
        ((98.2, 98.4, 98.6, 98.8, 99.0), (2000.0, 5000.0, 10000.0, 20000.0, 50000.0))
        """
        if self.log:
            return self._log_ticks(most)
        span = self.high - self.low
        power = 10.0 ** math.floor(math.log10(span / most))
        step = next(power * times for times in (1, 2, 5, 10, 20) if span / (power * times) <= most - 0.5)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return tuple(round(number * step, 10) for number in range(first, last + 1))

    def _log_ticks(self, most: int) -> tuple[float, ...]:
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for steps in ((1, 2, 5), (1, 3), (1,)):
            values = [times * 10.0**power for power in powers for times in steps]
            inside = tuple(value for value in values if self.low <= value <= self.high)
            if len(inside) <= most:
                return inside
        return inside[:: math.ceil(len(inside) / most)]


@dataclass(frozen=True, slots=True)
class Mark:
    """One iteration in one panel. ``whisker`` is where the confidence limit ends; ``below`` says that it left the axis."""

    iteration: int
    x: float
    y: float
    accepted: bool
    below: bool = False
    whisker: float | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """A horizontal line with a name."""

    y: float
    label: str
    kind: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One quantity over the iterations.

    Attributes:
        key: A name for the page's code.
        title: What is drawn.
        ticks: Positions and labels of the vertical axis.
        path: The accepted network from step to step, as an SVG path on a field of 100 by 100.
        marks: Every iteration.
        rules: Named horizontal lines.
    """

    key: str
    title: str
    ticks: tuple[tuple[float, str], ...]
    path: str
    marks: tuple[Mark, ...]
    rules: tuple[Rule, ...] = ()


def panels(report: Report) -> tuple[Panel, ...]:
    """Accuracy, parameters and MACs over the iterations; nothing where there were none."""
    if not report.iterations:
        return ()
    return (
        _accuracy(report),
        _amount("parameters", "Parameters", report, report.before.parameters, lambda step: step.parameters),
        _amount("macs", "MACs", report, report.before.macs, lambda step: step.macs),
    )


def iteration_ticks(report: Report) -> tuple[tuple[float, str], ...]:
    """Positions and numbers along the iterations, from 0 (the unreduced network)."""
    axis = _steps(report)
    return tuple((axis.at(value), f"{value:g}") for value in axis.ticks(8) if value == int(value))


def _steps(report: Report) -> Axis:
    """The horizontal axis that the panels share."""
    return Axis(0, max((step.iteration for step in report.iterations), default=1))


def _path(start: float, steps: Sequence[tuple[float, float]]) -> str:
    """A staircase from the left edge at ``start`` through points, on to the right edge."""
    drawn = "".join(f"H{x:g}V{y:g}" for x, y in steps)
    return f"M0 {start:g}{drawn}H100"


def _accuracy(report: Report) -> Panel:
    """Accuracy of every candidate with its lower limit, the reference and the bound."""
    bound, steps = report.bound, report.iterations
    floor = bound.reference - bound.max_drop
    accepted = [step for step in steps if step.accepted]
    # Rejected candidates may lie far below: the axis follows what was accepted, with as much room again underneath.
    core = [bound.reference, floor, *(bound.reference - step.drop_upper for step in accepted)]
    core += [step.accuracy for step in accepted]
    low, high = min(core), max(*core, *(step.accuracy for step in steps))
    everything = min(step.accuracy for step in steps)
    low = min(low, max(everything, low - (high - low)))
    room = max(high - low, 0.1) * _PAD
    axis = Axis(low - room, min(high + room, 100 + room), flip=True)
    along = _steps(report)
    marks = tuple(
        Mark(
            iteration=step.iteration,
            x=along.at(step.iteration),
            y=axis.at(step.accuracy),
            accepted=step.accepted,
            below=step.accuracy < axis.low,
            whisker=axis.at(step.accuracy - max(step.drop_upper - step.drop, 0)),
        )
        for step in steps
    )
    digits = 2 if axis.high - axis.low < 0.4 else 1 if axis.high - axis.low < 8 else 0
    return Panel(
        key="accuracy",
        title="Accuracy on validation, %",
        ticks=tuple((axis.at(value), f"{value:.{digits}f}") for value in axis.ticks() if value <= 100),
        path=_path(
            axis.at(report.before.validation.accuracy),
            [(mark.x, mark.y) for mark in marks if mark.accepted],
        ),
        marks=marks,
        rules=(
            Rule(axis.at(bound.reference), f"reference {percent(bound.reference)}", "reference"),
            Rule(axis.at(floor), f"bound {percent(floor)}", "bound"),
        ),
    )


def _amount(key: str, title: str, report: Report, before: int, of: Callable[[Iteration], int]) -> Panel:
    """A count of the candidates; logarithmic where it spans several times its smallest value."""
    values = [before, *(of(step) for step in report.iterations)]
    low, high = min(values), max(values)
    log = low > 0 and high / low >= _LOG_FROM
    if log:
        stretch = (high / low) ** _PAD
        axis = Axis(low / stretch, high * stretch, log=True, flip=True)
    else:
        axis = Axis(0, max(high, 1) * (1 + _PAD), flip=True)
    along = _steps(report)
    marks = tuple(
        Mark(
            iteration=step.iteration, x=along.at(step.iteration), y=axis.at(of(step)), accepted=step.accepted
        )
        for step in report.iterations
    )
    return Panel(
        key=key,
        title=f"{title}, logarithmic" if log else title,
        ticks=tuple((axis.at(value), short(value)) for value in axis.ticks()),
        path=_path(axis.at(before), [(mark.x, mark.y) for mark in marks if mark.accepted]),
        marks=marks,
    )


@dataclass(frozen=True, slots=True)
class ClassMark:
    """One class with the positions of its change and limits."""

    one: ClassChange
    low: float
    at: float
    high: float


@dataclass(frozen=True, slots=True)
class ClassChart:
    """All classes, the worst first, on one axis; ``zero`` is where nothing changed."""

    marks: tuple[ClassMark, ...]
    zero: float
    ticks: tuple[tuple[float, str], ...]


def classes(changes: Sequence[ClassChange]) -> ClassChart:
    """Each class's change, the least favourable first."""
    ordered = sorted(changes, key=lambda one: one.change)
    ends = [0.0, *(one.low for one in ordered), *(one.high for one in ordered)]
    span = max(max(ends) - min(ends), 1.0)
    axis = Axis(min(ends) - span * _PAD, max(ends) + span * _PAD)
    marks = tuple(ClassMark(one, axis.at(one.low), axis.at(one.change), axis.at(one.high)) for one in ordered)
    ticks = tuple(
        (axis.at(value), f"{value:+g}".replace("-", "−") if value else "0") for value in axis.ticks(5)
    )
    return ClassChart(marks, axis.at(0), ticks)


def fixed_by_reason(axes: Sequence[FixedAxis]) -> tuple[tuple[str, tuple[FixedAxis, ...]], ...]:
    """What could not be cut, gathered under each reason in the order in which reasons first appear."""
    gathered: defaultdict[str, list[FixedAxis]] = defaultdict(list)
    for axis in axes:
        gathered[axis.reason].append(axis)
    return tuple((reason, tuple(found)) for reason, found in gathered.items())
