"""The embedded digits need no files and are stable."""

import torch

from secateur.data import load


def test_sizes_and_classes():
    """The digits come as 1,077 + 360 + 360 images with every class in proportion in each part."""
    splits = load("digits")

    assert [len(part) for part in splits.parts().values()] == [1077, 360, 360]
    assert splits.input_shape == (1, 8, 8)
    assert splits.classes == tuple("0123456789")
    for part in (splits.validation, splits.test):
        assert min(part.targets.bincount().tolist()) >= 35
        assert max(part.targets.bincount().tolist()) <= 37


def test_every_image_once():
    """All 1,797 images are there, none in two parts."""
    splits = load("digits")

    rows = torch.cat([part.inputs.flatten(1) for part in splits.parts().values()])

    assert len({tuple(row.tolist()) for row in rows}) == 1797


def test_no_data_folder_is_needed(monkeypatch, tmp_path):
    """The digits load wherever the data folder points."""
    monkeypatch.setenv("SECATEUR_DATA", str(tmp_path / "nowhere"))

    assert len(load("digits").test) == 360


def test_seeds():
    """The same seed gives the same splits; another one the same test split and another validation split."""
    one, same, other = load("digits"), load("digits", seed=0), load("digits", seed=1)

    assert torch.equal(one.train.inputs, same.train.inputs)
    assert torch.equal(one.test.inputs, other.test.inputs)
    assert not torch.equal(one.validation.inputs, other.validation.inputs)
