"""A network without some of its blocks comes back from its file, and only to the network that it was."""

import pytest
import torch
from torch import nn

import secateur
from secateur.errors import FileFormatError, ModelError
from secateur.networks import build
from secateur.store.state import model_snapshot, restore_model
from secateur.surgery.blocks import BLOCKS
from secateur.testing import randomise

X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def shallow() -> nn.Module:
    model = build("resnet20", seed=0)
    randomise(model, 1)
    channels = secateur.watch(model, X)
    found = secateur.blocks(model, channels, X)
    scores = secateur.score(model, channels, "l1")
    return secateur.apply(model, secateur.plan(channels, scores, remove=0.3, without=found[::3])).eval()


def test_a_network_without_blocks_is_loaded_again(tmp_path):
    """Saved and loaded it gives the same outputs, knows what is gone, can be cut on, and saves to the same bytes."""
    model = shallow()
    secateur.save(model, tmp_path / "a.safetensors")

    again = secateur.load(tmp_path / "a.safetensors")

    assert torch.equal(again(X), model(X))
    assert getattr(again, BLOCKS) == getattr(model, BLOCKS)
    assert type(again.stages[0][0]) is nn.Identity
    secateur.save(again, tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()

    channels = secateur.watch(again, X)
    more = secateur.apply(again, secateur.plan_blocks(channels, secateur.blocks(again, channels, X)))
    secateur.save(more, tmp_path / "c.safetensors")
    assert torch.equal(secateur.load(tmp_path / "c.safetensors")(X), more(X))


def test_attributes_in_a_block_that_left_are_forgotten(tmp_path):
    """Integers that followed an earlier cut inside of a block are no longer set once the block is gone."""
    timm = pytest.importorskip("timm", exc_type=ImportError)
    options = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 3, "num_heads": 4, "num_classes": 5}
    model = randomise(timm.models.VisionTransformer(**options), 1).eval()
    x = torch.randn(2, 3, 16, 16)
    channels = secateur.watch(model, x)
    first = secateur.apply(model, secateur.plan(channels, secateur.score(model, channels, "l1"), remove=0.5))
    kept = {entry["module"] for entry in first._secateur_settings}
    assert "blocks.1.attn" in kept

    channels = secateur.watch(first, x)
    gone = secateur.blocks(first, channels, x, only="blocks.1")
    second = secateur.apply(first, secateur.plan_blocks(channels, gone))
    secateur.save(
        second, tmp_path / "vit.safetensors", factory="timm.models:VisionTransformer", arguments=options
    )

    assert {entry["module"] for entry in second._secateur_settings} == kept - {"blocks.1.attn"}
    again = secateur.load(tmp_path / "vit.safetensors", allow=["timm"])
    assert torch.equal(again(x), second(x))


def test_a_snapshot_holds_what_is_gone():
    """A run's snapshot of a network without blocks is restored."""
    model = shallow()
    tensors, document = model_snapshot(model)

    again = restore_model(lambda: build("resnet20"), tensors, document)

    assert torch.equal(again(X), model(X))


def test_blocks_that_are_not_there_are_refused():
    """A file that leaves out what the network does not have is of another network."""
    tensors, document = model_snapshot(shallow())
    strange = document | {"blocks": [*document["blocks"], {"name": "stages.9", "alone": True}]}

    with pytest.raises(
        FileFormatError, match=r"leaves out a block 'stages\.9', which the network does not have"
    ):
        restore_model(lambda: build("resnet20"), tensors, strange)
    with pytest.raises(FileFormatError, match="the snapshot does not describe a network"):
        restore_model(
            lambda: build("resnet20"), tensors, document | {"blocks": [{"name": "", "alone": True}]}
        )


def test_a_record_of_another_shape_is_refused():
    """What a network says of its blocks must be names."""
    model = shallow()
    setattr(model, BLOCKS, [{"name": 3}])

    with pytest.raises(ModelError, match="wrong shape"):
        model_snapshot(model)
