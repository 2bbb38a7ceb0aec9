"""Simulated int8: what whole-number arithmetic gives, at the places where runtimes round."""

import copy

import numpy as np
import pytest
import torch
from tests.quantise.networks import mobile
from torch import nn

from secateur.errors import DataError, ModelError, SettingsError
from secateur.quantise import Range, fold, simulate, sqnr
from secateur.testing import CONSTRUCTS, Wired
from secateur.train import logits


def convolved(x_bchw: np.ndarray, w_oihw: np.ndarray) -> np.ndarray:
    """A 3x3 convolution of whole numbers, padded by what stands for zero already."""
    batch, _, high, wide = x_bchw.shape
    out = np.zeros((batch, len(w_oihw), high - 2, wide - 2), dtype=np.int64)
    for i in range(3):
        for j in range(3):
            window = x_bchw[:, :, i : i + high - 2, j : j + wide - 2].astype(np.int64)
            out += np.einsum("bihw,oi->bohw", window, w_oihw[:, :, i, j].astype(np.int64))
    return out


def test_simulated_equals_whole_numbers():
    """A small network's simulated answers are those of int8 arithmetic written by hand, up to one step."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(5 * 16, 4)
    ).eval()
    x = torch.randn(20, 2, 8, 8)
    made = simulate(model, x)
    places = list(made.ranges.values())
    assert list(made.ranges) == ["input", "0", "4"]

    def weights(layer, grid):
        steps = (layer.weight.detach().flatten(1).abs().amax(1) / 127).double().numpy()
        shape = (-1, *[1] * (layer.weight.dim() - 1))
        w = np.rint(layer.weight.detach().double().numpy() / steps.reshape(shape))
        b = np.rint(layer.bias.detach().double().numpy() / (steps * grid.step))
        return w.astype(np.int8), b.astype(np.int32), steps * grid.step

    def requantised(sums, scale, grid, *, relu):
        values = np.rint(sums * scale / grid.step) + grid.zero
        return np.clip(values, grid.zero if relu else -128, 127).astype(np.int64)

    q = np.clip(np.rint(x.double().numpy() / places[0].step) + places[0].zero, -128, 127).astype(np.int64)
    w, b, scale = weights(model[0], places[0])
    padded = np.pad(q - places[0].zero, ((0, 0), (0, 0), (1, 1), (1, 1)))
    sums = convolved(padded, w) + b[None, :, None, None]
    q = requantised(sums, scale[None, :, None, None], places[1], relu=True)
    q = q.reshape(20, 5, 4, 2, 4, 2).max((3, 5)).reshape(20, -1)
    w, b, scale = weights(model[4], places[1])
    q = requantised((q - places[1].zero) @ w.astype(np.int64).T + b, scale, places[2], relu=False)
    by_hand = places[2].step * (q - places[2].zero)

    with torch.no_grad():
        answers = made(x).double().numpy()

    steps = np.abs(answers - by_hand) / places[2].step
    assert steps.max() <= 1.01
    assert (steps > 0.5).mean() < 0.02


def test_the_places_of_a_mobile_network():
    """Activations are rounded behind fused activation functions, gates and averages have places of their own."""
    x = torch.randn(8, 1, 8, 8)
    made = simulate(mobile(), x)

    assert list(made.ranges) == [
        "input", "stem", "hardswish", "deep", "mean", "squeeze", "expand (inner)", "expand", "mul", "out", "add",
        "last", "silu (inner)", "silu",
        "adaptive_avg_pool2d", "head",
    ]  # fmt: skip
    assert made.ranges["deep"].low == 0
    assert made.ranges["deep"].high <= 6
    layers = {layer.name: layer for layer in made.scheme.layers.values()}
    assert made.scheme.places[layers["out"].takes] == "mul"
    assert made.scheme.places[layers["head"].takes] == "adaptive_avg_pool2d"


def test_tensors_side_by_side_share_a_grid():
    """What is concatenated lies on one grid; a sigmoid's step is 1/256."""
    model = Wired(
        lambda m, x: m.head(torch.cat([m.a(x).relu(), m.b(x).relu()], 1).flatten(1)).sigmoid(),
        a=nn.Conv2d(1, 2, 1), b=nn.Conv2d(1, 3, 1), head=nn.Linear(5 * 64, 4),
    ).eval()  # fmt: skip
    made = simulate(model, torch.randn(8, 1, 8, 8))

    assert len(made.ranges) == 4
    layers = {layer.name: layer for layer in made.scheme.layers.values()}
    assert layers["a"].gives == layers["b"].gives == layers["head"].takes
    assert list(made.ranges.values())[-1].step == 1 / 256


@pytest.mark.parametrize("name", [n for n, c in CONSTRUCTS.items() if n != "bf16 model"])
def test_every_construct_is_simulated(name):
    """Whatever the wiring, what is simulated is near to the network, and nothing kept float is rounded."""
    construct = CONSTRUCTS[name]
    torch.manual_seed(0)
    model, x = construct.build().eval(), construct.example()
    if not isinstance(model(x), torch.Tensor):
        pytest.skip("it gives no single tensor")
    with torch.no_grad():
        wanted = model(x)
        made = simulate(model, x)

        assert sqnr(wanted, made(x)) > 15
        assert torch.allclose(made.but(keep_float=made.names)(x), wanted, rtol=1e-3, atol=1e-4)


def test_layers_that_stay_float(net, digits):
    """A float layer's weights are not rounded; between two float ones activations are not, either."""
    x = digits.validation.inputs[:50]
    made = simulate(net, digits.train.inputs[:50])
    wanted = logits(net, x)

    near = {
        keep: sqnr(wanted, logits(made.but(keep_float=keep), x))
        for keep in ((), ("conv1",), ("conv1", "conv2", "conv3", "dense1"), made.names)
    }

    assert near[()] < near["conv1", "conv2", "conv3", "dense1"] < near[made.names]
    assert near[made.names] > 100


def test_only_one_is_rounded(net, digits):
    """With one layer rounded, less is lost than with all of them."""
    x = digits.validation.inputs[:50]
    made = simulate(net, digits.train.inputs[:50])
    wanted, whole = logits(net, x), sqnr(logits(net, x), logits(made, x))

    assert all(sqnr(wanted, logits(made.only(name), x)) > whole for name in made.names)


def test_the_settled_network_has_its_weights_on_the_grid(net, digits):
    """Settling changes nothing of what is simulated, and doing it twice is doing it once."""
    made = simulate(net, digits.train.inputs[:50])
    x = digits.validation.inputs[:50]

    settled = made.settle()
    again = made.on(settled)

    assert torch.allclose(logits(again, x), logits(made, x), atol=1e-4)
    for name, parameter in again.settle().named_parameters():
        assert torch.allclose(parameter, settled.get_parameter(name), rtol=1e-5, atol=1e-7)


def test_the_network_is_left_as_found(digits, net):
    """Neither simulating nor running what is simulated leaves a trace on the network or in PyTorch."""
    before = copy.deepcopy(net.state_dict())
    hooks = len(nn.modules.module._global_forward_hooks), len(nn.modules.module._global_forward_pre_hooks)

    simulate(net, digits.train.inputs[:20])(digits.validation.inputs[:5])
    with pytest.raises(RuntimeError):
        simulate(net, digits.train.inputs[:20])(torch.zeros(1, 3, 8, 8))

    assert hooks == (
        len(nn.modules.module._global_forward_hooks),
        len(nn.modules.module._global_forward_pre_hooks),
    )
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert isinstance(net.norm1, nn.BatchNorm2d)


def test_what_observers_see():
    """All that was seen, its running average, and ends that cut off one far value among thousands."""
    model = nn.Sequential(nn.Identity(), nn.Linear(1000, 2)).eval()
    x = torch.linspace(-1, 1, 100 * 1000).reshape(100, 1000)[
        torch.randperm(100, generator=torch.Generator().manual_seed(0))
    ]
    x[50, 0] = 40.0
    first = {
        o: simulate(model, x, observer=o).ranges["input"]
        for o in ("minmax", "ema", "percentile", "histogram")
    }

    assert (first["minmax"].low, first["minmax"].high) == (-1.0, 40.0)
    low, high = float(x[0].min()), float(x[0].max())
    for row in x[1:]:
        low, high = 0.95 * low + 0.05 * float(row.min()), 0.95 * high + 0.05 * float(row.max())
    assert first["ema"].low == pytest.approx(low)
    assert first["ema"].high == pytest.approx(high)
    assert first["percentile"].high < 1.1
    assert first["histogram"].high < 40
    errors = {o: float((grid.round(x) - x).square().sum()) for o, grid in first.items()}
    assert errors["histogram"] <= errors["minmax"]


@pytest.mark.parametrize("observer", ["minmax", "ema", "percentile", "histogram"])
def test_every_observer_copes_with_every_activation(observer):
    """Also where no value is near zero, as behind a hard-sigmoid, and where all are the same."""
    x = torch.randn(20, 1, 8, 8)
    model = mobile()
    with torch.no_grad():
        model.squeeze.weight.zero_()

        made = simulate(model, x, observer=observer)

        assert sqnr(model(x), made(x)) > 3
    assert all(grid.step > 0 for grid in made.ranges.values())


def test_what_cannot_be_simulated_is_refused(net, digits):
    """Unknown names and observers, no examples, and activations that are not finite."""
    x = digits.train.inputs[:10]
    with pytest.raises(SettingsError, match=r"named 'conv9'; did you mean 'conv"):
        simulate(net, x, keep_float=["conv9"])
    with pytest.raises(SettingsError, match="no observer 'mean'"):
        simulate(net, x, observer="mean")
    with pytest.raises(DataError, match="no calibration examples"):
        simulate(net, x[:0])
    broken = copy.deepcopy(net)
    with torch.no_grad():
        broken.conv2.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(ModelError, match="not finite"):
        simulate(broken, x)


def test_the_ratio_in_decibels():
    """A tenth of the signal is 20 dB down; the same is infinitely far down."""
    assert sqnr(torch.ones(4), torch.full((4,), 0.9)) == pytest.approx(20.0, abs=1e-4)
    assert sqnr(torch.ones(4), torch.ones(4)) == float("inf")
    assert sqnr(torch.zeros(4), torch.ones(4)) == float("-inf")
    assert sqnr(torch.ones(4), torch.full((4,), float("inf"))) == float("-inf")


def test_a_range_is_shown_by_its_ends():
    """Ranges are told by the names of their places."""
    made = simulate(nn.Sequential(nn.Linear(2, 3)).eval(), torch.tensor([[-1.0, 3.0]]))

    assert made.ranges["input"] == Range(-1.0, 3.0)
    assert fold(made.network, torch.zeros(1, 2)).pairs == {}
