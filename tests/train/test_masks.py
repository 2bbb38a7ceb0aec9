"""Training with masks: what is cut stays at zero, and a run that stops goes on as if it had not."""

import json

import pytest
import safetensors.torch
import torch

from secateur.errors import PlanError, SettingsError
from secateur.surgery import Masks, mask
from secateur.train import TrainSettings, TrainState, fit, snapshot

BASE = TrainSettings(epochs=3, batch_size=100, lr=0.05)
RULES = {
    "sgd": {"weight_decay": 0.01, "nesterov": True, "clip": 0.5},
    "adam": {"optimizer": "adam", "lr": 0.01, "ema": 0.9, "weight_decay": 0.01},
    "adamw": {"optimizer": "adamw", "lr": 0.01, "precision": "bf16"},
    "rmsprop": {"optimizer": "rmsprop", "lr": 0.001, "ema": 0.5, "keep": "last"},
}


@pytest.fixture(scope="module")
def masks():
    """Half of the weights of the convolution and of the dense layer."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"0.weight": (6, 1, 3, 3), "6.weight": (10, 96)}
    return Masks({name: torch.rand(shape, generator=generator) > 0.5 for name, shape in shapes.items()})


def are_zero(tensors, masks):
    return all(bool((tensors[name][~kept] == 0).all()) for name, kept in masks.kept.items())


def through_files(state):
    """The state written as safetensors and JSON, and read again."""
    tensors = safetensors.torch.load(safetensors.torch.save(dict(state.tensors)))
    return TrainState(tensors, json.loads(json.dumps(state.document)))


@pytest.mark.parametrize("changes", RULES.values(), ids=RULES)
def test_cut_weights_stay_zero_and_a_resumed_run_ends_in_the_same_bits(changes, digits, network, masks):
    """After every epoch the cut weights are zero in network and running average; a run may stop between any two."""
    settings, states, whole, resumed = BASE.but(**changes), [], network(), network(3)
    expected = fit(whole, *digits, settings, masks=masks, on_state=states.append)
    again = fit(resumed, *digits, settings, masks=masks, state=through_files(states[0]))

    for state in states:
        for part in ("model", "ema", "best"):
            assert not state.part(part) or are_zero(state.part(part), masks)
    assert are_zero(snapshot(whole), masks)
    assert again.history == expected.history
    one, two = snapshot(whole), snapshot(resumed)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert all(bool((one[name][kept] != 0).all()) for name, kept in masks.kept.items())


def test_an_optimiser_with_momentum_goes_on_without_what_was_cut(digits, network, masks):
    """Momentum that weights had before they were cut does not move them."""
    net = network()
    first = fit(net, *digits, BASE)
    fit(net, *digits, BASE, masks=masks, optimizer=first.optimizer)

    assert are_zero(snapshot(net), masks)


def test_masks_that_keep_all_change_nothing(digits, network):
    """Training with masks by which every weight stays is training without masks."""
    one, two = network(), network()
    fit(one, *digits, BASE)
    fit(two, *digits, BASE, masks=Masks({"6.weight": torch.ones(10, 96, dtype=torch.bool)}))

    assert all(torch.equal(snapshot(one)[name], value) for name, value in snapshot(two).items())


def test_a_run_goes_on_with_its_own_masks_only(digits, network, masks):
    """Other masks, none, or masks where there were none, are refused before anything has changed."""
    states, without = [], []
    fit(network(), *digits, BASE.but(epochs=1), masks=masks, on_state=states.append)
    fit(network(), *digits, BASE.but(epochs=1), on_state=without.append)
    net, other = network(5), Masks({"6.weight": torch.ones(10, 96, dtype=torch.bool)})
    before = snapshot(net)
    for state, given in ((states[0], other), (states[0], None), (without[0], masks)):
        with pytest.raises(SettingsError, match="other masks, or with none"):
            fit(net, *digits, BASE.but(epochs=1), masks=given, state=state)
    with pytest.raises(PlanError, match="another network"):
        fit(net, *digits, BASE, masks=Masks({"6.bias": torch.ones(9, dtype=torch.bool)}))

    assert all(torch.equal(before[name], value) for name, value in mask(net, other).named_parameters())
