"""Batch norm by groups of a batch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from secateur import data
from secateur.errors import SettingsError
from secateur.networks import ResNet
from secateur.train import GhostNorms, TrainSettings, fit


def norm(seed: int = 0) -> nn.BatchNorm2d:
    made = nn.BatchNorm2d(3)
    with torch.no_grad():
        for tensor in (made.weight, made.bias, made.running_mean):
            tensor.copy_(torch.randn(3, generator=torch.Generator().manual_seed(seed)))
    return made.double()


@settings(deadline=None, max_examples=25)
@given(count=st.integers(2, 30), size=st.integers(2, 12))
def test_each_group_is_normed_by_itself(count, size):
    """Outputs and gradients are those of the groups' own passes; running statistics are the mean of where these lead."""
    x = torch.randn(count, 3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(count))
    together, alone = norm(), norm()
    one, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    groups = max(1, count // size)

    with GhostNorms(size):
        y = together(one)
    y.square().sum().backward()
    parts, statistics = [], []
    for part in torch.tensor_split(other, groups):
        fresh = norm()
        fresh.weight, fresh.bias = alone.weight, alone.bias
        parts.append(fresh(part))
        statistics.append(torch.stack([fresh.running_mean, fresh.running_var]))
    torch.cat(parts).square().sum().backward()

    assert torch.equal(y, torch.cat(parts))
    assert all(len(part) >= min(size, count) for part in torch.tensor_split(x, groups))
    torch.testing.assert_close(one.grad, other.grad)
    torch.testing.assert_close(together.weight.grad, alone.weight.grad)
    found = torch.stack([together.running_mean, together.running_var])
    torch.testing.assert_close(found, torch.stack(statistics).mean(0))
    assert int(together.num_batches_tracked) == 1


def test_what_is_evaluated_and_what_has_no_statistics_of_its_own():
    """Evaluation is as ever; a norm without running statistics is normed by groups all the same."""
    x = torch.randn(8, 3, 2, 2, dtype=torch.float64)
    plain = norm().eval()
    bare = nn.BatchNorm2d(3, track_running_stats=False).double()

    with GhostNorms(4):
        evaluated, grouped = plain(x), bare(x)

    assert torch.equal(evaluated, plain(x))
    assert torch.equal(grouped, torch.cat([bare(x[:4]), bare(x[4:])]))


def test_groups_as_large_as_batches_train_bit_by_bit_as_without():
    """And smaller ones do not."""
    digits = data.load("digits", limit=120)
    found = []
    for ghost in (None, 40, 10):
        torch.manual_seed(0)
        net = ResNet(stages=1, blocks=1, convolutions=2, bottleneck=False, width=4, channels=1)
        fit(net, digits.train, None, TrainSettings(epochs=2, batch_size=40, ghost_batch=ghost))
        found.append(torch.cat([parameter.detach().flatten() for parameter in net.parameters()]))

    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_a_group_of_one_is_refused():
    """It has no variance."""
    with pytest.raises(SettingsError, match="ghost_batch"):
        TrainSettings(ghost_batch=1)
