"""What a reduction did to each layer."""

from __future__ import annotations

from torch import nn

from secateur.channels import Channels
from secateur.cost import CostModel
from secateur.methods.result import Layer
from secateur.surgery import kept_units


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
