"""The report as one self-contained page.

The page carries its style, its script and its data in itself and asks for nothing over a network: its own content
policy forbids that, and forbids every script but the one whose digest it names. Everything that comes from a report is
escaped.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from secateur.errors import FileFormatError, StoreError
from secateur.report import charts, text
from secateur.report.document import Report
from secateur.report.page import digest_of, environment, replace, resource

PAGE: Final = "report.html"
DOCUMENT: Final = "report.json"
_CLASSES_SHOWN: Final = 20
"""Classes in the first table; the others open on demand."""


def render(report: Report) -> str:
    """The page of a report; the same report gives the same page.

    Args:
        report: What to show.

    Returns:
        A whole HTML document that needs no other file.
    """
    style, script = resource("report.css"), resource("report.js")
    context: dict[str, Any] = {
        "report": report,
        "style": style,
        "script": script,
        "digest": digest_of(script),
        "verdict": text.verdict(report),
        "how_to_read": text.how_to_read(report),
        "panels": charts.panels(report),
        "iteration_ticks": charts.iteration_ticks(report),
        "classes": charts.classes(report.classes),
        "classes_shown": _CLASSES_SHOWN,
        "fixed": charts.fixed_by_reason(report.fixed),
        "widest": max((layer.width_before for layer in report.layers), default=0),
        "steps": [_details(report, index) for index in range(len(report.iterations))],
    }
    return environment().get_template("report.html.jinja").render(context)


def write(report: Report, folder: Path) -> list[Path]:
    """Write ``report.html`` and ``report.json`` into a folder, each whole or not at all.

    Args:
        report: What to write.
        folder: Where; it is made where it is missing.

    Returns:
        The two files.

    Raises:
        StoreError: A file could not be written; what was there before is untouched.
    """
    contents = {PAGE: render(report), DOCUMENT: report.to_json()}
    return [replace(folder / name, content) for name, content in contents.items()]


def read(path: Path) -> Report:
    """Read a report from its ``report.json``, or from the folder that holds it.

    Raises:
        StoreError: The file cannot be read.
        FileFormatError: It is not a report of this version.
    """
    file = path / DOCUMENT if path.is_dir() else path
    try:
        content = file.read_text(encoding="utf-8")
    except OSError as error:
        raise StoreError(
            f"{file} cannot be read ({error.strerror}); name a run folder or its {DOCUMENT}"
        ) from error
    except UnicodeDecodeError as error:
        raise FileFormatError(
            f"{file} is not a Secateur report: it is not text; name a {DOCUMENT}"
        ) from error
    try:
        return Report.from_json(content)
    except FileFormatError as error:
        raise FileFormatError(f"{file}: {error}") from error


def _details(report: Report, index: int) -> dict[str, str | int | bool]:
    """What the page shows of one iteration when it is chosen."""
    step = report.iterations[index]
    return {
        "iteration": step.iteration,
        "accepted": step.accepted,
        "group": step.group,
        "width": f"{text.integer(step.width_before)} → {text.integer(step.width_after)}",
        "removed": f"{text.integer(step.removed)} of {text.integer(step.width_before)} ({text.share(step.share)} asked)",
        "accuracy": text.percent(step.accuracy),
        "drop": f"{step.drop:.2f} points measured, upper limit {step.drop_upper:.2f}".replace(
            "-", text.MINUS
        ),
        "parameters": f"{text.integer(step.parameters)} (÷ {text.factor(report.before.parameters, step.parameters)})",
        "macs": f"{text.integer(step.macs)} (÷ {text.factor(report.before.macs, step.macs)})",
        "effort": f"{step.epochs:g} epochs, {text.duration(step.seconds)}",
        "reason": step.reason,
    }
