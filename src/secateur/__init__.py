"""Secateur cuts trained PyTorch networks down to what they need, within an accuracy bound that you set."""

from secateur.channels import blocks, follow, rule, watch
from secateur.criteria import score, score_blocks
from secateur.methods import reduce
from secateur.plan import plan, plan_blocks, plan_factors, plan_replacements
from secateur.store import load, save
from secateur.surgery import apply, factor

__all__ = [
    "apply",
    "blocks",
    "factor",
    "follow",
    "load",
    "plan",
    "plan_blocks",
    "plan_factors",
    "plan_replacements",
    "reduce",
    "rule",
    "save",
    "score",
    "score_blocks",
    "watch",
]
