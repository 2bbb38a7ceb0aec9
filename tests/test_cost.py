"""Costs are counted from shapes, and are what the network has."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from tests.strategies import networks
from torch import nn

import secateur
from secateur.cost import CostModel
from secateur.plan import change_of, plan_for
from secateur.testing import CONSTRUCTS, check_forecast, cost_of


@settings(deadline=None, max_examples=30)
@given(case=networks())
def test_total_is_what_the_network_has(case):
    """Parameters, buffers and bytes are sums over tensors, MACs those of PyTorch's own counter."""
    assert CostModel(secateur.watch(case.model, case.x)).total() == cost_of(case.model, case.x)


@pytest.mark.parametrize("name", CONSTRUCTS)
def test_one_unit_costs_what_the_network_loses_with_it(name):
    """The cost of one unit of a group is the difference that its removal makes."""
    construct = CONSTRUCTS[name]
    model = construct.build()
    x = construct.example().to(next(model.parameters()).dtype)
    channels = secateur.watch(model, x)
    costs = CostModel(channels)

    for group in channels.groups:
        unit = costs.by_group()[group.name]
        plan = plan_for(channels, [change_of(group, np.arange(group.width - 1))])
        lost = plan.before, plan.after
        assert lost[0].parameters - lost[1].parameters == unit.parameters
        assert lost[0].bytes - lost[1].bytes == unit.bytes
        assert lost[0].macs - lost[1].macs == pytest.approx(unit.macs)
        check_forecast(secateur.apply(model, plan), x, plan)


def test_widths_and_kept_units_agree():
    """Units of a group cost the same: a width costs what any units of that number do."""
    net = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
    costs = CostModel(secateur.watch(net, torch.zeros(1, 8)))

    assert costs.at({"0": 2}) == costs.kept({"0": np.array([1, 4])})
    assert costs.at({"0": 9}).parameters == 8 * 9 + 9 + 9 * 2 + 2


def test_a_group_costs_what_its_tensors_do():
    """The cost of a whole group is that of every tensor it touches."""
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 3))
    channels = secateur.watch(net, torch.zeros(1, 1, 4, 4))

    cost = CostModel(channels).of_group(channels.group("0"))

    assert cost.parameters == 4 * 9 + 4 + 8 + 48
    assert cost.buffers == 8
    assert cost.macs == 4 * 9 * 4 + 48
    assert cost.bytes == 4 * (cost.parameters + cost.buffers)


def test_batch_and_number_format_do_not_count_twice():
    """MACs are for one example, bytes in each tensor's own format."""
    net = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
    one, many = (CostModel(secateur.watch(net, torch.zeros(n, 8))).total() for n in (1, 7))
    half = CostModel(secateur.watch(net.half(), torch.zeros(1, 8).half())).total()

    assert one == many
    assert half.bytes * 2 == one.bytes
    assert half.macs == one.macs
