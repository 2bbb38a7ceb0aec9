"""Laws 1 and 2 over torchvision's networks, with every norm, bias and constant parameter random."""

import pytest
import torch
from tests.strategies import random_plan

import secateur
from secateur.testing import check_cut, randomise

_SIZES = {
    "resnet18": 32,
    "resnet50": 32,
    "mobilenet_v2": 32,
    "efficientnet_b0": 32,
    "densenet121": 32,
    "googlenet": 64,
    "squeezenet1_1": 64,
    "shufflenet_v2_x1_0": 32,
    "mobilenet_v3_small": 32,
    "vgg11_bn": 32,
}
_SLOW = {"vgg11_bn"}


def zoo():
    """Torchvision's models, or a skip with the reason."""
    try:
        from torchvision import models
    except (
        ImportError,
        RuntimeError,
    ) as error:  # a build for another torch fails while it registers its operators
        pytest.skip(f"torchvision does not import: {error}")
    return models


def build(name: str) -> torch.nn.Module:
    options = {"init_weights": False} if name == "googlenet" else {}
    return randomise(getattr(zoo(), name)(num_classes=10, **options), seed=1)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in _SLOW else []) for name in _SIZES]
)
def test_zoo_is_cut_exactly(name: str):
    """Torchvision's networks lose half and nine tenths of all channels exactly, and nothing in them is unknown."""
    model, x = build(name), torch.randn(2, 3, _SIZES[name], _SIZES[name])
    channels = secateur.watch(model, x)

    assert not channels.unknown_ops
    assert not channels.notes
    for ratio, seed in ((0.5, 1), (0.9, 2)):
        plan = random_plan(channels, ratio=ratio, seed=seed)
        assert plan.after.parameters < plan.before.parameters * (1 - ratio / 2)
        check_cut(model, x, plan)


def test_heads_that_run_only_in_train_mode_are_cut_with_the_rest():
    """GoogLeNet's auxiliary heads do not run in eval mode; after the cut its train-mode forward still does."""
    model, x = build("googlenet"), torch.randn(2, 3, 64, 64)
    small = secateur.apply(model, random_plan(secateur.watch(model, x), ratio=0.5, seed=0)).train()

    out = small(x)

    assert [tuple(tensor.shape) for tensor in out] == [(2, 10)] * 3
    assert small.aux1.conv.conv.in_channels < model.aux1.conv.conv.in_channels
