"""Training with a random part of the units left out of each step."""

import copy

import pytest
import torch
from torch import nn

from secateur import data
from secateur.channels import watch
from secateur.data import Splits
from secateur.errors import SettingsError
from secateur.observe import Subsets
from secateur.train import TrainSettings, TrainState, fit, fit_subsets

FEW = TrainSettings(epochs=3, lr=0.05, batch_size=40)


@pytest.fixture(scope="module")
def digits() -> Splits:
    return data.load("digits", limit=200)


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))


def subsets_of(net: nn.Module, digits: Splits, share: float = 0.75) -> Subsets:
    return Subsets(net, watch(net, digits.train.inputs[:1]), share=share, groups=["1"])


def same(first: nn.Module, second: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_with_every_unit_it_is_training_as_usual(net: nn.Module, digits: Splits) -> None:
    """Where all take part, weights and history are those of `fit`, bit by bit; where some do not, they are others."""
    usual, whole, part = net, copy.deepcopy(net), copy.deepcopy(net)
    expected = fit(usual, digits.train, digits.validation, FEW)

    found = fit_subsets(whole, digits.train, digits.validation, FEW, subsets_of(whole, digits, 1.0))
    fit_subsets(part, digits.train, digits.validation, FEW, subsets_of(part, digits))

    assert same(usual, whole)
    assert not same(usual, part)
    assert [one.train_loss for one in found.history] == [one.train_loss for one in expected.history]


def test_each_step_is_a_draw_and_epochs_are_judged_whole(net: nn.Module, digits: Splits) -> None:
    """As many draws as steps; the last epoch's accuracy is that of the network with all of its units."""
    subsets = subsets_of(net, digits, 0.5)

    found = fit_subsets(net, digits.train, digits.validation, FEW.but(keep="last"), subsets)

    with torch.no_grad():
        right = net(digits.validation.inputs).argmax(1) == digits.validation.targets
    assert subsets.draws == 3 * (len(digits.train) // 40)
    assert found.history[-1].validation_accuracy == pytest.approx(100 * float(right.double().mean()))
    assert float(subsets.found()["1"].units.abs().max()) > 0
    assert not any(module._forward_pre_hooks for module in net.modules())


def test_it_goes_on_to_the_bit(net: nn.Module, digits: Splits) -> None:
    """From the state after the first epoch: the same weights, and the same relevance."""
    states: list[TrainState] = []
    other = copy.deepcopy(net)
    subsets = subsets_of(net, digits)
    fit_subsets(net, digits.train, None, FEW, subsets, on_state=states.append)
    again = subsets_of(other, digits)

    fit_subsets(other, digits.train, None, FEW, again, state=states[0])

    assert same(net, other)
    assert all(torch.equal(value, again.tensors()[name]) for name, value in subsets.tensors().items())


def test_a_state_of_another_training_is_refused(net: nn.Module, digits: Splits) -> None:
    """What was trained without subsets has nothing to go on from."""
    states: list[TrainState] = []
    fit(net, digits.train, None, FEW, on_state=states.append)

    with pytest.raises(SettingsError, match="begun without subsets"):
        fit_subsets(net, digits.train, None, FEW, subsets_of(net, digits), state=states[0])
