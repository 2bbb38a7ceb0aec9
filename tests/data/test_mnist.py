"""MNIST is read from its idx files, and damage is named."""

import gzip
import struct

import numpy as np
import pytest
import torch

from secateur.data import load
from secateur.data.mnist import FILES, FOLDER, read_idx
from secateur.errors import DataError, MissingDataError


def idx(array):
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def tiny(tmp_path):
    """A folder in MNIST's layout with 24 training and 10 test images of 3x2 pixels."""
    folder = tmp_path / FOLDER
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part, count in (("train", 24), ("t10k", 10)):
        pixels = rng.integers(0, 256, (count, 3, 2)).astype(np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(pixels)))
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
    return tmp_path


def test_tiny(tiny):
    """The images keep their rows and columns and their labels."""
    splits = load("mnist", data_dir=tiny)
    raw = read_idx(tiny / FOLDER / FILES[2], dimensions=3)

    assert splits.input_shape == (1, 3, 2)
    assert [len(part) for part in splits.parts().values()] == [22, 2, 10]
    assert splits.test.targets.tolist() == list(range(10))
    correlation = np.corrcoef(raw.ravel(), splits.test.inputs.numpy().ravel())[0, 1]
    assert correlation == pytest.approx(1)


def test_the_environment_names_the_folder(tiny, monkeypatch):
    """SECATEUR_DATA is used where no folder is given, and only there."""
    monkeypatch.setenv("SECATEUR_DATA", str(tiny))
    assert len(load("mnist").test) == 10

    monkeypatch.setenv("SECATEUR_DATA", str(tiny / "nowhere"))
    assert len(load("mnist", data_dir=tiny).test) == 10


def test_no_folder(monkeypatch):
    """Without any folder the error says so, lists the files and how to name a folder."""
    monkeypatch.delenv("SECATEUR_DATA", raising=False)

    with pytest.raises(MissingDataError) as caught:
        load("mnist")

    for part in (
        "no folder of data sets is given",
        f"{FOLDER}/{FILES[0]}",
        "--data-dir",
        "SECATEUR_DATA",
        "https://",
    ):
        assert part in str(caught.value)


def test_missing_file(tiny):
    """A missing file is named with the folder that was searched."""
    (tiny / FOLDER / FILES[1]).unlink()

    with pytest.raises(MissingDataError) as caught:
        load("mnist", data_dir=tiny)

    assert f"'mnist' is not in {tiny}: missing {FOLDER}/{FILES[1]};" in str(caught.value)


def cut(content):
    return content[: len(content) // 2]


def flipped(content):
    return content[:-12] + bytes(255 - byte for byte in content[-12:-8]) + content[-8:]


def longer(content):
    return gzip.compress(gzip.decompress(content) + b"\0")


def other_type(content):
    return gzip.compress(b"\0\0\x0d\x03" + gzip.decompress(content)[4:])


def more_labels(content):
    return gzip.compress(idx(np.zeros(3, np.uint8)))


def wrong_label(content):
    raw = bytearray(gzip.decompress(content))
    raw[-1] = 10
    return gzip.compress(bytes(raw))


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        (FILES[0], cut, "cannot be read"),
        (FILES[0], lambda content: b"no gzip at all", "cannot be read"),
        (FILES[0], flipped, "cannot be read"),
        (FILES[0], longer, "announces 144 bytes but holds 145"),
        (FILES[0], other_type, r"is not an idx file of bytes with 3 dimensions \(it starts with 00000d03\)"),
        (FILES[0], lambda content: gzip.compress(b""), "is not an idx file"),
        (FILES[1], more_labels, "24 train images but 3 labels"),
        (FILES[3], wrong_label, "the test labels go up to 10, but there are 10 classes"),
    ],
)
def test_damage(tiny, file, damage, message):
    """A damaged file is refused, and the message leads to it."""
    path = tiny / FOLDER / file
    path.write_bytes(damage(path.read_bytes()))

    with pytest.raises(DataError, match=message) as caught:
        load("mnist", data_dir=tiny)

    assert not isinstance(caught.value, MissingDataError)
    assert any(part in str(caught.value) for part in (str(path), str(path.parent), "mnist: "))


@pytest.mark.data
def test_mnist(data_dir):
    """The authors' files give 55,000 + 5,000 + 10,000 standardised images."""
    splits = load("mnist", data_dir=data_dir)

    assert [len(part) for part in splits.parts().values()] == [55_000, 5_000, 10_000]
    assert splits.input_shape == (1, 28, 28)
    assert splits.test.targets[:5].tolist() == [7, 2, 1, 0, 4]
    assert splits.test.targets.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    mean, deviation = 0.130660 * 255, 0.308108 * 255
    assert splits.train.inputs.min().item() == pytest.approx(-mean / deviation, rel=1e-5)
    assert splits.train.inputs.max().item() == pytest.approx((255 - mean) / deviation, rel=1e-5)
    assert torch.equal(splits.validation.targets.bincount(), torch.tensor(
        [493, 562, 496, 511, 487, 452, 493, 522, 488, 496]
    ))  # fmt: skip
