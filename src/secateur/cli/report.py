"""``secateur report``: the report of a run, made again from its values."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from secateur.cli import show
from secateur.cli.sources import again
from secateur.errors import RunError
from secateur.methods import KIND, steps_in
from secateur.report import read, text, write
from secateur.report.html import DOCUMENT
from secateur.store import RunFolder


def report(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="The folder of a reduction.", show_default=False)
    ],
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Write report.html again from report.json, and show the table; of an unfinished run, what it has reached."""
    if not (folder / DOCUMENT).is_file():
        _unfinished(folder)
    found = read(folder)
    page, _ = write(found, folder)
    show.reduced(found, folder)
    if open_page and not webbrowser.open(page.resolve().as_uri()):
        typer.echo(f"no browser was found; open {page} yourself", err=True)


def _unfinished(folder: Path) -> None:
    """Show the candidates so far, and say how to go on."""
    with RunFolder.open(folder, kind=KIND, read_only=True) as run:
        steps = steps_in(run.entries())
    if steps:
        show.console().print(_so_far(steps))
    raise RunError(
        f"{folder} has no report yet: the run stopped after {len(steps)} candidates; go on with: {again(folder, kind=KIND)}"
    )


def _so_far(steps: list[dict[str, Any]]) -> Table:
    grid = Table(title="So far", title_justify="left", title_style="bold", box=None)
    for heading in ("", "group", "units", "accuracy", "parameters", "MACs", ""):
        grid.add_column(heading, justify="left" if heading == "group" else "right")
    for step in steps:
        grid.add_row(
            str(step["iteration"]),
            Text(step["group"] or "training on"),
            f"{step['width_before']} → {step['width_after']}" if step["group"] else "",
            text.percent(step["accuracy"]),
            text.integer(step["parameters"]),
            text.integer(step["macs"]),
            "accepted" if step["accepted"] else "rejected",
        )
    return grid
