"""What was done, and what was found, for people to read: terminal tables, self-contained pages, and the same as JSON."""

from secateur.report.document import (
    Accuracy,
    Bound,
    Change,
    ClassChange,
    Data,
    Figures,
    FixedAxis,
    Iteration,
    Layer,
    Method,
    OutputFile,
    Report,
)
from secateur.report.html import read, render, write
from secateur.report.picture import check_place, render_structure, write_structure
from secateur.report.reduction import accuracy_of, report_of, write_report
from secateur.report.structure import Structure, structure_of
from secateur.report.study import notes_of, render_study, write_study
from secateur.report.terminal import ClassRow, GroupRow, evaluation, summary, watched
from secateur.report.tree import tree

__all__ = [
    "Accuracy",
    "Bound",
    "Change",
    "ClassChange",
    "ClassRow",
    "Data",
    "Figures",
    "FixedAxis",
    "GroupRow",
    "Iteration",
    "Layer",
    "Method",
    "OutputFile",
    "Report",
    "Structure",
    "accuracy_of",
    "check_place",
    "evaluation",
    "notes_of",
    "read",
    "render",
    "render_structure",
    "render_study",
    "report_of",
    "structure_of",
    "summary",
    "tree",
    "watched",
    "write",
    "write_report",
    "write_structure",
    "write_study",
]
