"""Tables for the terminal, as values that ``rich`` draws. Nothing here prints.

Meaning never hangs on a colour, and every table fits 80 columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.measure import Measurement
from rich.padding import Padding
from rich.segment import Segment
from rich.style import Style
from rich.table import Table
from rich.text import Text

from secateur.report import charts, text
from secateur.report.document import FixedAxis, Report
from secateur.report.text import plain as _plain
from secateur.report.values import Accuracy, ClassChange, Confusion, Identified

_BAR: Final = 14
_SHOWN: Final = 12
"""Tensors listed under one reason before the rest are counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRow:
    """One group of channels as ``secateur watch`` shows it.

    Attributes:
        name: The module that writes the channels first.
        kind: What that module is.
        width: Number of units.
        members: Tensor axes that change when a unit goes.
        parameters: Parameters that one unit accounts for.
        macs: Multiply-adds that one unit accounts for, for one example.
        exact: Whether cutting equals not reading.
        limits: What holds for its width however it is cut; empty where any number of units may stay.
    """

    name: str
    kind: str
    width: int
    members: int
    parameters: float
    macs: float
    exact: bool
    limits: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassRow:
    """One class in an evaluation: its examples and its accuracy in percent."""

    name: str
    count: int
    accuracy: float


@dataclass(frozen=True, slots=True)
class _Bar:
    """A bar of fixed length that is filled to a share; drawn with ``#`` where the terminal has no block characters."""

    filled: float

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        full, empty = ("#", ".") if options.ascii_only else ("█", "░")
        cells = min(_BAR, max(round(self.filled * _BAR), 1 if self.filled > 0 else 0))
        yield Segment(full * cells, Style(color="blue"))
        yield Segment(empty * (_BAR - cells), Style(dim=True))

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(_BAR, _BAR)


def summary(report: Report) -> RenderableType:
    """What a reduction reached: figures before and after, widths, the class that fell most, and where the files are.

    Args:
        report: The report of a reduction.

    Returns:
        A renderable for ``rich.console.Console.print``.
    """
    parts: list[RenderableType] = [
        Text(_plain(report.title), style="bold"),
        Text(_plain(text.verdict(report))),
        Text(),
        _figures(report),
        Text(text.how_to_read(report), style="dim"),
    ]
    if report.layers:
        parts += [Text(), _layers(report)]
    fell = report.fell_most
    if report.classes:
        parts += [Text(), Text(fell_most_line(fell, report.classes_split))]
    if report.identified is not None:
        parts.append(Text(differences_line(report.identified, report.confusions)))
    parts += [Text(), Text(_plain(report.bound.statement))]
    if report.files:
        parts += [Text(), _files(report)]
    parts += [Text(f"Note: {_plain(note)}") for note in report.notes]
    return Group(*parts)


def watched(
    groups: Sequence[GroupRow],
    *,
    title: str,
    fixed: Sequence[FixedAxis] = (),
    unknown_ops: Mapping[str, int] | None = None,
) -> RenderableType:
    """What belongs together in a network, what is fixed and why, and what was not understood.

    Args:
        groups: One row a group.
        title: The network's name.
        fixed: Axes that cannot be cut, with the reason.
        unknown_ops: Operators without a rule, and how often each was met.

    Returns:
        A renderable for ``rich.console.Console.print``.

    Example:
        >>> row = GroupRow(name="conv1", kind="Conv2d", width=6, members=3, parameters=426, macs=98000, exact=True)
        >>> Console(width=80, color_system=None).print(watched([row], title="lenet5"))
        lenet5: 1 group, 6 units that can go
        ...
    """
    unknown = unknown_ops or {}
    count = f"{len(groups)} {'group' if len(groups) == 1 else 'groups'}"
    units = sum(row.width for row in groups)
    parts: list[RenderableType] = [
        Text(f"{_plain(title)}: {count}, {text.integer(units)} units that can go", style="bold")
    ]
    if groups:
        parts.append(_groups(groups))
        if not all(row.exact for row in groups):
            parts.append(
                Text("no: a norm takes statistics over these channels, so removing one changes the others.")
            )
    if fixed:
        parts += [Text(), Text("What stays, and why", style="bold"), *_fixed(fixed)]
    if unknown:
        parts += [Text(), Text("Operators without a rule (what they touch is fixed)", style="bold")]
        parts += [_indented(f"{_plain(name)}: {text.integer(times)}") for name, times in unknown.items()]
    return Group(*parts)


def evaluation(
    accuracy: Accuracy,
    *,
    title: str,
    split: str,
    figures: Mapping[str, str] | None = None,
    classes: Sequence[ClassRow] = (),
) -> RenderableType:
    """What a network reaches on one split, and for each class.

    Args:
        accuracy: What was measured.
        title: The network, or its file.
        split: The split's name.
        figures: Further lines: a name and a value each (parameters, MACs, device ...).
        classes: Accuracy for each class; the weakest is shown first.

    Returns:
        A renderable for ``rich.console.Console.print``.
    """
    lines = {f"accuracy on {split}": f"{text.percent(accuracy.accuracy)} of {text.integer(accuracy.count)}"}
    lines |= {f"top-{k}": text.percent(value) for k, value in sorted(accuracy.top_k.items())}
    if accuracy.loss is not None:
        lines["loss"] = f"{accuracy.loss:.4f}"
    if classes:
        worst = min(classes, key=lambda one: one.accuracy)
        lines["worst class"] = f"{worst.name}: {text.percent(worst.accuracy)} of {text.integer(worst.count)}"
    lines |= dict(figures or {})
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column(justify="left")
    for name, value in lines.items():
        grid.add_row(Text(_plain(name)), Text(_plain(value)))
    parts: list[RenderableType] = [Text(_plain(title), style="bold"), grid]
    if classes:
        table = _table("class", "examples", "accuracy", "")
        for row in sorted(classes, key=lambda one: one.accuracy):
            table.add_row(
                Text(_plain(row.name)),
                text.integer(row.count),
                text.percent(row.accuracy),
                _Bar(row.accuracy / 100),
            )
        parts += [Text(), table]
    return Group(*parts)


def _figures(report: Report) -> Table:
    """Before, after, and what became of it."""
    before, after = report.before, report.after
    table = _table("", "before", "after", "change")
    for name, one, two in (
        ("parameters", before.parameters, after.parameters),
        ("MACs per example", before.macs, after.macs),
        ("file, bytes", before.bytes, after.bytes),
    ):
        table.add_row(name, text.integer(one), text.integer(two), f"÷ {text.factor(one, two)}")
    for split, one, two, change in (
        ("validation", before.validation, after.validation, report.validation_change),
        ("test", before.test, after.test, report.test_change),
    ):
        if one is None or two is None or change is None:
            continue
        table.add_row(
            f"accuracy on {split}",
            text.percent(one.accuracy),
            text.percent(two.accuracy),
            f"{text.points(change.points)} [{text.points(change.low)}, {text.points(change.high)}]",
        )
    return table


def _layers(report: Report) -> Table:
    """The units of each group before and after; the bar is the share that stayed."""
    table = _table("group", "units", "", "kept", "")
    table.columns[1].justify = "right"
    table.columns[2].justify = "right"
    for layer in report.layers:
        kept = layer.width_after / layer.width_before if layer.width_before else 0.0
        table.add_row(
            Text(_plain(layer.name)),
            text.integer(layer.width_before),
            f"→ {text.integer(layer.width_after)}",
            text.share(kept),
            _Bar(kept),
        )
    return table


def fell_most_line(fell: ClassChange | None, split: str) -> str:
    """The class that lost most, in a sentence; None where none fell.

    >>> fell_most_line(None, "test")
    'No class fell on test.'
    """
    if fell is None:
        return f"No class fell on {split}."
    return (
        f"Class that fell most on {split}: {_plain(fell.name)}, {text.percent(fell.before)} before and "
        f"{text.percent(fell.after)} after ({text.points(fell.change)} points, limits {text.points(fell.low)} to "
        f"{text.points(fell.high)}, {text.integer(fell.count)} examples)."
    )


def differences_line(found: Identified, confusions: Sequence[Confusion]) -> str:
    """How many examples only one of two networks gets right, and the confusion that grew most.

    >>> differences_line(Identified(lost=3, gained=1), [Confusion(true="4", predicted="9", count=100, before=1, after=4)])
    'Only before 3 examples are right, only after 1; the confusion that grew most: 4 taken for 9, 1 → 4 of 100.'
    """
    example = "example is" if found.lost == 1 else "examples are"
    line = f"Only before {text.integer(found.lost)} {example} right, only after {text.integer(found.gained)}"
    if not confusions:
        return f"{line}."
    first = confusions[0]
    counts = f"{text.integer(first.before)} → {text.integer(first.after)} of {text.integer(first.count)}"
    return (
        f"{line}; the confusion that grew most: {_plain(first.true)} taken for {_plain(first.predicted)},"
        f" {counts}."
    )


def _files(report: Report) -> Table:
    """Where everything was written."""
    table = _table("file", "what", "size")
    table.columns[1].justify = "left"
    for file in report.files:
        table.add_row(Text(_plain(file.name)), Text(_plain(file.what)), text.size(file.bytes))
    return table


def _groups(groups: Sequence[GroupRow]) -> Table:
    """One line a group."""
    limited = any(row.limits for row in groups)
    columns = ("kind", "units", "members", "params/unit", "MACs/unit", "exact")
    table = _table("group", *columns, *(("limits",) if limited else ()))
    for number in (1, 6, *((7,) if limited else ())):
        table.columns[number].justify = "left"
    for row in groups:
        table.add_row(
            Text(_plain(row.name)),
            Text(_plain(row.kind)),
            text.integer(row.width),
            text.integer(row.members),
            text.short(round(row.parameters, 1)),
            text.short(round(row.macs, 1)),
            "yes" if row.exact else "no",
            *((row.limits,) if limited else ()),
        )
    return table


def _fixed(axes: Sequence[FixedAxis]) -> Iterator[RenderableType]:
    """Each reason once, with the tensors that it holds for."""
    for reason, found in charts.fixed_by_reason(axes):
        yield _indented(_plain(reason))
        names = [
            f"{_plain(axis.tensor)}[axis {axis.axis}] {text.integer(axis.count)}" for axis in found[:_SHOWN]
        ]
        if len(found) > _SHOWN:
            names.append(f"and {text.integer(len(found) - _SHOWN)} more")
        yield _indented(", ".join(names), by=4)


def _table(first: str, *others: str) -> Table:
    """A table without frames: the first column is text and folds, the others are numbers."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="dim", padding=(0, 1))
    table.add_column(first, overflow="fold", min_width=8)
    for name in others:
        table.add_column(name, justify="right", overflow="fold")
    return table


def _indented(line: str, *, by: int = 2) -> Padding:
    """Text with a margin, also where it wraps."""
    return Padding(Text(line), (0, 0, 0, by))
