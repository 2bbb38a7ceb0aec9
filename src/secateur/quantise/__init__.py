"""Quantisation of the network itself, before a file is written."""

from secateur.quantise.cluster import Clustered, Start, cluster, summed
from secateur.quantise.levels import training_levels

__all__ = [
    "Clustered",
    "Start",
    "cluster",
    "summed",
    "training_levels",
]
