"""Who is to blame, and who must stay float: found where the answer is known."""

import copy

import pytest
import torch
from torch import nn

from secateur.data import Split
from secateur.errors import SettingsError
from secateur.evaluate import evaluate
from secateur.quantise import blame, float_fallback, prepare, simulate, sqnr
from secateur.train import logits


@pytest.fixture(scope="module")
def spoilt(net) -> nn.Module:
    """A trained network in which one channel of conv2 has a range a thousand times that of the others, and nobody reads it."""
    model = copy.deepcopy(net)
    with torch.no_grad():
        model.norm2.bias[3] = 3000.0
        model.conv3.weight[:, 3] = 0.0
    return model


def test_the_guilty_layer_is_first(spoilt, digits):
    """The layer whose range was spoilt loses most; by itself it loses what the whole network loses."""
    made = simulate(spoilt, digits.train.inputs[:50])

    losses = blame(made, digits.validation)

    assert losses[0].name == "conv2"
    assert losses[0].sqnr < losses[1].sqnr - 10
    assert losses[0].drop > 5
    assert [loss.sqnr for loss in losses] == sorted(loss.sqnr for loss in losses)


def test_the_figures_are_those_of_that_layer_alone(net, digits):
    """What is told of a layer is measured with that layer rounded, and nothing else."""
    made = simulate(net, digits.train.inputs[:50])
    x = digits.validation.inputs

    for loss in blame(made, digits.validation):
        assert loss.sqnr == pytest.approx(sqnr(logits(made.network, x), logits(made.only(loss.name), x)))


def test_few_layers_restore_the_bound(spoilt, digits):
    """Of six layers only those around the spoilt activations stay float, and the bound holds then."""
    made = simulate(spoilt, digits.train.inputs[:50])

    found = float_fallback(made, digits.validation, max_drop=1.0)

    assert found.reference - found.before > 1.0
    assert found.reference - found.accuracy <= 1.0
    assert set(found.keep_float) == {"conv2", "conv3"}
    rest = [
        made.but(keep_float=[one for one in found.keep_float if one != name]) for name in found.keep_float
    ]
    for fewer in rest:
        answers = logits(fewer, digits.validation.inputs).argmax(1)
        assert 100 * float((answers == digits.validation.targets).double().mean()) < found.reference - 1.0


def test_nothing_stays_float_where_nothing_need(net, digits):
    """A network within the bound is left whole."""
    made = simulate(net, digits.train.inputs[:50])

    found = float_fallback(made, digits.validation, max_drop=5.0)

    assert found.keep_float == ()
    assert found.tried == 1
    assert found.within


def test_the_judge_decides(net, digits):
    """Where a judge is given, its figures count, and it is asked about each set once."""
    made = simulate(net, digits.train.inputs[:50])
    asked = []

    def judge(model):
        assert isinstance(model, nn.Module)
        asked.append(model.keep_float)
        return 100.0 if "dense1" in model.keep_float else 0.0

    found = float_fallback(made, digits.validation, judge=judge)

    assert found.keep_float == ("dense1",)
    assert found.accuracy == 100.0
    assert len(asked) == len(set(asked)) == found.tried


def test_a_bound_below_zero_is_refused(net, digits):
    """Nobody gains by rounding for certain."""
    with pytest.raises(SettingsError, match="max_drop is -1"):
        float_fallback(simulate(net, digits.train.inputs[:10]), digits.validation, max_drop=-1)


def test_prepared_step_by_step(spoilt, digits):
    """Each step says what it brought; only those are kept that bring outputs nearer, and the bound holds at the end."""
    found = prepare(spoilt, digits.train.inputs[:50], digits.validation)

    ratios = [step.sqnr for step in found.steps if step.kept]
    assert [step.step for step in found.steps] == ["plain", "equalise", "bias", "fallback", "bias"]
    assert ratios == sorted(ratios)
    assert set(found.keep_float) == {"conv2", "conv3"} == found.simulated.keep_float
    assert found.fallback.reference == pytest.approx(evaluate(spoilt, digits.validation).accuracy)
    assert found.fallback.reference - found.fallback.accuracy <= 1.0
    assert found.skipped == {"out": "the network gives it"}
    assert torch.allclose(
        logits(found.simulated.but(keep_float=found.simulated.names), digits.validation.inputs[:5]),
        logits(found.model, digits.validation.inputs[:5]),
    )


def test_labels_of_one_example_are_enough(net, digits):
    """Small splits are judged, too."""
    one = Split(digits.validation.inputs[:1], digits.validation.targets[:1])

    assert len(blame(simulate(net, digits.train.inputs[:10]), one)) == 5


def test_what_stays_float_in_any_case(net, digits):
    """Layers that were asked to stay float are in every set; a module's name stands for all that is in it."""
    whole = nn.Sequential(nn.Sequential(net.conv1, net.norm1, net.act1), net[3:]).eval()
    made = simulate(whole, digits.train.inputs[:20], keep_float=["0"])

    assert made.keep_float == {"0.0"}
    assert float_fallback(made, digits.validation, max_drop=5.0).keep_float == ("0.0",)
    assert "0.0" not in {loss.name for loss in blame(made, digits.validation)}


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x):
        return x + self.conv(x)


def test_an_addition_has_the_name_of_its_block():
    """A block is rounded for its addition, and the layers in it for themselves; only these may stay float by themselves."""
    torch.manual_seed(0)
    model = nn.Sequential(Block(), nn.Flatten(), nn.Linear(64, 3)).eval()
    data = Split(torch.randn(40, 1, 8, 8), torch.arange(40) % 3)
    made = simulate(model, data.inputs)

    losses = {loss.name: loss.sqnr for loss in blame(made, data)}
    kept = float_fallback(made, data, max_drop=0.0, judge=lambda model: float(len(model.keep_float)))

    assert set(losses) == {"0.conv", "0.add", "2"}
    assert all(sqnr < 100 for sqnr in losses.values())
    assert set(kept.keep_float) <= {"0.conv", "2"}
    assert made.but(keep_float=["0"]).keep_float == {"0.conv", "0.add"}
