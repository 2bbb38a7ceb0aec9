"""What a plan leaves alone, and why: nothing that was asked for and not done goes unsaid."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from secateur.channels import Block, Channels, tensors_gone

_NAMED = 3
"""Names listed for one reason before the rest are counted."""
_LISTED = 5
"""Axes listed where nothing at all can be cut."""


@dataclass(frozen=True, slots=True)
class Left:
    """Groups or tensor axes that a plan leaves whole for one reason.

    Attributes:
        names: The groups, or the tensor axes as ``tensor[axis]``.
        reason: Why, to be read after the names.

    Example:
        >>> print(Left(("conv1", "conv2", "conv3", "conv4"), "was not chosen"))
        conv1, conv2, conv3 and 1 more: was not chosen
    """

    names: tuple[str, ...]
    reason: str

    def __str__(self) -> str:
        more = len(self.names) - _NAMED
        return f"{', '.join(self.names[:_NAMED])}{f' and {more} more' if more > 0 else ''}: {self.reason}"


def gathered(reasons: Iterable[tuple[str, str]]) -> tuple[Left, ...]:
    """Pairs of a name and its reason, each reason once, in the order in which reasons first appear.

    >>> gathered([("a", "is small"), ("b", "is fixed"), ("c", "is small")])
    (Left(names=('a', 'c'), reason='is small'), Left(names=('b',), reason='is fixed'))
    """
    found: dict[str, list[str]] = {}
    for name, reason in reasons:
        found.setdefault(reason, []).append(name)
    return tuple(Left(tuple(names), reason) for reason, names in found.items())


def fixed_axes(channels: Channels, *, without: Iterable[Block] = ()) -> tuple[Left, ...]:
    """The tensor axes of a network that no plan can cut, by reason; those of blocks that go whole are not told."""
    gone = tensors_gone(without)
    return gathered(
        (f"{fixed.tensor}[{fixed.axis}]", fixed.reason)
        for fixed in channels.fixed
        if fixed.tensor not in gone
    )


def why_nothing(channels: Channels) -> str:
    """Why a network has no group of channels that may go, and what can be done about it.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from secateur.channels import watch
        >>> print(why_nothing(watch(nn.Linear(4, 2, bias=False), torch.zeros(1, 4))))
        nothing can be cut: no group of channels is free (weight[0] reaches the network's output; weight[1] reads \
the network's input); cut a network with inner layers, or free its input with inputs=True
    """
    lines = [f"{fixed.tensor}[{fixed.axis}] {fixed.reason}" for fixed in channels.fixed]
    if len(lines) > _LISTED:
        lines[_LISTED:] = [f"and {len(lines) - _LISTED} more axes"]
    return f"nothing can be cut: no group of channels is free ({'; '.join(lines) or 'no parameters'}); {_advice(channels)}"


def _advice(channels: Channels) -> str:
    if channels.unknown_ops:
        return f"write a rule for {', '.join(channels.unknown_ops)}, which has none"
    if channels.values_read:
        return (
            f"the forward reads values at {channels.values_read}, and what is computed for that from all channels keeps them"
            " whole: choose without reading values (torch.where in place of if), read something that is no sum over channels,"
            " or watch the part of the network that does not"
        )
    return "cut a network with inner layers, or free its input with inputs=True"
