"""MNIST, read from the authors' idx files."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from secateur.data.files import locate, read_bytes
from secateur.data.images import Images, image_splits
from secateur.data.splits import Splits
from secateur.errors import DataError

FOLDER = "MNIST/raw"
FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)


def load_mnist(
    *, data_dir: Path | None = None, seed: int = 0, validation: float | None = None, limit: int | None = None
) -> Splits:
    """Handwritten digits of 28x28 pixels: 55,000 training, 5,000 validation and 10,000 test images.

    Args:
        data_dir: The folder that holds `MNIST/raw/*.gz`; None takes the environment variable `SECATEUR_DATA`.
        seed: Draws validation and limit.
        validation: A count or a share of the 60,000 images that are not test images; default 5,000.
        limit: Keep this many training images, the same number of each class.

    Raises:
        MissingDataError: The files are not there.
        DataError: A file is damaged.
        SettingsError: validation or limit is out of its range.

    Source:
        LeCun, Cortes and Burges 1998, "The MNIST database of handwritten digits".
    """
    expected = [f"{FOLDER}/{file}" for file in FILES]
    source = "https://ossci-datasets.s3.amazonaws.com/mnist"
    root = locate("mnist", expected, data_dir=data_dir, source=source)
    learning, test = _images(root, "train"), _images(root, "t10k")
    return image_splits(
        "mnist",
        learning,
        test,
        classes=tuple("0123456789"),
        default_validation=max(1, len(learning.labels) // 12),
        seed=seed,
        validation=validation,
        limit=limit,
        notes={
            "source": "MNIST, 28x28 pixels of 0 to 255",
            "test": f"the authors' {len(test.labels)} images",
        },
    )


def read_idx(path: Path, *, dimensions: int) -> NDArray[np.uint8]:
    """Read an idx file of bytes, packed or not.

    The file starts with two zero bytes, the type (8: bytes), the number of dimensions and each size as a big-endian
    32-bit integer.

    Args:
        path: The file; unpacked if its name ends in `.gz`.
        dimensions: How many the file must have.

    Returns:
        The array.

    Raises:
        DataError: The file cannot be read, is not such a file, or is too short or long.
    """
    content = read_bytes(path)
    start = 4 + 4 * dimensions
    if len(content) < start or content[:4] != bytes((0, 0, 8, dimensions)):
        raise DataError(
            f"{path} is not an idx file of bytes with {dimensions} dimensions (it starts with {content[:4].hex()}); "
            "fetch the file again"
        )
    sizes = struct.unpack(f">{dimensions}I", content[4:start])
    if len(content) - start != math.prod(sizes):
        raise DataError(
            f"{path} announces {math.prod(sizes)} bytes but holds {len(content) - start}; fetch the file again"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(sizes)


def _images(root: Path, part: str) -> Images:
    folder = root / FOLDER
    pixels = read_idx(folder / f"{part}-images-idx3-ubyte.gz", dimensions=3)
    labels = read_idx(folder / f"{part}-labels-idx1-ubyte.gz", dimensions=1)
    if len(pixels) != len(labels):
        raise DataError(
            f"{folder} has {len(pixels)} {part} images but {len(labels)} labels; fetch the files again"
        )
    return Images(pixels[:, None], labels.astype(np.int64))
