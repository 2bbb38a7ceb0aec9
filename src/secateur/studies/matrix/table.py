"""Results of a matrix as tidy tables: a row a cell, and a row a class of a cell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Final

from secateur.studies.matrix.matrix import METRICS, Matrix
from secateur.studies.matrix.run import Measurement
from secateur.studies.table import rounded, write_rows

ROWS, CLASSES = "cells", "classes"
FIGURES: Final = (
    "accuracy", "top3", "drop", "drop_lower", "drop_upper", "parameters", "nonzero", "sparsity", "macs", "bytes", "gzip", "xz",
    "coded", "milliseconds", "cpu_milliseconds", "time_ratio", "memory", "own_memory", "agreement", "sqnr",
)  # fmt: skip
"""What is measured of a cell: of the file on test examples percent right, and points lost against the untreated network with limits
at 95 %; numbers and percent of zero weights; bytes of the file, packed and coded; the median pass on the clock and of the processor, and
the processor's time as a ratio to the untreated network's file; peak memory of the process with Python and PyTorch, and the file's part; percent of validation examples with
the same answer as the network that was written, and decibels."""


def measured_rows(matrix: Matrix, results: Sequence[Measurement]) -> Iterator[dict[str, Any]]:
    """A row for each cell."""
    for result in results:
        printed = printed_for(matrix, result)
        worst = fell_most_of(result)
        yield {
            **_about(result),
            "done": result.done,
            **{name: rounded(result.row.get(name)) for name in FIGURES},
            **{f"printed_{name}": printed.get(name) for name in METRICS},
            "fell_most": "" if worst is None else worst[0],
            "fell_most_points": None if worst is None else rounded(worst[1]),
            "seconds": result.seconds,
            "reason": result.reason,
            "notes": "; ".join(result.notes),
        }


def class_rows(results: Sequence[Measurement]) -> Iterator[dict[str, Any]]:
    """A row for each class of each cell."""
    for result in results:
        for name, change in result.classes.items():
            yield {
                **_about(result),
                "class": name,
                **{key: rounded(value) for key, value in change.items()},
            }


def write_matrix_tables(matrix: Matrix, results: Sequence[Measurement], folder: Path) -> list[Path]:
    """Write both tables, as CSV, and as Parquet where ``pyarrow`` is installed (``pip install 'secateur[study]'``); the files."""
    return write_rows({ROWS: measured_rows(matrix, results), CLASSES: class_rows(results)}, folder)


def printed_for(matrix: Matrix, result: Measurement) -> Mapping[str, float]:
    """What is printed elsewhere of a cell's network and treatment."""
    return matrix.printed.get(result.cell.network, {}).get(result.cell.treatment.name, {})


def fell_most_of(result: Measurement) -> tuple[str, float] | None:
    """The class whose accuracy fell most, and by how many points; None where none fell."""
    name = min(result.classes, key=lambda one: result.classes[one]["points"], default=None)
    if name is None or result.classes[name]["points"] >= 0:
        return None
    return name, result.classes[name]["points"]


def mean_saving(results: Sequence[Measurement], treatment: str, figure: str) -> tuple[float, int] | None:
    """By how many percent a figure (``bytes``, ``gzip``, ``coded``) is below the untreated file's bytes, mean over networks and seeds."""
    firsts = {one.cell.base_key: one for one in results if one.done and one.cell.untreated}
    saved = [
        100 * (1 - one.row[figure] / firsts[one.cell.base_key].row["bytes"])
        for one in results
        if one.done
        and one.cell.treatment.name == treatment
        and figure in one.row
        and one.cell.base_key in firsts
    ]
    return (fmean(saved), len(saved)) if saved else None


def _about(result: Measurement) -> dict[str, Any]:
    cell = result.cell
    return {
        "cell": cell.key,
        "network": cell.network,
        "data": cell.data,
        "seed": cell.seed,
        "treatment": cell.treatment.name,
        "target": cell.deployment.target,
        "mode": cell.treatment.mode,
    }
