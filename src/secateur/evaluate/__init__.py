"""Evaluation: quality, its change between two networks (in all, for each class, for each example), size and speed, each number with its conditions."""

from secateur.evaluate.change import ClassChange, Drop, class_changes, paired_drop, paired_interval, wilson
from secateur.evaluate.classes import Confusion, Identified, confusions, fell_most, identified
from secateur.evaluate.processes import Measured, Runnable, measure_processes
from secateur.evaluate.quality import ClassAccuracy, Evaluation, evaluate
from secateur.evaluate.size import FileSize, Size, measure_file, measure_size
from secateur.evaluate.speed import Latency, measure_latency
from secateur.evaluate.staircase import Tread, grain_of, stack, staircase
from secateur.evaluate.tool import ToolLatency, litert_benchmark

__all__ = [
    "ClassAccuracy",
    "ClassChange",
    "Confusion",
    "Drop",
    "Evaluation",
    "FileSize",
    "Identified",
    "Latency",
    "Measured",
    "Runnable",
    "Size",
    "ToolLatency",
    "Tread",
    "class_changes",
    "confusions",
    "evaluate",
    "fell_most",
    "grain_of",
    "identified",
    "litert_benchmark",
    "measure_file",
    "measure_latency",
    "measure_processes",
    "measure_size",
    "paired_drop",
    "paired_interval",
    "stack",
    "staircase",
    "wilson",
]
