"""Methods: compositions of the parts, one file each, with their sources."""

from secateur.methods.ablation import Ablation, ablate
from secateur.methods.factor_within import FactorResult, RankTrial, factor_within
from secateur.methods.listener import Listener, Silent
from secateur.methods.reduce import KIND, MODEL_FILE, reduce, unreduced_in
from secateur.methods.result import Layer, ReduceResult, Step
from secateur.methods.settings import ReduceSettings
from secateur.methods.snare import Search
from secateur.methods.state import SearchState
from secateur.methods.stepwise import Point, StepSettings, StepwiseResult, stepwise
from secateur.methods.training import TrainResult, started_in, train

__all__ = [
    "KIND",
    "MODEL_FILE",
    "Ablation",
    "FactorResult",
    "Layer",
    "Listener",
    "Point",
    "RankTrial",
    "ReduceResult",
    "ReduceSettings",
    "Search",
    "SearchState",
    "Silent",
    "Step",
    "StepSettings",
    "StepwiseResult",
    "TrainResult",
    "ablate",
    "factor_within",
    "reduce",
    "started_in",
    "stepwise",
    "train",
    "unreduced_in",
]
