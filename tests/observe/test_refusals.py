"""Tests of what secateur.observe.observe refuses."""

from typing import Any

import pytest
import torch
from torch import nn

from secateur.channels import watch
from secateur.errors import DataError, ModelError, SettingsError
from secateur.observe import Need, Observations, observe


def observed(model: nn.Module, batches: Any, **options: Any) -> Observations:
    channels = watch(model, torch.zeros(2, 4))
    return observe(model, channels, batches, **{"needs": set(Need), **options})


def dense(weight: float | None = None) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 3), nn.Linear(3, 2))
    if weight is not None:
        with torch.no_grad():
            model[1].weight.fill_(weight)
    return model


GOOD = [(torch.ones(2, 4), torch.zeros(2, dtype=torch.int64))]


@pytest.mark.parametrize(
    ("batches", "options", "error", "message"),
    [
        ([], {}, DataError, "there is no batch to observe"),
        ([(torch.ones(0, 4), torch.zeros(0))], {}, DataError, "a batch has no examples"),
        ([(torch.full((1, 4), torch.nan), torch.zeros(1))], {}, DataError, "holds 4 values that are NaN"),
        ([("text", torch.zeros(1))], {}, DataError, "hold no tensor"),
        ([(torch.ones(1, 4), torch.tensor([2]))], {}, DataError, "labels run from 2 to 2"),
        (GOOD, {"needs": set()}, SettingsError, "nothing to observe"),
        (GOOD, {"probes": 0}, SettingsError, "probes is 0"),
        (GOOD, {"loss": lambda o, _: o.sum() * torch.inf}, ModelError, "the loss is not finite"),
        (
            GOOD,
            {"loss": lambda o, _: (o * 0).sum().sqrt()},
            ModelError,
            "gradient at the input of layer '2' is not",
        ),
    ],
)
def test_bad_input_is_refused(
    batches: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    """Each mistake has its own error, which states it."""
    with pytest.raises(error, match=message):
        observed(dense(), batches, **options)


@pytest.mark.parametrize(
    ("weight", "message"),
    [(float("nan"), r"'1\.weight' holds 9 values"), (3e38, "the input of layer '2' is not finite")],
)
def test_numbers_that_are_not_finite_are_named_with_their_layer(weight: float, message: str) -> None:
    """A NaN weight, and an activation that overflows, are named."""
    with pytest.raises(ModelError, match=message):
        observed(dense(weight), [(torch.full((2, 4), 1e3), GOOD[0][1])])
