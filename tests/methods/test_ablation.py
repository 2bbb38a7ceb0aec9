"""Networks without each of their units, measured."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur import data, networks
from secateur.channels.groups import Group
from secateur.data import Split, Splits
from secateur.errors import NothingToCutError, SettingsError
from secateur.evaluate import evaluate
from secateur.methods import ablate, ablation
from secateur.testing import check_left_as_found, randomise


@pytest.fixture(scope="module")
def digits() -> Splits:
    return data.load("digits", limit=200)


class Awkward(nn.Module):
    """Written into after its modules ran, one module run twice, two readers, a residual sum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.second = (
            nn.Conv2d(*sizes, 3, padding=1) for sizes in ((1, 6), (6, 6), (6, 6))
        )
        self.relu, self.head, self.side = nn.ReLU(inplace=True), nn.Linear(6, 10), nn.Linear(6, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.stem(x))
        y = self.relu(self.first(x))
        y = self.second(y)
        y += x
        x = y.mean((2, 3))
        x *= 2
        return self.head(x) + self.side(x)


def naive(
    model: nn.Module, split: Split, group: Group, channels: secateur.Channels, unit: int
) -> tuple[float, float]:
    """The network with one unit cut out of it, evaluated."""
    from secateur.cost import CostModel
    from secateur.plan import change_of, plan_for

    keep = [n for n in range(group.width) if n != unit]
    plan = plan_for(channels, [change_of(group, torch.tensor(keep).numpy())], CostModel(channels))
    found = evaluate(secateur.apply(model, plan), split)
    return found.loss, found.accuracy


@pytest.mark.parametrize("make", [lambda: networks.build("digits-net", seed=0), Awkward])
def test_each_figure_is_that_of_the_network_cut(
    digits: Splits, make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is computed once, the loss and accuracy are those of the network without the unit, in any number of pieces."""
    monkeypatch.setattr(ablation, "MEMORY", 1 << 17)
    model = randomise(make()).double().eval()
    split = Split(digits.validation.inputs.double(), digits.validation.targets)
    channels = secateur.watch(model, split.inputs[:1])

    found = ablate(model, split, channels=channels)

    whole = evaluate(model, split)
    assert (found.whole_loss, found.whole_accuracy) == pytest.approx((whole.loss, whole.accuracy))
    assert set(found.loss) == {group.name for group in channels.groups}
    for group in channels.groups:
        for unit in (0, group.width // 2, group.width - 1):
            wanted = naive(model, split, group, channels, unit)
            mine = float(found.loss[group.name][unit]), float(found.accuracy[group.name][unit])
            assert mine == pytest.approx(wanted, abs=1e-9)


def test_it_is_a_criterion_and_leaves_the_network_as_found(digits: Splits) -> None:
    """Its scores are rises of the loss; they make a plan like any other's."""
    model = randomise(networks.build("digits-net", seed=0))
    channels = secateur.watch(model, digits.train.inputs[:1])

    check_left_as_found(model, lambda: ablate(model, digits.validation, groups=["dense1"]))

    found = ablate(model, digits.validation, groups=["dense1"])
    scores = found.scores()
    assert torch.equal(scores.values["dense1"], found.loss["dense1"] - found.whole_loss)
    plan = secateur.plan(channels, scores, remove={"dense1": 0.25}, groups=["dense1"])
    worst = scores.values["dense1"].argsort()[:16]
    assert sorted(plan.changes[0].removed.tolist()) == sorted(worst.tolist())


def test_what_cannot_be_measured_is_refused() -> None:
    """Units over which a norm runs, and networks without units."""
    split = Split(torch.randn(8, 6), torch.zeros(8, dtype=torch.int64))
    normed = nn.Sequential(nn.Linear(6, 4), nn.LayerNorm(4), nn.Linear(4, 3))
    with pytest.raises(SettingsError, match="statistic"):
        ablate(normed, split, groups=["0"])
    with pytest.raises(NothingToCutError):
        ablate(normed, split)


class Reread(nn.Module):
    """A weight that its own code reads, beside the module; a hook on what reads; an input that is written into."""

    def __init__(self, *, twice: bool) -> None:
        super().__init__()
        self.stem, self.head, self.twice = nn.Linear(6, 5), nn.Linear(5, 3), twice
        self.head.register_forward_hook(lambda _, __, out: out.exp())

    def forward(self, x: Tensor) -> Tensor:
        x.mul_(0.9)
        y = torch.tanh(self.stem(x))
        again = torch.nn.functional.linear(y, self.head.weight) if self.twice else 0.0
        return self.head(input=y) + again if self.twice else self.head(y)


@pytest.mark.parametrize("twice", [False, True])
def test_what_cannot_stand_in_is_run(twice: bool) -> None:
    """Figures are right all the same, and the caller's examples are as they were."""
    model = randomise(Reread(twice=twice)).double().eval()
    split = Split(torch.randn(40, 6, dtype=torch.float64), torch.arange(40) % 3)
    before = split.inputs.clone()
    channels = secateur.watch(model, split.inputs[:1])

    found = ablate(model, split, channels=channels)

    assert torch.equal(split.inputs, before)
    for unit in range(5):
        weight = model.head.weight.detach().clone()
        model.head.weight.data[:, unit] = 0.0
        wanted = torch.nn.functional.cross_entropy(model(before.clone()).detach(), split.targets)
        model.head.weight.data.copy_(weight)
        assert float(found.loss["stem"][unit]) == pytest.approx(float(wanted))


def test_units_that_a_computed_weight_reads_are_refused() -> None:
    """Its columns at zero are not all that reads."""

    class Computed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head, self.own = nn.Linear(6, 5), nn.Linear(5, 3), nn.Parameter(torch.randn(3, 5))

        def forward(self, x: Tensor) -> Tensor:
            y = self.stem(x)
            return self.head(y) + torch.nn.functional.linear(y, self.own * 0.5)

    split = Split(torch.randn(8, 6), torch.zeros(8, dtype=torch.int64))
    with pytest.raises(NothingToCutError):
        ablate(Computed(), split)
