"""Channels: what belongs together in a network, found by watching one forward pass."""

from secateur.channels.groups import INPUT, Attribute, Channels, Fixed, Group, MacsTerm, Member
from secateur.channels.watch import digest_of, watch

__all__ = ["INPUT", "Attribute", "Channels", "Fixed", "Group", "MacsTerm", "Member", "digest_of", "watch"]
