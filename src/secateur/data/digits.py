"""scikit-learn's digits: 1,797 images of 8x8 pixels that come with the library, so nothing is fetched."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np

from secateur.data.images import Images, image_splits
from secateur.data.sampling import draw
from secateur.data.splits import Splits

HELD_OUT = 360
"""Images in the test split, and in the default validation split: a fifth of all each."""

_TEST_SEED = 0


def load_digits(
    *, data_dir: Path | None = None, seed: int = 0, validation: float | None = None, limit: int | None = None
) -> Splits:
    """Handwritten digits of 8x8 pixels: 1,077 training, 360 validation and 360 test images.

    The test images are always the same; the seed draws the validation images from the rest. Both keep the shares of
    the classes.

    Args:
        data_dir: Not looked at; the images come with scikit-learn.
        seed: Draws validation and limit.
        validation: A count or a share of the 1,437 images that are not test images.
        limit: Keep this many training images, the same number of each class.

    Raises:
        SettingsError: validation or limit is out of its range.

    Example:
        >>> load_digits()
        Splits('digits': 1077 train, 360 validation, 360 test x [1, 8, 8], 10 classes)

    Source:
        Alpaydin and Kaynak 1998, "Optical recognition of handwritten digits", UCI, the test part.
    """
    del data_dir
    # Imported here because it takes a second; its package has no type stubs.
    from sklearn import datasets  # noqa: PLC0415  # pyright: ignore[reportMissingTypeStubs]

    bunch = cast("Any", datasets.load_digits())
    pixels = np.asarray(bunch.images).astype(np.uint8)[:, None]
    labels = np.asarray(bunch.target).astype(np.int64)
    chosen = draw(labels, HELD_OUT, seed=_TEST_SEED)
    rest = np.setdiff1d(np.arange(len(labels)), chosen, assume_unique=True)
    return image_splits(
        "digits",
        Images(pixels[rest], labels[rest]),
        Images(pixels[chosen], labels[chosen]),
        classes=tuple("0123456789"),
        default_validation=HELD_OUT,
        seed=seed,
        validation=validation,
        limit=limit,
        notes={
            "source": "scikit-learn's digits, 8x8 pixels of 0 to 16",
            "test": f"{HELD_OUT} fixed images, by class",
        },
    )
