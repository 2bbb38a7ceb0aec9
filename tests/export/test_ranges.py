"""Files with ranges that were simulated or trained: what is deployed answers as what was simulated."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from tests.quantise.networks import mobile
from torch import nn

from secateur import data, networks
from secateur.data import Splits
from secateur.errors import SettingsError
from secateur.evaluate import evaluate
from secateur.export import export, open_file
from secateur.export.places import placed
from secateur.quantise import simulate, sqnr, train_aware
from secateur.train import TrainSettings, fit, logits

ONE = 100 / 300
"""An example in 300, in points."""


@pytest.fixture(scope="module")
def digits() -> Splits:
    return data.load("digits", limit=300)


@pytest.fixture(scope="module")
def net(digits) -> nn.Module:
    model = networks.build("digits-net", seed=0)
    fit(model, digits.train, None, TrainSettings(epochs=4, lr=0.05, batch_size=50), seed=0)
    return model.eval()


def test_activations_are_found_by_their_values():
    """Transposed, and among others; a place of which there is nothing is told."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 3)).eval()
    made = simulate(model, torch.randn(5, 1, 8, 8))

    def run(example):
        with torch.no_grad():
            hidden = model[1](model[0](example))
        return {
            "taken": example.numpy(),
            "hidden": hidden.permute(0, 2, 3, 1).numpy() * np.float32(1 + 1e-6),
            "other": np.zeros(hidden.shape, np.float32),
        }

    ranges, lost = placed(made, [torch.randn(1, 1, 8, 8) for _ in range(3)], run)

    grids = made.ranges
    assert ranges == {
        "taken": (grids["input"].low, grids["input"].high),
        "hidden": (grids["0"].low, grids["0"].high),
    }
    assert lost == ("2",)


@pytest.fixture(scope="module")
def aware(net, digits):
    pytest.importorskip("litert_torch")
    return train_aware(net, digits, TrainSettings(epochs=1, lr=0.002, batch_size=50), follow=0.05)


def test_trained_ranges_are_deployed(aware, digits, tmp_path):
    """After quantisation-aware training the file is as accurate as what was simulated, within one example in 300."""
    x = digits.train.take(20).inputs
    made = export(
        aware.model, x[:1], tmp_path / "m.tflite", target="litert", mode="int8", calibration=x, ranges=aware.simulated
    )  # fmt: skip

    deployed = open_file(made.path)

    assert made.ranges_not_found == ()
    simulated, found = evaluate(aware.simulated, digits.validation), evaluate(deployed, digits.validation)
    assert abs(simulated.accuracy - found.accuracy) <= ONE
    wanted, answers = (
        logits(aware.simulated, digits.validation.inputs),
        logits(deployed, digits.validation.inputs),
    )
    assert sqnr(wanted, answers) > 45
    step = aware.ranges["out"].step
    assert float((wanted - answers).abs().max()) <= 2.01 * step


@pytest.mark.slow
def test_a_mobile_network_is_deployed_as_simulated(tmp_path):
    """Depthwise convolutions, gates, hard-swish and SiLU: the file answers as what was simulated, and is told its ranges."""
    pytest.importorskip("litert_torch")
    model, x = mobile(), torch.randn(200, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    made = simulate(model, x[:50], observer="percentile")

    file = export(
        model, x[:1], tmp_path / "m.tflite", target="litert", mode="int8", calibration=x[:10], ranges=made
    )

    wanted, answers = logits(made, x), logits(open_file(file.path), x)
    assert file.ranges_not_found == ()
    assert sqnr(wanted, answers) > sqnr(logits(model, x), wanted) + 10
    assert float((wanted.argmax(1) == answers.argmax(1)).double().mean()) > 0.98


def test_ranges_that_cannot_be_used_are_refused(net, digits, tmp_path):
    """Of another network, in a float file, or where the target takes none."""
    pytest.importorskip("litert_torch")
    x = digits.train.inputs[:10]
    made = simulate(net, x)
    other = copy.deepcopy(net)
    with torch.no_grad():
        other.out.weight.mul_(1.5)
    options = {"calibration": x, "ranges": made}

    with pytest.raises(SettingsError, match="ranges are of another network"):
        export(other, x[:1], tmp_path / "m.tflite", target="litert", mode="int8", **options)
    with pytest.raises(SettingsError, match="has no ranges"):
        export(net, x[:1], tmp_path / "m.tflite", target="litert", mode="dynamic", **options)
    with pytest.raises(SettingsError, match="takes no ranges"):
        export(net, x[:1], tmp_path / "m.pte", target="executorch", mode="int8", **options)
    assert not list(tmp_path.iterdir())


def test_what_lies_between_float_layers_is_float(net, digits, tmp_path):
    """A channel with a thousandfold range harms nobody if the layers around it stay float, though a pooling lies between."""
    pytest.importorskip("litert_torch")
    spoilt = copy.deepcopy(net)
    with torch.no_grad():
        spoilt.norm2.bias[3] = 3000.0
        spoilt.conv3.weight[:, 3] = 0.0
    x = digits.train.inputs[:20]
    made = simulate(spoilt, x, keep_float=["conv2", "conv3"])

    file = export(
        spoilt, x[:1], tmp_path / "m.tflite",
        target="litert", mode="int8", calibration=x, ranges=made, keep_float=["conv2", "conv3"],
    )  # fmt: skip

    wanted, answers = (
        logits(made, digits.validation.inputs),
        logits(open_file(file.path), digits.validation.inputs),
    )
    assert sqnr(wanted, answers) > 45
    assert sqnr(logits(spoilt, digits.validation.inputs), answers) > 25
