"""The lowest ranks within an accuracy bound."""

import pytest
import torch

import secateur
from secateur.cost import CostModel
from secateur.errors import NothingToCutError, SettingsError
from secateur.evaluate import evaluate, paired_drop
from secateur.methods import factor_within
from secateur.plan import plan_factors
from secateur.train import TrainSettings


@pytest.fixture(scope="module")
def found(net, digits):
    return factor_within(
        net, digits, max_drop=3.0, confidence=0, layers=["conv2", "dense1"], fit_examples=None
    )


def test_the_bound_holds_and_is_what_was_measured(net, digits, found):
    """What comes back is within the bound on validation examples, smaller as forecast, and the given network is left as found."""
    before, after = (evaluate(model, digits.validation) for model in (net, found.model))

    drop = paired_drop(before, after)
    assert found.drop.points == drop.points <= 3.0
    assert found.after.accuracy == after.accuracy
    assert CostModel(secateur.watch(found.model, digits.train.inputs[:1])).total() == found.plan.after
    assert found.plan.after.parameters < 0.8 * found.plan.before.parameters
    assert all(type(module).__name__ != "Sequential" for module in net.children())
    assert not any(module.training for module in found.model.modules())


def test_each_layer_alone_is_as_low_as_it_can_be(found):
    """Of each layer's own trials the lowest within the bound was taken, and the next lower one that was tried was not."""
    for name in {trial.layer for trial in found.history if trial.layer}:
        mine = sorted((t for t in found.history if t.layer == name), key=lambda t: t.parameters)
        good = [t for t in mine if t.within]
        assert all(t.drop <= 3.0 for t in good)
        assert all(t.drop > 3.0 for t in mine if not t.within)
        if good and mine[0] is not good[0]:
            assert not mine[mine.index(good[0]) - 1].within


def test_no_layer_can_be_lowered_with_the_others_where_they_are(found):
    """The result is the smallest of all that were within the bound together, and what was tried below it was not."""
    together = [trial for trial in found.history if not trial.layer]
    smallest = min((t for t in together if t.within), key=lambda t: t.parameters)

    assert smallest.parameters == found.plan.after.parameters
    assert smallest.ranks == {layer.name: layer.sizes for layer in found.plan.layers}


def test_the_plan_does_the_same_again(net, digits, found):
    """Factors made by the plan from what the layers read are those of the result."""
    again = secateur.factor(net, found.plan)

    assert str(again) == str(found.model)


def test_retraining_goes_lower(net, digits):
    """With a little retraining under the network as teacher fewer parameters hold the same bound; the same seed finds the same."""
    settings = TrainSettings(epochs=2, lr=0.01, batch_size=50)
    options = {"max_drop": 2.5, "confidence": 0, "layers": ["conv3"], "fit_examples": None}
    plain = factor_within(net, digits, **options)

    first, second = (factor_within(net, digits, **options, retrain=settings, seed=3) for _ in range(2))

    assert first.drop.points <= 2.5
    assert first.plan.after.parameters < plain.plan.after.parameters
    assert first.history == second.history
    assert torch.equal(first.model(digits.test.inputs[:5]), second.model(digits.test.inputs[:5]))


def test_a_bound_on_the_limit_is_harder(net, digits):
    """The upper confidence limit is held against the bound; a bound below the sampling error holds for nothing, and that is said."""
    careful = factor_within(net, digits, max_drop=8.0, confidence=0.95, layers=["dense*"])
    assert careful.drop.upper <= 8.0
    assert all(trial.within == (trial.upper <= 8.0) for trial in careful.history if not trial.layer)
    with pytest.raises(NothingToCutError, match="a network that answers all as before has a limit of"):
        factor_within(net, digits, max_drop=0.1, confidence=0.95, layers=["dense*"])


@pytest.mark.parametrize(
    "options", [{"max_drop": -1.0}, {"max_drop": 1.0, "confidence": 0.2}, {"max_drop": 1.0, "fit_examples": 0},
                {"max_drop": 1.0, "layers": ["nothing"]}, {"max_drop": 1.0, "seed": -1}],
)  # fmt: skip
def test_options_out_of_range(net, digits, options):
    """They are refused before anything runs."""
    with pytest.raises(SettingsError):
        factor_within(net, digits, **options)


def test_ranks_depend_on_the_layer_not_its_name(net, digits):
    """A bound that allows everything brings each layer to the cheapest ranks on its path."""
    found = factor_within(net, digits, max_drop=99.0, confidence=0, layers=["conv2"], fit_examples=None)

    (layer,) = found.plan.layers
    assert layer.sizes == (1, 1)
    assert found.plan == plan_factors(net, digits.train.inputs[:1], rank=1, layers=["conv2"])
