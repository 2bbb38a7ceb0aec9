"""Equalisation: the same function, equal ranges, and a reason where a channel may not be scaled."""

import math

import pytest
import torch
from tests.quantise.networks import mobile, with_statistics
from torch import nn
from torch.nn import functional as F

from secateur import networks
from secateur.quantise import equalise, simulate, sqnr
from secateur.testing import CONSTRUCTS, Wired

IMAGE = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def relative(found, wanted):
    return float(((found - wanted).abs().max() / wanted.abs().max()).detach())


def uneven(model, *, seed=0):
    """Channels of very different ranges, as training with norms leaves them."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                rows = torch.randn(len(parameter), generator=generator).mul(1.5).exp()
                parameter.mul_(rows.reshape(-1, *[1] * (parameter.dim() - 1)))
    return model.eval()


def rows(layer):
    return layer.weight.detach().abs().flatten(1).amax(1)


def columns(layer):
    return layer.weight.detach().abs().transpose(0, 1).flatten(1).amax(1)


@pytest.mark.parametrize("name", [n for n, c in CONSTRUCTS.items() if n != "bf16 model"])
def test_the_function_is_preserved(name):
    """Whatever the wiring, an equalised network computes what it did."""
    construct = CONSTRUCTS[name]
    torch.manual_seed(0)
    model, x = uneven(construct.build()), construct.example()
    wanted = model(x)
    if not isinstance(wanted, torch.Tensor):
        pytest.skip("it gives no single tensor")

    assert relative(equalise(model, x).model(x), wanted) < 1e-5


@pytest.mark.parametrize(
    ("spec", "shape"),
    [("digits-net", (2, 1, 8, 8)), ("resnet20", (2, 3, 16, 16)), ("uci-custom", (2, 3, 128))],
)
def test_networks_are_preserved(spec, shape):
    """Norms are folded, chains, additions and flattened maps are scaled; outputs stay."""
    model, x = with_statistics(networks.build(spec, seed=0)), torch.randn(shape)

    found = equalise(model, x[:1])

    assert found.stages
    assert relative(found.model(x), model(x)) < 1e-5


def test_one_pair_is_as_the_formula_says():
    """Both ranges become the root of their product, and the bias follows its row."""
    torch.manual_seed(0)
    model = uneven(nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3)))
    first, second, bias = rows(model[0]), columns(model[2]), model[0].bias.detach().clone()

    made = equalise(model, IMAGE).model

    wanted = (first * second).sqrt()
    assert torch.allclose(rows(made[0]), wanted, rtol=1e-4)
    assert torch.allclose(columns(made[2]), wanted, rtol=1e-4)
    assert torch.allclose(made[0].bias, bias * second / wanted, rtol=1e-4)


def test_a_chain_through_a_depthwise_convolution():
    """A depthwise kernel reads its channels and writes them: ranges are equal on both of its sides."""
    torch.manual_seed(0)
    model = uneven(
        nn.Sequential(
            nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=6), nn.LeakyReLU(), nn.Conv2d(6, 5, 1)
        )
    )
    found = equalise(model, IMAGE)
    made = found.model

    assert [(stage.writers, stage.readers) for stage in found.stages] == [(("0",), ("2",)), (("2",), ("4",))]
    assert torch.allclose(rows(made[0]), rows(made[2]), rtol=5e-3)
    assert torch.allclose(rows(made[2]), columns(made[4]), rtol=5e-3)
    assert relative(made(IMAGE), model(IMAGE)) < 1e-5


def test_dead_channels_are_left():
    """Where a row or its columns are zero nothing is scaled, and nothing becomes NaN."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).eval()
    with torch.no_grad():
        model[0].weight[0], model[2].weight[:, 1] = 0, 0
    x = torch.randn(5, 4)

    made = equalise(model, x).model

    assert torch.allclose(made(x), model(x), atol=1e-6)
    assert torch.equal(made[0].weight[:2], model[0].weight[:2])


def gate(m, x):
    return m.head((m.a(x) * torch.sigmoid(m.b(x))).flatten(1))


def added_constant(m, x):
    return m.head((m.a(x) + 1.0).flatten(1))


def shared(m, x):
    return m.head(m.a(F.relu(m.a(F.pad(x, (0, 0, 0, 0, 0, 2))))).flatten(1))


@pytest.mark.parametrize(
    ("model", "layer", "reason"),
    [
        (nn.Sequential(nn.Conv2d(1, 3, 3), nn.Hardswish(), nn.Conv2d(3, 2, 3)), "0", "hardswish in 1 does not scale"),
        (nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU6(), nn.Conv2d(3, 2, 3)), "0", "relu6"),
        (nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 3)), "2", "the network gives it"),
        (Wired(gate, a=nn.Conv2d(1, 3, 3), b=nn.Conv2d(1, 3, 3), head=nn.Linear(108, 2)), "a", "mul does not scale"),
        (Wired(added_constant, a=nn.Conv2d(1, 3, 3), head=nn.Linear(108, 2)), "a", "add does not scale"),
        (Wired(shared, a=nn.Conv2d(3, 3, 1), head=nn.Linear(192, 2)), "a", "used several times"),
        (nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 3, 3)), nn.ReLU(), nn.Conv2d(3, 2, 1)), "0", "computed"),
    ],
    ids=["hard-swish", "ReLU6", "output", "gate", "constant", "shared", "weight norm"],
)  # fmt: skip
def test_what_may_not_be_scaled_says_why(model, layer, reason):
    """Such channels stay as they are."""
    model.eval()
    found = equalise(model, IMAGE)

    assert reason in found.skipped[layer]
    assert relative(found.model(IMAGE), model(IMAGE)) < 1e-5


def test_relu6_can_be_replaced():
    """With a ReLU for each ReLU6 channels scale; while activations stay below six, the function is the same."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU6(), nn.Conv2d(3, 2, 3)).eval()

    found = equalise(model, IMAGE, replace_relu6=True)

    assert isinstance(found.model[1], nn.ReLU)
    assert found.stages
    assert isinstance(model[1], nn.ReLU6)
    assert relative(found.model(IMAGE), model(IMAGE)) < 1e-5


def test_a_mobile_network_says_what_is_in_the_way():
    """Of depthwise blocks with gates only the gate's own pair can be scaled."""
    found = equalise(mobile(), IMAGE)

    assert [(stage.writers, stage.readers) for stage in found.stages] == [(("squeeze",), ("expand",))]
    assert {name: reason.split()[0] for name, reason in found.skipped.items()} == {
        "stem": "hardswish", "deep": "relu6", "expand": "hardsigmoid", "out": "hardswish", "last": "silu", "head": "the",
    }  # fmt: skip


def test_equal_ranges_help_int8():
    """A network with very uneven channels loses less in int8 when they are equalised."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 10)
    )  # fmt: skip
    scales = torch.randn(16).mul(2).exp()
    with torch.no_grad():  # the same function with uneven channels
        model[0].weight.mul_(scales[:, None, None, None])
        model[0].bias.mul_(scales)
        model[2].weight.div_(scales[None, :, None, None])
    model.eval()
    x = torch.randn(64, 1, 8, 8)
    with torch.no_grad():
        wanted = model(x)
        plain, equal = (sqnr(wanted, simulate(one, x)(x)) for one in (model, equalise(model, x).model))

    assert equal > plain + 3
    assert math.isfinite(equal)
