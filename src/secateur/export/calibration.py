"""Ranges of activations from examples: what an integer must be able to say."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from secateur.quantise import BINS, best_clip

Range = tuple[float, float]
Values = Mapping[str, NDArray[np.float32]]
"""Each activation's values for one example, by the activation's name."""


def extremes(examples: Iterable[Values]) -> dict[str, Range]:
    """The smallest and the largest value of each activation over all examples: nothing seen is clipped.

    Example:
        >>> extremes([{"a": np.float32([0, 2])}, {"a": np.float32([-1, 1])}])
        {'a': (-1.0, 2.0)}
    """
    found: dict[str, Range] = {}
    for values in examples:
        for name, array in values.items():
            low, high = float(array.min()), float(array.max())
            before = found.get(name, (low, high))
            found[name] = min(before[0], low), max(before[1], high)
    return found


def clipped(run: Callable[[], Iterable[Values]], *, levels: int = 255) -> dict[str, Range]:
    """Ranges that make the squared error of rounding and clipping least, by a histogram of each activation.

    Values inside a range of width w are rounded to a grid of step Δ = w / ``levels``, which costs Δ²/12 each; one outside costs its
    squared distance to the end. Zeros are on every grid and cost nothing. Both ends are searched over.

    Args:
        run: Gives the examples' activations, from the start each time: once for the extremes, once for the histograms.
        levels: Steps of the grid.

    Returns:
        A range for each activation; zero lies in it.

    Source:
        The idea is that of PyTorch's and TensorRT's histogram observers, with the squared error as the measure; the search is over all pairs
        of 256 ends on each side, not from the outside in.
    """
    limits = {name: (min(low, 0.0), max(high, 0.0)) for name, (low, high) in extremes(run()).items()}
    counts = {name: np.zeros(BINS) for name in limits}
    for values in run():
        for name, array in values.items():
            kept = array[array != 0]
            counts[name] += np.histogram(
                kept, bins=BINS, range=limits[name] if limits[name][0] < limits[name][1] else None
            )[0]
    return {name: best_clip(counts[name], *limits[name], levels=levels) for name in limits}
