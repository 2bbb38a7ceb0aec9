"""CIFAR-10, read from the authors' binary version."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from secateur.data.files import locate, read_bytes
from secateur.data.images import Images, image_splits
from secateur.data.splits import Splits
from secateur.errors import DataError

FOLDER = "cifar-10-batches-bin"
LEARNING = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
TEST = "test_batch.bin"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

_PER_FILE = 10_000
_RECORD = 1 + 3 * 32 * 32


def load_cifar10(
    *, data_dir: Path | None = None, seed: int = 0, validation: float | None = None, limit: int | None = None
) -> Splits:
    """Colour images of 32x32 pixels: 45,000 training, 5,000 validation and 10,000 test images.

    Args:
        data_dir: The folder that holds `cifar-10-batches-bin/*.bin`; None takes the environment variable
            `SECATEUR_DATA`.
        seed: Draws validation and limit.
        validation: A count or a share of the 50,000 images that are not test images; default 5,000.
        limit: Keep this many training images, the same number of each class.

    Raises:
        MissingDataError: The files are not there.
        DataError: A file is damaged.
        SettingsError: validation or limit is out of its range.

    Source:
        Krizhevsky 2009, "Learning multiple layers of features from tiny images".
    """
    expected = [f"{FOLDER}/{file}" for file in (*LEARNING, TEST)]
    source = "https://www.cs.toronto.edu/~kriz/cifar.html (the binary version)"
    root = locate("cifar10", expected, data_dir=data_dir, source=source)
    parts = [_read(root / FOLDER / file) for file in LEARNING]
    learning = Images(
        np.concatenate([part.pixels for part in parts]), np.concatenate([part.labels for part in parts])
    )
    return image_splits(
        "cifar10",
        learning,
        _read(root / FOLDER / TEST),
        classes=CLASSES,
        default_validation=5_000,
        seed=seed,
        validation=validation,
        limit=limit,
        notes={"source": "CIFAR-10, 32x32 pixels of 0 to 255", "test": "the authors' 10000 images"},
    )


def _read(path: Path) -> Images:
    """One file: for each image a label byte, then 1,024 bytes each of red, green and blue."""
    records = np.frombuffer(read_bytes(path, expected=_PER_FILE * _RECORD), np.uint8).reshape(
        _PER_FILE, _RECORD
    )
    labels = records[:, 0].astype(np.int64)
    if labels.max() >= len(CLASSES):
        raise DataError(f"{path} has a label {labels.max()}, but there are 10 classes; fetch the file again")
    return Images(records[:, 1:].reshape(_PER_FILE, 3, 32, 32), labels)
