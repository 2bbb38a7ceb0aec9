"""A method beside a training: what it is told, what follows a change that it makes, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur.errors import SettingsError
from secateur.surgery import Masks
from secateur.train import TrainSettings, TrainState, fit
from secateur.train.conditions import channels_last

SETTINGS = TrainSettings(epochs=4, batch_size=100, lr=0.05, ema=0.9, channels_last=True)


class Cutting:
    """Cuts half of all units after an epoch."""

    def __init__(self, model: nn.Module, after: int) -> None:
        self.model, self.after = model, after
        self.told: list[int] = []
        self.losses: list[Tensor] = []
        self.loaded: Mapping[str, Any] | None = None

    def begin(self, optimizer: torch.optim.Optimizer, average: nn.Module | None, *, batch_size: int) -> None:
        self.optimizer, self.average, self.batch_size = optimizer, average, batch_size

    def penalty(self, loss: Tensor) -> Tensor:
        self.losses.append(loss.detach())
        return torch.zeros(())

    def after_epoch(self, epoch: int) -> bool:
        self.told.append(epoch)
        if epoch != self.after:
            return False
        channels = secateur.watch(self.model, torch.zeros(1, 1, 8, 8))
        plan = secateur.plan(channels, secateur.score(self.model, channels, "l1"), remove=0.5)
        secateur.apply(self.model, plan, optimizer=self.optimizer, averages=self.average, inplace=True)
        return True

    def state(self) -> Mapping[str, Any]:
        return {"told": list(self.told)}

    def load(self, state: Mapping[str, Any]) -> None:
        self.loaded = state


def test_training_goes_on_with_a_network_that_was_cut(digits, network):
    """It is told of every step and epoch; the best epoch is one since the cut; the weights get their layout back."""
    model = network()
    beside = Cutting(model, after=2)

    found = fit(model, *digits, SETTINGS, companion=beside)

    assert beside.told == [1, 2, 3, 4]
    assert len(beside.losses) == 4 * 6
    assert found.best_epoch > 2
    assert model[0].out_channels == 3
    assert all(parameter.is_contiguous() for parameter in model.parameters())
    assert {id(p) for p in found.optimizer.param_groups[0]["params"]} == {id(p) for p in model.parameters()}


def test_a_state_belongs_to_a_training_with_a_companion_or_to_one_without(digits, network):
    """What the companion said is handed back to it, and a run is not gone on with otherwise."""
    states: list[TrainState] = []
    fit(network(), *digits, SETTINGS, companion=Cutting(network(), after=9), on_state=states.append)
    again = network()
    beside = Cutting(again, after=9)

    fit(again, *digits, SETTINGS, companion=beside, state=states[2])

    assert beside.loaded == {"told": [1, 2, 3]}
    assert beside.told == [4]
    with pytest.raises(SettingsError, match="begun with a companion and cannot go on without one"):
        fit(network(), *digits, SETTINGS, state=states[2])


def test_masks_and_a_companion_do_not_go_together(digits, network):
    """Masks are of one structure."""
    model = network()
    masks = Masks({"0.weight": torch.ones(6, 1, 3, 3, dtype=torch.bool)})

    with pytest.raises(SettingsError, match="give one of them"):
        fit(model, *digits, SETTINGS, masks=masks, companion=Cutting(model, after=1))


def test_weights_that_were_cut_get_their_layout_back():
    """Held with channels last meanwhile, a weight of another shape lies afterwards as it lay before."""
    net = nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.Flatten(), nn.Linear(64, 2))
    x = torch.randn(1, 2, 8, 8)
    channels = secateur.watch(net, x)
    plan = secateur.plan(channels, secateur.score(net, channels, "l1"), remove=0.5)
    expected = secateur.apply(net, plan)

    with channels_last(net):
        secateur.apply(net, plan, inplace=True)

    for name, weight in expected.named_parameters():
        assert torch.equal(net.get_parameter(name), weight)
        assert net.get_parameter(name).stride() == weight.stride()
