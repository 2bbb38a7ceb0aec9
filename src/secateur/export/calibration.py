"""Ranges of activations from examples: what an integer must be able to say."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

Range = tuple[float, float]
Values = Mapping[str, NDArray[np.float32]]
"""Each activation's values for one example, by the activation's name."""

BINS = 2048
_EDGES = 256
"""Places at which a histogram may be clipped, on each side."""


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


def best_clip(counts: NDArray[np.float64], low: float, high: float, *, levels: int = 255) -> Range:
    """The two ends that cost the least squared error; see `clipped`.

    Args:
        counts: How many values are in each of equal bins between ``low`` and ``high``.
        low: At most 0.
        high: At least 0.
        levels: Steps of the grid.

    Example:
        >>> counts = np.zeros(2048); counts[:256], counts[-1] = 1_000_000, 1
        >>> best_clip(counts, 0.0, 8.0)
        (0.0, 1.0)
    """
    edges = np.linspace(low, high, len(counts) + 1)
    centres = (edges[1:] + edges[:-1]) / 2
    # sums up to each edge of 1, x and x²
    sums = [np.concatenate([[0.0], np.cumsum(counts * centres**power)]) for power in range(3)]
    places = np.unique(np.linspace(0, len(counts), _EDGES + 1).round().astype(int))
    lower, upper = places[edges[places] <= 0], places[edges[places] >= 0]
    lower = lower if low < 0 else np.array([0])
    upper = upper if high > 0 else np.array([len(counts)])
    a, b = edges[lower][:, None], edges[upper][None, :]
    n0, n1, n2 = (one[lower][:, None] for one in sums)
    m0, m1, m2 = (one[-1] - one[upper][None, :] for one in sums)
    inside = sums[0][-1] - n0 - m0
    below = n2 - 2 * a * n1 + a**2 * n0
    above = m2 - 2 * b * m1 + b**2 * m0
    cost = inside * ((b - a) / levels) ** 2 / 12 + below + above
    cost = np.where(b > a, cost, np.inf)
    if not np.isfinite(cost).any():
        return low, high
    row, column = np.unravel_index(int(np.argmin(cost)), cost.shape)
    return float(edges[lower[row]]), float(edges[upper[column]])
