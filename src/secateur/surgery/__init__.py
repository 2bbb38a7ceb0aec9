"""Surgery: the one place that changes a network's structure."""

from secateur.channels.attributes import fit_attributes
from secateur.surgery.apply import CHANGES, apply
from secateur.surgery.factor import factor
from secateur.surgery.gating import Gate, Gated, find_gates, gate, gates_of
from secateur.surgery.kept import kept_units
from secateur.surgery.masks import Masks, holding, mask, masks_of
from secateur.surgery.modules import Fire, Shift
from secateur.surgery.plan_weights import plan_weights

__all__ = [
    "CHANGES",
    "Fire",
    "Gate",
    "Gated",
    "Masks",
    "Shift",
    "apply",
    "factor",
    "find_gates",
    "fit_attributes",
    "gate",
    "gates_of",
    "holding",
    "kept_units",
    "mask",
    "masks_of",
    "plan_weights",
]
