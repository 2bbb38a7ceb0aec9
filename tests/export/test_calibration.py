"""Ranges of activations against what they are by hand."""

import itertools

import numpy as np
import pytest

from secateur.export.calibration import BINS, best_clip, clipped, extremes


def test_extremes_are_of_all_examples():
    """Whatever the order, a rare large value counts."""
    arrays = [np.float32([0.0, 1.0]), np.float32([-3.0, 0.5]), np.float32([9.0])]
    for order in itertools.permutations(arrays):
        assert extremes({"a": array} for array in order) == {"a": (-3.0, 9.0)}


def squared_error(values, low, high, levels):
    """What rounding and clipping costs, value by value."""
    step = (high - low) / levels
    inside = (values >= low) & (values <= high)
    beyond = np.clip(values, low, high) - values
    return inside.sum() * step**2 / 12 + (beyond**2).sum()


@pytest.mark.parametrize("levels", [15, 255])
@pytest.mark.parametrize("kind", ["relu", "normal"])
def test_the_clip_is_the_best_of_all(kind, levels):
    """No pair of ends on a coarse grid costs less, by the sum over the values themselves."""
    values = np.random.default_rng(0).standard_normal(4000) ** 3
    values = np.maximum(values, 0) if kind == "relu" else values
    low, high = min(values.min(), 0.0), values.max()
    counts = np.histogram(values[values != 0], bins=BINS, range=(low, high))[0].astype(float)
    others = values[values != 0]

    found = best_clip(counts, low, high, levels=levels)

    cost = squared_error(others, *found, levels)
    ends = itertools.product(np.linspace(low, 0, 24), np.linspace(high / 24, high, 24))
    assert cost <= 1.01 * min(squared_error(others, a, b, levels) for a, b in ends)
    assert found[0] <= 0 <= found[1]


def test_nothing_is_clipped_where_that_would_cost():
    """Evenly spread values keep their whole range, and a constant zero is no trouble."""
    even = np.linspace(0, 4, 5000, dtype=np.float32)
    run = lambda: iter([{"even": even, "none": np.zeros(3, np.float32)}])  # noqa: E731

    found = clipped(run)

    assert found["even"] == pytest.approx((0.0, 4.0), abs=0.02)
    assert found["none"] == (0.0, 0.0)
