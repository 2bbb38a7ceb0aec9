"""``secateur data``: which data sets are known, and whether one is there."""

from __future__ import annotations

import os
from typing import Annotated

import typer
from rich.table import Table

from secateur.cli import options as o
from secateur.cli import show
from secateur.cli.sources import open_data
from secateur.data.catalogue import LOADERS
from secateur.data.files import VARIABLE
from secateur.report import text


def data(
    name: Annotated[
        str | None,
        typer.Argument(help="A data set to look at; without it, all are listed.", show_default=False),
    ] = None,
    data_dir: o.DataDir = None,
    data_seed: o.DataSeed = None,
    validation: o.Validation = None,
) -> None:
    """List the known data sets, or look at one: its splits, or what is missing and where it was looked for."""
    out = show.console()
    grid = Table.grid(padding=(0, 2))
    if name is not None:
        splits = open_data(name, data_dir=data_dir, seed=data_seed or 0, validation=validation)
        for part, examples in splits.parts().items():
            grid.add_row(part, f"{text.integer(len(examples))} examples of shape {list(splits.input_shape)}")
        grid.add_row("classes", f"{len(splits.classes)}: {', '.join(splits.classes[:20])}")
        for key, note in splits.notes.items():
            grid.add_row(key, note)
        out.print(grid)
        return
    for known, loader in LOADERS.items():
        grid.add_row(known, (loader.__doc__ or "").partition("\n")[0])
    out.print(grid)
    folder = data_dir or os.environ.get(VARIABLE)
    where = (
        f"are looked for in {folder}" if folder else f"need --data-dir or the environment variable {VARIABLE}"
    )
    out.print(f"\nAll but digits {where}; `secateur data NAME` says whether one is there and what it needs.")
    out.print("Your own: a folder with train.npz and test.npz (arrays x and y), or package.module:factory.")
