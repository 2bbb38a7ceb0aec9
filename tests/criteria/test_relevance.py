"""Tests of secateur.criteria.relevance, and of the relevance of a network's units."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import secateur
from secateur import data
from secateur.channels import watch
from secateur.criteria import Scores, certainty, score
from secateur.criteria.redundancy import distance
from secateur.criteria.relevance import relevance
from secateur.errors import ModelError
from secateur.observe import Need, Relevance, Subsets, observe
from secateur.train import TrainSettings, fit

Batches = list[tuple[Tensor, Tensor]]
WIDTH = 8


def carried_by_one(unit: int) -> tuple[nn.Module, Batches]:
    """Two classes that one unit tells apart; one is written and read by zeros, the others are small noise."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 2)).double()
    dead = (unit + 1) % WIDTH
    with torch.no_grad():
        model[0].weight.mul_(0.3)
        model[2].weight.mul_(0.1)
        model[0].weight[unit], model[0].bias[unit] = torch.tensor([2.0, 0.0]), 0.0
        model[2].weight[:, unit] = torch.tensor([-2.0, 2.0])
        model[0].weight[dead], model[0].bias[dead], model[2].weight[:, dead] = 0.0, 0.0, 0.0
    x = torch.randn(256, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = (x[:, 0] > 0).long()
    return model, [(x[start : start + 64], y[start : start + 64]) for start in range(0, 256, 64)]


def relevance_of(model: nn.Module, batches: Batches, **options: float) -> Tensor:
    channels = watch(model, batches[0][0][:1])
    seen = observe(model, channels, batches, needs={Need.RELEVANCE}, **options)
    return score(model, channels, "relevance", data=seen).values["0"]


@pytest.mark.parametrize("unit", [0, 3, 7])
@pytest.mark.parametrize("share", [0.5, 0.75, 0.9])
def test_a_unit_that_alone_carries_the_class_is_the_most_relevant(unit: int, share: float) -> None:
    """It is far above chance, and no other unit is above it at all."""
    model, batches = carried_by_one(unit)

    found = relevance_of(model, batches, share=share, draws=64)

    assert int(found.argmax()) == unit
    assert float(certainty(found)[unit]) > 0.999
    assert int((certainty(found) > 0.999).sum()) == 1


@given(seed=st.integers(0, 2**31))
@settings(deadline=None, max_examples=8)
def test_a_unit_that_does_nothing_is_not_above_the_dummies(seed: int) -> None:
    """Whatever is drawn, no unit without effect passes the test at one in ten thousand: its layer's others do more."""
    model, batches = carried_by_one(2)
    channels = watch(model, batches[0][0][:1])

    found = score(model, channels, "relevance", data=batches, seed=seed).values["0"]

    assert float(certainty(found)[3]) < 1 - 1e-4
    assert float(found[3]) < float(found[2])


def test_where_no_unit_does_anything_chance_alone_is_left() -> None:
    """Losses that come from elsewhere: relevance of units is spread as the dummies' is, about the same mean."""
    model = nn.Sequential(nn.Linear(2, 400), nn.ReLU(), nn.Linear(400, 2))
    subsets = Subsets(model, watch(model, torch.zeros(1, 2)), share=0.75)
    losses = torch.randn(300, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for loss in losses:
        with subsets.drawn() as drawn:
            pass
        subsets.learn(drawn, float(loss))

    found = relevance(subsets.found()["0"])

    assert abs(float(found.mean())) < 0.2
    assert 0.85 < float(found.std()) < 1.15
    assert float((certainty(found) <= 0.05).double().mean()) == pytest.approx(0.05, abs=0.04)


def test_with_every_unit_in_every_pass_relevance_says_nothing() -> None:
    """There is nothing to compare: all scores are zero, and so is the doubt on either side."""
    model, batches = carried_by_one(4)

    found = relevance_of(model, batches, share=1.0, draws=5)

    assert found.tolist() == [0.0] * WIDTH
    assert certainty(found).tolist() == [0.5] * WIDTH


def test_a_unit_that_does_harm_is_below_chance() -> None:
    """The sign: a unit that says the wrong class has the lowest relevance, below that of one that does nothing."""
    model, batches = carried_by_one(1)
    with torch.no_grad():
        model[0].weight[5], model[0].bias[5] = torch.tensor([1.0, 0.0]), 0.0
        model[2].weight[:, 5] = torch.tensor([1.0, -1.0])

    found = relevance_of(model, batches, share=0.75, draws=64)

    assert int(found.argmin()) == 5
    assert float(certainty(found)[5]) < 0.001
    assert float(found[5]) < float(found[2]) < float(found[1])


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, data.Splits]:
    """Two dense layers of units, trained on handwritten digits."""
    digits = data.load("digits", limit=800)
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 10)
    )
    fit(net, digits.train, None, TrainSettings(epochs=12, lr=0.05, batch_size=64))
    return net.eval(), digits


@pytest.mark.parametrize("seed", [0, 1])
def test_removing_the_lowest_loses_less_than_removing_the_highest(
    trained: tuple[nn.Module, data.Splits], seed: int
) -> None:
    """On a trained network, for real: a quarter of every layer from either end, and as many by chance between."""
    net, digits = trained
    channels = watch(net, digits.train.inputs[:1])
    layers = [group.name for group in channels.groups if group.by_role("write")]
    scores = score(net, channels, "relevance", data=digits.train, seed=seed, groups=layers)
    turned = Scores("turned", {name: -values for name, values in scores.values.items()})

    def loss_without(chosen: Scores) -> float:
        small = secateur.apply(net, secateur.plan(channels, chosen, remove=0.25))
        with torch.no_grad():
            return float(F.cross_entropy(small(digits.validation.inputs), digits.validation.targets))

    chance = score(net, channels, "random", seed=seed, groups=layers)
    lowest, between, highest = (loss_without(one) for one in (scores, chance, turned))
    assert lowest < between < highest


def test_the_same_seed_gives_the_same_scores_and_others_agree(trained: tuple[nn.Module, data.Splits]) -> None:
    """To the last bit; other seeds draw otherwise, and still rank much alike where there are draws enough."""
    net, digits = trained
    channels = watch(net, digits.train.inputs[:1])

    first, again, other = (
        score(net, channels, "relevance", data=digits.train, seed=seed, groups=["1"]).values["1"]
        for seed in (0, 0, 1)
    )

    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert float(np.corrcoef(first.numpy(), other.numpy())[0, 1]) > 0.5


def test_a_reader_that_cannot_be_seen_is_named() -> None:
    """Observations without the group say what is missing, and why."""
    model, batches = carried_by_one(0)
    channels = watch(model, batches[0][0][:1])
    seen = observe(model, channels, batches, needs={Need.ACTIVATION, Need.RELEVANCE}, groups=[])

    with pytest.raises(ModelError, match="has no relevance observation"):
        score(model, channels, "relevance", data=seen)


def test_relevance_is_in_deviations_of_the_dummies() -> None:
    """By hand, and one deviation is what the normal distribution says."""
    q = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    units = torch.tensor([2.5, 2.5 + q.std()], dtype=torch.float64)

    found = relevance(Relevance(units=units, dummies=q, draws=4))

    torch.testing.assert_close(found, torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert float(certainty(found)[1]) == pytest.approx(0.841345, abs=1e-6)


@given(seed=st.integers(0, 2**31), n=st.integers(1, 12), share=st.floats(0.1, 2.0))
@settings(deadline=None, max_examples=60)
def test_below_a_distance_one_of_every_closer_pair_goes(seed: int, n: int, share: float) -> None:
    """No two that stay are closer than the threshold, and each that goes had one that near, still there, of no smaller norm."""
    w = torch.randn(n, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    apart = torch.cdist(w, w, compute_mode="donot_use_mm_for_euclid_dist")
    threshold = share * float(apart.mean())
    values = distance(w)
    order = values.argsort(stable=True).tolist()
    gone = [unit for unit in order[:-1] if float(values[unit]) < threshold]
    stay = [unit for unit in range(n) if unit not in gone]

    assert all(float(apart[i, j]) >= threshold * (1 - 1e-9) for i in stay for j in stay if i != j)
    for place, unit in enumerate(order[:-1]):
        later = [other for other in order[place + 1 :] if w[other].norm() >= w[unit].norm()]
        assert min(float(apart[unit, other]) for other in later) == pytest.approx(
            float(values[unit]), rel=1e-6
        )


def test_of_equal_filters_one_stays() -> None:
    """Copies of one filter go at distance zero, all but one."""
    values = distance(torch.tensor([[1.0, 2.0]] * 4 + [[9.0, 0.0]]))

    assert int((values < 1e-6).sum()) == 3
    assert int(values.argmax()) == 4
