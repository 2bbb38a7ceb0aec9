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
from secateur.report.training import TRAINING_FILE, Arm, Training, arms_of, read_training, training_of
from secateur.report.training_page import compare_trainings, render_trainings, write_training
from secateur.report.tree import tree
from secateur.report.values import Accuracy, ClassChange, Confusion, Example, Identified

__all__ = [
    "TRAINING_FILE",
    "Accuracy",
    "Arm",
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
    "Training",
    "accuracy_of",
    "arms_of",
    "changes_of",
    "check_place",
    "compare_trainings",
    "confusions_of",
    "differences_line",
    "evaluation",
    "fell_most_line",
    "identified_of",
    "notes_of",
    "read",
    "read_training",
    "render",
    "render_comparison",
    "render_matrix",
    "render_structure",
    "render_study",
    "render_trainings",
    "report_of",
    "savings_of",
    "structure_of",
    "summary",
    "training_of",
    "tree",
    "verdict_of",
    "watched",
    "write",
    "write_comparison",
    "write_matrix",
    "write_report",
    "write_structure",
    "write_study",
    "write_training",
]
