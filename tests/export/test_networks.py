"""Every network of the library, and one for mobile devices, deployed in float32."""

import pytest
import torch

from secateur import apply, plan, score, watch
from secateur.export import export, suffix_of
from secateur.networks import build, input_shape_of, names

pytest.importorskip("litert_torch")
pytest.importorskip("onnxscript")

LARGE = (
    "lenet32-64-1024",
    "mobilenet",
    "resnet18",
    "resnet32",
    "resnet50",
    "resnet56",
    "vgg11",
    "vgg13",
    "vgg16",
    "vgg8",
)
SMALL = [name for name in names() if name not in LARGE]


def inputs(network: str) -> torch.Tensor:
    return torch.randn(2, *input_shape_of(network))


@pytest.mark.slow
@pytest.mark.parametrize("target", ["litert", "onnx"])
@pytest.mark.parametrize("network", SMALL)
def test_the_networks_of_the_library_deploy(network, target, tmp_path):
    """To a ten-thousandth."""
    made = export(build(network, seed=0), inputs(network), tmp_path / f"n{suffix_of(target)}", target=target)

    assert made.deviation <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("target", ["litert", "onnx"])
def test_a_network_for_mobile_devices_deploys(target, tmp_path):
    """Depthwise layers and padding as TensorFlow has it."""
    pytest.importorskip("timm")
    model = build("timm:tf_mobilenetv3_small_minimal_100", seed=0, num_classes=10)

    made = export(model, torch.randn(2, 3, 32, 32), tmp_path / f"n{suffix_of(target)}", target=target)

    assert made.deviation <= 1e-4


def test_a_reduced_network_deploys(tmp_path):
    """It is an ordinary network, with fewer channels in the file."""
    model, example = build("digits-net", seed=0), torch.randn(2, 1, 8, 8)
    channels = watch(model, example)
    small = apply(model, plan(channels, score(model, channels, "l2"), remove=0.5))

    whole = export(model, example, tmp_path / "whole.onnx", target="onnx")
    cut = export(small, example, tmp_path / "cut.onnx", target="onnx")

    assert cut.deviation <= 1e-4
    assert cut.bytes < whole.bytes / 2
