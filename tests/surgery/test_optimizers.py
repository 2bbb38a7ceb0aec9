"""Optimisers follow a cut: rows of their state stay with their channels, and training goes on."""

import copy

import numpy as np
import pytest
import torch
from tests.strategies import random_plan
from torch import nn

import secateur
from secateur.errors import ModelError
from secateur.plan import change_of, plan_for
from secateur.surgery.optimizers import follow
from secateur.surgery.tensors import change_axis, parts_of
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
    parts, result = parts_of(plan), {}
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


def test_what_is_kept_for_rows_and_columns_follows_them():
    """Adafactor keeps one number for each row and one for each column: those of the channels that stay are left."""
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    optimiser = torch.optim.Adafactor(model.parameters(), lr=0.01)
    x = torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    model(x).sum().backward()
    optimiser.step()
    rows = optimiser.state[model[0].weight]["row_var"].clone()
    columns = optimiser.state[model[2].weight]["col_var"].clone()
    channels = secateur.watch(model, x)
    plan = plan_for(channels, [change_of(channels.group("0"), np.array([1, 4]))])

    small = secateur.apply(model, plan, optimizer=optimiser)

    first, last = optimiser.state[small[0].weight], optimiser.state[small[2].weight]
    assert torch.equal(first["row_var"], rows[[1, 4]])
    assert torch.equal(last["col_var"], columns[:, [1, 4]])
    assert (first["col_var"].shape, last["row_var"].shape) == ((1, 5), (3, 1))
    small(x).sum().backward()
    optimiser.step()


def test_an_optimiser_that_keeps_one_history_for_all_is_refused():
    """L-BFGS cannot follow: nothing is changed, and the message says what to do."""
    model = network()
    optimiser = torch.optim.LBFGS(model.parameters(), max_iter=2)

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        value = nn.functional.cross_entropy(model(X), Y)
        value.backward()
        return value

    optimiser.step(loss)
    plan = random_plan(secateur.watch(model, X), ratio=0.5, seed=0)

    with pytest.raises(
        ModelError, match=r"LBFGS keeps .* cannot be cut with it; cut without it and make a new"
    ):
        secateur.apply(model, plan, optimizer=optimiser, inplace=True)

    assert model[0].out_channels == 8
    optimiser.step(loss)


def test_one_history_for_all_is_refused_before_there_is_one():
    """Whether L-BFGS has made a step is not what decides."""
    model = network()
    plan = random_plan(secateur.watch(model, X), ratio=0.5, seed=0)
    with pytest.raises(ModelError, match="LBFGS keeps one history"):
        secateur.apply(model, plan, optimizer=torch.optim.LBFGS(model.parameters()))


def test_an_optimiser_of_another_network_is_refused():
    """It would go on training a network that nobody uses."""
    model, old = network(), network()
    plan = random_plan(secateur.watch(model, X), ratio=0.5, seed=0)

    with pytest.raises(ModelError, match="SGD holds none of the network's parameters"):
        secateur.apply(model, plan, optimizer=torch.optim.SGD(old.parameters()))


def test_parameters_that_are_gone_are_let_go():
    """A parameter that is no longer in the network leaves its optimiser with its name and its state."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    optimiser = torch.optim.SGD(model.named_parameters(), momentum=0.9)
    model(torch.ones(1, 2)).sum().backward()
    optimiser.step()
    old = dict(model.named_parameters())
    shapes = {id(p): tuple(p.shape) for p in old.values()}
    del model[0]

    follow([optimiser], model, axes={}, shapes=shapes, moved={id(p): p for p in old.values()})

    (settings,) = optimiser.param_groups
    assert [id(p) for p in settings["params"]] == [id(old["1.weight"]), id(old["1.bias"])]
    assert settings["param_names"] == ["1.weight", "1.bias"]
    assert {id(p) for p in optimiser.state} == {id(p) for p in model.parameters()}
