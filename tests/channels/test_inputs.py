"""Networks whose own input features can go: single pixels of a flattened image, or channels."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import secateur
from secateur.channels.inputs import kept_inputs
from secateur.plan import Plan, change_of, plan_for
from secateur.surgery import apply
from secateur.testing import check_cut, outputs_of, randomise, relative_error


def dense(*, flatten: bool) -> nn.Module:
    layers = [nn.Linear(24, 7), nn.Sigmoid(), nn.Linear(7, 3)]
    return randomise(nn.Sequential(*([nn.Flatten()] if flatten else []), *layers)).double()


def convolutional() -> nn.Module:
    return randomise(
        nn.Sequential(
            nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 5), nn.ReLU(), nn.Linear(5, 2)
        )
    ).double()


def grouped() -> nn.Module:
    return randomise(
        nn.Sequential(nn.Conv1d(6, 4, 1, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2))
    ).double()


CASES = {
    "pixels": (lambda: dense(flatten=True), (2, 1, 4, 6), 24),
    "features": (lambda: dense(flatten=False), (2, 24), 24),
    "channels": (convolutional, (2, 4, 4, 4), 4),
    "channels in groups": (grouped, (2, 6, 3), 3),
}


def cut_inputs(model: nn.Module, x: torch.Tensor, kept: list[int]) -> Plan:
    channels = secateur.watch(model, x, inputs=True)
    return plan_for(channels, [change_of(channels.group("input"), np.array(kept))])


@pytest.mark.parametrize("name", CASES)
def test_cutting_inputs_equals_not_reading_them(name):
    """The cut network takes the full input and gives what the full one does with its unread features zeroed out."""
    make, shape, width = CASES[name]
    model, x = make(), torch.randn(shape, dtype=torch.float64)

    plan = cut_inputs(model, x, [0, 2])

    assert plan.groups[0].width == width
    check_cut(model, x, plan)


@pytest.mark.parametrize("name", ["pixels", "features", "channels"])
def test_inputs_can_be_cut_twice(name):
    """A second cut counts among the features that the first has left."""
    make, shape, _ = CASES[name]
    model, x = make(), torch.randn(shape, dtype=torch.float64)
    once = apply(model, cut_inputs(model, x, [0, 1, 3]))
    again = cut_inputs(once, x, [1, 2])
    assert again.groups[0].width == 3

    twice = apply(once, again)

    assert kept_inputs(twice).indices == [1, 3]
    assert kept_inputs(once).indices == [0, 1, 3]
    wanted = apply(model, cut_inputs(model, x, [1, 3]))
    assert relative_error(outputs_of(twice, x), outputs_of(wanted, x)) < 1e-12
    check_cut(once, x, again)


def test_everything_but_the_inputs_can_be_cut_afterwards():
    """A network that reads some pixels is watched and cut like any other, inputs asked for or not."""
    model, x = dense(flatten=True), torch.randn(2, 1, 4, 6, dtype=torch.float64)
    small = apply(model, cut_inputs(model, x, [5, 7, 11]))

    for inputs in (True, False):
        channels = secateur.watch(small, x, inputs=inputs)
        assert ("input" in {group.name for group in channels.groups}) is inputs
        plan = plan_for(channels, [change_of(channels.group("1"), np.array([0, 4]))])
        check_cut(small, x, plan)


def test_copies_and_features_alone_are_taken_too():
    """A deep copy keeps its features, and an input that has only these passes as it is."""
    model, x = dense(flatten=True), torch.randn(2, 1, 4, 6, dtype=torch.float64)
    small = copy.deepcopy(apply(model, cut_inputs(model, x, [5, 7, 11])))

    assert torch.equal(small(x), small(x.flatten(1)[:, [5, 7, 11]]))


def test_inputs_that_are_read_in_two_forms_stay():
    """Pixels that a convolution reads as an image and a dense layer flattened cannot go one by one."""

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.flat = nn.Conv2d(2, 4, 4), nn.Linear(32, 4)

        def forward(self, x):
            return self.conv(x).flatten(1) + self.flat(x.flatten(1))

    channels = secateur.watch(Both(), torch.zeros(1, 2, 4, 4), inputs=True)

    assert channels.groups == ()
