"""Secateur cuts trained PyTorch networks down to what they need, within an accuracy bound that you set."""

from secateur.channels import follow, rule, watch
from secateur.criteria import score
from secateur.methods import reduce
from secateur.plan import plan
from secateur.store import load, save
from secateur.surgery import apply

__all__ = ["apply", "follow", "load", "plan", "reduce", "rule", "save", "score", "watch"]
