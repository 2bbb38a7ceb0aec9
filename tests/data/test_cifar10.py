"""CIFAR-10 is read from its binary files, and damage is named."""

import numpy as np
import pytest

from secateur.data import load
from secateur.data.cifar10 import CLASSES, FOLDER, LEARNING, TEST, _read
from secateur.errors import DataError, MissingDataError


def test_a_record_is_label_red_green_blue(tmp_path):
    """A record is one label byte and three planes of 32 rows."""
    records = np.zeros((10_000, 3073), np.uint8)
    records[1, 0] = 9
    records[1, 1 + 1024 + 32 * 5 + 7] = 200  # green, row 5, column 7
    path = tmp_path / "file.bin"
    records.tofile(path)

    read = _read(path)

    assert read.labels[:3].tolist() == [0, 9, 0]
    assert np.argwhere(read.pixels).tolist() == [[1, 1, 5, 7]]
    assert read.pixels.max() == 200


def test_a_short_file(tmp_path):
    """A file of another length is refused with both lengths."""
    path = tmp_path / "file.bin"
    path.write_bytes(b"\0" * 3073)

    with pytest.raises(DataError, match=r"file\.bin holds 3073 bytes instead of 30730000"):
        _read(path)


def test_a_wrong_label(tmp_path):
    """A label beyond the ten classes is refused with the file."""
    records = np.zeros((10_000, 3073), np.uint8)
    records[77, 0] = 10
    path = tmp_path / "file.bin"
    records.tofile(path)

    with pytest.raises(DataError, match=r"file\.bin has a label 10, but there are 10 classes"):
        _read(path)


def test_missing(tmp_path):
    """Missing files are named, the first few of them."""
    with pytest.raises(
        MissingDataError, match=rf"missing {FOLDER}/{LEARNING[0]}, .* and 2 more; get it from https://"
    ):
        load("cifar10", data_dir=tmp_path)


@pytest.mark.data
def test_cifar10_limited(data_dir):
    """cifar10:N has N training images, even over the classes, and whole validation and test splits."""
    splits = load("cifar10:1000", data_dir=data_dir)

    assert [len(part) for part in splits.parts().values()] == [1_000, 5_000, 10_000]
    assert splits.train.targets.bincount().tolist() == [100] * 10
    assert splits.validation.targets.bincount().tolist() == [500] * 10
    assert splits.classes == CLASSES
    assert splits.input_shape == (3, 32, 32)
    assert [CLASSES[label] for label in splits.test.targets[:4]] == ["cat", "ship", "ship", "airplane"]
    assert "mean 125.307, 122.95, 113.865" in splits.notes["normalisation"]
    assert (data_dir / FOLDER / TEST).stat().st_size == 30_730_000
