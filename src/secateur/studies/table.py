"""Results of a study as tidy tables: a row a point of a curve, a row a cell, and a row an answer."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from secateur._libraries import installed, library
from secateur.store import write_atomic
from secateur.studies.run import CellResult
from secateur.studies.study import FACTORS, Study
from secateur.studies.verdicts import share_within, verdicts

POINTS, ROWS, ANSWERS = "points", "cells", "answers"
FIGURES: Final = tuple(
    f"{of}_{what}"
    for of in ("base", "kept", "scratch")
    for what in ("parameters", "macs", "validation_accuracy", "test_accuracy")
)


_DECIMALS: Final = 4
"""Of accuracies, losses and shares: finer than any difference that means something."""


def points_of(results: Sequence[CellResult]) -> Iterator[dict[str, Any]]:
    """A row for each judged step of each cell."""
    for result in results:
        for point in result.points:
            made = {name: rounded(value) for name, value in asdict(point).items()}
            done = {"steps_made": made.pop("step"), "batches_trained": made.pop("iterations")}
            yield {**_about(result), **done, **made}


def cells_of(results: Sequence[CellResult]) -> Iterator[dict[str, Any]]:
    """A row for each cell."""
    for result in results:
        figures = {name: rounded(result.figures.get(name)) for name in FIGURES}
        bound = result.cell.within
        if bound is not None and result.points:
            figures["share_within"] = rounded(share_within(result.points, bound))
        else:
            figures["share_within"] = None
        ending = {"points": len(result.points), "seconds": result.seconds, "reason": result.reason}
        ending["notes"] = "; ".join(result.notes)
        yield {**_about(result), "done": result.done, **figures, **ending}


def answers_of(study: Study, results: Sequence[CellResult]) -> Iterator[dict[str, Any]]:
    """A row for each comparison of two values, with its interval, and the answer in words."""
    for one in verdicts(study, results):
        numbers = {name: rounded(value) for name, value in asdict(one).items()}
        yield {**numbers, "answer": str(one)}


def write_tables(study: Study, results: Sequence[CellResult], folder: Path) -> list[Path]:
    """Write all three tables, as CSV, and as Parquet where ``pyarrow`` is installed (``pip install 'secateur[study]'``).

    Returns:
        The files.
    """
    tables = {POINTS: points_of(results), ROWS: cells_of(results), ANSWERS: answers_of(study, results)}
    return write_rows(tables, folder)


def write_rows(tables: Mapping[str, Iterable[dict[str, Any]]], folder: Path) -> list[Path]:
    """Write tables by name, as CSV, and as Parquet where ``pyarrow`` is installed; the files."""
    written: list[Path] = []
    for name, rows in ((name, list(found)) for name, found in tables.items()):
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        written.append(_written(folder / f"{name}.csv", text.getvalue().encode()))
        packed = _parquet(rows)
        if packed is not None:
            written.append(_written(folder / f"{name}.parquet", packed))
    return written


def rounded(value: float | None) -> float | None:
    """A number with four decimals."""
    return round(value, _DECIMALS) if isinstance(value, float) else value


def _written(file: Path, content: bytes) -> Path:
    write_atomic(file, [content], size=len(content))
    return file


def _parquet(rows: list[dict[str, Any]]) -> bytes | None:
    if not installed("pyarrow"):
        return None
    arrow, parquet = (library(name, extra="study") for name in ("pyarrow", "pyarrow.parquet"))
    sink = arrow.BufferOutputStream()
    parquet.write_table(arrow.Table.from_pylist(rows), sink)
    return bytes(sink.getvalue())


def _about(result: CellResult) -> dict[str, Any]:
    cell, settings = result.cell, result.cell.settings
    return {
        "cell": cell.key,
        "experiments": "; ".join(cell.experiments),
        "network": cell.network,
        "data": cell.data,
        "seed": cell.seed,
        **{name: getattr(settings, name) for name in FACTORS},
    }
