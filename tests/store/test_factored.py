"""A network whose layers were replaced comes back from its file, however it was cut before and after."""

import pytest
import torch
from torch import nn

import secateur
from secateur.errors import FileFormatError, ModelError
from secateur.networks import build
from secateur.plan import plan_factors, plan_replacements
from secateur.store.state import model_snapshot, restore_model
from secateur.surgery.replaced import REPLACED
from secateur.testing import randomise

X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def network() -> nn.Module:
    model = build("resnet", stages=2, blocks=2, convolutions=2, bottleneck=False, width=8)
    return randomise(model, 1).eval()


def cut(model: nn.Module) -> nn.Module:
    channels = secateur.watch(model, X)
    return secateur.apply(
        model, secateur.plan(channels, secateur.score(model, channels, "l1"), remove=0.4)
    ).eval()


def low_rank(model: nn.Module) -> nn.Module:
    return secateur.factor(model, plan_factors(model, X, rank=3))


def smaller(model: nn.Module, kind: str) -> nn.Module:
    return secateur.factor(model, plan_replacements(model, X, kind=kind, squeeze=0.25))


def mixed(model: nn.Module) -> nn.Module:
    """Every kind in one network, and factors of factors."""
    for kind, layers in (
        ("shift", ["stages.0.0.*"]),
        ("fire", ["stages.0.1.*"]),
        ("depthwise-separable", ["stages.1.0.body.conv1"]),
    ):
        model = secateur.factor(model, plan_replacements(model, X, kind=kind, layers=layers, squeeze=0.25))
    model = secateur.factor(
        model,
        plan_factors(model, X, rank={"stages.1.1.body.conv1": (6, 16), "stages.1.1.body.conv2": (16, 5)}),
    )
    return secateur.factor(model, plan_factors(model, X, rank={"stages.1.1.body.conv1.core": (3, 3)}))


def without_a_block(model: nn.Module) -> nn.Module:
    channels = secateur.watch(model, X)
    found = secateur.blocks(model, channels, X, only="stages.0.1")
    return secateur.apply(model, secateur.plan_blocks(channels, found))


CASES = {
    "low rank": low_rank,
    "shift": lambda model: smaller(model, "shift"),
    "fire": lambda model: smaller(model, "fire"),
    "separable": lambda model: smaller(model, "depthwise-separable"),
    "mixed": mixed,
    "cut after": lambda model: cut(low_rank(model)),
    "cut before": lambda model: low_rank(cut(model)),
    "fire cut after": lambda model: cut(smaller(model, "fire")),
    "shift cut on both sides": lambda model: cut(smaller(cut(model), "shift")),
    "block gone after": lambda model: without_a_block(mixed(model)),
    "block gone before": lambda model: low_rank(without_a_block(model)),
}


@pytest.mark.parametrize("case", CASES)
def test_a_network_with_replaced_layers_is_loaded_again(case, tmp_path):
    """Saved and loaded it gives the same outputs, knows what was replaced, goes on being cut, and saves to the same bytes."""
    model = CASES[case](network())
    secateur.save(model, tmp_path / "a.safetensors")

    again = secateur.load(tmp_path / "a.safetensors")

    assert torch.equal(again(X), model(X))
    assert getattr(again, REPLACED) == getattr(model, REPLACED)
    assert str(again) == str(model)
    secateur.save(again, tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    if case in ("low rank", "mixed"):
        more = cut(again)
        secateur.save(more, tmp_path / "c.safetensors")
        assert torch.equal(secateur.load(tmp_path / "c.safetensors")(X), more(X))


def test_layers_in_a_block_that_left_are_forgotten():
    """What was replaced inside of a block is no longer told once the block is gone."""
    model = without_a_block(mixed(network()))

    names = [entry["name"] for entry in getattr(model, REPLACED)]
    assert not [name for name in names if name.startswith("stages.0.1.")]
    assert [name for name in names if name.startswith("stages.0.0.")]


def test_a_snapshot_holds_what_was_replaced():
    """A run's snapshot of such a network is restored, also where the network is built for real."""

    def for_real() -> nn.Module:
        torch.zeros(1).item()
        made = network()
        made.register_buffer("extra", torch.full((1,), float(made.stem.conv.weight.detach().sum() * 0)))
        return made

    for make in (network, for_real):
        model = low_rank(make())
        tensors, document = model_snapshot(model)
        state = torch.get_rng_state()

        again = restore_model(make, tensors, document)

        assert torch.equal(again(X), model(X))
        assert make is network or torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "entry",
    [
        {"name": "stages.9", "kind": "tucker", "parts": ["first", "core"]},
        {"name": "stages.0", "kind": "tucker", "parts": ["first", "core"]},
        {"name": "out", "kind": "shift", "parts": []},
    ],
)
def test_a_layer_that_is_not_there_is_refused(entry):
    """A file that replaces what the network does not have as such a layer is of another network."""
    tensors, document = model_snapshot(low_rank(network()))

    with pytest.raises(
        FileFormatError, match=f"replaces a layer '{entry['name']}', which the network does not have"
    ):
        restore_model(network, tensors, document | {"replaced": [*document["replaced"], entry]})


@pytest.mark.parametrize(
    "entry",
    [{"name": "", "kind": "svd", "parts": []}, {"name": "out", "kind": "pickle", "parts": []},
     {"name": "out", "kind": "svd", "parts": ["__class__"]}, {"name": "out", "kind": "svd"},
     {"name": "out" + 64 * ".first", "kind": "svd", "parts": []}, {"name": "out..first", "kind": "svd", "parts": []}],
)  # fmt: skip
def test_other_kinds_and_parts_are_refused(entry):
    """A record names a known kind and known parts, or nothing is built."""
    tensors, document = model_snapshot(low_rank(network()))

    with pytest.raises(FileFormatError, match="does not describe a network"):
        restore_model(network, tensors, document | {"replaced": [entry]})
    model = network()
    setattr(model, REPLACED, [entry])
    with pytest.raises(ModelError, match="wrong shape"):
        model_snapshot(model)


def test_tensors_of_other_parts_are_refused():
    """Parts that the tensors do not have are told by the tensor that is missing."""
    tensors, document = model_snapshot(low_rank(network()))
    first = document["replaced"][0]
    other = [{**first, "parts": ["core"]}, *document["replaced"][1:]]

    with pytest.raises(FileFormatError, match="which the network"):
        restore_model(network, tensors, document | {"replaced": other})
