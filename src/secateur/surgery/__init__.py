"""Surgery: the one place that changes a network's structure."""

from secateur.channels.attributes import fit_attributes
from secateur.surgery.apply import CHANGES, apply
from secateur.surgery.factor import factor
from secateur.surgery.modules import Fire, Shift

__all__ = ["CHANGES", "Fire", "Shift", "apply", "factor", "fit_attributes"]
