"""The group lasso: its value by hand, its gradient, and what it leaves out."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import secateur
from secateur.networks import ResNet
from secateur.testing import randomise
from secateur.train import GroupLasso


def norm(weights: Tensor) -> float:
    return float(weights.detach().square().sum().sqrt())


def value(lasso: GroupLasso, net: nn.Module) -> float:
    return float(lasso(net).detach())


@settings(deadline=None, max_examples=10)
@given(widths=st.tuples(*[st.integers(2, 5)] * 3), seed=st.integers(0, 99), strength=st.floats(0.001, 10.0))
def test_the_value_is_the_formula_s(widths: tuple[int, int, int], seed: int, strength: float) -> None:
    """Of a chain: the filters of every layer but the last, the input channels of every layer but the first, map by map."""
    a, b, c = widths
    net = nn.Sequential(
        nn.Conv2d(2, a, 3), nn.BatchNorm2d(a), nn.ReLU(), nn.Conv2d(a, b, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(b * 4, c), nn.Tanh(), nn.Linear(c, 3),
    )  # fmt: skip
    randomise(net.double(), seed)
    channels = secateur.watch(net, torch.zeros(1, 2, 6, 6, dtype=torch.float64))
    first, second, third, last = (net[at].weight.detach() for at in (0, 3, 6, 8))

    found = value(GroupLasso(channels, strength=strength), net)

    maps = third.reshape(c, b, 4)
    expected = sum(norm(first[u]) + norm(second[:, u]) for u in range(a))
    expected += sum(norm(second[u]) + norm(maps[:, u]) for u in range(b))
    expected += sum(norm(third[u]) + norm(last[:, u]) for u in range(c))
    torch.testing.assert_close(found, strength * expected)


def test_where_layers_meet_all_of_them_count() -> None:
    """In a residual network every weight counts on both of its axes, but for the input of the first and the output of the last."""
    net = randomise(ResNet(stages=2, blocks=2, width=4, channels=1).double())
    channels = secateur.watch(net, torch.zeros(1, 1, 8, 8, dtype=torch.float64))

    found = value(GroupLasso(channels), net)

    expected = 0.0
    for name, weight in net.named_parameters():
        if weight.dim() < 2:
            continue
        rows, columns = weight.detach().flatten(1), weight.detach().transpose(0, 1).flatten(1)
        expected += 0.0 if name == "out.weight" else float(rows.norm(dim=1).sum())
        expected += 0.0 if name == "stem.conv.weight" else float(columns.norm(dim=1).sum())
    torch.testing.assert_close(found, expected)


def test_the_gradient_points_along_the_weights_and_is_none_at_zero() -> None:
    """Of a unit with weights w it is w over its norm; of a dead one it is zero, not NaN."""
    net = randomise(nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 2, bias=False)))
    with torch.no_grad():
        net[0].weight[1] = 0
        net[2].weight[:, 1] = 0

    GroupLasso(secateur.watch(net, torch.zeros(1, 3)), strength=2.0)(net).backward()

    for weight, axis in ((net[0].weight, 1), (net[2].weight, 0)):
        expected = 2.0 * weight.detach() / weight.detach().norm(dim=axis, keepdim=True).clamp_min(1e-30)
        torch.testing.assert_close(weight.grad, expected)


def test_what_is_frozen_adds_nothing() -> None:
    """Frozen weights cannot die; with all of them frozen the penalty is zero."""
    net = randomise(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)))
    lasso = GroupLasso(secateur.watch(net, torch.zeros(1, 3)))
    both = value(lasso, net)

    net[0].weight.requires_grad_(False)
    reader = value(lasso, net)
    net[2].weight.requires_grad_(False)

    torch.testing.assert_close(reader, sum(norm(net[2].weight[:, u]) for u in range(4)))
    assert 0 < reader < both
    assert value(lasso, net) == 0


def test_what_is_carried_is_left_out() -> None:
    """Depthwise kernels, norms and biases are not among the weights that the lasso is over."""
    net = nn.Sequential(
        nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 3, groups=4), nn.BatchNorm2d(4), nn.Conv2d(4, 3, 1)
    )

    lasso = GroupLasso(secateur.watch(net, torch.zeros(1, 1, 8, 8)))

    assert lasso.weights == ("0.weight", "3.weight")
