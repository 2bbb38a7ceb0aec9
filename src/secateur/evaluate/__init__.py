"""Evaluation: quality, its change between two networks (in all, for each class, for each example), size and speed, each number with its conditions."""

from secateur.evaluate.change import ClassChange, Drop, class_changes, paired_drop, paired_interval, wilson
from secateur.evaluate.classes import Confusion, Identified, confusions, identified, worst_change
from secateur.evaluate.quality import ClassAccuracy, Evaluation, evaluate
from secateur.evaluate.size import Size, measure_size
from secateur.evaluate.speed import Latency, measure_latency

__all__ = [
    "ClassAccuracy",
    "ClassChange",
    "Confusion",
    "Drop",
    "Evaluation",
    "Identified",
    "Latency",
    "Size",
    "class_changes",
    "confusions",
    "evaluate",
    "identified",
    "measure_latency",
    "measure_size",
    "paired_drop",
    "paired_interval",
    "wilson",
    "worst_change",
]
