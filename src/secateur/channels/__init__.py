"""Channels: what belongs together in a network, found by watching one forward pass."""

from secateur.channels.constraints import Constraints
from secateur.channels.groups import INPUT, Attribute, Channels, Fixed, Group, MacsTerm, Member
from secateur.channels.own import Added, follow, rule
from secateur.channels.rules.elementwise import elementwise
from secateur.channels.ties import Call, Labels, Ties
from secateur.channels.watch import digest_of, watch

__all__ = [
    "INPUT",
    "Added",
    "Attribute",
    "Call",
    "Channels",
    "Constraints",
    "Fixed",
    "Group",
    "Labels",
    "MacsTerm",
    "Member",
    "Ties",
    "digest_of",
    "elementwise",
    "follow",
    "rule",
    "watch",
]
