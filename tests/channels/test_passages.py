"""What goes through the modules of a network."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from secateur import networks
from secateur.channels import visits, watch


def test_units_at_each_module_are_those_of_the_groups() -> None:
    """What a layer that writes a group gives carries exactly its units; the network's output carries none."""
    net, x = networks.build("digits-net", seed=0), torch.zeros(1, 1, 8, 8)
    channels, seen = watch(net, x), visits(net, x)

    starts = channels.starts()
    by_name = {visit.module: visit for visit in seen.calls}
    for group in channels.groups:
        given = by_name[group.name].given
        assert given is not None
        units = given.units[1]
        assert units is not None
        assert units.tolist() == list(range(starts[group.name], starts[group.name] + group.width))
    flat = by_name["dense1"].taken
    assert flat is not None
    assert flat.units[1] is not None
    assert sorted(set(flat.units[1].tolist())) == list(range(starts["conv3"], starts["conv3"] + 64))
    out = by_name[""].given
    assert out is not None
    assert out.units[1] is not None
    assert set(out.units[1].tolist()) == {-1}
    assert dict(seen.widths) == {group.name: group.width for group in channels.groups}


def test_a_tensor_that_was_written_into_is_another() -> None:
    """What a module gives and the next takes is the same tensor only if nobody wrote into it between."""

    class Written(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.third = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.third(F.relu_(self.second(self.first(x))))

    by_name = {visit.module: visit for visit in visits(Written(), torch.zeros(1, 4)).calls}

    given, taken = by_name["first"].given, by_name["second"].taken
    assert given is not None
    assert taken is not None
    assert given.tensor == taken.tensor
    given, taken = by_name["second"].given, by_name["third"].taken
    assert given is not None
    assert taken is not None
    assert given.tensor != taken.tensor


def test_the_network_is_left_as_found() -> None:
    """Its mode and its hooks are what they were."""
    net = networks.build("digits-net", seed=0)

    visits(net, torch.zeros(1, 1, 8, 8))

    assert all(module.training for module in net.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
