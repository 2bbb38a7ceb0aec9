"""Channels: what belongs together in a network, found by watching one forward pass."""

from secateur.channels.blocks import Block, blocks, tensors_gone
from secateur.channels.constraints import Constraints
from secateur.channels.groups import INPUT, Attribute, Channels, Fixed, Group, MacsTerm, Member
from secateur.channels.own import Added, follow, rule
from secateur.channels.pass_through import PassThrough
from secateur.channels.passages import Passage, Visit, Visits, visits
from secateur.channels.rules.elementwise import elementwise
from secateur.channels.ties import Attention, Call, Labels, Ties
from secateur.channels.watch import digest_of, watch

__all__ = [
    "INPUT",
    "Added",
    "Attention",
    "Attribute",
    "Block",
    "Call",
    "Channels",
    "Constraints",
    "Fixed",
    "Group",
    "Labels",
    "MacsTerm",
    "Member",
    "PassThrough",
    "Passage",
    "Ties",
    "Visit",
    "Visits",
    "blocks",
    "digest_of",
    "elementwise",
    "follow",
    "rule",
    "tensors_gone",
    "visits",
    "watch",
]
