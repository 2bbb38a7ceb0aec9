"""Training with rounding: weights end on their grids, it helps where rounding hurts, and the same seed gives the same."""

import pytest
import torch
from torch import nn

from secateur.errors import SettingsError
from secateur.evaluate import evaluate
from secateur.quantise import Range, round_weight, simulate, train_aware
from secateur.surgery import Masks
from secateur.train import TrainSettings, logits

SHORT = TrainSettings(epochs=1, lr=0.001, batch_size=50)


@pytest.fixture(scope="module")
def aware(net, digits):
    return train_aware(net, digits, SHORT)


def test_weights_lie_on_their_grids(aware):
    """Rounding them again changes nothing, in the folded network and in the one with norms."""
    for layer in aware.simulated.scheme.layers.values():
        weight = aware.simulated.network.get_parameter(layer.weight)
        assert torch.allclose(round_weight(weight), weight, rtol=1e-5, atol=1e-8)
        assert torch.equal(aware.model.get_parameter(layer.weight), weight)


def test_the_network_comes_back_as_it_was_built(aware, net, digits):
    """It has the class and tensors that it had, and computes what the folded one does; the network given is left as found."""
    x = digits.validation.inputs[:50]

    assert type(aware.model) is type(net)
    assert list(aware.model.state_dict()) == list(net.state_dict())
    assert torch.allclose(logits(aware.model, x), logits(aware.simulated.network, x), atol=1e-4)
    assert not torch.equal(aware.model.conv1.weight, net.conv1.weight)


def test_what_was_validated_is_what_comes_back(aware, digits):
    """The accuracy that training told of the best epoch is that of the rounded network."""
    best = aware.training.history[aware.training.best_epoch - 1]

    assert evaluate(aware.simulated, digits.validation).accuracy == pytest.approx(best.validation_accuracy)


def test_ranges_follow_and_then_stay(aware, net, digits):
    """In training ranges move; afterwards running it, even in train mode, moves none."""
    start = simulate(net, digits.train.take(100, seed=0).inputs).ranges
    now = aware.ranges
    assert list(now) == list(start)
    assert now != start

    aware.simulated.train()
    aware.simulated(digits.train.inputs[:50])
    aware.simulated.eval()

    assert aware.ranges == now
    assert all(isinstance(one, Range) for one in now.values())


def test_the_same_seed_gives_the_same_network(aware, net, digits):
    """Training is repeatable."""
    again = train_aware(net, digits, SHORT)

    assert all(
        torch.equal(one, other)
        for one, other in zip(aware.model.parameters(), again.model.parameters(), strict=True)
    )
    assert again.ranges == aware.ranges


def test_training_helps_where_rounding_hurts(net, digits):
    """With ranges that cut off much, training wins back most of what is lost."""
    x = digits.train.inputs[:100]
    tight = simulate(net, x)
    with torch.no_grad():
        tight.limits[1:-1, 1] *= 0.12
    lost = evaluate(tight, digits.validation).accuracy

    from secateur.train import fit

    fit(tight, digits.train, digits.validation, TrainSettings(epochs=3, lr=0.01, batch_size=50), seed=0)

    assert lost < evaluate(net, digits.validation).accuracy - 5
    assert evaluate(tight, digits.validation).accuracy > lost + 5


def test_masked_weights_stay_zero(net, digits):
    """A sparse network stays as sparse."""
    kept = {"conv2.weight": net.conv2.weight.detach().abs() > net.conv2.weight.detach().abs().median()}

    made = train_aware(net, digits, SHORT, masks=Masks(kept))

    gone = ~kept["conv2.weight"]
    assert (made.model.conv2.weight[gone] == 0).all()
    assert (made.model.conv2.weight[~gone] != 0).float().mean() > 0.9


def test_float_layers_are_not_rounded(net, digits):
    """Their weights are what training made of them."""
    made = train_aware(net, digits, SHORT, keep_float=["conv1"])
    weight = made.model.conv1.weight

    assert made.keep_float == {"conv1"}
    assert not torch.allclose(round_weight(weight), weight, rtol=1e-6)


def test_averaged_weights_and_a_teacher(net, digits):
    """Running averages and distillation work as in any training."""
    made = train_aware(net, digits, SHORT.but(ema=0.9), teacher=net)

    assert evaluate(made.simulated, digits.validation).accuracy > 50


@pytest.mark.parametrize("options", [{"calibration": 0}, {"follow": 1.5}, {"keep_float": ["nobody"]}])
def test_options_out_of_range_are_refused(options, net, digits):
    """Before anything is trained."""
    with pytest.raises(SettingsError):
        train_aware(net, digits, SHORT, **options)


def test_a_computed_weight_is_refused_only_if_it_is_rounded(digits):
    """A weight that others make up cannot be put on a grid."""
    from secateur.errors import ModelError

    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.utils.parametrizations.weight_norm(nn.Linear(64, 10)))

    with pytest.raises(ModelError, match="computed from others"):
        train_aware(model, digits, SHORT)
