"""The terminal tables: every figure that matters, also on narrow screens and without colour."""

from __future__ import annotations

import pytest
from rich.console import Console
from tests.report.sample import sample, untouched

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
    """Before, after and factor; accuracy with its change; widths; the class that fell most; the files. No line is too long."""
    report = sample()
    text = printed(summary(report), width)

    for figures in (report.before, report.after):
        assert f"{figures.parameters:,}" in text
        assert f"{figures.macs:,}" in text
    for layer in report.layers:
        assert layer.name in text
    worst = report.fell_most
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


@pytest.mark.parametrize("confidence", [True, False])
def test_the_summary_says_which_figure_is_what(confidence: bool) -> None:
    """Beneath the changes stands which figure is measured, which are limits, and which the bound is held against."""
    bound = sample().bound
    said = " ".join(
        printed(
            summary(sample(bound=bound if confidence else bound.model_copy(update={"confidence": None})))
        ).split()
    )

    assert "the measured change in points, then its [lower, upper] confidence limits (95 % each)" in said
    against = "the lower limit on validation" if confidence else "the measured change."
    assert f"The bound is held against {against}" in said


def test_an_unchanged_network_is_said_to_be_unchanged() -> None:
    """Where nothing was removed, nothing is said of bounds that held, nor of a class that fell most."""
    said = " ".join(printed(summary(sample(**untouched()))).split())

    assert "LeNet-5 on MNIST is unchanged: nothing was removed." in said
    assert "The network is unchanged, so no accuracy was lost." in said
    assert " held on" not in said
    assert "Class that fell most" not in said
    assert "Class that fell most" in printed(summary(sample()))
