"""Tests of secateur.criteria.redundancy."""

from collections.abc import Callable
from copy import deepcopy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from secateur.channels import watch
from secateur.criteria import Merge, score
from secateur.criteria.redundancy import correlation, similarity
from secateur.errors import SettingsError
from secateur.observe import Covariance

seeds = st.integers(0, 2**32 - 1)
Pairs = list[tuple[int, int]]


def pairs_of(values: Tensor, merge: Merge) -> Pairs:
    """(removed, into) in the order of removal."""
    order = values.argsort(stable=True)[:-1]
    return [(int(j), int(merge.into[j])) for j in order]


def naive(cost: Callable[[int, int], float], merged: Callable[[int, int], None], n: int) -> Pairs:
    """The cheapest pair of all, again and again, every cost computed anew: O(n^3) and more."""
    alive, pairs = set(range(n)), []
    while len(alive) > 1:
        _, j, i = min((cost(i, j), j, i) for i in alive for j in alive if i != j)
        merged(i, j)
        alive.remove(j)
        pairs.append((j, i))
    return pairs


def covariance_of(samples: Tensor) -> Covariance:
    return Covariance(samples.mean(0), samples.T @ samples / len(samples), len(samples))


@given(seed=seeds, n=st.integers(2, 12))
@settings(deadline=None, max_examples=40)
def test_similarity_merges_the_pairs_of_the_naive_reference(seed: int, n: int) -> None:
    """The cached minima find the same pairs in the same order as recomputing every pair each time."""
    source = torch.Generator().manual_seed(seed)
    own, readers = torch.randn(2, n, 3, generator=source, dtype=torch.float64)
    w, a = own.numpy(), readers.numpy().copy()

    def merged(i: int, j: int) -> None:
        a[i] += a[j]

    def cost(i: int, j: int) -> float:
        return float((a[j] ** 2).mean() * ((w[i] - w[j]) ** 2).sum())

    expected = naive(cost, merged, n)

    assert pairs_of(*similarity(own, readers)) == expected


@given(seed=seeds, n=st.integers(2, 12))
@settings(deadline=None, max_examples=40)
def test_correlation_merges_the_pairs_of_the_naive_reference(seed: int, n: int) -> None:
    """The pair of highest correlation goes first, the unit of smaller variance of the two."""
    source = torch.Generator().manual_seed(seed)
    samples = torch.randn(20, n, generator=source, dtype=torch.float64) @ torch.randn(
        n, n, generator=source, dtype=torch.float64
    )
    rho, variance = np.corrcoef(samples.numpy(), rowvar=False), samples.numpy().var(0)

    expected = naive(
        lambda i, j: 1 - abs(rho[i, j]) if variance[j] < variance[i] else np.inf, lambda *_: None, n
    )

    assert pairs_of(*correlation(covariance_of(samples))) == expected


@given(seed=seeds, n=st.integers(2, 12))
@settings(deadline=None, max_examples=25)
def test_correlation_regresses_the_removed_on_the_kept(seed: int, n: int) -> None:
    """Scale and shift are numpy's least-squares line of the removed unit over the kept one."""
    samples = torch.randn(30, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 3
    values, merge = correlation(covariance_of(samples))

    for j, i in pairs_of(values, merge):
        scale, shift = np.polyfit(samples[:, i].numpy(), samples[:, j].numpy(), 1)
        assert merge.scale[j] == pytest.approx(scale, abs=1e-8)
        assert merge.shift[j] == pytest.approx(shift, abs=1e-8)


def test_constant_units_go_first_and_leave_their_value() -> None:
    """A unit that never changes is replaced by its mean, whatever it is folded into."""
    samples = torch.randn(20, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    samples[:, 1], samples[:, 3] = 0.3, 0.0

    values, merge = correlation(covariance_of(samples))

    assert {j for j, _ in pairs_of(values, merge)[:2]} == {1, 3}
    assert merge.scale[[1, 3]].tolist() == [0, 0]
    assert merge.shift[[1, 3]] == pytest.approx([0.3, 0.0])


def test_all_constant_or_all_equal_units_still_have_an_order() -> None:
    """Ties everywhere leave a strict order in which every unit goes into one that is alive."""
    for values, merge in (
        correlation(covariance_of(torch.full((5, 6), 2.0, dtype=torch.float64))),
        similarity(torch.ones(6, 2), torch.ones(6, 2)),
    ):
        rank = values.argsort().argsort().numpy()
        last = rank == 5
        assert len(values.unique()) == 6
        assert (rank[merge.into] > rank)[~last].all()
        assert merge.into[last].tolist() == np.flatnonzero(last).tolist()


def test_nearly_equal_rows_have_exact_distances() -> None:
    """The cost of a pair that differs in the tenth digit is not lost in the rounding of large weights."""
    own = torch.tensor([[1e4], [1e4 + 1e-6], [-1e4]], dtype=torch.float64)

    values, merge = similarity(own, torch.ones(3, 1, dtype=torch.float64))

    assert float(values[1]) == pytest.approx(1e-12, rel=1e-3)
    assert merge.into[1] == 0


def test_a_group_of_one_stays() -> None:
    """One unit has nobody to be merged with."""
    values, merge = similarity(torch.ones(1, 2), torch.ones(1, 2))

    assert values.shape == (1,)
    assert merge.into.tolist() == [0]


def test_rows_of_different_number_are_refused() -> None:
    """Own weights and readers are of the same units."""
    with pytest.raises(SettingsError, match="own weights have 2 rows and readers 3"):
        similarity(torch.ones(2, 1), torch.ones(3, 1))


def network() -> nn.Sequential:
    """Convolutions with batch norm of random statistics, and a dense layer behind a flattened map."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 5, 3),
        nn.BatchNorm2d(5),
        nn.ReLU(),
        nn.Conv2d(5, 4, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64, 3),
    ).double()
    with torch.no_grad():
        for tensor in (model[1].weight, model[1].bias, model[1].running_mean):
            tensor.normal_()
        model[1].running_var.uniform_(0.5, 2)
    return model.eval()


X = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
Y = torch.tensor([0, 1, 2, 0, 1, 2])


def folded(
    model: nn.Sequential, layer: int, values: Tensor, merge: Merge, *, count: int, block: int = 1
) -> nn.Sequential:
    """The model whose reader ``layer`` no longer reads the ``count`` lowest units but those they fold into."""
    result = deepcopy(model)
    reader = result[layer]
    with torch.no_grad():
        weight = reader.weight.view(reader.weight.shape[0], len(values), block, -1)
        for j, i in pairs_of(values, merge)[:count]:
            weight[:, i] += merge.scale[j] * weight[:, j]
            reader.bias += merge.shift[j] * weight[:, j].sum((1, 2))
            weight[:, j] = 0
    return result


def test_merging_identical_units_by_similarity_changes_nothing() -> None:
    """Three units of equal weights become one: the outputs agree to 1e-10, and these two merges come first."""
    model = network()
    with torch.no_grad():
        for tensor in (
            *model[0].parameters(),
            *model[1].parameters(),
            model[1].running_mean,
            model[1].running_var,
        ):
            tensor[3] = tensor[4] = tensor[1]

    scores = score(model, watch(model, X), "similarity")

    values, merge = scores.values["0"], scores.merges["0"]
    merged = folded(model, 3, values, merge, count=2)
    assert {j for j, _ in pairs_of(values, merge)[:2]} < {1, 3, 4}
    assert not torch.equal(merged[3].weight, model[3].weight)
    torch.testing.assert_close(merged(X), model(X), rtol=0, atol=1e-10)


def test_similarity_sees_the_norm_behind_the_weights() -> None:
    """Equal kernels behind which the norm does something else are not the same unit; scaled ones may be."""
    model = network()
    with torch.no_grad():
        model[0].weight[1] = model[0].weight[0]
        model[0].bias[1] = model[0].bias[0]
        model[0].weight[3], model[0].bias[3] = 2 * model[0].weight[2], 2 * model[0].bias[2]
        model[1].running_mean[3] = 2 * model[1].running_mean[2]
        model[1].running_var[3] = 4 * (model[1].running_var[2] + 1e-5) - 1e-5
        for tensor in model[1].parameters():
            tensor[3] = tensor[2]

    scores = score(model, watch(model, X), "similarity")

    values, merge = scores.values["0"], scores.merges["0"]
    assert set(pairs_of(values, merge)[0]) == {2, 3}
    torch.testing.assert_close(folded(model, 3, values, merge, count=1)(X), model(X), rtol=0, atol=1e-10)


@pytest.mark.parametrize(("layer", "group", "block"), [(3, "0", 1), (6, "3", 16)])
def test_merging_linearly_related_units_by_correlation_changes_nothing(
    layer: int, group: str, block: int
) -> None:
    """Units that are straight lines of others fold into them with scale and shift: the outputs agree to 1e-10."""
    model = network()
    model[2] = model[4] = nn.Identity()
    with torch.no_grad():
        if group == "0":
            norm = model[1]
            for tensor in (
                model[0].weight,
                model[0].bias,
                norm.weight,
                norm.bias,
                norm.running_mean,
                norm.running_var,
            ):
                tensor[3] = tensor[1]
            norm.weight[3], norm.bias[3] = -0.5 * norm.weight[1], 2.0
        else:
            model[3].weight[2], model[3].bias[2] = 1.5 * model[3].weight[0], 1.5 * model[3].bias[0] - 1

    scores = score(model, watch(model, X), "correlation", data=[(X[:2], Y[:2]), (X[2:], Y[2:])])

    values, merge = scores.values[group], scores.merges[group]
    merged = folded(model, layer, values, merge, count=1, block=block)
    assert set(pairs_of(values, merge)[0]) == ({1, 3} if group == "0" else {0, 2})
    assert float(values.min()) < 1e-12
    torch.testing.assert_close(merged(X), model(X), rtol=0, atol=1e-10)
