"""Criteria for single weights and kernels."""

import pytest
import torch
from torch import nn

import secateur
from secateur.criteria import WEIGHT_CRITERIA, WeightScores
from secateur.errors import ModelError, SettingsError
from secateur.observe import observe_weights, weights_of
from secateur.testing.laws import check_left_as_found

ADDITIVE = [name for name in WEIGHT_CRITERIA if name != "random"]


def small():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(64, 3),
    )


@pytest.fixture
def batches():
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(n, 1, 8, 8, generator=generator), torch.randint(3, (n,), generator=generator))
        for n in (5, 3)
    ]


def squared(outputs, targets):
    """The mean over examples of half the squared error: quadratic in the weights of a dense layer."""
    return (outputs - targets).square().sum(1).mean() / 2


@pytest.mark.parametrize("diagonal", [False, True])
def test_obd_is_the_true_increase_at_the_minimum_of_a_quadratic(diagonal):
    """What OBD says of each weight alone is what the loss rises by; for several together, where the Hessian is diagonal."""
    torch.manual_seed(0)
    net = nn.Linear(4, 3, bias=False).double()
    x = torch.randn(20, 4, dtype=torch.float64)
    if diagonal:
        x = torch.linalg.qr(x)[0] * torch.tensor([1.0, 2.0, 3.0, 4.0])
    targets = net(x).detach()

    scores = secateur.score_weights(
        net, "obd", data=[(x[:12], targets[:12]), (x[12:], targets[12:])], loss=squared
    )

    def rise(kept):
        with torch.no_grad():
            return float(squared(nn.functional.linear(x, net.weight * kept), targets))

    values = scores.values["weight"]
    for place in torch.cartesian_prod(torch.arange(3), torch.arange(4)).tolist():
        kept = torch.ones(3, 4)
        kept[tuple(place)] = 0
        assert rise(kept) == pytest.approx(float(values[tuple(place)]), rel=1e-10)
    some = torch.rand(3, 4) > 0.5
    assert (rise(some) == pytest.approx(float(values[~some].sum()), rel=1e-10)) == diagonal


@pytest.mark.parametrize("criterion", ADDITIVE)
def test_a_kernel_scores_the_sum_of_its_weights(criterion, batches):
    """For every criterion that says what a weight does, a kernel says what its weights do; in a dense layer they are the same."""
    single = secateur.score_weights(small(), criterion, data=batches)
    kernel = secateur.score_weights(small(), criterion, data=batches, granularity="kernel")

    assert {name: tuple(v.shape) for name, v in kernel.values.items()} == {
        "0.weight": (4, 1), "3.weight": (4, 2), "6.weight": (3, 64),
    }  # fmt: skip
    for name, values in kernel.values.items():
        assert torch.equal(
            values,
            single.values[name].flatten(2).sum(2)
            if values.dim() < single.values[name].dim()
            else single.values[name],
        )


@pytest.mark.parametrize("criterion", WEIGHT_CRITERIA)
@pytest.mark.parametrize("granularity", ["weight", "kernel"])
def test_scores_repeat_and_leave_the_network_as_found(criterion, granularity, batches):
    """The same seed gives the same scores, of a chosen layer as among all; mode, gradients and random state stay."""
    model = small().train()
    options = {"data": batches, "granularity": granularity, "seed": 3}
    every = secateur.score_weights(model, criterion, **options)
    check_left_as_found(model, lambda: secateur.score_weights(model, criterion, **options))
    again = secateur.score_weights(model, criterion, **options)

    assert all(torch.equal(every.values[name], values) for name, values in again.values.items())
    one = secateur.score_weights(model, criterion, layers=["3"], **options)
    assert list(one.values) == ["3.weight"]
    assert torch.equal(one.values["3.weight"], every.values["3.weight"])


def test_random_scores_differ_by_seed_and_tensor():
    """And lie between 0 and 1."""
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    one, two = (secateur.score_weights(model, "random", seed=seed).values for seed in (0, 1))

    assert not torch.equal(one["0.weight"], two["0.weight"])
    assert not torch.equal(one["0.weight"], one["1.weight"])
    assert 0 <= float(one["0.weight"].min()) <= float(one["0.weight"].max()) < 1


def test_observations_can_be_shared(batches):
    """One pass serves both criteria on data, and what it does not hold is told."""
    seen = observe_weights(small(), weights_of(small()), batches, needs=["gradient", "curvature"])
    for criterion in ("taylor", "obd"):
        shared = secateur.score_weights(small(), criterion, data=seen)
        own = secateur.score_weights(small(), criterion, data=batches)
        assert all(torch.allclose(shared.values[name], values) for name, values in own.values.items())
    with pytest.raises(SettingsError, match="does not hold"):
        secateur.score_weights(
            small(), "obd", data=observe_weights(small(), ["0"], batches, needs=["gradient"])
        )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"criterion": "activation"}, "does not exist for single weights.*magnitude"),
        ({"criterion": "taylor"}, "needs data"),
        ({"layers": ["conv1"]}, "'conv1' is no dense or convolutional layer"),
        ({"layers": []}, "layers= is empty"),
        ({"granularity": "unit"}, "granularity='unit'"),
        ({"seed": -1}, "seed is -1"),
        ({"criterion": "taylor", "batches": 0}, "batches is 0"),
    ],
)
def test_bad_options_are_named(options, words):
    """One sentence, before anything runs."""
    with pytest.raises(SettingsError, match=words):
        secateur.score_weights(small(), **options)


def test_what_cannot_be_scored_is_told():
    """A network without such layers, and weights that are not finite."""
    with pytest.raises(ModelError, match="no dense or convolutional layer"):
        secateur.score_weights(nn.Sequential(nn.LayerNorm(3)))
    bad = nn.Linear(2, 2)
    nn.init.constant_(bad.weight, torch.nan)
    with pytest.raises(ModelError, match="NaN"):
        secateur.score_weights(bad)
    with pytest.raises(SettingsError, match="one for each kernel"):
        WeightScores("x", "kernel", {"w": torch.ones(2, 2, 3).double()})
    with pytest.raises(ModelError, match="not finite"):
        WeightScores("x", "weight", {"w": torch.tensor([torch.inf]).double()})
