"""Two networks on the same examples, as a page: what each class lost, which confusions appeared, which examples changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import AwareDatetime, JsonValue

from secateur.report import charts, text
from secateur.report.document import Change, Data
from secateur.report.page import environment, replace, resource
from secateur.report.picture import check_place
from secateur.report.values import Accuracy, ClassChange, Confusion, Identified, Value, fell_most

_CLASSES_SHOWN: Final = 50


class Comparison(Value):
    """What a page says of two networks on the same examples.

    Attributes:
        title: What to call it.
        created: When, with the time zone.
        network: The network of which it speaks.
        against: The network that it is compared with.
        data: The data.
        before: What ``against`` reaches.
        after: What ``network`` reaches.
        change: Of the accuracy, with limits.
        amounts: By name: what ``against`` and ``network`` need (parameters, MACs, file), as far as it is known of both.
        classes: How each class fared.
        classes_split: On which split.
        confusions: Pairs of classes that are mistaken for each other more often.
        identified: The examples that only one of the two gets right.
        conditions: What else the numbers depend on.
    """

    title: str
    created: AwareDatetime
    network: str
    against: str
    data: Data
    before: Accuracy
    after: Accuracy
    change: Change
    amounts: Mapping[str, tuple[int, int]] = {}
    classes: tuple[ClassChange, ...]
    classes_split: str
    confusions: tuple[Confusion, ...]
    identified: Identified
    conditions: Mapping[str, JsonValue] = {}

    @property
    def fell_most(self) -> ClassChange | None:
        """The class whose accuracy fell most, the first of equals; None where none fell."""
        return fell_most(self.classes)


def render_comparison(comparison: Comparison) -> str:
    """The page of a comparison; the same comparison gives the same page.

    Args:
        comparison: What to show.

    Returns:
        A whole HTML document that needs no other file and runs no script.
    """
    context: dict[str, Any] = {
        "report": comparison,
        "style": resource("report.css"),
        "verdict": verdict_of(comparison),
        "amounts": [(name, *both, _writer(name)) for name, both in comparison.amounts.items()],
        "classes": charts.classes(comparison.classes),
        "classes_shown": _CLASSES_SHOWN,
    }
    return environment().get_template("comparison.html.jinja").render(context)


def write_comparison(comparison: Comparison, file: Path) -> Path:
    """Write the page of a comparison, whole or not at all.

    Args:
        comparison: What to show.
        file: Where. A page that Secateur wrote is replaced, any other file is left alone.

    Raises:
        StoreError: The folder is not there, the file exists and is no such page, or it could not be written.
    """
    check_place(file)
    return replace(file, render_comparison(comparison))


def verdict_of(comparison: Comparison) -> str:
    """The result in one sentence."""
    split, found = comparison.classes_split, comparison.identified
    moved = comparison.change.points
    result = (
        f"{comparison.network} is right on {text.percent(comparison.after.accuracy)} of {split},"
        f" {comparison.against} on {text.percent(comparison.before.accuracy)}"
    )
    if not found.lost and not found.gained:
        return f"{result}: both are right on the same examples."
    fell = comparison.fell_most
    told = "no class fell" if fell is None else f"class {fell.name} fell most, by {-fell.change:.2f} points"
    return f"{result}: a change of {text.points(moved)} points, {found.lost:,} lost and {found.gained:,} gained; {told}."


def _writer(name: str) -> Callable[[int], str]:
    return text.size if name == "File size" else text.integer
