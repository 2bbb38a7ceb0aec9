"""Pruning kernels and single weights step by step under a protocol."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import secateur
from secateur.data import Splits
from secateur.errors import NothingToCutError, SettingsError
from secateur.evaluate import evaluate
from secateur.methods import StepSettings, layerwise_obs, stepwise
from secateur.methods.seeds import seed_for
from secateur.surgery import Masks, mask


def sorted_masks(net: nn.Module, names: list[str], count: int) -> Masks:
    """The so many smallest weights of all, by a sort."""
    every = torch.cat([net.get_parameter(name).detach().abs().flatten() for name in names])
    kept = torch.ones(len(every), dtype=torch.bool)
    kept[every.argsort(stable=True)[:count]] = False
    shapes = [net.get_parameter(name).shape for name in names]
    pieces = kept.split([shape.numel() for shape in shapes])
    return Masks(
        {name: piece.reshape(shape) for name, piece, shape in zip(names, pieces, shapes, strict=True)}
    )


def weights(net: nn.Module) -> dict[str, int]:
    return {name: net.get_parameter(name).numel() for name in secateur.observe.weights_of(net).values()}


@pytest.mark.parametrize("recompute", [0, 1, 2])
@pytest.mark.parametrize("scope", ["network", "conv2"])
def test_by_magnitude_goes_what_a_sort_says(
    net: nn.Module, digits: Splits, scope: str, recompute: int
) -> None:
    """Without retraining, however often scores are taken, the smallest weights of the scope are zero, to the number."""
    names = list(weights(net)) if scope == "network" else ["conv2.weight"]
    total = sum(net.get_parameter(name).numel() for name in names)
    protocol = StepSettings(
        granularity="weight",
        criterion="magnitude",
        scope=scope,
        step=0.2,
        until=0.7,
        recompute=recompute,
        judge=2,
    )

    result = stepwise(net, digits, protocol)

    count = int(0.7 * total)
    wanted = sorted_masks(net, names, count)
    assert result.points[-1].removed == count
    assert result.masks is not None
    assert result.masks.digest == wanted.digest
    expected = mask(net, wanted).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in result.model.state_dict().items())


def test_points_say_what_is_left(net: nn.Module, digits: Splits) -> None:
    """Weights that are cut count neither as parameters nor in multiply-adds; figures are those of the network handed back."""
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    protocol = StepSettings(
        granularity="weight", criterion="taylor", step=0.25, until=0.8, retrain="network", iterations=3
    )

    result = stepwise(net, digits, protocol)

    last, found = result.points[-1], evaluate(result.model, digits.validation)
    assert (last.accuracy, last.loss) == (found.accuracy, found.loss)
    assert last.parameters == sum(int((p != 0).sum()) for p in result.model.parameters())
    assert result.points[0].parameters == sum(p.numel() for p in net.parameters())
    assert last.removed == int(0.8 * sum(weights(net).values())) == result.masks.total - result.masks.left
    calls = secateur.observe.calls.calls(net, digits.train.inputs[:1]).macs
    left = {
        name.removesuffix(".weight"): float(kept.double().mean()) for name, kept in result.masks.kept.items()
    }
    assert last.macs == round(sum(calls[layer] * share for layer, share in left.items()))
    assert result.points[0].macs == sum(calls[layer] for layer in left)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize("retrain", ["network", "layer"])
@pytest.mark.parametrize("granularity", ["weight", "kernel"])
def test_what_is_cut_stays_zero_through_retraining(
    net: nn.Module, digits: Splits, granularity: str, retrain: str
) -> None:
    """Whatever is retrained; and of what was not cut only that which should be trained has changed."""
    protocol = StepSettings(
        granularity=granularity,
        criterion="magnitude",
        scope="conv2",
        step=0.2,
        until=0.6,
        retrain=retrain,
        iterations=4,
    )

    result = stepwise(net, digits, protocol)

    kept = result.masks.kept["conv2.weight"]
    weight = result.model.get_parameter("conv2.weight")
    assert bool((weight[~kept] == 0).all())
    assert bool((weight[kept] != 0).all())
    if granularity == "kernel":
        assert torch.equal(kept.flatten(2).any(2), kept.flatten(2).all(2))
    plain = dict(net.named_parameters())
    changed = {name for name, p in result.model.named_parameters() if not torch.equal(p, plain[name])}
    own = {name for name in plain if name.startswith("conv2.")}
    assert "conv2.weight" in changed
    assert (changed <= own) == (retrain == "layer")


def test_kernels_go_by_their_number(net: nn.Module, digits: Splits) -> None:
    """Steps are in kernels: of 16 x 32 the lowest."""
    kernels = net.get_parameter("conv2.weight").shape[:2].numel()
    protocol = StepSettings(granularity="kernel", criterion="l1", scope="conv2", step=100, until=0.5)

    result = stepwise(net, digits, protocol)

    sums = net.get_parameter("conv2.weight").detach().double().abs().flatten(2).sum(2)
    gone = ~result.masks.kept["conv2.weight"].flatten(2).any(2)
    assert int(gone.sum()) == kernels // 2 == result.points[-1].removed
    assert sums[gone].max() <= sums[~gone].min()


@pytest.mark.parametrize("criterion", ["obd", "taylor", "random"])
def test_the_same_protocol_gives_the_same_curve(net: nn.Module, digits: Splits, criterion: str) -> None:
    """Whatever was drawn elsewhere."""
    protocol = StepSettings(
        granularity="weight", criterion=criterion, step=0.4, until=0.8, retrain="network", iterations=2, normalise="l2",
        score_examples=64,
    )  # fmt: skip
    first = stepwise(net, digits, protocol)
    torch.rand(5)
    again = stepwise(net, digits, protocol)
    assert again.points == first.points
    assert again.masks.digest == first.masks.digest


def test_a_dear_weight_goes_first_where_cost_counts(net: nn.Module, digits: Splits) -> None:
    """With a heavy weight of cost, those go whose every use costs most: of the first convolution."""
    protocol = StepSettings(granularity="weight", criterion="l1", cost_weight=1e9, step=50, until=0.003)
    result = stepwise(net, digits, protocol)
    calls = secateur.observe.calls.calls(net, digits.train.inputs[:1]).macs
    each = {name: calls[name.removesuffix(".weight")] / number for name, number in weights(net).items()}
    cut = {name for name, kept in result.masks.kept.items() if not kept.all()}
    assert cut <= {name for name in each if each[name] == max(each.values())}


def test_the_sparsest_network_within_the_bound_is_kept_with_its_masks(net: nn.Module, digits: Splits) -> None:
    """Its masks are its own, not those of the end."""
    protocol = StepSettings(granularity="weight", criterion="magnitude", step=0.1, until=0.99)
    result = stepwise(net, digits, protocol, keep_within=5.0)

    assert result.within_point.removed < result.points[-1].removed
    assert result.within_masks.total - result.within_masks.left == result.within_point.removed
    kept = mask(result.within, result.within_masks).state_dict()
    assert all(torch.equal(kept[name], tensor) for name, tensor in result.within.state_dict().items())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"granularity": "weights"}, "granularity"),
        ({"granularity": "weight", "criterion": "activation"}, "scores whole units.*cuts weights.*magnitude"),
        ({"granularity": "kernel", "criterion": "similarity"}, "cuts kernels"),
        ({"criterion": "magnitude"}, "not units; say granularity='weight'"),
    ],
)
def test_a_criterion_for_something_else_is_refused(options: dict, words: str) -> None:
    """Before anything runs, with the reason."""
    with pytest.raises(SettingsError, match=words):
        StepSettings(**options)


def test_what_cannot_be_is_refused(net: nn.Module, digits: Splits) -> None:
    """An unknown layer or criterion, and a network without such layers; a dense network without units can lose weights."""
    with pytest.raises(SettingsError, match=r"scope='norm1' is no layer.*conv1"):
        stepwise(net, digits, StepSettings(granularity="weight", criterion="l1", scope="norm1"))
    with pytest.raises(SettingsError, match="does not exist for single weights"):
        stepwise(net, digits, StepSettings(granularity="weight", criterion="best"))
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    result = stepwise(flat, digits, StepSettings(granularity="weight", criterion="l1", step=0.5, until=0.5))
    assert [point.removed for point in result.points] == [0, 320]
    normed = nn.Sequential(nn.Flatten(), nn.LayerNorm(64))
    with pytest.raises(NothingToCutError):
        stepwise(normed, digits, StepSettings(granularity="weight", criterion="l1"))


def test_the_surgeon_cuts_what_he_would_at_once(net: nn.Module, digits: Splits) -> None:
    """Looked at once, any number of steps ends in the network that one cut of that share makes."""
    protocol = StepSettings(
        granularity="weight",
        criterion="obs",
        scope="conv2",
        step=0.2,
        until=0.8,
        recompute=0,
        score_examples=200,
    )
    result = stepwise(net, digits, protocol)

    sample = digits.train.take(200, seed=seed_for(0, "sample") % 2**31)
    at_once = layerwise_obs(net, sample, remove=0.8, layers=["conv2"], examples=200)
    assert result.masks is not None
    assert result.masks.digest == at_once.masks.digest
    for name, tensor in result.model.named_parameters():
        assert torch.equal(tensor, at_once.model.get_parameter(name))
    plain = stepwise(net, digits, protocol.model_copy(update={"criterion": "magnitude"}))
    assert result.points[-1].loss < plain.points[-1].loss


def test_the_surgeon_goes_on_after_retraining(net: nn.Module, digits: Splits) -> None:
    """What he cut stays cut, the count is exact but for a weight a layer, and the whole network takes part."""
    protocol = StepSettings(
        granularity="weight",
        criterion="obs",
        step=0.3,
        until=0.9,
        retrain="network",
        iterations=2,
        score_examples=200,
    )
    result = stepwise(net, digits, protocol)
    assert result.masks is not None
    assert (
        0 <= 0.9 * result.masks.total - (result.masks.total - result.masks.left) < len(result.masks.kept) + 1
    )
    for name, kept in result.masks.kept.items():
        assert bool((result.model.get_parameter(name)[~kept] == 0).all())


def test_the_surgeon_finds_the_bound(net: nn.Module, digits: Splits) -> None:
    """By bisection, all looks from one order; more can go than by magnitude."""
    shares = {
        criterion: max(
            point.share
            for point in found
            if found[0].accuracy - point.accuracy <= 2.0 + 1e-9
        )
        for criterion in ("obs", "magnitude")
        for found in [
            stepwise(
                net, digits,
                StepSettings(
                    granularity="weight", criterion=criterion, scope="conv3", step=0.02, until=0.98, recompute=0, max_drop=2.0,
                    search="bisection", score_examples=200,
                ),
            ).points
        ]
    }  # fmt: skip
    assert shares["obs"] >= shares["magnitude"]


@pytest.mark.parametrize(
    "options", [{"granularity": "unit"}, {"granularity": "kernel"}, {"normalise": "l2"}, {"cost_weight": 0.1}]
)
def test_the_surgeon_takes_single_weights_by_his_own_order(options) -> None:
    """Anything else is refused."""
    with pytest.raises(SettingsError, match="criterion 'obs'"):
        StepSettings(**{"granularity": "weight", "criterion": "obs", **options})
