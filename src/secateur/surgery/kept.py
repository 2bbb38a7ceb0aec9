"""Which units a cut network has left of those of the network that it was cut from."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from secateur.channels import Channels
from secateur.channels.inputs import kept_inputs
from secateur.surgery.apply import CHANGES


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
