"""Units of which nothing is left but weights below a threshold, and the plan by which they go."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

from secateur.channels import Block, Channels, blocks
from secateur.channels.nested import ForwardFn
from secateur.criteria import Criterion, Scores, View, score
from secateur.errors import NothingToCutError
from secateur.methods.prunetrain_settings import PruneTrainSettings
from secateur.plan import Plan, limits, plan


def _largest(view: View) -> Tensor:
    """The largest of all weights that write or read a unit."""
    parts = [part for part in (*view.own_parts(), *view.read_parts()) if part.shape[1]]
    return torch.stack([part.abs().amax(1).double().cpu() for part in parts]).amax(0)


_LARGEST: Final = Criterion(
    name="largest weight",
    function=_largest,
    description="the largest magnitude of all weights that write or read the unit",
    source="Lym et al. 2019, arXiv:1901.09290",
)


def largest_weights(model: nn.Module, channels: Channels) -> Scores:
    """The largest magnitude of all weights that write or read each unit; units without such weights have no score.

    Args:
        model: The network itself.
        channels: What watching it found.

    Example:
        >>> import secateur
        >>> net = nn.Sequential(nn.Linear(2, 1, bias=False), nn.Linear(1, 2, bias=False), nn.Linear(2, 1, bias=False))
        >>> for layer, rows in zip(net, ([[1.0, 1.0]], [[2.0], [-3.0]], [[-5.0, 1.0]])):
        ...     layer.weight.data = torch.tensor(rows)
        >>> largest_weights(net, secateur.watch(net, torch.zeros(1, 2))).values["1"]
        tensor([5., 3.], dtype=torch.float64)
    """
    weighed = [group.name for group in channels.groups if group.by_role("write", "read")]
    if not weighed:
        return Scores(_LARGEST.name, {})
    return score(model, channels, _LARGEST, groups=weighed)


def dead_units(
    model: nn.Module,
    channels: Channels,
    scores: Scores,
    example: Any,
    settings: PruneTrainSettings,
    *,
    forward_fn: ForwardFn | None = None,
) -> Plan | None:
    """The plan by which every unit goes of which all weights are below the threshold, and every block of which nothing is left.

    One unit of a group stays, and two where a block's branch runs through it, as long as the block does: a single unit could never go any more.

    Args:
        model: The network itself.
        channels: What watching it found.
        scores: The largest weight of each unit (`largest_weights`).
        example: An input.
        settings: Threshold, limits, and whether blocks may go.
        forward_fn: How the network is run.

    Returns:
        The plan, or None where nothing goes.
    """
    dead = {name: int((values < settings.threshold).sum()) for name, values in scores.values.items()}
    if not any(dead.values()):
        return None
    found: tuple[Block, ...] = ()
    if settings.blocks and any(len(scores.values[name]) - count < 2 for name, count in dead.items()):
        found = blocks(model, channels, example, forward_fn=forward_fn)
    try:
        return _plan(channels, scores, dead, found, settings)
    except NothingToCutError:  # limits keep all that is dead
        return None


def _plan(
    channels: Channels,
    scores: Scores,
    dead: Mapping[str, int],
    found: tuple[Block, ...],
    settings: PruneTrainSettings,
) -> Plan:
    branches = {name for block in found for names in block.closed_by for name in names}
    asked = limits(channels, minimum=settings.minimum, round_to=1)
    least = {name: max(asked[name].minimum, 2 if name in branches else 1) for name in asked}
    remove: dict[str, float] = {}
    for name, count in dead.items():
        width = channels.group(name).width
        remove[name] = (count if name in branches else min(count, width - 1)) / width
    return plan(channels, scores, remove=remove, minimum=least, round_to=settings.round_to, blocks=found)
