"""What a cut leaves as it was: formats, modes, hooks, ties, the first network."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from tests.strategies import nets_and_plans, random_plan
from torch import nn

import secateur
from secateur.errors import PlanError
from secateur.plan import change_of, plan_for
from secateur.surgery.apply import CHANGES
from secateur.testing import (
    CONSTRUCTS,
    Wired,
    check_cut,
    check_left_as_found,
    outputs_of,
    randomise,
    relative_error,
)


def network() -> nn.Module:
    return randomise(
        nn.Sequential(
            nn.Conv2d(3, 8, 3),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 6, 3),
            nn.Flatten(),
            nn.Linear(96, 4),
        )
    )


X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def halved(model: nn.Module, x: torch.Tensor = X) -> secateur.plan:
    return random_plan(secateur.watch(model, x), ratio=0.5, seed=0)


@settings(deadline=None, max_examples=15)
@given(case=nets_and_plans())
def test_the_first_network_is_left_as_it_was(case):
    """Applying a plan changes nothing on the network it is applied to."""
    net, ratio, seed = case
    plan = random_plan(secateur.watch(net.model, net.x), ratio=ratio, seed=seed)

    check_left_as_found(net.model, lambda: secateur.apply(net.model, plan))


@settings(deadline=None, max_examples=15)
@given(case=nets_and_plans())
def test_in_place_equals_a_copy(case):
    """`inplace` gives the same network, bit for bit, in the module that was there."""
    net, ratio, seed = case
    plan = random_plan(secateur.watch(net.model, net.x), ratio=ratio, seed=seed)
    fresh = secateur.apply(net.model, plan)

    same = secateur.apply(net.model, plan, inplace=True)

    assert same is net.model
    assert {k: v.tolist() for k, v in same.state_dict().items()} == {
        k: v.tolist() for k, v in fresh.state_dict().items()
    }
    assert str(same) == str(fresh)
    assert relative_error(outputs_of(same, net.x), outputs_of(fresh, net.x)) == 0


def test_in_place_drops_stale_gradients():
    """A gradient of the old shape would be added to the new one's."""
    model = network()
    model(X).sum().backward()

    secateur.apply(model, halved(model), inplace=True)

    assert model[0].weight.grad is None
    model(X).sum().backward()
    assert model[0].weight.grad.shape == model[0].weight.shape


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_number_formats_stay(dtype):
    """Every tensor keeps its own number format."""
    model = network().to(dtype)

    small = secateur.apply(model, halved(model, X.to(dtype)))

    assert {k: v.dtype for k, v in small.state_dict().items()} == {
        k: v.dtype for k, v in model.state_dict().items()
    }


def test_channels_last_stays():
    """Kernels in channels-last memory stay there, in two and three dimensions."""
    for build, memory, x in (
        (network, torch.channels_last, X),
        (CONSTRUCTS["Conv3d"].build, torch.channels_last_3d, CONSTRUCTS["Conv3d"].example()),
    ):
        model = build().to(memory_format=memory)
        small = secateur.apply(model, halved(model, x))

        for before, after in zip(model.parameters(), small.parameters(), strict=True):
            if before.dim() in (4, 5):
                assert after.is_contiguous(memory_format=memory)


def test_mode_requires_grad_and_hooks_stay():
    """Train mode and eval mode of each module, frozen parameters and forward hooks survive."""
    model, calls = network().train(), []
    model[1].eval()
    for parameter in model[0].parameters():
        parameter.requires_grad_(False)
    model[2].register_forward_hook(lambda module, args, out: calls.append(out.shape[1]))

    small = secateur.apply(model, halved(model))
    calls.clear()
    small(X)

    assert [m.training for m in small.modules()] == [m.training for m in model.modules()]
    assert [p.requires_grad for p in small.parameters()] == [p.requires_grad for p in model.parameters()]
    assert calls == [4]


def test_a_fully_frozen_network_is_cut_all_the_same():
    """That nothing is trained does not mean that nothing is cut."""
    model = network().requires_grad_(False)

    small = secateur.apply(model, halved(model))

    assert small[0].out_channels == 4
    assert not any(p.requires_grad for p in small.parameters())


def test_attributes_say_the_new_sizes():
    """Printing the cut network shows its sizes."""
    model = network()

    assert str(secateur.apply(model, halved(model))) == str(
        nn.Sequential(
            nn.Conv2d(3, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Conv2d(4, 3, 3),
            nn.Flatten(),
            nn.Linear(48, 4),
        )
    )


def test_tied_parameters_stay_tied():
    """A layer that is in the network under two names is one layer after the cut, too."""
    model = nn.Sequential(
        nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2)
    )
    model[4].weight = model[2].weight
    randomise(model)
    x = torch.randn(4, 3)
    plan = halved(model, x)

    small = secateur.apply(model, plan)

    check_cut(model, x, plan)
    assert small[4].weight is small[2].weight
    assert (small[4].in_features, small[4].out_features) == (3, 3)


def test_a_plan_is_refused_by_another_network():
    """Another structure has another digest; other weights of the same structure have the same."""
    model, plan = network(), halved(network())
    other = nn.Sequential(*list(network())[:-1], nn.Linear(96, 5))

    with pytest.raises(PlanError, match="the plan was made for another network"):
        secateur.apply(other, plan)
    with pytest.raises(PlanError, match="the plan was made for another network"):
        secateur.apply(secateur.apply(model, plan), plan)


def test_a_plan_can_be_applied_twice():
    """A plan is a value: two networks of one structure, one plan."""
    first, second = network(), randomise(network(), 9)
    plan = halved(first)

    for model in (first, second):
        check_cut(model, X, plan)


def test_cutting_again_and_again_ends_in_the_same_network():
    """Cuts compose: what is left after several is what one cut with the units left at the end would have made."""
    model = network().double()
    x = X.double()
    once = secateur.apply(
        model, plan_for(c := secateur.watch(model, x), [change_of(c.group("0"), np.array([1, 3, 4, 6]))])
    )
    twice = secateur.apply(
        once, plan_for(c := secateur.watch(once, x), [change_of(c.group("0"), np.array([0, 2, 3]))])
    )
    direct = secateur.apply(
        model, plan_for(c := secateur.watch(model, x), [change_of(c.group("0"), np.array([1, 4, 6]))])
    )

    assert relative_error(outputs_of(twice, x), outputs_of(direct, x)) == 0
    assert getattr(twice, CHANGES) == [{"tensor": "0.weight", "axis": 0, "size": 8, "kept": [1, 4, 6]}]
    assert getattr(direct, CHANGES) == getattr(twice, CHANGES)
    assert getattr(once, CHANGES)[0]["kept"] == [1, 3, 4, 6]


def test_the_record_survives_groups_that_change_their_names():
    """Two groups that one layer writes: when the first is down to one unit, the second is named as the first was."""
    model = Wired(
        lambda m, x: m.head((m.stem(x) + torch.cat([m.low(x), m.high(x)], 1)).relu()),
        stem=nn.Linear(3, 10), low=nn.Linear(3, 4), high=nn.Linear(3, 6), head=nn.Linear(10, 2),
    )  # fmt: skip
    x = torch.randn(2, 3)
    channels = secateur.watch(randomise(model), x)
    assert {g.name: g.width for g in channels.groups} == {"stem": 4, "stem#2": 6}
    once = secateur.apply(model, plan_for(channels, [change_of(channels.group("stem"), np.array([2]))]))
    channels = secateur.watch(once, x)
    assert {g.name: g.width for g in channels.groups} == {"stem": 6}

    twice = secateur.apply(once, plan_for(channels, [change_of(channels.group("stem"), np.array([0, 5]))]))

    assert getattr(twice, CHANGES) == [{"tensor": "stem.weight", "axis": 0, "size": 10, "kept": [2, 4, 9]}]
    assert torch.equal(twice.stem.weight, model.stem.weight[[2, 4, 9]])
