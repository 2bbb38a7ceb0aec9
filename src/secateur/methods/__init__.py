"""Methods: compositions of the parts, one file each, with their sources."""

from secateur.methods.ablation import Ablation, ablate
from secateur.methods.bisection import Bisection, largest_within
from secateur.methods.deep_compression import (
    CompressResult,
    CompressSettings,
    LayerBits,
    deep_compression,
)
from secateur.methods.deployment import Deployment
from secateur.methods.factor_within import FactorResult, RankTrial, factor_within
from secateur.methods.gradual import (
    PRUNE,
    CutRecord,
    GradualResult,
    gradual,
    unpruned_in,
)
from secateur.methods.gradual_cuts import Thinned
from secateur.methods.gradual_settings import GradualSettings
from secateur.methods.layerwise import LayerError, LayerwiseResult, Surgeon, layerwise_obs
from secateur.methods.listener import Listener, Silent
from secateur.methods.protocol import StepSettings
from secateur.methods.prunetrain import PruneTrain, Reconfiguration, prunetrain
from secateur.methods.prunetrain_settings import PruneTrainSettings
from secateur.methods.reduce import KIND, MODEL_FILE, reduce, steps_in, unreduced_in
from secateur.methods.result import Layer, ReduceResult, Step
from secateur.methods.settings import ReduceSettings
from secateur.methods.snare import Search
from secateur.methods.splice import SpliceResult, SpliceSettings, splice
from secateur.methods.state import SearchState
from secateur.methods.stepwise import Point, StepwiseResult, stepwise
from secateur.methods.thresholds import JointThresholds, Threshold, Thresholds, joint_thresholds, thresholds
from secateur.methods.training import PruneTrainResult, TrainResult, started_in, train

__all__ = [
    "KIND",
    "MODEL_FILE",
    "PRUNE",
    "Ablation",
    "Bisection",
    "CompressResult",
    "CompressSettings",
    "CutRecord",
    "Deployment",
    "FactorResult",
    "GradualResult",
    "GradualSettings",
    "JointThresholds",
    "Layer",
    "LayerBits",
    "LayerError",
    "LayerwiseResult",
    "Listener",
    "Point",
    "PruneTrain",
    "PruneTrainResult",
    "PruneTrainSettings",
    "RankTrial",
    "Reconfiguration",
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
    "Thinned",
    "Threshold",
    "Thresholds",
    "TrainResult",
    "ablate",
    "deep_compression",
    "factor_within",
    "gradual",
    "joint_thresholds",
    "largest_within",
    "layerwise_obs",
    "prunetrain",
    "reduce",
    "splice",
    "started_in",
    "steps_in",
    "stepwise",
    "thresholds",
    "train",
    "unpruned_in",
    "unreduced_in",
]
