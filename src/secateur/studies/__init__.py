"""Studies: strategies for reduction compared over a grid of cells, with the statistics that make the answer trustworthy."""

from secateur.studies.cells import Cell
from secateur.studies.check import check
from secateur.studies.run import KIND, CellResult, Watcher, compare, results_in
from secateur.studies.study import FACTORS, Experiment, Study
from secateur.studies.table import answers_of, cells_of, points_of, write_tables
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
    "SHARE",
    "SHARE_OF_PARAMETERS",
    "Cell",
    "CellResult",
    "Comparison",
    "Experiment",
    "Study",
    "Watcher",
    "answers_of",
    "area",
    "cells_of",
    "check",
    "compare",
    "points_of",
    "results_in",
    "share_found",
    "share_within",
    "verdicts",
    "write_tables",
]
