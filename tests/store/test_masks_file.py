"""Masks come back from a file as they were, and nothing else passes for them."""

import pytest
import torch
from torch import nn

from secateur.errors import FileFormatError, SettingsError, StoreError
from secateur.store import load_masks, save, save_masks
from secateur.store.tensor_file import write_tensors
from secateur.surgery import Masks


@pytest.fixture
def masks():
    generator = torch.Generator().manual_seed(0)
    shapes = {"b.weight": (3, 5), "a.weight": (2, 3, 3, 3)}
    return Masks({name: torch.rand(shape, generator=generator) > 0.5 for name, shape in shapes.items()})


def test_masks_come_back(masks, tmp_path):
    """Save, load, save gives the same masks in the same order, and the same bytes."""
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    save_masks(masks, one)
    found = load_masks(one)
    save_masks(found, two)

    assert list(found.kept) == list(masks.kept)
    assert all(torch.equal(found.kept[name], kept) for name, kept in masks.kept.items())
    assert one.read_bytes() == two.read_bytes()


def test_other_files_are_refused(masks, tmp_path):
    """A network's file, a damaged one, one that is not there, and another ending are told."""
    file = tmp_path / "masks.safetensors"
    save(
        nn.Linear(2, 1),
        tmp_path / "net.safetensors",
        factory="torch.nn:Linear",
        arguments={"in_features": 2, "out_features": 1},
    )
    with pytest.raises(FileFormatError, match="holds no masks"):
        load_masks(tmp_path / "net.safetensors")
    save_masks(masks, file)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(FileFormatError, match="not those that were saved"):
        load_masks(file)
    document = {"kind": "masks", "format": 1, "names": ["x"], "digest": ""}
    write_tensors(file, {"x": torch.ones(2)}, document)
    with pytest.raises(FileFormatError, match="must be bool"):
        load_masks(file)
    write_tensors(file, {"y": torch.ones(2)}, document)
    with pytest.raises(FileFormatError, match="should hold 'x'"):
        load_masks(file)
    with pytest.raises(StoreError):
        load_masks(tmp_path / "nothing.safetensors")
    with pytest.raises(SettingsError, match=r"ends in \.safetensors"):
        save_masks(masks, tmp_path / "masks.pt")
