"""Surgery: the one place that changes a network's structure."""

from secateur.surgery.apply import CHANGES, apply
from secateur.surgery.modules import fit_attributes

__all__ = ["CHANGES", "apply", "fit_attributes"]
