"""Methods: compositions of the parts, one file each, with their sources."""

from secateur.methods.reduce import KIND, MODEL_FILE, reduce, unreduced_in
from secateur.methods.result import Layer, ReduceResult, Step
from secateur.methods.settings import ReduceSettings
from secateur.methods.snare import Listener, Search, SearchState, Silent
from secateur.methods.training import TrainResult, started_in, train

__all__ = [
    "KIND",
    "MODEL_FILE",
    "Layer",
    "Listener",
    "ReduceResult",
    "ReduceSettings",
    "Search",
    "SearchState",
    "Silent",
    "Step",
    "TrainResult",
    "reduce",
    "started_in",
    "train",
    "unreduced_in",
]
