"""Surgery: the one place that changes a network's structure."""

from secateur.channels.attributes import fit_attributes
from secateur.surgery.apply import CHANGES, apply
from secateur.surgery.kept import kept_units

__all__ = ["CHANGES", "apply", "fit_attributes", "kept_units"]
