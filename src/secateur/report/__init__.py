"""What was done, and what was found, for people to read: terminal tables, self-contained pages, and the same as JSON."""

from secateur.report.comparison import Comparison, render_comparison, verdict_of, write_comparison
from secateur.report.document import (
    Bound,
    Change,
    Data,
    Figures,
    FixedAxis,
    Iteration,
    Layer,
    Method,
    OutputFile,
    Report,
)
from secateur.report.examples import changes_of, confusions_of, identified_of
from secateur.report.html import read, render, write
from secateur.report.matrix import render_matrix, savings_of, write_matrix
from secateur.report.picture import check_place, render_structure, write_structure
from secateur.report.reduction import accuracy_of, report_of, write_report
from secateur.report.structure import Structure, structure_of
from secateur.report.study import notes_of, render_study, write_study
from secateur.report.terminal import (
    ClassRow,
    GroupRow,
    differences_line,
    evaluation,
    fell_most_line,
    summary,
    watched,
)
from secateur.report.tree import tree
from secateur.report.values import Accuracy, ClassChange, Confusion, Example, Identified

__all__ = [
    "Accuracy",
    "Bound",
    "Change",
    "ClassChange",
    "ClassRow",
    "Comparison",
    "Confusion",
    "Data",
    "Example",
    "Figures",
    "FixedAxis",
    "GroupRow",
    "Identified",
    "Iteration",
    "Layer",
    "Method",
    "OutputFile",
    "Report",
    "Structure",
    "accuracy_of",
    "changes_of",
    "check_place",
    "confusions_of",
    "differences_line",
    "evaluation",
    "fell_most_line",
    "identified_of",
    "notes_of",
    "read",
    "render",
    "render_comparison",
    "render_matrix",
    "render_structure",
    "render_study",
    "report_of",
    "savings_of",
    "structure_of",
    "summary",
    "tree",
    "verdict_of",
    "watched",
    "write",
    "write_comparison",
    "write_matrix",
    "write_report",
    "write_structure",
    "write_study",
]
