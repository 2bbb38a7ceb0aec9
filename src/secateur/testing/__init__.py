"""Testing: tiny networks with known groups, the oracle that cutting is held against, and the laws as checks."""

from secateur.testing.exotic import EXOTIC
from secateur.testing.laws import (
    LawError,
    check_cut,
    check_forecast,
    check_left_as_found,
    cost_of,
    macs_of,
    outputs_of,
    relative_error,
)
from secateur.testing.models import CONSTRUCTS, Construct, Wired
from secateur.testing.oracle import randomise, unread
from secateur.testing.rules import RuleCheck, check_rule

__all__ = [
    "CONSTRUCTS",
    "EXOTIC",
    "Construct",
    "LawError",
    "RuleCheck",
    "Wired",
    "check_cut",
    "check_forecast",
    "check_left_as_found",
    "check_rule",
    "cost_of",
    "macs_of",
    "outputs_of",
    "randomise",
    "relative_error",
    "unread",
]
