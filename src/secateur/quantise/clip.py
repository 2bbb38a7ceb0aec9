"""Where to cut a histogram of activations off, so that rounding and cutting off cost least."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BINS = 2048
"""Of a histogram of activations."""

_EDGES = 256
"""Places at which a histogram may be clipped, on each side."""


def best_clip(
    counts: NDArray[np.float64], low: float, high: float, *, levels: int = 255
) -> tuple[float, float]:
    """The two ends that cost the least squared error.

    Values inside a range of width w are rounded to a grid of step Δ = w / ``levels``, which costs Δ²/12 each; one outside costs its
    squared distance to the end.

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
