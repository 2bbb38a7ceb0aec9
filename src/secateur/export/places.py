"""Where in a file activations are whose ranges are known: found by their values."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from secateur.export.calibration import Range, Values
from secateur.quantise import Simulated

EXAMPLES = 3
"""Examples on which values must be the same."""

TOLERANCE = 1e-4
"""How far values may differ, relative to the greatest: orders of summation differ."""


def placed(
    simulated: Simulated, examples: Sequence[Tensor], run: Callable[[Tensor], Values]
) -> tuple[dict[str, Range], tuple[str, ...]]:
    """The ranges of a simulated network by the names that its activations have in a float file.

    An activation is the same if its values are, in any order: files hold channels last, and reshape as they like. One that is zero on all
    examples looks like every other such, so it counts as not found.

    Args:
        simulated: The network, simulated.
        examples: Inputs, each with a batch of one.
        run: Every activation of the file for an example.

    Returns:
        By the names of the file's activations the ranges, and the names of the places that are not in the file.
    """
    wanted: dict[str, list[list[NDArray[np.float32]]]] = {}
    found: dict[str, list[NDArray[np.float32]]] = {}
    for example in examples[:EXAMPLES]:
        for place, tensors in simulated.activations(example).items():
            known = wanted.setdefault(place, [[] for _ in tensors])
            for values, tensor in zip(known, tensors, strict=True):
                values.append(np.sort(tensor.numpy().ravel()))
        for name, array in run(example).items():
            found.setdefault(name, []).append(np.sort(array.ravel()))
    ranges: dict[str, Range] = {}
    lost: list[str] = []
    for place, grid in simulated.ranges.items():
        names = [
            name
            for name, values in found.items()
            if any(_same(values, known) for known in wanted[place] if np.any(known))
        ]
        ranges.update(dict.fromkeys(names, (grid.low, grid.high)))
        if not names:
            lost.append(place)
    return ranges, tuple(lost)


def _same(one: Sequence[NDArray[np.float32]], other: Sequence[NDArray[np.float32]]) -> bool:
    return all(
        a.shape == b.shape and np.abs(a - b).max(initial=0) <= TOLERANCE * max(np.abs(b).max(initial=0), 1e-9)
        for a, b in zip(one, other, strict=True)
    )
