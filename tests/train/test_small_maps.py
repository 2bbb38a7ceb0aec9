"""Depthwise convolutions on tiny maps: the same numbers and gradients, computed position by position."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from secateur import data, networks
from secateur.train import TrainSettings, fit
from secateur.train.small_maps import SmallMaps, _Call


@settings(deadline=None, max_examples=60)
@given(
    high=st.integers(1, 5),
    wide=st.integers(1, 5),
    kernel=st.sampled_from([1, 2, 3, 5]),
    stride=st.integers(1, 2),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
    bias=st.booleans(),
    last=st.booleans(),
)
def test_the_outputs_and_all_gradients_are_those_of_the_convolution(  # noqa: PLR0917
    high, wide, kernel, stride, padding, dilation, bias, last
):
    if min(high, wide) + 2 * padding < dilation * (kernel - 1) + 1:
        return
    torch.manual_seed(0)
    layer = nn.Conv2d(
        6, 6, kernel, stride=stride, padding=padding, dilation=dilation, groups=6, bias=bias
    ).double()
    maps = torch.randn(3, 6, high, wide, dtype=torch.float64)
    maps = maps.to(memory_format=torch.channels_last) if last else maps
    maps.requires_grad_()
    wanted = layer(maps)
    with SmallMaps():
        found = layer(maps)
    assert found.shape == wanted.shape
    torch.testing.assert_close(found, wanted)
    back = torch.randn_like(wanted)
    variables = [maps, *layer.parameters()]
    for one, other in zip(
        torch.autograd.grad(found, variables, back, allow_unused=True),
        torch.autograd.grad(wanted, variables, back),
        strict=True,
    ):
        torch.testing.assert_close(torch.zeros_like(other) if one is None else one, other)


@pytest.mark.parametrize(
    ("layer", "size", "suits"),
    [
        (nn.Conv2d(4, 4, 3, padding=1, groups=4), 2, True),
        (nn.Conv2d(4, 4, 3, padding=1, groups=4), 3, False),
        (nn.Conv2d(4, 8, 3, padding=1, groups=4), 2, False),
        (nn.Conv2d(4, 4, 3, padding=1, groups=2), 2, False),
        (nn.Conv2d(4, 4, 1), 1, False),
        (nn.Conv2d(4, 4, 3, padding="same", groups=4), 2, False),
    ],
)
def test_only_depthwise_convolutions_on_tiny_maps_are_meant(layer, size, suits):
    call = _Call(
        torch.zeros(1, 4, size, size),
        layer.weight,
        stride=layer.stride,
        padding=layer.padding,
        groups=layer.groups,
    )
    assert call.suits() is suits


@pytest.mark.parametrize("last", [False, True])
def test_what_comes_out_is_laid_out_as_what_went_in(last):
    """So that code behind it may view it: a depthwise convolution followed by view() without a norm between."""
    maps = torch.randn(3, 8, 2, 2)
    maps = maps.to(memory_format=torch.channels_last) if last else maps
    layer = nn.Conv2d(8, 8, 3, padding=1, groups=8)
    with SmallMaps():
        found = layer(maps)
    assert found.stride() == layer(maps).stride()
    if not last:
        found.relu().view(3, -1)


def test_mixed_precision_is_left_to_the_kernels():
    layer = nn.Conv2d(8, 8, 3, padding=1, groups=8)
    with torch.autocast("cpu", dtype=torch.bfloat16), SmallMaps():
        assert layer(torch.randn(3, 8, 2, 2)).dtype == torch.bfloat16


def test_a_training_with_it_ends_as_one_without():
    digits = data.load("digits", limit=128)
    ends = []
    for small in (False, True):
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8),
            nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ReLU(), nn.Flatten(), nn.Linear(32, 10),
        )  # fmt: skip
        fit(net, digits.train, None, TrainSettings(epochs=2, lr=0.05, batch_size=16, small_maps=small))
        ends.append(torch.cat([parameter.detach().flatten() for parameter in net.parameters()]))
    torch.testing.assert_close(*ends, rtol=1e-4, atol=1e-5)
    assert not torch.equal(*ends)  # it was computed in another order


def test_a_mobile_network_trains_with_it(tmp_path):
    pytest.importorskip("timm")
    net = networks.build("timm:tf_mobilenetv3_small_minimal_100", num_classes=10, seed=0).double()
    torch.manual_seed(0)
    inputs, back = torch.randn(4, 3, 32, 32).double(), torch.randn(4, 10).double()
    net.train()
    found = []
    for small in (False, True):
        net.zero_grad()
        if small:
            with SmallMaps():
                net(inputs).backward(back)
        else:
            net(inputs).backward(back)
        found.append({name: p.grad.clone() for name, p in net.named_parameters()})
    for name, wanted in found[0].items():
        torch.testing.assert_close(found[1][name], wanted, rtol=1e-7, atol=1e-9)
