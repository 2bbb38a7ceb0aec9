"""Pruning step by step under a protocol."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import secateur
from secateur import networks
from secateur.data import Splits
from secateur.errors import ModelError, NothingToCutError, SettingsError
from secateur.evaluate import evaluate
from secateur.methods import StepSettings, stepwise
from secateur.methods.stepwise import fresh


def test_one_by_one_with_scores_taken_once_is_one_plan(net: nn.Module, digits: Splits) -> None:
    """Without retraining, and in the order of the first scores, many steps remove what one plan removes."""
    protocol = StepSettings(criterion="l1", scope="conv2", step=3, until=0.5, recompute=0)

    result = stepwise(net, digits, protocol)

    channels = secateur.watch(net, digits.train.inputs[:1])
    plan = secateur.plan(
        channels, secateur.score(net, channels, "l1"), remove={"conv2": 0.5}, groups=["conv2"]
    )
    at_once = secateur.apply(net, plan).state_dict()
    assert all(torch.equal(tensor, at_once[name]) for name, tensor in result.model.state_dict().items())
    assert [point.removed for point in result.points] == [0, 3, 6, 9, 12, 15, 16]


def test_points_say_what_the_network_is(net: nn.Module, digits: Splits) -> None:
    """Figures of the last point are those of the network that is handed back; the given one is left as found."""
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    protocol = StepSettings(
        criterion="taylor", normalise="l2", step=0.1, until=0.8, retrain="network", iterations=3
    )

    result = stepwise(net, digits, protocol)

    last, found = result.points[-1], evaluate(result.model, digits.validation)
    assert last.parameters == sum(p.numel() for p in result.model.parameters())
    assert (last.accuracy, last.loss) == (found.accuracy, found.loss)
    assert last.share == last.removed / 176 == 140 / 176
    assert last.iterations == 3 * last.step
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert net.training


def test_the_same_protocol_gives_the_same_curve(net: nn.Module, digits: Splits) -> None:
    """Whatever was drawn elsewhere."""
    protocol = StepSettings(criterion="random", step=20, until=0.5, retrain="network", iterations=2, seed=3)
    first = stepwise(net, digits, protocol)
    torch.rand(5)
    assert stepwise(net, digits, protocol).points == first.points
    other = protocol.model_copy(update={"seed": 4})
    assert stepwise(net, digits, other).points != first.points


def test_only_the_layer_that_was_cut_is_trained(net: nn.Module, digits: Splits) -> None:
    """Its own parameters change, all others are those of the cut network (statistics of norms follow everywhere)."""
    common = {"criterion": "l1", "scope": "conv2", "step": 8, "until": 0.25}
    trained = stepwise(net, digits, StepSettings(**common, retrain="layer", iterations=4)).model
    plain = stepwise(net, digits, StepSettings(**common)).model

    before = dict(plain.named_parameters())
    changed = {name for name, tensor in trained.named_parameters() if not torch.equal(tensor, before[name])}
    assert changed == {"conv2.weight", "conv2.bias", "norm2.weight", "norm2.bias"}


def test_a_dear_unit_goes_first_where_cost_counts(net: nn.Module, digits: Splits) -> None:
    """With a heavy weight of cost only the layer whose units cost most is cut."""
    result = stepwise(net, digits, StepSettings(criterion="l1", cost_weight=1e9, step=5, until=0.03))

    channels = secateur.watch(net, digits.train.inputs[:1])
    each = secateur.cost.CostModel(channels).by_group()
    dearest = max(each, key=lambda name: each[name].macs)
    after = {
        group.name: group.width for group in secateur.watch(result.model, digits.train.inputs[:1]).groups
    }
    assert [g.name for g in channels.groups if after[g.name] < g.width] == [dearest]


def test_the_smallest_network_within_the_bound_is_kept(net: nn.Module, digits: Splits) -> None:
    """It may come before the end, and its figures are those of its point."""
    result = stepwise(net, digits, StepSettings(criterion="l1", step=0.1, until=0.9), keep_within=5.0)

    assert result.within is not None
    assert result.within_point is not None
    inside = [point for point in result.points if result.points[0].accuracy - point.accuracy <= 5.0]
    assert result.within_point == min(inside, key=lambda point: point.parameters)
    assert evaluate(result.within, digits.validation).accuracy == result.within_point.accuracy


def test_a_fallen_accuracy_ends_it(net: nn.Module, digits: Splits) -> None:
    """With max_drop the first point beyond it is the last."""
    result = stepwise(net, digits, StepSettings(criterion="random", step=10, until=0.9, max_drop=3.0))

    drops = [result.points[0].accuracy - point.accuracy for point in result.points]
    assert drops[-1] > 3.0
    assert all(drop <= 3.0 for drop in drops[:-1])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"criterionn": "l1"}, "did you mean 'criterion'"),
        ({"retrain": "layer"}, "needs iterations"),
        ({"iterations": 5}, "retrain='none'"),
        ({"step": 1.5}, "step=1.5"),
        ({"until": 1.0}, "until"),
    ],
)
def test_bad_options_are_named(options: dict, words: str) -> None:
    """One sentence, before anything runs."""
    with pytest.raises(SettingsError, match=words):
        StepSettings(**options)


def test_what_cannot_be_is_refused(net: nn.Module, digits: Splits) -> None:
    """An unknown layer, a criterion that folds units with scores taken once, a network without units."""
    with pytest.raises(SettingsError, match=r"scope='conv9' is no layer.*conv1"):
        stepwise(net, digits, StepSettings(criterion="l1", scope="conv9"))
    with pytest.raises(SettingsError, match="recompute=1"):
        stepwise(net, digits, StepSettings(criterion="similarity", recompute=0, step=4))
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(NothingToCutError):
        stepwise(flat, digits, StepSettings(criterion="l1"))


def test_a_layer_that_is_down_to_one_unit_can_still_be_trained(digits: Splits) -> None:
    """It is a group no more, and its tensors are known from before."""
    small = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
    protocol = StepSettings(criterion="l1", scope="1", step=3, until=0.9, retrain="layer", iterations=1)
    assert [point.removed for point in stepwise(small, digits, protocol).points] == [0, 3, 6, 7]


def test_the_last_network_is_judged_though_nothing_more_can_go(digits: Splits) -> None:
    """Each layer keeps a unit, so that the share may not be reached."""
    small = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 4), nn.ReLU(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 10)
    )
    result = stepwise(small, digits, StepSettings(criterion="l1", step=1, until=0.95, judge=100))
    assert [point.removed for point in result.points] == [0, 5]
    assert result.points[-1].parameters == sum(p.numel() for p in result.model.parameters())


def test_a_network_whose_weight_is_made_by_a_hook_is_copied(digits: Splits) -> None:
    """The old weight norm, after a pass: PyTorch's own copy refuses it."""
    with pytest.warns(FutureWarning, match="weight_norm"):
        layer = nn.utils.weight_norm(nn.Linear(64, 8))
    small = nn.Sequential(nn.Flatten(), layer, nn.ReLU(), nn.Linear(8, 10))
    small(digits.train.inputs[:2])
    result = stepwise(small, digits, StepSettings(criterion="l1", step=2, until=0.5), keep_within=100.0)
    assert result.points[-1].removed == 4


def test_fresh_weights_are_those_of_the_networks_own_initialisation(digits: Splits) -> None:
    """The same sizes, the same draw for a seed, and a spread that suits the fewer inputs, whatever the network is made of."""

    def build(seed: int = 5) -> nn.Module:
        return networks.build("resnet20", seed=seed)

    x = torch.zeros(1, 3, 32, 32)
    channels = secateur.watch(build(), x)
    kept = secateur.apply(
        build(0), secateur.plan(channels, secateur.score(build(0), channels, "l1"), remove=0.75)
    )

    one, two = fresh(kept, build, x), fresh(kept, build, x)

    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    whole = dict(build().named_parameters())
    for (name, new), old in zip(one.named_parameters(), kept.parameters(), strict=True):
        assert new.shape == old.shape
        if new.dim() == 4 and new.numel() > 200:
            wider = (whole[name][0].numel() / new[0].numel()) ** 0.5
            assert float(new.detach().std()) == pytest.approx(
                wider * float(whole[name].detach().std()), rel=0.2
            ), name
    with pytest.raises(ModelError):
        fresh(kept, lambda: networks.build("resnet32", seed=0), x)
