"""What image data sets share: splitting by class and standardising bytes, without copying more than is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from secateur.data.sampling import draw, held_out
from secateur.data.splits import Split, Splits

Pixels = NDArray[np.uint8]
_CHUNK = 5000


@dataclass(frozen=True, eq=False)
class Images:
    """Images as their files hold them.

    Attributes:
        pixels: `[n, channels, height, width]`.
        labels: `[n]`.
    """

    pixels: Pixels
    labels: NDArray[np.int64]


def image_splits(
    name: str,
    learning: Images,
    test: Images,
    *,
    classes: tuple[str, ...],
    default_validation: int,
    seed: int,
    validation: float | None,
    limit: int | None,
    notes: Mapping[str, str],
) -> Splits:
    """Split the learning images by seed and standardise everything.

    The mean and deviation of each channel are those of all learning images, so that the same test image gives the
    same numbers whatever the seed.

    Args:
        name: Of the data set.
        learning: What is split into training and validation.
        test: What is read once.
        classes: Their names.
        default_validation: Validation images when nothing is asked.
        seed: Draws the validation images and the limited subset.
        validation: A count or a share of the learning images.
        limit: Keep this many training images, the same number of each class.
        notes: What to say beside how it was split and normalised.
    """
    count = held_out(len(learning.labels), validation, default=default_validation)
    chosen = draw(learning.labels, count, seed=seed)
    rest = np.setdiff1d(np.arange(len(learning.labels)), chosen, assume_unique=True)
    if limit is not None:
        rest = rest[draw(learning.labels[rest], limit, seed=seed, balanced=True)]
    mean, deviation = channel_statistics(learning.pixels)

    def split(images: Images, positions: NDArray[np.int64] | slice) -> Split:
        return Split(
            _standardise(images.pixels[positions], mean, deviation),
            torch.as_tensor(images.labels[positions].copy()),
        )

    described = {
        "split": f"{len(rest)} training and {count} validation images, by class, seed {seed}"
        + ("" if limit is None else f"; training limited to {limit}, the classes even"),
        "normalisation": "each channel: (pixel - mean) / deviation of the training and validation images, mean "
        f"{_numbers(mean)}, deviation {_numbers(deviation)}",
    }
    return Splits(
        name,
        split(learning, rest),
        split(learning, chosen),
        split(test, slice(None)),
        classes,
        {**notes, **described},
    )


def channel_statistics(pixels: Pixels) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and deviation of each channel, from exact counts of the 256 values.

    Args:
        pixels: `[n, channels, height, width]`.

    Returns:
        Two vectors `[channels]`, in pixel units; a deviation of zero is given as 1.

    Example:
        >>> channel_statistics(np.array([0, 2, 4, 6], np.uint8).reshape(4, 1, 1, 1))
        (array([3.]), array([2.23606798]))
    """
    counts = np.zeros((pixels.shape[1], 256), np.int64)
    for start in range(0, len(pixels), _CHUNK):
        chunk = pixels[start : start + _CHUNK]
        for channel in range(pixels.shape[1]):
            counts[channel] += np.bincount(chunk[:, channel].ravel(), minlength=256)
    shares = counts / counts.sum(axis=1, keepdims=True)
    values = np.arange(256)
    mean = shares @ values
    deviation = np.sqrt(((values - mean[:, None]) ** 2 * shares).sum(axis=1))
    return mean, np.where(deviation > 0, deviation, 1.0)


def _standardise(pixels: Pixels, mean: NDArray[np.float64], deviation: NDArray[np.float64]) -> torch.Tensor:
    """The standardised images `[n, channels, height, width]`, float32, written in one piece of memory."""
    values = torch.as_tensor(pixels.astype(np.float32))
    shift, scale = (torch.as_tensor(v, dtype=torch.float32)[:, None, None] for v in (mean, deviation))
    return values.sub_(shift).div_(scale)


def _numbers(values: NDArray[np.float64]) -> str:
    return ", ".join(f"{value:.6g}" for value in values)
