"""Deep compression: few levels, zeros that stay, a file that gives every bit back."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import secateur
from secateur import networks
from secateur.data import Splits
from secateur.errors import NothingToCutError, SettingsError, StoreError
from secateur.evaluate import evaluate
from secateur.methods import CompressSettings, deep_compression
from secateur.surgery import mask
from secateur.testing import check_left_as_found
from secateur.train import TrainSettings, fit

SHORT = TrainSettings(epochs=2, optimizer="adam", lr=1e-3, batch_size=50)


@pytest.fixture(scope="module")
def pruned(net: nn.Module) -> nn.Module:
    """The trained network without the smaller half of each layer's weights."""
    scores = secateur.score_weights(net, "magnitude")
    return mask(net, secateur.plan_weights(net, scores, remove=0.5))


def same(first: nn.Module, second: nn.Module) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return list(a) == list(b) and all(map(torch.equal, a.values(), b.values()))


@pytest.mark.parametrize("method", ["deep-compression", "entropy"])
def test_a_pruned_network_becomes_few_levels_and_one_file(
    digits: Splits, pruned: nn.Module, method: str, tmp_path: Path
) -> None:
    """No layer has more levels than asked for, zeros stay zero, and the file gives back the very network."""
    pytest.importorskip("constriction", reason="pip install 'secateur[compress]'")
    asked = CompressSettings(method=method, bits=3, conv_bits=4, training=SHORT)
    before = copy.deepcopy(pruned)

    found = deep_compression(pruned, asked, data=digits, out=tmp_path / "net.secateur")

    again = secateur.load(tmp_path / "net.secateur")
    assert same(again, found.model)
    assert same(pruned, before)
    for one in found.layers:
        weight = again.get_submodule(one.name).weight
        gone = pruned.get_submodule(one.name).weight == 0
        assert bool((weight[gone] == 0).all())
        assert len(weight.unique()) <= one.levels <= (8 if one.name in ("dense1", "out") else 16) + 1
        assert one.left == int(weight.count_nonzero())
        if method == "deep-compression":
            assert torch.equal(weight == 0, gone)
    assert found.sizes["ans"] < found.sizes["gzip"] < found.size_before
    assert found.sizes["raw"] == found.size_before
    assert found.before.accuracy == evaluate(pruned, digits.validation).accuracy
    assert found.after.accuracy == evaluate(again, digits.validation).accuracy
    assert len(found.history) == 2


def test_training_moves_levels_and_nothing_else_of_a_weight(digits: Splits, pruned: nn.Module) -> None:
    """Which weight has which level is as before training, and the levels are others; the loss on what they learned from fell."""
    plain = deep_compression(pruned, CompressSettings(bits=2, training=None), data=digits)
    tuned = deep_compression(pruned, CompressSettings(bits=2, training=SHORT), data=digits)

    for name, one in plain.clustered.items():
        assert torch.equal(one.indices, tuned.clustered[name].indices)
        assert not torch.equal(one.levels, tuned.clustered[name].levels)
        torch.testing.assert_close(tuned.clustered[name].weight(), tuned.model.get_parameter(name).detach())
    assert plain.history == ()
    assert plain.after is plain.untrained
    assert evaluate(tuned.model, digits.train).loss < evaluate(plain.model, digits.train).loss


def test_spared_layers_keep_their_weights_and_their_zeros(digits: Splits, pruned: nn.Module) -> None:
    """What is excluded is not clustered; where it is trained along, its zeros stay zero."""
    asked = CompressSettings(bits=2, exclude=("conv.*",), training=SHORT)

    found = deep_compression(pruned, asked, data=digits)

    assert {one.name for one in found.layers} == {"dense1", "out"}
    assert torch.equal(found.model.conv2.weight == 0, pruned.conv2.weight == 0)
    assert len(found.model.conv2.weight.unique()) > 100


def test_without_data_it_is_clustered_and_coded(pruned: nn.Module, tmp_path: Path) -> None:
    """Nothing is trained and nothing judged."""
    found = deep_compression(pruned, CompressSettings(clusters=5), out=tmp_path / "net.secateur")

    assert (found.before, found.after, found.history) == (None, None, ())
    assert all(one.levels <= 6 for one in found.layers)
    assert same(secateur.load(tmp_path / "net.secateur"), found.model)


def test_the_same_twice(digits: Splits, pruned: nn.Module) -> None:
    """Compression is the same each time, and leaves network and random state as found."""
    asked = CompressSettings(bits=2, training=SHORT.but(epochs=1), distil=True)
    first, second = (deep_compression(pruned, asked, data=digits) for _ in range(2))

    assert same(first.model, second.model)
    assert first.sizes == second.sizes
    check_left_as_found(pruned, lambda: deep_compression(pruned, asked, data=digits))


def test_what_cannot_be_is_refused(
    pruned: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Options, expressions and endings are refused before anything is done; a missing library is named."""
    with pytest.raises(SettingsError, match="either bits, or clusters"):
        CompressSettings(bits=3, clusters=4)
    with pytest.raises(SettingsError, match="'bits' cannot be 0"):
        CompressSettings(bits=0)
    with pytest.raises(SettingsError, match="near are: conv"):
        deep_compression(pruned, CompressSettings(exclude=("cnv1",)))
    with pytest.raises(NothingToCutError, match="exclude fewer"):
        deep_compression(pruned, CompressSettings(exclude=(".*",)))
    with pytest.raises(SettingsError, match=r"ends in .secateur"):
        deep_compression(pruned, out=tmp_path / "net.safetensors")
    monkeypatch.setitem(sys.modules, "constriction", None)
    with pytest.raises(StoreError, match=r"pip install 'secateur\[compress\]'"):
        deep_compression(pruned, CompressSettings(method="entropy"))
    found = deep_compression(pruned, CompressSettings(bits=2))
    assert "ans" not in found.sizes


def test_norms_that_keep_their_shift_alone_make_a_smaller_file_that_answers_the_same(
    digits: Splits, tmp_path: Path
) -> None:
    """Folding is part of what is trained: the file has the network's own tensors, norms of scale one, and its answers."""
    net = networks.build("resnet", stages=1, blocks=1, width=8, channels=1, seed=0)
    fit(net, digits.train.take(200), None, TrainSettings(epochs=1, lr=0.05, batch_size=50))
    net.eval()
    many = {"clusters": 4096, "method": "deep-compression"}
    exact = deep_compression(net, CompressSettings(**many, fold=True, training=None), data=digits)

    inputs = digits.validation.inputs
    assert torch.allclose(exact.model(inputs), net(inputs), atol=5e-3)

    found = deep_compression(
        net, CompressSettings(bits=5, fold=True, training=SHORT), data=digits, out=tmp_path / "net.secateur"
    )
    plain = deep_compression(net, CompressSettings(bits=5, training=SHORT), data=digits)
    again = secateur.load(tmp_path / "net.secateur")
    assert same(again, found.model)
    assert evaluate(again, digits.validation).accuracy == found.after.accuracy
    norms = [one for one in again.modules() if isinstance(one, nn.BatchNorm2d)]
    assert norms
    assert all(bool((one.weight == 1).all()) for one in norms)
    assert found.sizes["huffman"] < plain.sizes["huffman"]

    with pytest.raises(SettingsError, match="needs data"):
        deep_compression(net, CompressSettings(fold=True))


def test_biases_in_half_precision_take_half_the_bytes_or_less(
    digits: Splits, pruned: nn.Module, tmp_path: Path
) -> None:
    """The file holds exactly what half precision holds, the levels as they are, and what was judged is what is in it."""
    plain = deep_compression(pruned, CompressSettings(training=None), data=digits)
    found = deep_compression(
        pruned, CompressSettings(training=None, half=True), data=digits, out=tmp_path / "net.secateur"
    )
    again = secateur.load(tmp_path / "net.secateur").eval()
    for name, wanted in plain.model.state_dict().items():
        half = name not in found.clustered
        assert torch.equal(again.state_dict()[name], wanted.half().float() if half else wanted)
    biases = sum(one.numel() for name, one in plain.model.named_parameters() if name not in found.clustered)
    assert plain.sizes["huffman"] - found.sizes["huffman"] >= 2 * biases
    assert evaluate(again, digits.validation).accuracy == found.after.accuracy
