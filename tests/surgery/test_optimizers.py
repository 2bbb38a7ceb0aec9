"""Optimisers follow a cut: rows of their state stay with their channels, and training goes on."""

import copy

import pytest
import torch
from tests.strategies import random_plan
from torch import nn

import secateur
from secateur.surgery.apply import _parts
from secateur.surgery.tensors import change_axis
from secateur.testing import randomise, unread

X = torch.randn(8, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = torch.randint(0, 4, (8,), generator=torch.Generator().manual_seed(1))

OPTIMISERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.01, nesterov=True),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True),
}


def network() -> nn.Module:
    return randomise(
        nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3, groups=2), nn.Tanh(), nn.Flatten(),
            nn.Linear(96, 7), nn.Sigmoid(), nn.Linear(7, 4),
        )
    ).double().eval()  # fmt: skip


def step(model: nn.Module, optimiser: torch.optim.Optimizer, times: int = 1) -> None:
    for _ in range(times):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(X), Y).backward()
        optimiser.step()


def cut(plan, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors named as parameters are, cut as these are."""
    parts, result = _parts(plan), {}
    for name, tensor in tensors.items():
        result[name] = tensor
        for axis, entries in parts.get(name, {}).items():
            result[name] = change_axis(result[name], axis, entries)
    return result


def states(model: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, dict[str, torch.Tensor]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(parameter)]: dict(state) for parameter, state in optimiser.state.items()}


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("name", OPTIMISERS)
def test_state_follows_its_channels(name, inplace):
    """Every number that the optimiser keeps for a weight goes where the weight goes."""
    model = network()
    optimiser = OPTIMISERS[name](model.parameters())
    step(model, optimiser, 3)
    before = {
        n: {k: torch.as_tensor(v).clone() for k, v in s.items()} for n, s in states(model, optimiser).items()
    }
    plan = random_plan(secateur.watch(model, X), ratio=0.5, seed=0)

    small = secateur.apply(model, plan, optimizer=optimiser, inplace=inplace)

    held = [parameter for settings in optimiser.param_groups for parameter in settings["params"]]
    assert all(a is b for a, b in zip(held, small.parameters(), strict=True))
    after = states(small, optimiser)
    for key in (
        "momentum_buffer",
        "exp_avg",
        "exp_avg_sq",
        "max_exp_avg_sq",
        "square_avg",
        "grad_avg",
        "step",
    ):
        wanted = {n: s[key] for n, s in before.items() if key in s}
        for tensor, value in (cut(plan, wanted) if key != "step" else wanted).items():
            assert torch.equal(torch.as_tensor(after[tensor][key]), value), (tensor, key)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_a_step_after_the_cut_is_the_step_of_the_unread_network(name):
    """Where nobody reads the removed channels, a step then a cut equals a cut then a step."""
    model = network()
    optimiser = OPTIMISERS[name](model.parameters())
    step(model, optimiser, 2)
    plan = random_plan(secateur.watch(model, X), ratio=0.5, seed=0)
    full = unread(model, plan)
    theirs = OPTIMISERS[name](full.parameters())
    theirs.load_state_dict(copy.deepcopy(optimiser.state_dict()))
    step(full, theirs)

    small = secateur.apply(model, plan, optimizer=optimiser)
    step(small, optimiser)

    for tensor, value in cut(plan, dict(full.named_parameters())).items():
        torch.testing.assert_close(small.get_parameter(tensor), value, rtol=1e-9, atol=1e-11)


def test_training_goes_on():
    """After the cut the loss keeps falling: no weight is stale."""
    model = network().train()
    optimiser = OPTIMISERS["SGD"](model.parameters())
    step(model, optimiser, 5)
    small = secateur.apply(
        model, random_plan(secateur.watch(model, X), ratio=0.5, seed=0), optimizer=optimiser
    )
    loss = nn.functional.cross_entropy(small(X), Y).item()
    weights = {name: parameter.detach().clone() for name, parameter in small.named_parameters()}

    step(small, optimiser, 20)

    assert nn.functional.cross_entropy(small(X), Y).item() < 0.7 * loss
    assert all(not torch.equal(parameter, weights[name]) for name, parameter in small.named_parameters())


def test_several_optimisers_and_parameter_groups():
    """Parameters may be spread over optimisers and groups with settings of their own, which stay."""
    model = network()
    first = torch.optim.SGD(
        [{"params": model[0].parameters(), "lr": 0.5}, {"params": model[3].parameters()}],
        lr=0.1,
        momentum=0.9,
    )
    second = torch.optim.Adam(model[6].parameters())
    plan = random_plan(secateur.watch(model, X), ratio=0.5, seed=0)

    small = secateur.apply(model, plan, optimizer=[first, second])

    assert [settings["lr"] for settings in first.param_groups] == [0.5, 0.1]
    assert first.param_groups[1]["params"][0] is small[3].weight
    assert second.param_groups[0]["params"][0] is small[6].weight
