"""The suite that every criterion of the table faces; a new one joins by its line in the table."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.channels import watch
from secateur.channels.groups import Channels, Group
from secateur.criteria import CRITERIA, Scores, score
from secateur.errors import DataError, ModelError
from secateur.observe import Need

ZEROS_ARE_NOT_LOWEST = {"obd", "obd-readers", "relevance", "distance", "random"}
"""Criteria that do not claim that a dead unit goes first: curvature may be negative, some units do harm, a dead one is as far from
others as these are from zero, chance is blind."""

BLIND = {"random"}
"""Criteria whose scores belong to positions, not to units."""


def every(criteria: Iterable[str]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("criterion", list(criteria))


every_criterion = every(CRITERIA)


class Residual(nn.Module):
    """A residual block with a depthwise step, a concatenation, batch norms, and a dense layer behind a map."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.inner, self.deep = nn.Conv2d(6, 4, 1), nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.outer, self.side = nn.Conv2d(4, 6, 1), nn.Conv2d(6, 3, 1)
        self.head = nn.Linear((6 + 3) * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = F.elu(self.norm(self.stem(x)))
        h = h + self.outer(F.elu(self.deep(F.elu(self.inner(h)))))
        both = torch.cat([h, F.elu(self.side(h))], 1)
        return self.head(F.adaptive_avg_pool2d(both, 2).flatten(1))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return Residual().double()


@pytest.fixture(scope="module")
def channels(model: nn.Module) -> Channels:
    return watch(model, torch.zeros(1, 2, 8, 8, dtype=torch.float64))


def data(dtype: torch.dtype = torch.float64) -> list[tuple[Tensor, Tensor]]:
    source = torch.Generator().manual_seed(3)
    return [
        (torch.randn(8, 2, 8, 8, generator=source, dtype=torch.float64).to(dtype), torch.arange(8) % 3)
        for _ in range(2)
    ]


def scored(model: nn.Module, channels: Channels, criterion: str, **options: Any) -> Scores:
    given = {"data": data(next(model.parameters()).dtype)} if CRITERIA[criterion].needs else {}
    return score(model, channels, criterion, **{**given, **options})


def renamed(group: Group, order: Tensor) -> Group:
    """The same group, its units in another order."""
    members = tuple(replace(member, indices=member.indices[order.numpy()]) for member in group.members)
    return replace(group, members=members)


def permutations(channels: Channels) -> dict[str, Tensor]:
    source = torch.Generator().manual_seed(7)
    return {group.name: torch.randperm(group.width, generator=source) for group in channels.groups}


def test_the_network_has_the_groups_that_the_suite_means(channels: Channels) -> None:
    """The residual group has two writers and three readers, the others one writer; nothing is left out."""
    assert {group.name: group.width for group in channels.groups} == {"stem": 6, "inner": 4, "side": 3}
    stem = channels.group("stem")
    assert len(stem.by_role("write")) == 2
    assert len(stem.by_role("read")) == 3


@every_criterion
def test_every_group_has_finite_scores(criterion: str, model: nn.Module, channels: Channels) -> None:
    """One finite float64 a unit for every group, also for those with several writers and readers."""
    scores = scored(model, channels, criterion)

    assert {name: len(values) for name, values in scores.values.items()} == {"stem": 6, "inner": 4, "side": 3}
    assert all(bool(torch.isfinite(values).all()) for values in scores.values.values())
    assert scores.criterion == criterion


@every(name for name in CRITERIA if name not in BLIND)
def test_scores_follow_their_channels(criterion: str, model: nn.Module, channels: Channels) -> None:
    """Renaming the units of every group renames their scores and merges, and changes nothing else."""
    orders = permutations(channels)
    other = replace(channels, groups=tuple(renamed(group, orders[group.name]) for group in channels.groups))

    before, after = scored(model, channels, criterion), scored(model, other, criterion)

    for name, order in orders.items():
        torch.testing.assert_close(after.values[name], before.values[name][order], rtol=1e-8, atol=1e-11)
        if name in before.merges:
            expected = before.merges[name].into[order.numpy()]
            assert order.numpy()[after.merges[name].into].tolist() == expected.tolist()


@every_criterion
def test_scores_can_be_repeated(criterion: str, model: nn.Module, channels: Channels) -> None:
    """The same seed gives the same scores to the last bit."""
    first, second = (scored(model, channels, criterion, seed=4) for _ in range(2))

    assert all(torch.equal(first.values[name], second.values[name]) for name in first.values)


@every_criterion
def test_float32_agrees_with_float64(criterion: str, model: nn.Module, channels: Channels) -> None:
    """The number format changes scores by rounding only."""
    single = Residual()
    single.load_state_dict(model.state_dict())

    low, high = scored(single, channels, criterion), scored(model, channels, criterion)

    for name, values in high.values.items():
        torch.testing.assert_close(low.values[name], values, rtol=2e-3, atol=1e-5 * float(values.abs().max()))


@every(name for name in CRITERIA if name not in ZEROS_ARE_NOT_LOWEST)
def test_a_dead_unit_goes_first(criterion: str, channels: Channels) -> None:
    """A unit whose weights, biases and readers are all zero never ranks above a live one."""
    torch.manual_seed(0)
    model = Residual().double()
    tensors = dict(model.named_parameters())
    with torch.no_grad():
        for member in channels.group("inner").members:
            if member.tensor in tensors:
                tensors[member.tensor].index_fill_(member.axis, torch.as_tensor(member.indices[2]), 0)

    values = scored(model, channels, criterion).values["inner"]

    assert int(values.argmin()) == 2


def check_left_as_found(model: nn.Module, run: Callable[[], object]) -> None:
    """Run something, and compare the model and the random state with what they were."""
    model.train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()

    run()

    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert torch.equal(torch.get_rng_state(), random)


@every_criterion
def test_the_model_is_left_as_found(criterion: str, model: nn.Module, channels: Channels) -> None:
    """Scoring changes neither mode, weights, gradients, hooks nor the random state."""
    check_left_as_found(model, lambda: scored(model, channels, criterion))


@every(name for name, entry in CRITERIA.items() if entry.needs)
def test_the_model_is_left_as_found_after_an_error(
    criterion: str, model: nn.Module, channels: Channels
) -> None:
    """The same holds if the second batch does not fit the network."""
    broken = [data()[0], (torch.zeros(1, 5, 8, 8, dtype=torch.float64), torch.zeros(1, dtype=torch.int64))]

    def run() -> None:
        with pytest.raises(DataError, match="channels"):
            scored(model, channels, criterion, data=broken)

    check_left_as_found(model, run)


@every_criterion
def test_a_nan_weight_is_named(criterion: str, channels: Channels) -> None:
    """No criterion scores a network that holds NaN; the tensor is named."""
    model = Residual().double()
    with torch.no_grad():
        model.inner.weight[0, 0] = torch.nan

    with pytest.raises(ModelError, match=r"'inner\.weight' holds 1 values that are NaN"):
        scored(model, channels, criterion)


@every_criterion
def test_merges_replay_in_ascending_order(criterion: str, model: nn.Module, channels: Channels) -> None:
    """Criteria that merge give every group its merges, each into a unit that goes later; others give none."""
    scores = scored(model, channels, criterion)

    assert set(scores.merges) == (set(scores.values) if criterion in {"similarity", "correlation"} else set())
    for name, merge in scores.merges.items():
        rank = scores.values[name].argsort(stable=True).argsort().numpy()
        later = rank[merge.into] > rank
        assert later.sum() == len(rank) - 1
        assert np.flatnonzero(~later).tolist() == [int(rank.argmax())]


@every_criterion
def test_every_criterion_says_what_it_is(criterion: str) -> None:
    """Each has a description and a source, and is known by its own name."""
    entry = CRITERIA[criterion]

    assert entry.name == criterion
    assert entry.description
    assert entry.source
    assert entry.needs <= frozenset(Need)
