"""What a reduction did to each layer."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from secateur.channels import Channels
from secateur.channels.inputs import kept_inputs
from secateur.cost import CostModel
from secateur.methods.result import Layer
from secateur.surgery import CHANGES


def layers_of(
    channels: Channels, before: nn.Module, after: nn.Module
) -> tuple[tuple[Layer, ...], tuple[str, ...]]:
    """Each layer's width before and after, and what its units account for.

    A layer accounts for what the network would lose if all its units went.
    """
    kept = kept_units(channels, before, after)
    model = CostModel(channels)
    everything, left = model.alive({}), model.alive(kept)
    starts = channels.starts()
    layers: list[Layer] = []
    for group in channels.groups:
        units = slice(starts[group.name], starts[group.name] + group.width)
        figures: list[int] = []
        for alive in (everything, left):
            without = alive.copy()
            without[units] = False
            full, less = model.of(alive), model.of(without)
            figures += [int(alive[units].sum()), full.parameters - less.parameters, full.macs - less.macs]
        layers.append(Layer(group.name, group.kind, *figures))
    forecast, notes = model.of(left), ()
    if forecast.parameters != sum(parameter.numel() for parameter in after.parameters()):
        notes = ("The widths per layer do not account for all that changed in the network.",)
    return tuple(layers), notes


def kept_units(channels: Channels, before: nn.Module, after: nn.Module) -> dict[str, Any]:
    """Which units of ``before`` are left in ``after``, by group."""
    given = {(entry["tensor"], entry["axis"]): entry["kept"] for entry in getattr(before, CHANGES, [])}
    left: dict[tuple[str, int], Any] = {}
    for entry in getattr(after, CHANGES, []):
        key = (entry["tensor"], entry["axis"])
        place = {position: index for index, position in enumerate(given.get(key, range(entry["size"])))}
        left[key] = np.array([place[position] for position in entry["kept"]], dtype=np.int64)
    result: dict[str, Any] = {}
    inputs_before, inputs_after = kept_inputs(before), kept_inputs(after)
    for group in channels.groups:
        if group.by_role("input") and inputs_after is not None:
            first = range(inputs_after.size) if inputs_before is None else inputs_before.indices
            place = {position: index for index, position in enumerate(first)}
            stay = np.isin(
                group.by_role("input")[0].indices, [place[position] for position in inputs_after.indices]
            )
            result[group.name] = np.flatnonzero(stay.all(axis=1))
            continue
        known = [member for member in group.members if (member.tensor, member.axis) in left]
        if known:
            stay = np.isin(known[0].indices, left[known[0].tensor, known[0].axis])
            result[group.name] = np.flatnonzero(stay.all(axis=1))
    return result
