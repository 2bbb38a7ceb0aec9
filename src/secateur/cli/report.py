"""``secateur report``: the report of a run, made again from its values; or trainings beside each other."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from secateur.cli import show
from secateur.cli.sources import again
from secateur.errors import RunError, SettingsError
from secateur.methods import KIND, steps_in
from secateur.methods.training import KIND as TRAIN
from secateur.report import (
    TRAINING_FILE,
    Training,
    arms_of,
    compare_trainings,
    read,
    read_training,
    text,
    write,
    write_training,
)
from secateur.report.html import DOCUMENT
from secateur.store import RunFolder


def report(
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="DIR...",
            help="The folder of a reduction or a training; several trainings are compared with the first.",
            show_default=False,
        ),
    ],
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Several trainings: the page to write.", show_default=False)
    ] = None,
) -> None:
    """Write a run's report.html again from its values, and show the table; or one page of several trainings."""
    if len(folders) > 1:
        page = _compared(folders, out)
    elif out is not None:
        raise SettingsError("--out is for the page of several trainings; name more than one folder")
    else:
        page = _of_training(folders[0]) if _kind(folders[0]) == TRAIN else _of_reduction(folders[0])
    if open_page and not webbrowser.open(page.resolve().as_uri()):
        typer.echo(f"no browser was found; open {page} yourself", err=True)


def _kind(folder: Path) -> str:
    with RunFolder.open(folder, read_only=True) as run:
        return run.kind


def _of_reduction(folder: Path) -> Path:
    if not (folder / DOCUMENT).is_file():
        _unfinished(folder)
    found = read(folder)
    page, _ = write(found, folder)
    show.reduced(found, folder)
    return page


def _of_training(folder: Path) -> Path:
    found = _training_in(folder)
    page = write_training(found, folder)
    show.trainings(arms_of([found]))
    show.console().print(f"\nThe report: {page}", soft_wrap=True)
    return page


def _compared(folders: list[Path], out: Path | None) -> Path:
    for folder in folders:
        if (kind := _kind(folder)) != TRAIN:
            raise SettingsError(
                f"{folder} is not a training but the folder of {kind}, and only trainings are compared on one page;"
                " leave it out, or give it alone"
            )
    if out is None:
        raise SettingsError("the page of several trainings needs a place; add --out comparison.html")
    found = [_training_in(folder) for folder in folders]
    arms = arms_of(found)
    page = compare_trainings(found, out)
    show.trainings(arms)
    show.console().print(f"\nThe page: {page}", soft_wrap=True)
    return page


def _training_in(folder: Path) -> Training:
    """The values of a training that has ended."""
    if not (folder / TRAINING_FILE).is_file():
        with RunFolder.open(folder, kind=TRAIN, read_only=True) as run:
            done = sum("epoch" in entry for entry in run.entries())
        raise RunError(
            f"{folder} has no report yet: the training stopped after {done} epochs, or was not made by `secateur train`;"
            f" go on with: {again(folder, kind=TRAIN)}"
        )
    return read_training(folder)


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
