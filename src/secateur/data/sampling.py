"""Choosing examples by a seed: shares of every class, or the same number of each."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateur.errors import SettingsError


def draw(
    targets: NDArray[np.integer[Any]], count: int, *, seed: int, balanced: bool = False
) -> NDArray[np.int64]:
    """Draw examples so that the classes stay in proportion, or come out even.

    Examples of each class are put in random order; the j-th of a class of n gets the key (j + 1/2) / n, or j where
    classes shall be even; the `count` smallest keys are taken, lower classes first among equals.

    Args:
        targets: Class of each example, `[n]`.
        count: How many to draw.
        seed: Makes the draw.
        balanced: Draw the same number of every class (as far as each has so many) instead of the same share.

    Returns:
        Positions of the drawn examples, `[count]`, ascending.

    Raises:
        SettingsError: The count is below 1 or above n.

    Example:
        >>> labels = np.array([0, 0, 0, 0, 0, 0, 1, 1, 1])
        >>> labels[draw(labels, 3, seed=0)]
        array([0, 0, 1])
        >>> labels[draw(labels, 4, seed=0, balanced=True)]
        array([0, 0, 1, 1])
    """
    if not 1 <= count <= len(targets):
        raise SettingsError(
            f"{count} examples cannot be taken from {len(targets)}; ask for 1 to {len(targets)}"
        )
    _, label, size = np.unique(targets, return_inverse=True, return_counts=True)
    shuffled = np.random.default_rng(seed).permutation(len(label))
    by_class = shuffled[np.argsort(label[shuffled], kind="stable")]
    start = np.cumsum(size) - size
    rank = np.empty(len(label), np.int64)
    rank[by_class] = np.arange(len(label)) - start[label[by_class]]
    key = rank if balanced else (rank + 0.5) / size[label]
    return np.sort(np.lexsort((label, key))[:count])


def held_out(available: int, asked: float | None, *, default: int, what: str = "training examples") -> int:
    """How many examples (or persons) go to validation.

    Args:
        available: How many there are.
        asked: A count, a share between 0 and 1, or None for the default.
        default: The count when nothing is asked.
        what: What is counted, for the error.

    Raises:
        SettingsError: None would be left for training, or none would go to validation.

    Example:
        >>> held_out(100, None, default=20), held_out(100, 0.25, default=20), held_out(100, 7, default=20)
        (20, 25, 7)
    """
    if asked is None:
        return default
    count = round(asked * available) if isinstance(asked, float) else asked
    if not 1 <= count < available:
        raise SettingsError(
            f"validation={asked} of {available} {what} is {count}; at least one must go to validation and at least one "
            f"must stay for training: give a count from 1 to {available - 1} or a share between 0 and 1"
        )
    return count
