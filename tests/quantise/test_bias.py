"""Bias correction: afterwards no layer's mean is shifted, and nothing is lost by it."""

import pytest
import torch
from tests.quantise.networks import mobile
from torch import nn

from secateur.errors import DataError
from secateur.quantise import correct_bias, layer_means, simulate, sqnr
from secateur.testing import Wired
from secateur.train import logits


def shifts(made, wanted, x):
    found = layer_means(made, x)
    return {key: float((found[key] - wanted[key]).abs().max()) for key in wanted}


def steps(made):
    """By layer the greatest step of its accumulator."""
    grids = list(made.ranges.values())
    return {
        key: float(
            made.network.get_parameter(layer.weight).detach().flatten(1).abs().amax()
            / 127
            * grids[layer.takes].step
        )
        for key, layer in made.scheme.layers.items()
    }


@pytest.mark.parametrize("which", ["digits", "mobile"])
def test_means_are_those_of_the_float_network(which, net, digits):
    """On the calibration examples each layer's mean is off by no more than its bias is rounded."""
    model, x = (net, digits.train.inputs[:100]) if which == "digits" else (mobile(), torch.randn(60, 1, 8, 8))
    made = simulate(model, x)
    wanted = layer_means(made.but(keep_float=made.names), x)
    before = shifts(made, wanted, x)

    corrected = correct_bias(made, x)

    after = shifts(corrected.simulated, wanted, x)
    rounding = steps(corrected.simulated)
    assert all(after[key] <= 0.51 * rounding[key] + 1e-6 for key in wanted)
    assert sum(after.values()) < 0.2 * sum(before.values())
    assert set(corrected.shifts) == {layer.name for layer in made.scheme.layers.values()}


def test_a_trained_network_does_not_lose(net, digits):
    """On held-out digits the outputs come no farther from the float network's."""
    x = digits.validation.inputs
    made = simulate(net, digits.train.inputs[:100])
    wanted = logits(net, x)

    corrected = correct_bias(made, digits.train.inputs[:100]).simulated

    assert sqnr(wanted, logits(corrected, x)) > sqnr(wanted, logits(made, x)) - 0.5


def test_a_layer_without_bias_gets_one():
    """The shift needs a place; the network that was given is left as found."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4, bias=False), nn.ReLU(), nn.Linear(4, 2)).eval()
    x = torch.randn(50, 6)
    made = simulate(model, x)

    corrected = correct_bias(made, x).simulated

    assert corrected.network[0].bias is not None
    assert made.network[0].bias is None
    assert model[0].bias is None


def test_a_layer_that_is_called_twice_is_left():
    """One bias cannot take back two shifts."""
    torch.manual_seed(0)
    model = Wired(lambda m, x: m.b(m.a(m.a(x).relu())), a=nn.Linear(4, 4), b=nn.Linear(4, 2)).eval()
    x = torch.randn(50, 4)

    corrected = correct_bias(simulate(model, x), x)

    assert list(corrected.shifts) == ["b"]
    assert torch.equal(corrected.simulated.network.a.bias, model.a.bias)


def test_no_examples_are_refused(net, digits):
    """A mean of nothing is none."""
    made = simulate(net, digits.train.inputs[:10])

    with pytest.raises(DataError, match="no calibration examples"):
        correct_bias(made, digits.train.inputs[:0])
