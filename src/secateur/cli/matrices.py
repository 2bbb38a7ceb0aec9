"""``secateur compare`` with a matrix: treatments of networks, measured as the files that are deployed."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.table import Table
from rich.text import Text

from secateur._options import about
from secateur.cli import show
from secateur.cli.progress import MatrixProgress, doing
from secateur.cli.runs import study_asked, study_farewell
from secateur.cli.sources import again
from secateur.errors import DataError, ModelError, RunError
from secateur.report import savings_of, text, write_matrix
from secateur.store import RunFolder
from secateur.studies import (
    MATRIX,
    Matrix,
    Measurement,
    check_matrix,
    holds_matrix,
    measure,
    measurements_in,
    printed_for,
    write_matrix_tables,
)


def is_matrix(study: Path, out: Path | None, *, stored: bool) -> bool:
    """Whether a matrix is meant: by the file, or, where it is a folder that holds the study, by that.

    Raises:
        SettingsError: The file cannot be read.
    """
    if not stored or (out is not None and study.is_file()):
        return holds_matrix(study)
    try:
        with RunFolder.open(study, kind=MATRIX, read_only=True):
            return True
    except RunError:
        return False  # what is wrong with it is said where it is opened as a study


def compare(
    study: Path, out: Path | None, *, resume: bool, plan: bool, report: bool, data_dir: Path | None
) -> None:
    """Plan, run, resume or report a matrix."""
    if plan:
        asked = Matrix.read(study)
        with about(study, ModelError, DataError):
            check_matrix(asked, data_dir=data_dir)
        _planned(asked)
        return
    if report:
        _reported(study)
        return
    folder, asked = study_asked(study, out, resume=resume, stored=measurements_in, read=Matrix.read)
    try:
        with about(study, ModelError, DataError), MatrixProgress() as progress:
            measure(asked, out=folder, resume=resume, data_dir=data_dir, watcher=progress)
    except KeyboardInterrupt:
        typer.echo(study_farewell(folder, measurements_in), err=True)
        raise typer.Exit(130) from None
    failed = [result for result in _reported(folder) if not result.done]
    if failed:
        raise RunError(
            f"{len(failed)} cell{' ' if len(failed) == 1 else 's '}failed, the first ({failed[0].cell.key}) with: {failed[0].reason}; try again"
            f" with: {again(folder, kind='compare')}"
        )


def _planned(matrix: Matrix) -> None:
    cells = matrix.cells()
    console = show.console()
    for network in matrix.networks:
        console.print(
            Text(f"{len(matrix.treatment) * len(matrix.seeds):5d} cells  {network}"), soft_wrap=True
        )
    cuts = len({cell.cut_key for cell in cells if cell.treatment.cuts})
    bases = len({cell.base_key for cell in cells})
    console.print(
        f"{len(cells):5d} cells in all, from {bases} trained networks, of which {cuts} pruned or reduced ones are made"
    )


def _reported(folder: Path) -> tuple[Measurement, ...]:
    """Write what there is, and show it."""
    matrix, results = measurements_in(folder)
    with doing("writing tables and page"):
        files = [*write_matrix_tables(matrix, results, folder), write_matrix(matrix, results, folder)]
    console = show.console()
    for network in matrix.networks:
        own = [one for one in results if one.cell.network == network]
        if own:
            console.print(_table(matrix, network, own))
            console.print()
    for line in savings_of(matrix, results):
        console.print(Text(line), soft_wrap=True)
    if matrix.source and matrix.printed:
        console.print(Text(f"As printed: {matrix.source}"), soft_wrap=True)
    done = sum(result.done for result in results)
    console.print(f"\n{done} of {len(matrix.cells())} cells done. Page: {files[-1]}", soft_wrap=True)
    console.print(f"Tables: {', '.join(str(file) for file in files[:-1])}", soft_wrap=True)
    return results


def _table(matrix: Matrix, network: str, results: list[Measurement]) -> Table:
    grid = Table(title=network, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    grid.add_column("treatment")
    for head in ("top-1", "lost", "file", "gzip", "coded", "1 example", "time"):
        grid.add_column(head, justify="right", no_wrap=True)
    for one in results:
        name = one.cell.treatment.name + (f", seed {one.cell.seed}" if len(matrix.seeds) > 1 else "")
        if not one.done:
            grid.add_row(Text(f"{name} failed: {one.reason}"))
            continue
        row, printed = one.row, printed_for(matrix, one)
        grid.add_row(
            Text(name),
            text.percent(row["accuracy"]),
            f"{row['drop']:.2f}",
            _size(row["bytes"]),
            _size(row["gzip"]),
            _size(row.get("coded")),
            f"{row['milliseconds']:.3f} ms",
            f"{row['time_ratio']:.2f}",
        )
        if printed:
            milliseconds = printed.get("milliseconds")
            grid.add_row(
                Text("  as printed"),
                "" if "accuracy" not in printed else text.percent(printed["accuracy"]),
                "",
                _size(printed.get("bytes")),
                _size(printed.get("gzip")),
                "",
                "" if milliseconds is None else f"{milliseconds:.3f} ms",
                style="dim",
            )
    return grid


def _size(value: float | None) -> str:
    return "" if value is None else text.size(int(value))
