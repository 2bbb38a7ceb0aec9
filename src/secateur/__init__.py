"""Secateur cuts trained PyTorch networks down to what they need, within an accuracy bound that you set."""

from secateur.channels import watch
from secateur.criteria import score
from secateur.plan import plan
from secateur.surgery import apply

__all__ = ["apply", "plan", "score", "watch"]
