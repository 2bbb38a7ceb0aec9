"""``secateur load``: what a saved network is, after every check that a file must pass."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Final, cast

import typer
from rich.table import Table
from rich.text import Text

from secateur.cli import options as o
from secateur.cli import show
from secateur.cli.sources import open_network
from secateur.evaluate import measure_size
from secateur.report import text
from secateur.store import read_description

_HOW_FAR: Final = ("max_drop", "sparsity", "granularity", "method")
"""Of the options that files keep, those by which one event is told from the next."""


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
    if source.history:
        out.print(Text("\nHistory", style="bold"))
        for event in source.history:
            out.print(Text(text.plain(_in_short(event))), soft_wrap=True)


def _widths(changes: list[Any]) -> dict[str, str]:
    """The length of the first axis of each group, before and after."""
    return {
        str(entry["tensor"]): f"{text.integer(entry['size'])} → {text.integer(len(entry['kept']))}"
        for entry in changes
    }


def _in_short(event: Any) -> str:
    """An event in one line: what was done, with its facts, and of its options those that say how far it was to go.

    >>> _in_short({"event": "reduce", "data": "digits", "options": {"max_drop": 0.5, "beta": 1.0}, "steps": [{}, {}]})
    'reduce: data digits, max drop 0.5, steps 2'
    >>> _in_short("made by hand"), _in_short({"event": "train"}), _in_short({"who": "me"})
    ('made by hand', 'train', 'who me')
    """
    if not isinstance(event, dict):
        return _said(event)
    facts: list[str] = []
    for key, value in cast("dict[str, Any]", event).items():
        if isinstance(value, dict):
            told = cast("dict[str, Any]", value)
            facts += [_fact(option, told[option]) for option in _HOW_FAR if told.get(option) is not None]
        elif key != "event":
            facts.append(_fact(key, len(cast("list[Any]", value)) if isinstance(value, list) else value))
    done: Any = cast("dict[str, Any]", event).get("event")
    return ": ".join(part for part in ("" if done is None else _said(done), ", ".join(facts)) if part)


def _fact(name: str, value: Any) -> str:
    return f"{name.replace('_', ' ')} {_said(value)}"


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
