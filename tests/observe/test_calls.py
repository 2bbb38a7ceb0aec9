"""Which modules run, in which order, and what each costs."""

import pytest
import torch
from hypothesis import given, settings
from tests.strategies import networks
from torch import nn

import secateur
from secateur.cost import CostModel
from secateur.errors import WatchError
from secateur.observe.calls import calls


class Backwards(nn.Module):
    """Registers its layers in another order than it runs them, and reads a value."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(4, 2)
        self.first = nn.Linear(3, 4)
        self.idle = nn.Linear(3, 3)
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x):
        x = self.norm(self.first(x))
        if float(x.sum()) > 1e9:
            x = x * 2
        return self.last(x)


def test_order_is_that_of_the_forward_pass():
    """Modules stand in the order of their calls, those not called are left out, also where values are read."""
    found = calls(Backwards(), torch.zeros(2, 3))

    assert found.order == ("", "first", "norm", "last")
    assert found.macs == {"": 20, "first": 12, "last": 8}


@settings(deadline=None, max_examples=15)
@given(case=networks())
def test_multiply_adds_are_those_of_the_cost_model(case):
    """The whole network's multiply-adds equal those counted while watching."""
    total = CostModel(secateur.watch(case.model, case.x)).total().macs

    assert calls(case.model, case.x).macs.get("", 0) == total


def test_the_network_is_left_as_found():
    """Mode, hooks and running statistics are what they were, also after an error, which is told in one sentence."""
    net = Backwards().train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}

    calls(net, torch.ones(2, 3))
    with pytest.raises(WatchError, match="forward pass failed"):
        calls(net, torch.ones(2, 7))

    assert net.training
    assert net.norm.training
    assert not any(module._forward_pre_hooks for module in net.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_a_module_that_is_there_twice_keeps_its_tensors():
    """Counting gives every tensor back to a module that several others contain."""
    layer = nn.Linear(4, 4)
    model = nn.Sequential(nn.Sequential(layer), nn.Sequential(layer))

    calls(model, torch.zeros(1, 4))

    assert not any(tensor.is_meta for tensor in model.parameters())
