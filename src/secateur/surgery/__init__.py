"""Surgery: the one place that changes a network's structure."""

from secateur.channels.attributes import fit_attributes
from secateur.surgery.apply import CHANGES, apply

__all__ = ["CHANGES", "apply", "fit_attributes"]
