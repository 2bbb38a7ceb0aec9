"""Training survives a cut: with whatever stands around the network, the loss goes on as it should."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from tests.strategies import random_plan
from tests.surgery.test_optimizers import cut
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import secateur
from secateur._model import unwrapped
from secateur.errors import PlanError, SettingsError
from secateur.plan import Change, Plan, plan_for
from secateur.testing import outputs_of, randomise, relative_error

X = torch.randn(12, 3, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.randint(0, 4, (12,), generator=torch.Generator().manual_seed(1))


def network() -> nn.Module:
    return randomise(
        nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.Tanh(), nn.Dropout(0.1),
            nn.Flatten(), nn.Linear(96, 8), nn.Sigmoid(), nn.Linear(8, 4),
        )
    ).train()  # fmt: skip


@dataclass
class Training:
    """A network and what stands around it while it is trained."""

    model: nn.Module
    optimizers: list[torch.optim.Optimizer]
    schedulers: list[Any] = field(default_factory=list)
    average: nn.Module | None = None
    scaler: torch.amp.GradScaler = field(default_factory=lambda: torch.amp.GradScaler("cpu", enabled=False))
    x: torch.Tensor = X
    rates: list[float] = field(default_factory=list)

    def step(self) -> float:
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        self.loss = nn.functional.cross_entropy(
            self.model(self.x), Y
        )  # stays alive, as a loss in a loop does
        self.scaler.scale(self.loss).backward()
        for optimizer in self.optimizers:
            self.scaler.step(optimizer)
        self.scaler.update()
        for scheduler in self.schedulers:
            plateau = isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
            scheduler.step(*([self.loss.item()] if plateau else []))
        self.rates.append(self.optimizers[0].param_groups[0]["lr"])
        if isinstance(self.average, AveragedModel):
            self.average.update_parameters(self.model)
        elif self.average is not None:
            for mean, new in zip(self.average.parameters(), self.model.parameters(), strict=True):
                mean.data.lerp_(new.data, 0.2)
        return self.loss.item()

    def steps(self, times: int) -> list[float]:
        return [self.step() for _ in range(times)]

    def cut(self, plan: Plan, *, inplace: bool) -> None:
        self.model = secateur.apply(
            self.model, plan, optimizer=self.optimizers, averages=self.average, inplace=inplace
        )


def sgd(parameters: Any, **options: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, **{"lr": 0.1, "momentum": 0.9, **options})


def plain(build: Callable[[Any], torch.optim.Optimizer]) -> Training:
    model = network()
    return Training(model, [build(model.parameters())])


def per_group() -> Training:
    model = network()
    groups = [
        {"params": model[0].parameters(), "lr": 0.01, "weight_decay": 0.1},
        {"params": list(model.parameters())[2:], "momentum": 0.5},
    ]
    return Training(model, [sgd(groups)])


def several() -> Training:
    model = network()
    return Training(
        model, [sgd(model[0].parameters()), torch.optim.AdamW(list(model.parameters())[2:], lr=0.01)]
    )


def averaged() -> Training:
    done = plain(sgd)
    done.average = AveragedModel(done.model, multi_avg_fn=get_ema_multi_avg_fn(0.8), use_buffers=False)
    return done


def averaged_by_hand() -> Training:
    done = plain(sgd)
    done.average = copy.deepcopy(done.model).requires_grad_(False)
    return done


def scheduled() -> Training:
    done = plain(sgd)
    (optimizer,) = done.optimizers
    done.schedulers = [
        torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.2, total_steps=40),
        torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0),
    ]
    return done


def scaled() -> Training:
    done = plain(sgd)
    done.scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)
    return done


def compiled(backend: str) -> Training:
    done = plain(sgd)
    done.model = torch.compile(done.model, backend=backend)
    return done


def frozen() -> Training:
    model = network()
    model[0].requires_grad_(False)
    return Training(model, [sgd(model.parameters())])


def channels_last() -> Training:
    done = plain(sgd)
    done.model.to(memory_format=torch.channels_last)
    done.x = X.contiguous(memory_format=torch.channels_last)
    return done


def hooked() -> Training:
    done = plain(sgd)
    done.model[2].register_forward_hook(lambda module, args, out: out * 1.5)
    done.model[4].register_full_backward_hook(lambda module, before, after: (before[0] * 0.5,))
    return done


TRAININGS: dict[str, Callable[[], Training]] = {
    "SGD": partial(plain, sgd),
    "Adam": partial(plain, lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True)),
    "AdamW": partial(plain, lambda p: torch.optim.AdamW(p, lr=0.01)),
    "RMSprop": partial(plain, lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True)),
    "Adafactor": partial(plain, lambda p: torch.optim.Adafactor(p, lr=0.05)),
    "options per group": per_group,
    "several optimisers": several,
    "AveragedModel": averaged,
    "average by hand": averaged_by_hand,
    "schedulers": scheduled,
    "GradScaler": scaled,
    "compile eager": partial(compiled, "eager"),
    "compile aot_eager": partial(compiled, "aot_eager"),
    "frozen": frozen,
    "channels last": channels_last,
    "hooks": hooked,
}


def channels_of(training: Training) -> secateur.channels.Channels:
    return secateur.watch(unwrapped(training.model), training.x)


def half(training: Training) -> Plan:
    return random_plan(channels_of(training), ratio=0.5, seed=0)


def no_change(training: Training) -> Plan:
    """A plan of no group at all."""
    return plan_for(channels_of(training), [])


def every_unit_stays(training: Training) -> Plan:
    """A plan that takes all units of all groups, so that every tensor goes through the shears."""
    channels = channels_of(training)
    changes = tuple(Change(g.name, g.width, np.arange(g.width)) for g in channels.groups)
    return replace(plan_for(channels, []), groups=channels.groups, changes=changes)


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("nothing", [no_change, every_unit_stays])
@pytest.mark.parametrize("name", TRAININGS)
def test_after_a_cut_of_nothing_the_loss_is_the_same_to_the_bit(name, nothing, inplace):
    """Whoever cuts nothing trains on as if nothing had happened: losses, rates, averages, scale."""
    whole, trimmed = TRAININGS[name](), TRAININGS[name]()
    torch.manual_seed(0)
    wanted = whole.steps(6)

    torch.manual_seed(0)
    found = trimmed.steps(3)
    trimmed.cut(nothing(trimmed), inplace=inplace)
    found += trimmed.steps(3)

    assert found == wanted
    assert trimmed.rates == whole.rates
    assert trimmed.scaler.state_dict() == whole.scaler.state_dict()
    assert wanted[0] != wanted[-1]
    if whole.average is not None:
        state = whole.average.state_dict()
        assert all(torch.equal(value, state[key]) for key, value in trimmed.average.state_dict().items())


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("name", TRAININGS)
def test_after_a_real_cut_training_goes_on(name, inplace):
    """The optimisers hold every live parameter and no other, rates go on as without a cut, and the loss falls."""
    whole, trimmed = TRAININGS[name](), TRAININGS[name]()
    torch.manual_seed(0)
    whole.steps(4)
    trimmed.steps(4)
    before = trimmed.model
    plan = half(trimmed)

    trimmed.cut(plan, inplace=inplace)
    held = [p for o in trimmed.optimizers for settings in o.param_groups for p in settings["params"]]
    losses = trimmed.steps(25)

    assert (trimmed.model is before) == inplace
    assert unwrapped(trimmed.model)[0].out_channels == 4
    assert sorted(map(id, held)) == sorted(map(id, trimmed.model.parameters()))
    assert {id(p) for o in trimmed.optimizers for p in o.state} <= {id(p) for p in held}
    assert np.mean(losses[-5:]) < 0.85 * np.mean(losses[:2])
    if name != "schedulers":  # one of them looks at the loss
        whole.steps(25)
        assert trimmed.rates == whole.rates


@pytest.mark.parametrize("inplace", [False, True])
def test_rows_of_the_momentum_follow_their_channels(inplace):
    """What momentum has gathered for a channel that stays is there after the cut, under the new number."""
    training = several()
    training.steps(3)
    names = {id(p): n for n, p in training.model.named_parameters()}
    before = {names[id(p)]: s for o in training.optimizers for p, s in copy.copy(o.state).items()}
    before = {n: s.get("momentum_buffer", s.get("exp_avg")).clone() for n, s in before.items()}
    plan = half(training)

    training.cut(plan, inplace=inplace)

    names = {id(p): n for n, p in training.model.named_parameters()}
    after = {names[id(p)]: s for o in training.optimizers for p, s in o.state.items()}
    for name, wanted in cut(plan, before).items():
        state = after[name]
        assert torch.equal(state.get("momentum_buffer", state.get("exp_avg")), wanted)


def test_a_rate_goes_on_where_it_was():
    """A schedule knows nothing of the cut: its rates are those of the schedule alone."""
    training = plain(sgd)
    (optimizer,) = training.optimizers
    training.schedulers = [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)]
    training.steps(4)

    training.cut(half(training), inplace=False)
    training.steps(6)

    wanted = [0.05 * (1 + np.cos(np.pi * t / 10)) for t in range(1, 11)]
    assert training.rates == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("build", [averaged, averaged_by_hand])
def test_an_average_is_cut_by_the_same_units(build):
    """The cut average computes what the average would have computed, cut alone; it stays the same module."""
    training = build()
    training.steps(3)
    average, plan = training.average, half(training)
    alone = secateur.apply(average, plan)
    module = copy.deepcopy(unwrapped(average))

    training.cut(plan, inplace=False)

    assert training.average is average
    assert type(alone) is type(average)
    assert relative_error(outputs_of(average, X), outputs_of(alone, X)) == 0
    small = cut(plan, dict(module.named_parameters()))
    assert all(torch.equal(p, small[n]) for n, p in unwrapped(average).named_parameters())
    if isinstance(average, AveragedModel):
        assert average.n_averaged == 3


def test_several_averages_go_along():
    """Averages of different pace follow the same cut."""
    model = network()
    averages = [AveragedModel(model), copy.deepcopy(model)]
    plan = random_plan(secateur.watch(model, X), ratio=0.5, seed=0)

    small = secateur.apply(model, plan, averages=averages)

    for average in averages:
        assert relative_error(outputs_of(average, X), outputs_of(small, X)) == 0


def test_nothing_has_changed_where_an_average_does_not_fit():
    """An average of another structure, or the network itself, is refused before anything is cut."""
    model, good = network(), network()
    plan = random_plan(secateur.watch(model, X), ratio=0.5, seed=0)
    shapes = [p.shape for p in good.parameters()]

    with pytest.raises(PlanError, match="made for another network"):
        secateur.apply(model, plan, averages=[good, nn.Linear(2, 2)])
    with pytest.raises(SettingsError, match="one network is given twice"):
        secateur.apply(model, plan, averages=[good, model], inplace=True)
    with pytest.raises(SettingsError, match="one network is given twice"):
        secateur.apply(model, plan, averages=[good, good])

    assert [p.shape for p in good.parameters()] == shapes
    assert [p.shape for p in model.parameters()] == shapes


def test_frozen_parameters_stay_frozen_and_still():
    """What was frozen is cut, stays frozen, and is not moved by further training."""
    training = frozen()
    training.steps(2)
    training.cut(half(training), inplace=True)
    weight = training.model[0].weight.detach().clone()

    training.steps(5)

    assert not training.model[0].weight.requires_grad
    assert torch.equal(training.model[0].weight, weight)


def test_hooks_on_parameters_go_on_in_place():
    """Cut in place, a parameter keeps its hooks, which then see gradients of the new shape."""
    training, seen = plain(sgd), []
    weight = training.model[0].weight
    weight.register_hook(lambda grad: seen.append(tuple(grad.shape)))
    weight.register_post_accumulate_grad_hook(lambda p: seen.append(tuple(p.grad.shape)))
    training.step()

    training.cut(half(training), inplace=True)
    seen.clear()
    training.step()

    assert seen == [(4, 3, 3, 3)] * 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_loss_that_is_still_alive_does_no_harm_in_place(dtype):
    """Somebody who holds the last loss, as every loop does, can go on; no gradient of before the cut is left."""
    model = network().to(dtype)
    loss = nn.functional.cross_entropy(model(X.to(dtype)), Y)
    loss.backward()

    secateur.apply(model, random_plan(secateur.watch(model, X.to(dtype)), ratio=0.5, seed=0), inplace=True)
    left: Sequence[Any] = [p.grad for p in model.parameters()]
    nn.functional.cross_entropy(model(X.to(dtype)), Y).backward()

    assert left == [None] * len(left)
    assert loss.item() > 0
    assert all(p.grad.shape == p.shape and p.grad.dtype == dtype for p in model.parameters())
