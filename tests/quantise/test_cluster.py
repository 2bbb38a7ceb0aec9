"""Weight sharing: k-means on a line, with and without a price for bits; levels that are trained."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from torch import Tensor, nn

from secateur.errors import ModelError, PlanError, SettingsError
from secateur.quantise import Clustered, cluster, summed, training_levels
from secateur.quantise.cluster import Start


def _weight(seed: int, n: int, gone: float) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(n, generator=generator)
    return weight * (torch.rand(n, generator=generator) >= gone)


WEIGHTS = st.builds(
    _weight,
    st.integers(0, 10_000),
    st.integers(1, 400),
    st.floats(0, 0.9),
)


def cost(weight: Tensor, shared: Clustered, rate: float) -> float:
    """What is made small."""
    scale = float(weight[weight != 0].double().square().mean())
    error = float((weight.double() - shared.weight().double()).square().sum())
    return error / scale + rate * shared.entropy * weight.numel()


@settings(deadline=None)
@given(WEIGHTS, st.integers(1, 40))
def test_each_number_has_the_nearest_level_and_each_level_is_the_mean_of_its_numbers(
    weight: Tensor, clusters: int
) -> None:
    """That is what k-means comes to rest at; pruned weights are exactly zero, and no other is."""
    found = cluster(weight, clusters)
    made = found.weight()

    assert made.shape == weight.shape
    assert made.dtype == weight.dtype
    assert len(found.levels) <= clusters + found.zero
    assert bool((found.counts() > 0).all())
    assert torch.equal(found.indices == 0, weight == 0) or not found.zero
    own = found.levels[int(found.zero) :].double()
    left = weight != 0
    if not bool(left.any()):
        return
    numbers = weight[left].double()
    nearest = (numbers[:, None] - own).abs().min(dim=1).values
    torch.testing.assert_close((numbers - made[left].double()).abs(), nearest, atol=1e-6, rtol=0)
    for level, value in enumerate(own, start=int(found.zero)):
        assert float(weight[found.indices == level].double().mean()) == pytest.approx(float(value), abs=1e-6)


@pytest.mark.parametrize(
    ("clusters", "start"), [(4, "linear"), (16, "linear"), (32, "least"), (200, "least")]
)
def test_it_is_the_k_means_of_a_well_known_library(clusters: int, start: Start) -> None:
    """From evenly spaced levels the error is that of scikit-learn's; by default it is below that of its own start."""
    weight = torch.randn(3000, generator=torch.Generator().manual_seed(2))
    numbers = weight.double().numpy()[:, None]
    even = np.linspace(numbers.min(), numbers.max(), clusters)[:, None]
    options = {"init": even, "n_init": 1} if start == "linear" else {"n_init": 2, "random_state": 0}
    known = KMeans(clusters, max_iter=300, tol=0, **options).fit(numbers)

    error = float((weight - cluster(weight, clusters, start=start).weight()).double().square().sum())

    assert error <= known.inertia_ * 1.001


@given(st.lists(st.integers(-20, 20), min_size=1, max_size=9), st.integers(1, 4))
def test_the_error_is_the_least_there_is(numbers: list[int], clusters: int) -> None:
    """No other way of cutting a few numbers into so many runs has a smaller error."""
    weight = torch.tensor(sorted(numbers), dtype=torch.float64) + 100

    found = float((weight - cluster(weight, clusters).weight()).square().sum())

    cuts = itertools.combinations_with_replacement(range(len(numbers) + 1), clusters - 1)
    ways = ([0, *ends, len(numbers)] for ends in cuts)
    parts = ([weight[a:b] for a, b in itertools.pairwise(way) if b > a] for way in ways)
    least = min(sum(float((part - part.mean()).square().sum()) for part in way) for way in parts)
    assert found == pytest.approx(least, abs=1e-6)


def test_many_levels_lose_nothing() -> None:
    """With a level for each number the weight is as it was."""
    weight = torch.tensor([0.5, -1.0, 0.25, 0.5, 0.0])

    assert torch.equal(cluster(weight, 1000).weight(), weight)


@settings(deadline=None)
@given(WEIGHTS, st.integers(1, 40))
def test_without_a_price_for_bits_it_is_k_means(weight: Tensor, clusters: int) -> None:
    """Of an unpruned weight a vanishing rate gives the same, and rate 0 is k-means by definition."""
    whole = weight[weight != 0]
    if not len(whole):
        return
    plain, priced = cluster(whole, clusters), cluster(whole, clusters, rate=1e-12)

    assert cost(whole, priced, 0.0) <= cost(whole, plain, 0.0) * (1 + 1e-6) + 1e-9
    assert torch.equal(cluster(weight, clusters).indices, cluster(weight, clusters, rate=0.0).indices)


@settings(deadline=None)
@given(WEIGHTS, st.integers(2, 40), st.floats(1e-3, 0.5))
def test_a_price_for_bits_lowers_error_and_bits_together(weight: Tensor, clusters: int, rate: float) -> None:
    """What is made small is never above that of k-means; zeros stay zero, and every level but zero's is used."""
    if not bool((weight != 0).any()):
        return
    plain, priced = cluster(weight, clusters), cluster(weight, clusters, rate=rate)

    assert cost(weight, priced, rate) <= cost(weight, plain, rate) * (1 + 1e-6) + 1e-6
    assert bool((priced.weight()[weight == 0] == 0).all())
    assert bool((priced.counts() > 0).all())


def test_a_higher_price_gives_fewer_bits() -> None:
    """The entropy falls and the error rises with the rate."""
    weight = torch.randn(5000, generator=torch.Generator().manual_seed(2))
    weight[::3] = 0

    found = [cluster(weight, 32, rate=rate) for rate in (0.0, 0.01, 0.03, 0.1)]

    bits = [one.entropy for one in found]
    errors = [float((weight - one.weight()).square().sum()) for one in found]
    assert bits == sorted(bits, reverse=True)
    assert errors[1:] == sorted(errors[1:])
    assert bits[-1] < 0.7 * bits[0]


def test_each_number_takes_what_is_cheapest() -> None:
    """The assignment is that of trying every level for every number."""
    weight = torch.randn(2000, generator=torch.Generator().manual_seed(3))
    weight[:900] = 0
    rate = 0.05

    found = cluster(weight, 16, rate=rate)

    share_of = found.counts().double() / weight.numel()
    scale = float(weight[weight != 0].double().square().mean())
    every = (weight.double()[:, None] - found.levels.double()).square() / scale - rate * share_of.log2()
    taken = every.gather(1, found.indices[:, None]).squeeze(1)
    better = (taken - every.min(dim=1).values)[weight != 0]
    assert (
        float((better > 1e-3).double().mean()) < 0.02
    )  # the last round's shares, not those it was decided by


def test_the_gradient_of_a_level_is_the_sum_of_its_members() -> None:
    """For every level of every weight, of a convolution and a dense layer, pruned weights apart."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 5)).double()
    with torch.no_grad():
        net[3].weight[torch.rand(5, 96) < 0.7] = 0
    shared = {name: cluster(net.get_parameter(name), 8) for name in ("0.weight", "3.weight")}
    plain = copy.deepcopy(net)
    with torch.no_grad():
        for name, one in shared.items():
            plain.get_parameter(name).copy_(one.weight())
    x = torch.randn(4, 2, 6, 6, dtype=torch.float64)
    plain(x).square().sum().backward()

    with training_levels(net, shared) as levels:
        net(x).square().sum().backward()
        for name, one in shared.items():
            gradient = plain.get_parameter(name).grad
            every = torch.stack([gradient[one.indices == j].sum() for j in range(len(one.levels))])
            torch.testing.assert_close(levels[name].grad, every[int(one.zero) :])
            assert len(levels[name]) == len(one.levels) - one.zero
    assert summed(torch.ones(3), torch.tensor([2, 2, 0]), 4).tolist() == [1, 0, 2, 0]


def test_levels_are_trained_and_the_network_is_whole_again() -> None:
    """After training each weight has its level, zeros are zero, and parameters are the same objects in the same order."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        net[0].weight[:, ::2] = 0
    shared = {"0.weight": cluster(net[0].weight, 4), "2.weight": cluster(net[2].weight, 3)}
    before = dict(net.named_parameters())

    with training_levels(net, shared):
        optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
        for _ in range(5):
            optimizer.zero_grad()
            net(torch.randn(8, 6)).square().sum().backward()
            optimizer.step()

    after = dict(net.named_parameters())
    assert list(after) == list(before)
    assert all(after[name] is before[name] for name in before)
    assert list(net.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    for name, one in shared.items():
        weight = net.get_parameter(name)
        assert len(weight.unique()) <= len(one.levels)
        for level in range(len(one.levels)):
            assert len(weight[one.indices == level].unique()) == 1
    assert not net[0].weight[:, ::2].any()
    assert not torch.equal(net[0].weight, shared["0.weight"].weight())


def test_what_cannot_be_shared_is_refused() -> None:
    """Other networks, tied weights, numbers that are not finite."""
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    one = cluster(net[0].weight, 2)
    with (
        pytest.raises(PlanError, match=r"no parameter '0.wieght'; did you mean '0.weight'"),
        training_levels(net, {"0.wieght": one}),
    ):
        pass
    with (
        pytest.raises(PlanError, match=r"\(1, 2\) in them"),
        training_levels(net, {"0.weight": cluster(torch.ones(1, 2), 2)}),
    ):
        pass
    net[1].weight = net[0].weight
    with (
        pytest.raises(ModelError, match=r"one weight with '1.weight'"),
        training_levels(net, {"0.weight": one}),
    ):
        pass
    with pytest.raises(ModelError, match=r"not finite"):
        cluster(torch.tensor([float("nan")]), 2)
    with pytest.raises(SettingsError, match="clusters=0"):
        cluster(torch.ones(2), 0)
    with pytest.raises(SettingsError, match="rate=-1"):
        cluster(torch.ones(2), 1, rate=-1)
    with pytest.raises(SettingsError, match="there are 1 levels"):
        Clustered(torch.ones(1), torch.tensor([1]), zero=False)
    with pytest.raises(SettingsError, match="must be 0"):
        Clustered(torch.ones(1), torch.tensor([0]), zero=True)


def test_a_weight_of_zeros_only_is_one_level() -> None:
    """Nothing is left to cluster."""
    found = cluster(torch.zeros(3), 4)

    assert found.levels.tolist() == [0.0]
    assert found.entropy == 0.0
