"""Numbers and findings in words, the same for the terminal and the page."""

from __future__ import annotations

import json
import math
from typing import Final

from pydantic import JsonValue

from secateur.report.document import Change, Report, in_points

MINUS: Final = "\N{MINUS SIGN}"
NARROW: Final = "\N{NARROW NO-BREAK SPACE}"
_STEPS: Final = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def integer(value: int) -> str:
    """A whole number with separators.

    >>> integer(61706)
    '61,706'
    """
    return f"{value:,}"


def short(value: float) -> str:
    """A number in three digits with a decimal prefix.

    >>> [short(number) for number in (84, 61706, 416520, 4089184492)]
    ['84', '61.7\u202fk', '417\u202fk', '4.09\u202fG']
    """
    for step, prefix in _STEPS:
        if value >= step * 0.9995:
            scaled = value / step
            digits = max(0, 2 - math.floor(math.log10(scaled) + 1e-3))
            return f"{scaled:.{digits}f}{NARROW}{prefix}"
    return f"{value:g}"


def plain(line: str) -> str:
    r"""Text from outside without characters that steer a terminal.

    >>> plain("a\x1b[31mb")
    'a [31mb'
    """
    return "".join(character if character.isprintable() else " " for character in line)


def size(value: int) -> str:
    """A number of bytes with a decimal prefix.

    >>> size(248123)
    '248\u202fkB'
    """
    text = short(value)
    return f"{text}B" if NARROW in text else f"{text}{NARROW}B"


def factor(before: int, after: int) -> str:
    """By what a number was divided; a dash where that says nothing.

    >>> factor(61706, 3237), factor(100, 90), factor(0, 0)
    ('19.1', '1.11', '–')
    """
    if before <= 0 or after <= 0:
        return "–"
    value = before / after
    if value >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def percent(value: float) -> str:
    """A percentage with two decimals.

    >>> percent(98.7)
    '98.70\u202f%'
    """
    return f"{value:.2f}{NARROW}%"


def points(value: float) -> str:
    """A change in percentage points, signed.

    >>> points(-0.314), points(0.2), points(-0.001)
    ('−0.31', '+0.20', '0.00')
    """
    rounded = round(value, 2)
    if rounded == 0:
        return "0.00"
    return f"{'+' if rounded > 0 else MINUS}{abs(rounded):.2f}"


def interval(change: Change) -> str:
    """The limits of a change.

    >>> interval(Change(points=-0.3, low=-0.5, high=-0.1))
    '−0.50 to −0.10'
    """
    return f"{points(change.low)} to {points(change.high)}"


def duration(seconds: float) -> str:
    """A time in the two largest units that matter.

    >>> [duration(value) for value in (4.26, 75, 3720)]
    ['4.3\u202fs', '1 min 15\u202fs', '1 h 02 min']
    """
    if seconds < 59.95:
        return f"{seconds:.1f}{NARROW}s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d}{NARROW}s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def share(value: float) -> str:
    """A share between 0 and 1 in percent.

    >>> share(0.64)
    '64\u202f%'
    """
    return f"{value * 100:.3g}{NARROW}%"


def setting(value: JsonValue) -> str:
    """A setting or condition as one would say it.

    >>> setting(True), setting(None), setting([1, "a"]), setting({"lr": 0.1})
    ('yes', 'none', '1, a', 'lr: 0.1')
    """
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(setting(item) for item in value)
    if isinstance(value, dict):
        return "; ".join(f"{key}: {setting(item)}" for key, item in value.items())
    return value if isinstance(value, str) else json.dumps(value)


def verdict(report: Report) -> str:
    """The result in one sentence."""
    if report.unchanged:
        return f"{report.network} on {report.data.name} is unchanged: nothing was removed."
    split, _, _, change = report.headline
    smaller = factor(report.before.parameters, report.after.parameters)
    if report.after.parameters < report.before.parameters and smaller != "–":
        result = f"{report.network} on {report.data.name} needs {smaller} times fewer parameters"
    else:
        result = f"{report.network} on {report.data.name} has as many parameters as before"
    if round(change.points, 2) == 0:
        cost = f"at the same accuracy on {split}"
    else:
        verb = "more" if change.points > 0 else "less"
        cost = f"at {abs(change.points):.2f} points {verb} accuracy on {split}"
    bound = report.bound
    held = [
        ("on validation", bound.held_on_validation),
        *([("on test", bound.held_on_test)] if bound.held_on_test is not None else []),
    ]
    kept = [place for place, true in held if true]
    broken = [place for place, true in held if not true]
    limit = f"the bound of {in_points(bound.max_drop)}"
    if not broken:
        return f"{result} {cost}; {limit} held {' and '.join(kept)}."
    if not kept:
        return f"{result} {cost}; {limit} did not hold {' or '.join(broken)}."
    return f"{result} {cost}; {limit} held {' and '.join(kept)} but not {' or '.join(broken)}."


def how_to_read(report: Report) -> str:
    """Which figure of a change of accuracy is measured, which are limits, and which of them the bound is about."""
    sure = f"{report.validation_change.confidence * 100:g}{NARROW}%"
    held = "the measured change"
    if report.bound.confidence is not None:
        held = "the lower limit on validation (what may be lost at most) and the measured change on test"
    return (
        f"Accuracy: the measured change in points, then its [lower, upper] confidence limits ({sure} each)."
        f" The bound is held against {held}."
    )
