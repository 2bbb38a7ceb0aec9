"""Stopping between two epochs and going on."""

import json

import pytest
import safetensors.torch
import torch
from torch import nn

from secateur.errors import ModelError, SettingsError
from secateur.train import TrainSettings, TrainState, fit, restore, snapshot
from secateur.train.state import pack_optimizer, unpack_optimizer

BASE = TrainSettings(epochs=4, batch_size=100, lr=0.05)


def through_files(state):
    """The state written as safetensors and JSON, and read again."""
    tensors = safetensors.torch.load(safetensors.torch.save(dict(state.tensors)))
    return TrainState(tensors, json.loads(json.dumps(state.document)))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": "adam", "schedule": "cosine", "warmup_epochs": 1.5},
        {"optimizer": "adamw", "ema": 0.9, "weight_decay": 0.01},
        {"optimizer": "rmsprop", "lr": 0.001, "augment": "shift"},
        {"momentum": 0.0, "augment": "flip-shift", "keep": "last", "ema": 0.5},
        {"precision": "bf16", "clip": 0.5, "nesterov": True, "early_stopping": 1},
        {"channels_last": True, "ema": 0.9},
        {"channels_last": True, "optimizer": "adam", "clip": 0.5},
    ],
    ids=["sgd", "adam", "ema", "rmsprop", "plain", "bf16", "channels-last", "channels-last-adam"],
)
@pytest.mark.parametrize("stop_at", [1, 3])
def test_resumed_run_equals_the_uninterrupted_one(changes, stop_at, digits, network):
    """A run resumed from what was stored after any epoch ends in the same bits, in another process's objects."""
    settings = BASE.but(**changes)
    whole, resumed = network(), network(3)
    states = []
    teacher = network(8)
    expected = fit(whole, *digits, settings, seed=5, teacher=teacher, on_state=states.append)
    torch.manual_seed(1234)
    state = through_files(states[min(stop_at, len(states)) - 1])
    again = fit(resumed, *digits, settings, seed=5, teacher=teacher, state=state)

    assert again.history == expected.history
    assert (again.best_epoch, again.stopped) == (expected.best_epoch, expected.stopped)
    one, two = snapshot(whole), snapshot(resumed)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_moments_come_back_in_the_layout_of_their_parameters():
    """Files keep no layout; beside a parameter with channels last, a moment has its channels last, too."""
    first, second = (nn.Conv2d(4, 8, 3).to(memory_format=torch.channels_last) for _ in range(2))
    adam, again = (torch.optim.Adam(net.parameters()) for net in (first, second))
    first(torch.randn(2, 4, 5, 5)).sum().backward()
    adam.step()
    tensors, document = pack_optimizer(adam)
    stored = safetensors.torch.load(safetensors.torch.save({k: v.contiguous() for k, v in tensors.items()}))

    unpack_optimizer(again, stored, document)

    for key in ("exp_avg", "exp_avg_sq"):
        assert again.state[second.weight][key].stride() == second.weight.stride()
        assert torch.equal(again.state[second.weight][key], adam.state[first.weight][key])
    assert again.state[second.weight]["step"] == 1


def test_stop_is_decided_again_on_resume(digits, network):
    """A run that was stopped by its caller stays stopped, the question being asked with the stored outcome."""
    states = []

    def enough(record):
        return record.epoch >= 2 and float(record.correct.double().mean()) > 0

    first = fit(network(), *digits, BASE, stop_when=enough, on_state=states.append)
    again = fit(network(1), *digits, BASE, stop_when=enough, state=through_files(states[-1]))

    assert first.history == again.history
    assert again.stopped == "stop_when"


def test_state_of_another_run_is_refused(digits, network):
    """Other settings, another seed, another network or another format are refused by name."""
    states = []
    fit(network(), *digits, BASE.but(epochs=1), on_state=states.append)
    state = states[0]

    with pytest.raises(SettingsError, match=r"lr=0\.05"):
        fit(network(), *digits, BASE.but(epochs=1, lr=0.1), state=state)
    with pytest.raises(SettingsError, match="seed=0"):
        fit(network(), *digits, BASE.but(epochs=1), seed=1, state=state)
    wider = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(ModelError, match="another network"):
        fit(wider, *digits, BASE.but(epochs=1), state=state)
    with pytest.raises(SettingsError, match="format 99"):
        TrainState(state.tensors, {**state.document, "format": 99})


def test_restore_changes_nothing_when_it_fails():
    """Weights of another shape are refused and the network keeps its own."""
    model = nn.Linear(3, 2)
    before = snapshot(model)

    with pytest.raises(ModelError, match=r"'weight' is \(2, 4\)"):
        restore(model, {"weight": torch.zeros(2, 4), "bias": torch.zeros(2)})
    assert torch.equal(model.bias, before["bias"])


def test_snapshot_holds_what_state_dict_leaves_out():
    """Buffers that are not persistent are part of a snapshot."""
    model = nn.Linear(1, 1)
    model.register_buffer("phase", torch.ones(2), persistent=False)

    assert set(snapshot(model)) == {"weight", "bias", "phase"}
