"""``secateur load``: what a saved network is, after every check that a file must pass."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.table import Table
from rich.text import Text

from secateur.cli import options as o
from secateur.cli import show
from secateur.cli.sources import open_network
from secateur.evaluate import measure_size
from secateur.report import text
from secateur.store import read_description


def load(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A saved network.", show_default=False)],
    allow: o.Allow = None,
) -> None:
    """Read a saved network and say what it is; nothing in the file is run."""
    source = open_network(str(file), allow=allow or ())
    described = read_description(source.file or file)
    size = measure_size(source.model)
    arguments = ", ".join(f"{key}={json.dumps(value)}" for key, value in source.origin.arguments.items())
    lines = {str(key).replace("_", " "): _said(value) for key, value in source.evaluation.items()}
    lines |= {
        "network": f"{source.origin.spec}({arguments})" if arguments else source.origin.spec,
        "class": type(source.model).__name__,
        "parameters": text.integer(size.parameters),
        "tensors": text.integer(len(described.shapes)),
        "file": text.size((source.file or file).stat().st_size),
    }
    out = show.console()
    out.print(Text(str(source.file or file), style="bold"))
    out.print(_grid(lines))
    if described.changes:
        out.print(Text("\nReduced: units before and after", style="bold"))
        out.print(_grid(_widths(list(described.changes))))
    for event in source.history:
        out.print(Text(f"\nHistory: {_said(_in_short(event))}"), soft_wrap=True)


def _widths(changes: list[Any]) -> dict[str, str]:
    """The length of the first axis of each group, before and after."""
    return {
        str(entry["tensor"]): f"{text.integer(entry['size'])} → {text.integer(len(entry['kept']))}"
        for entry in changes
    }


def _in_short(event: Any) -> Any:
    """An event without what a reduction did one by one: how many steps were accepted, and no more."""
    if not isinstance(event, dict):
        return event
    known = cast("dict[str, Any]", event)
    steps = known.get("steps")
    if not isinstance(steps, list):
        return known
    return {**known, "steps": f"{len(cast('list[Any]', steps))} accepted"}


def _said(value: Any) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:,.6g}" if isinstance(value, float) else text.integer(value)
    return text.setting(value)


def _grid(lines: dict[str, str]) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column(overflow="fold")
    for name, value in lines.items():
        grid.add_row(Text(name), Text(value))
    return grid
