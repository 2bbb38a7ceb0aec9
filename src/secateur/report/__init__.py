"""What was done, for people to read: a terminal table, one self-contained page, and the same as JSON."""

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
from secateur.report.reduction import accuracy_of, report_of, write_report
from secateur.report.terminal import ClassRow, GroupRow, evaluation, summary, watched

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
    "accuracy_of",
    "evaluation",
    "read",
    "render",
    "report_of",
    "summary",
    "watched",
    "write",
    "write_report",
]
