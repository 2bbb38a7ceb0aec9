"""Studies: strategies for reduction compared over a grid of cells, with the statistics that make the answer trustworthy."""

from secateur.studies.cells import Cell
from secateur.studies.check import check
from secateur.studies.matrix_table import (
    class_rows,
    fell_most_of,
    mean_saving,
    measured_rows,
    printed_for,
    write_matrix_tables,
)
from secateur.studies.measure import (
    MATRIX,
    MatrixWatcher,
    Measurement,
    check_matrix,
    measure,
    measurements_in,
)
from secateur.studies.run import KIND, CellResult, Watcher, compare, results_in
from secateur.studies.study import FACTORS, Experiment, Study
from secateur.studies.table import answers_of, cells_of, points_of, write_tables
from secateur.studies.treatments import METRICS, Matrix, MatrixCell, Treatment, holds_matrix
from secateur.studies.verdicts import (
    KEPT,
    SHARE,
    SHARE_OF_PARAMETERS,
    Comparison,
    area,
    share_found,
    share_within,
    verdicts,
)

__all__ = [
    "FACTORS",
    "KEPT",
    "KIND",
    "MATRIX",
    "METRICS",
    "SHARE",
    "SHARE_OF_PARAMETERS",
    "Cell",
    "CellResult",
    "Comparison",
    "Experiment",
    "Matrix",
    "MatrixCell",
    "MatrixWatcher",
    "Measurement",
    "Study",
    "Treatment",
    "Watcher",
    "answers_of",
    "area",
    "cells_of",
    "check",
    "check_matrix",
    "class_rows",
    "compare",
    "fell_most_of",
    "holds_matrix",
    "mean_saving",
    "measure",
    "measured_rows",
    "measurements_in",
    "points_of",
    "printed_for",
    "results_in",
    "share_found",
    "share_within",
    "verdicts",
    "write_matrix_tables",
    "write_tables",
]
