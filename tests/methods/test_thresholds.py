"""How much each layer can lose within a bound."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from secateur.data import Splits
from secateur.errors import SettingsError
from secateur.evaluate import evaluate
from secateur.methods import StepSettings, joint_thresholds, stepwise, thresholds


@pytest.mark.parametrize(
    ("granularity", "criterion", "layer"), [("unit", "l1", "conv3"), ("weight", "magnitude", "conv2")]
)
def test_a_threshold_is_what_step_by_step_removal_finds(
    digits: Splits, net: nn.Module, granularity, criterion, layer
) -> None:
    """The largest share within the bound of the whole curve, found in a fraction of its looks."""
    (found,) = thresholds(
        net,
        digits,
        max_drop=4.0,
        granularity=granularity,
        criterion=criterion,
        layers=[layer],
        resolution=0.02,
    ).layers
    settings = StepSettings(
        granularity=granularity, criterion=criterion, scope=layer, step=0.02, until=0.9999, recompute=0
    )
    curve = stepwise(net, digits, settings).points
    within = [point.removed for point in curve if curve[0].accuracy - point.accuracy <= 4.0 + 1e-9]
    assert found.removed <= max(within)
    assert found.removed in within
    assert found.looks < len(curve)
    if found.removed != max(within):  # an island that no look fell on
        assert not all(point.removed in within for point in curve if point.removed <= max(within))


def test_the_last_layer_can_lose_weights(digits: Splits, net: nn.Module) -> None:
    """It has no unit that may go, but weights."""
    names = {
        one.layer
        for one in thresholds(
            net, digits, max_drop=1.0, granularity="weight", criterion="magnitude", resolution=0.1
        ).layers
    }
    assert "out" in names


@pytest.mark.parametrize("granularity", ["unit", "weight"])
def test_all_layers_together_stay_within_the_bound(digits: Splits, net: nn.Module, granularity) -> None:
    """The drop is that of the network that comes back, and no worse than the scaled start."""
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    alone = thresholds(
        net,
        digits,
        max_drop=4.0,
        granularity=granularity,
        criterion="l1" if granularity == "unit" else "magnitude",
        resolution=0.05,
    )
    few = joint_thresholds(net, digits, max_drop=4.0, start=alone, looks=6, seed=1)
    more = joint_thresholds(net, digits, max_drop=4.0, start=alone, looks=30, seed=1)
    for found in (few, more):
        assert found.drop <= 4.0 + 1e-9
        assert found.accuracy == evaluate(found.model, digits.validation).accuracy
        left = sum(int((p != 0).sum()) for p in found.model.parameters()) / sum(
            p.numel() for p in net.parameters()
        )
        assert found.left == pytest.approx(left, abs=1e-9)
    assert more.left <= few.left < 1
    again = joint_thresholds(net, digits, max_drop=4.0, start=alone, looks=30, seed=1)
    assert again.shares == more.shares
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_nothing_is_removed_where_nothing_may_be_lost(digits: Splits, net: nn.Module) -> None:
    """A bound that no cut holds leaves the network whole."""
    found = joint_thresholds(
        net, digits, max_drop=0.0, granularity="unit", start={"conv1": 0.9, "dense1": 0.9}, looks=8
    )
    assert found.drop <= 0


def test_unknown_layers_and_numbers_out_of_range_are_refused(digits: Splits, net: nn.Module) -> None:
    """With the nearest name."""
    with pytest.raises(SettingsError, match="did you mean 'dense1'"):
        thresholds(net, digits, max_drop=1.0, layers=["dens1"])
    with pytest.raises(SettingsError, match="looks=0"):
        joint_thresholds(net, digits, max_drop=1.0, looks=0)
    with pytest.raises(SettingsError, match="max_drop=-1"):
        joint_thresholds(net, digits, max_drop=-1.0)
    with pytest.raises(SettingsError, match="layers= is empty"):
        thresholds(net, digits, max_drop=1.0, layers=[])
    for options, said in (
        ({"recompute": 0}, "max_drop"),
        ({"max_drop": 1.0}, "recompute=0"),
        ({"max_drop": 1.0, "recompute": 0, "retrain": "network", "iterations": 3}, "retrain='none'"),
    ):
        with pytest.raises(SettingsError, match=said):
            StepSettings(search="bisection", **options)


def test_the_last_step_may_be_smaller(digits: Splits, net: nn.Module) -> None:
    """A bisection looks as far as steps go: 16 units in fives, to 14 of them."""
    options = {
        "criterion": "l1",
        "scope": "conv1",
        "step": 0.3,
        "until": 0.9,
        "max_drop": 99.0,
        "recompute": 0,
    }
    by_steps = stepwise(net, digits, StepSettings(**options)).points
    found = stepwise(net, digits, StepSettings(search="bisection", **options)).points
    assert found[-1].removed == by_steps[-1].removed == 14


def test_joint_shares_are_those_that_went(digits: Splits, net: nn.Module) -> None:
    """To the tenth of a percent to which they are cut."""
    found = joint_thresholds(
        net, digits, max_drop=99.0, granularity="weight", start={"conv2": 0.45167}, looks=1
    )
    assert found.masks is not None
    assert found.masks.share == pytest.approx(math.floor(found.shares["conv2"] * 4608) / 4608)


def test_what_the_search_begins_with_is_of_the_same_kind_and_layers(digits: Splits, net: nn.Module) -> None:
    """Shares of units are none of weights, and a layer without a share is no layer at zero; what they are is printed."""
    alone = thresholds(net, digits, max_drop=4.0, criterion="l1", layers=["conv2", "conv3"], resolution=0.1)
    found = joint_thresholds(net, digits, max_drop=4.0, start=alone, looks=6)
    assert found.masks is None
    assert str(found).splitlines()[1].startswith("conv2")
    with pytest.raises(SettingsError, match="units can go, and weights are asked for"):
        joint_thresholds(net, digits, max_drop=4.0, granularity="weight", start=alone, looks=6)
    with pytest.raises(SettingsError, match="'dense1' is in one of them alone"):
        joint_thresholds(net, digits, max_drop=4.0, layers=["conv2", "dense1"], start={"conv2": 0.3}, looks=6)
    with pytest.raises(SettingsError, match=r"start=1\.5"):
        joint_thresholds(net, digits, max_drop=4.0, start={"conv2": 1.5}, looks=6)
