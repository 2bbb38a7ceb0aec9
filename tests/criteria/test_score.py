"""Tests of secateur.criteria.score and the table of criteria."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur.channels import Channels, watch
from secateur.criteria import CRITERIA, Criterion, View, lift, score
from secateur.errors import DataError, ModelError, SettingsError
from secateur.observe import Need, observe

Pair = tuple[Tensor, Tensor]


@pytest.fixture
def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))


@pytest.fixture
def channels(model: nn.Sequential) -> Channels:
    return watch(model, torch.zeros(1, 3))


def batches(count: int = 3) -> list[Pair]:
    source = torch.Generator().manual_seed(1)
    return [(torch.randn(4, 3, generator=source), torch.arange(4) % 2) for _ in range(count)]


class Cut:
    """Data that can be cut into batches."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def batches(self, size: int) -> Iterator[Pair]:
        self.sizes.append(size)
        yield from batches()


def test_the_three_variants_of_l1(model: nn.Sequential, channels: Channels) -> None:
    """Variant 1 is the unit's own weights, variant 2 those that read it, variant 3 the sum of both."""
    own, readers, both = (
        score(model, channels, name).values["0"] for name in ("l1", "l1-readers", "l1-both")
    )

    torch.testing.assert_close(own, model[0].weight.detach().abs().sum(1).double())
    torch.testing.assert_close(readers, model[2].weight.detach().abs().sum(0).double())
    torch.testing.assert_close(both, own + readers)


def test_pixels_are_scored_by_their_readers(model: nn.Sequential) -> None:
    """The network's input has no weights of its own, so that all three variants are those of its readers, once."""
    channels = watch(model, torch.zeros(1, 3), inputs=True)
    name = next(group.name for group in channels.groups if group.by_role("input"))

    for criterion in ("l1", "l1-readers", "l1-both"):
        values = score(model, channels, criterion).values[name]
        torch.testing.assert_close(values, model[0].weight.detach().abs().sum(0).double())


def test_weight_and_curvature_criteria_see_what_was_observed(
    model: nn.Sequential, channels: Channels
) -> None:
    """Taylor on weights and OBD are the kernels on the observed gradient and curvature of the same rows."""
    needs = {Need.GRADIENT, Need.HESSIAN_DIAGONAL}
    seen = observe(model, channels, batches(), needs=needs)

    taylor, obd, obd_readers = (
        score(model, channels, name, data=seen).values["2"]
        for name in ("taylor-weights", "obd", "obd-readers")
    )

    w = model[2].weight.detach()
    torch.testing.assert_close(taylor, (w * seen.gradients["2.weight"]).sum(1).abs().double())
    torch.testing.assert_close(obd, (seen.curvature["2.weight"] * w**2).sum(1).double() / 2)
    w = model[4].weight.detach()
    torch.testing.assert_close(obd_readers, (seen.curvature["4.weight"] * w**2).sum(0).double() / 2)


@pytest.mark.parametrize("criterion", ["taylor", "activation", "correlation", "obd"])
def test_data_come_as_batches_as_something_to_cut_or_as_observations(
    criterion: str, model: nn.Sequential, channels: Channels
) -> None:
    """A list, an iterator, anything with .batches(size) and observations give the same scores."""
    cut = Cut()
    seen = observe(model, channels, batches(), needs=CRITERIA[criterion].needs)

    found = [
        score(model, channels, criterion, data=data).values["2"]
        for data in (batches(), iter(batches()), cut, seen)
    ]

    assert all(torch.equal(found[0], other) for other in found[1:])
    assert cut.sizes == [128]


def test_only_so_many_batches_are_looked_at(model: nn.Sequential, channels: Channels) -> None:
    """The number of batches is a bound on what is taken from the data."""
    source = iter(batches(3))

    limited = score(model, channels, "taylor", data=source, batches=2)

    assert len(list(source)) == 1
    assert torch.equal(limited.values["0"], score(model, channels, data=batches(2)).values["0"])


def test_the_loss_is_the_users(model: nn.Sequential, channels: Channels) -> None:
    """Twice the loss gives twice the Taylor score."""
    double = score(
        model, channels, data=batches(), loss=lambda o, t: 2 * nn.functional.cross_entropy(o, t)
    ).values["0"]

    torch.testing.assert_close(
        double, 2 * score(model, channels, data=batches()).values["0"], rtol=1e-5, atol=0
    )


def test_only_the_named_groups_are_scored(model: nn.Sequential, channels: Channels) -> None:
    """Some groups can be scored alone, and their random scores do not depend on the others."""
    alone = score(model, channels, "random", groups=["2"])

    assert list(alone.values) == ["2"]
    assert torch.equal(alone.values["2"], score(model, channels, "random").values["2"])
    with pytest.raises(ModelError, match="no group is named '7'"):
        score(model, channels, "random", groups=["7"])


def test_random_scores_follow_the_seed_and_differ_between_groups() -> None:
    """Groups of the same width and other seeds get other numbers."""
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    channels = watch(model, torch.zeros(1, 3))

    one, two = (score(model, channels, "random", seed=seed).values for seed in (0, 1))

    assert not torch.equal(one["0"], one["2"])
    assert not torch.equal(one["0"], two["0"])


def test_a_function_on_rows_is_a_criterion(model: nn.Sequential, channels: Channels) -> None:
    """A user's function is given each group's own weights, and lends its name."""

    def largest(weight: Tensor) -> Tensor:
        return weight.abs().amax(1)

    scores = score(model, channels, largest)

    assert scores.criterion == "largest"
    torch.testing.assert_close(scores.values["0"], model[0].weight.detach().abs().amax(1).double())


def test_a_criterion_of_ones_own_sees_the_group(model: nn.Sequential, channels: Channels) -> None:
    """A Criterion's function is given the view, with what it asked to be observed."""

    def spread(view: View) -> Tensor:
        return view.moments().square - view.moments().mean ** 2

    own = Criterion(name="spread", function=spread, needs=frozenset({Need.ACTIVATION}))

    values = score(model, channels, own, data=batches()).values["0"]

    h = torch.tanh(model[0](torch.cat([x for x, _ in batches()]))).detach().double()
    torch.testing.assert_close(values, h.var(0, correction=0))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"criterion": "magic"},
            SettingsError,
            r"no criterion is named 'magic'; there are l1, l1-readers, .*, random",
        ),
        ({}, SettingsError, r"'taylor' needs data \(taylor-activation\) and none are given; pass data="),
        ({"data": []}, DataError, "there is no batch to observe"),
        ({"criterion": "random", "seed": -1}, SettingsError, "seed is -1"),
        ({"data": batches(), "batches": 0}, SettingsError, "batches is 0"),
        ({"criterion": "l1", "normalise": "max"}, SettingsError, "normalise is 'max'"),
        (
            {"criterion": lift(lambda w: w, name="rows")},
            SettingsError,
            r"'rows' gives group '0' scores of shape \(4, 3",
        ),
        ({"criterion": lambda w: w.sum(1) / 0}, ModelError, "gives unit 0 of group '0' the score"),
    ],
)
def test_mistakes_are_refused(
    options: dict[str, Any], error: type[Exception], message: str, model: nn.Module, channels: Channels
) -> None:
    """Each mistake has its own error, which states it."""
    with pytest.raises(error, match=message):
        score(model, channels, **options)


def test_observations_must_hold_what_the_criterion_needs(model: nn.Sequential, channels: Channels) -> None:
    """Observations of something else are refused, with what they hold."""
    seen = observe(model, channels, batches(), needs={Need.ACTIVATION})

    with pytest.raises(
        SettingsError, match=r"'taylor' needs taylor-activation, which Observations\(activation; 12"
    ):
        score(model, channels, "taylor", data=seen)


class Bare(nn.Module):
    """Its second weight is a bare parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.bare = nn.Linear(3, 4), nn.Parameter(torch.ones(2, 4))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(torch.relu(self.first(x)), self.bare)


@pytest.mark.parametrize("criterion", ["taylor", "activation", "correlation"])
def test_a_group_that_cannot_be_observed_is_named(criterion: str) -> None:
    """A criterion on activations refuses such a group by name; one on weights or gradients does not mind."""
    model = Bare()
    channels = watch(model, torch.zeros(1, 3))

    with pytest.raises(
        ModelError, match=r"group 'first' could not be observed: bare reads it .* 'l1' for that group"
    ):
        score(model, channels, criterion, data=batches())
    for other in ("l1", "taylor-weights", "obd", "similarity"):
        assert score(model, channels, other, data=batches()).values["first"].shape == (4,)
