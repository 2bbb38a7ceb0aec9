"""Methods: compositions of the parts, one file each, with their sources."""

from secateur.methods.ablation import Ablation, ablate
from secateur.methods.bisection import Bisection, largest_within
from secateur.methods.deployment import Deployment
from secateur.methods.factor_within import FactorResult, RankTrial, factor_within
from secateur.methods.layerwise import LayerError, LayerwiseResult, Surgeon, layerwise_obs
from secateur.methods.listener import Listener, Silent
from secateur.methods.protocol import StepSettings
from secateur.methods.reduce import KIND, MODEL_FILE, reduce, steps_in, unreduced_in
from secateur.methods.result import Layer, ReduceResult, Step
from secateur.methods.settings import ReduceSettings
from secateur.methods.snare import Search
from secateur.methods.splice import SpliceResult, SpliceSettings, splice
from secateur.methods.state import SearchState
from secateur.methods.stepwise import Point, StepwiseResult, stepwise
from secateur.methods.thresholds import JointThresholds, Threshold, Thresholds, joint_thresholds, thresholds
from secateur.methods.training import TrainResult, started_in, train

__all__ = [
    "KIND",
    "MODEL_FILE",
    "Ablation",
    "Bisection",
    "Deployment",
    "FactorResult",
    "JointThresholds",
    "Layer",
    "LayerError",
    "LayerwiseResult",
    "Listener",
    "Point",
    "RankTrial",
    "ReduceResult",
    "ReduceSettings",
    "Search",
    "SearchState",
    "Silent",
    "SpliceResult",
    "SpliceSettings",
    "Step",
    "StepSettings",
    "StepwiseResult",
    "Surgeon",
    "Threshold",
    "Thresholds",
    "TrainResult",
    "ablate",
    "factor_within",
    "joint_thresholds",
    "largest_within",
    "layerwise_obs",
    "reduce",
    "splice",
    "started_in",
    "steps_in",
    "stepwise",
    "thresholds",
    "train",
    "unreduced_in",
]
