"""Evaluation: quality, its change between two networks, size and speed, each number with its conditions."""

from secateur.evaluate.change import ClassChange, Drop, class_changes, paired_drop, paired_interval, wilson
from secateur.evaluate.quality import ClassAccuracy, Evaluation, evaluate
from secateur.evaluate.size import Size, measure_size
from secateur.evaluate.speed import Latency, measure_latency

__all__ = [
    "ClassAccuracy",
    "ClassChange",
    "Drop",
    "Evaluation",
    "Latency",
    "Size",
    "class_changes",
    "evaluate",
    "measure_latency",
    "measure_size",
    "paired_drop",
    "paired_interval",
    "wilson",
]
