"""Data sets in memory, with the splits that decisions need: train, validation, and a test that is read once."""

from secateur.data.catalogue import load as load
from secateur.data.catalogue import names as names
from secateur.data.splits import Split as Split
from secateur.data.splits import Splits as Splits
from secateur.data.user import from_arrays as from_arrays

__all__ = ["Split", "Splits", "from_arrays", "load", "names"]
