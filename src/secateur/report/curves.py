"""Curves of several things in one chart: the mean over seeds as a line, least and greatest as a band."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from secateur.report.charts import Axis
from secateur.report.text import short

_GRID: Final = 60
"""Places along a curve at which the mean over seeds is drawn."""
_ROOM: Final = 0.06
_WIDE: Final = 10_000.0
"""From here on labels are shortened."""

Numbers = NDArray[np.float64]
Points = tuple[Sequence[float], Sequence[float]]
"""Along, and up."""


@dataclass(frozen=True, slots=True)
class Curve:
    """One of the compared things in one chart; both parts are SVG paths on a field of 100 by 100.

    Attributes:
        number: By which it has its colour.
        label: Its name.
        line: The mean over seeds.
        band: From the least to the greatest; empty with one seed.
        seeds: How many there are.
    """

    number: int
    label: str
    line: str
    band: str
    seeds: int


@dataclass(frozen=True, slots=True)
class Chart:
    """Curves on the same axes.

    Attributes:
        title: What is drawn.
        curves: In the order of their names.
        x_ticks: Positions and labels of the horizontal axis.
        y_ticks: Of the vertical one.
    """

    title: str
    curves: tuple[Curve, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]


def chart(
    title: str,
    groups: Mapping[str, Sequence[Points]],
    labels: Sequence[str],
    *,
    start: float = 0.0,
    most: float | None = None,
    from_zero: bool = False,
) -> Chart:
    """Draw curves.

    Args:
        title: What is drawn.
        groups: For each name the curves of its seeds; places along a curve go up.
        labels: All names, in the order of their colours.
        start: Where the horizontal axis begins.
        most: What the values cannot exceed; the axis does not label more.
        from_zero: Whether the vertical axis begins at 0, as it should for amounts.

    Example:
        >>> made = chart("accuracy", {"a": [([0, 1], [50, 100])]}, ["a"], most=100)
        >>> made.curves[0].line[:8], made.x_ticks[-1]
        ('M0.0 94.', (100.0, '1'))
    """
    drawn = {
        label: [(np.asarray(x, dtype=float), np.asarray(y, dtype=float)) for x, y in found]
        for label, found in groups.items()
    }
    everything = [pair for found in drawn.values() for pair in found]
    far = max((float(x[-1]) for x, _ in everything), default=1.0)
    low = min((float(y.min()) for _, y in everything), default=0.0)
    high = max((float(y.max()) for _, y in everything), default=100.0 if most is None else most)
    room = max(high - low, 1e-9 if most is None else 1.0) * _ROOM
    top = high + room if most is None else min(high + room, most + room)
    x_axis = Axis(start, max(far, start + 1e-9))
    y_axis = Axis(0.0 if from_zero else max(low - room, 0.0), max(top, 1e-9), flip=True)
    return Chart(
        title,
        tuple(_curve(labels.index(label), label, found, x_axis, y_axis) for label, found in drawn.items()),
        tuple((x_axis.at(value), f"{value:g}") for value in x_axis.ticks(6)),
        tuple(
            (y_axis.at(value), short(round(value)) if value >= _WIDE else f"{value:g}")
            for value in y_axis.ticks(7)
            if most is None or value <= most
        ),
    )


def _curve(
    number: int, label: str, found: Sequence[tuple[Numbers, Numbers]], x_axis: Axis, y_axis: Axis
) -> Curve:
    """The mean as far as every seed goes; the band there, too."""
    first, end = max(float(x[0]) for x, _ in found), min(float(x[-1]) for x, _ in found)
    if len(found) == 1:  # as it is, corners and all
        return Curve(number, label, _path(*found[0], x_axis, y_axis), "", 1)
    places = np.linspace(first, end, _GRID)
    heights = np.array([np.interp(places, x, y) for x, y in found])
    low, high = heights.min(axis=0), heights.max(axis=0)
    line = _path(places, heights.mean(axis=0), x_axis, y_axis)
    band = f"{_path(places, high, x_axis, y_axis)}L{_path(places[::-1], low[::-1], x_axis, y_axis)[1:]}Z"
    return Curve(number, label, line, band, len(found))


def _path(x: Numbers, y: Numbers, x_axis: Axis, y_axis: Axis) -> str:
    pairs = zip(x.tolist(), y.tolist(), strict=True)
    return "M" + "L".join(f"{x_axis.at(a):.1f} {y_axis.at(b):.1f}" for a, b in pairs)
