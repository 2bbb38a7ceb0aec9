"""Quantisation, as far as it is done on the network itself: what int8 costs, which layer is to blame, and what helps."""

from secateur.quantise.aware import Aware, train_aware
from secateur.quantise.bias import Corrected, correct_bias, layer_means
from secateur.quantise.blame import Fallback, Judge, LayerLoss, blame, float_fallback
from secateur.quantise.calibrate import Observer
from secateur.quantise.clip import BINS, best_clip
from secateur.quantise.equalise import Equalised, Stage, equalise
from secateur.quantise.flow import Flow, Step, flow
from secateur.quantise.fold import Folded, fold, unfold
from secateur.quantise.grid import Range, round_bias, round_weight, weight_steps
from secateur.quantise.prepare import Brought, Prepared, prepare
from secateur.quantise.scheme import Layer, Scheme, scheme_of
from secateur.quantise.simulate import Simulated, simulate, sqnr

__all__ = [
    "BINS",
    "Aware",
    "Brought",
    "Corrected",
    "Equalised",
    "Fallback",
    "Flow",
    "Folded",
    "Judge",
    "Layer",
    "LayerLoss",
    "Observer",
    "Prepared",
    "Range",
    "Scheme",
    "Simulated",
    "Stage",
    "Step",
    "best_clip",
    "blame",
    "correct_bias",
    "equalise",
    "float_fallback",
    "flow",
    "fold",
    "layer_means",
    "prepare",
    "round_bias",
    "round_weight",
    "scheme_of",
    "simulate",
    "sqnr",
    "train_aware",
    "unfold",
    "weight_steps",
]
