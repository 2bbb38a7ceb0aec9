"""Secateur cuts trained PyTorch networks down to what they need, within an accuracy bound that you set."""

from secateur_program import listen_if_run as _listen_if_run

_listen_if_run()  # before what follows loads PyTorch, which takes a second or two

# ruff: isort: split
from secateur.channels import blocks, follow, rule, watch
from secateur.criteria import score, score_blocks, score_weights
from secateur.methods import prunetrain, reduce
from secateur.plan import plan, plan_blocks, plan_factors, plan_replacements
from secateur.store import load, save
from secateur.surgery import apply, factor, mask, plan_weights

__all__ = [
    "apply",
    "blocks",
    "factor",
    "follow",
    "load",
    "mask",
    "plan",
    "plan_blocks",
    "plan_factors",
    "plan_replacements",
    "plan_weights",
    "prunetrain",
    "reduce",
    "rule",
    "save",
    "score",
    "score_blocks",
    "score_weights",
    "watch",
]
