"""Studies of another kind: networks by treatments, each measured as the file that is deployed."""

from secateur.studies.matrix.matrix import METRICS, Matrix, holds_matrix
from secateur.studies.matrix.run import (
    MATRIX,
    MatrixWatcher,
    Measurement,
    check_matrix,
    measure,
    measurements_in,
)
from secateur.studies.matrix.table import (
    class_rows,
    fell_most_of,
    mean_saving,
    measured_rows,
    printed_for,
    write_matrix_tables,
)
from secateur.studies.matrix.treatment import MatrixCell, Treatment

__all__ = [
    "MATRIX",
    "METRICS",
    "Matrix",
    "MatrixCell",
    "MatrixWatcher",
    "Measurement",
    "Treatment",
    "check_matrix",
    "class_rows",
    "fell_most_of",
    "holds_matrix",
    "mean_saving",
    "measure",
    "measured_rows",
    "measurements_in",
    "printed_for",
    "write_matrix_tables",
]
