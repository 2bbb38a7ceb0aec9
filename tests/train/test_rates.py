"""Learning rates and optimisers."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from secateur.errors import ModelError, SettingsError
from secateur.train import TrainSettings, learning_rate, make_optimizer


@settings(deadline=None)
@given(
    schedule=st.sampled_from(["constant", "linear", "cosine"]),
    epochs=st.integers(1, 30),
    warmup=st.floats(0, 1),
    steps=st.integers(1, 50),
)
def test_rate_rises_to_its_height_and_never_leaves_the_range(schedule, epochs, warmup, steps):
    """At every step the rate lies in (0, lr]; it rises in the warm-up and never rises after it."""
    options = TrainSettings(epochs=epochs, lr=0.3, schedule=schedule, warmup_epochs=warmup * epochs)
    rates = [learning_rate(options, step=s, steps_per_epoch=steps) for s in range(epochs * steps)]
    warm = round(options.warmup_epochs * steps)

    assert all(0 < rate <= 0.3 for rate in rates)
    assert all(a < b for a, b in pairwise(rates[:warm]))
    assert all(a >= b for a, b in pairwise(rates[warm:]))


@pytest.mark.parametrize(
    ("schedule", "middle", "end"), [("constant", 1, 1), ("linear", 0.5, 0), ("cosine", 0.5, 0)]
)
def test_schedules_at_known_points(schedule, middle, end):
    """Each schedule starts at lr and has its known value half way and at the end."""
    options = TrainSettings(epochs=10, lr=1.0, schedule=schedule)

    assert learning_rate(options, step=0, steps_per_epoch=4) == 1.0
    assert learning_rate(options, step=20, steps_per_epoch=4) == pytest.approx(middle)
    assert learning_rate(options, step=40, steps_per_epoch=4) == pytest.approx(end)


@pytest.mark.parametrize(("schedule", "middle"), [("linear", 0.55), ("cosine", 0.55)])
def test_a_schedule_ends_where_it_is_to_end(schedule, middle):
    """With lr_end the rate falls to it, and a constant rate, or one above lr, is refused."""
    options = TrainSettings(epochs=10, lr=1.0, lr_end=0.1, schedule=schedule)

    assert learning_rate(options, step=0, steps_per_epoch=4) == 1.0
    assert learning_rate(options, step=20, steps_per_epoch=4) == pytest.approx(middle)
    assert learning_rate(options, step=40, steps_per_epoch=4) == pytest.approx(0.1)
    assert "lr_end" not in TrainSettings(schedule=schedule).model_dump()
    for wrong in ({"schedule": "constant"}, {"schedule": schedule, "lr": 0.01}):
        with pytest.raises(SettingsError, match="lr_end"):
            TrainSettings(**{"lr": 1.0, "lr_end": 0.1, **wrong})


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "rmsprop"])
def test_optimizer_reaches_the_minimum_of_a_bowl(name):
    """Every optimiser brings a parameter near the minimum of a quadratic."""
    parameter = nn.Parameter(torch.tensor([3.0, -2.0]))
    optimizer = make_optimizer([parameter], TrainSettings(optimizer=name, lr=0.02, momentum=0.5))
    for _ in range(600):
        optimizer.zero_grad()
        (parameter**2).sum().backward()
        optimizer.step()

    assert float(parameter.detach().abs().max()) < 0.05


def test_frozen_network_is_refused():
    """A network without a trainable parameter cannot be trained."""
    with pytest.raises(ModelError, match="frozen"):
        make_optimizer(nn.Linear(2, 2).requires_grad_(False).parameters(), TrainSettings())
