"""The terminal tables: every figure that matters, also on narrow screens and without colour."""

from __future__ import annotations

import pytest
from rich.console import Console
from tests.report.sample import sample

from secateur.report import summary
from secateur.report.document import FixedAxis
from secateur.report.terminal import GroupRow, watched


def printed(renderable: object, width: int = 80) -> str:
    console = Console(width=width, no_color=True, force_terminal=False, legacy_windows=False)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


@pytest.mark.parametrize("width", [80, 120])
def test_the_summary_has_the_figures(width: int) -> None:
    """Before, after and factor; accuracy with its change; widths; the worst class; the files. No line is too long."""
    report = sample()
    text = printed(summary(report), width)

    for figures in (report.before, report.after):
        assert f"{figures.parameters:,}" in text
        assert f"{figures.macs:,}" in text
    for layer in report.layers:
        assert layer.name in text
    worst = report.worst_class
    assert worst is not None
    assert worst.name in text
    assert "model.safetensors" in text
    assert max(map(len, text.splitlines())) <= width


def test_no_colour_codes_without_colour() -> None:
    """What is piped to a file holds no escape codes."""
    assert "\x1b" not in printed(summary(sample()))


def test_what_was_watched_is_listed_with_reasons() -> None:
    """Groups with their costs, what is fixed and why, and operators without a rule."""
    groups = [
        GroupRow(name="conv1", kind="Conv2d", width=6, members=3, parameters=426, macs=20_000, exact=True),
        GroupRow(name="norm", kind="Linear", width=8, members=4, parameters=80, macs=900, exact=False),
    ]
    text = printed(
        watched(groups, title="toy", fixed=[FixedAxis(tensor="out.weight", axis=0, count=10, reason="reaches the output")],
                unknown_ops={"aten.odd": 2})
    )  # fmt: skip

    for word in ("conv1", "Conv2d", "426", "out.weight", "reaches the output", "aten.odd"):
        assert word in text
