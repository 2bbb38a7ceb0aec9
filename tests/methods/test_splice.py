"""Dynamic network surgery: cutting and splicing while a network trains."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from secateur.data import Split, Splits
from secateur.errors import NothingToCutError, SettingsError
from secateur.methods import SpliceSettings, splice
from secateur.observe import layers_in
from secateur.surgery import Masks
from secateur.testing import check_left_as_found
from secateur.train import TrainSettings, TrainState, fit

SHORT = TrainSettings(epochs=3, lr=0.05, batch_size=50, nesterov=True, schedule="cosine", clip=1.0)


def by_size(net: nn.Module, share: float) -> Masks:
    """Masks without the smallest weights of all layers together."""
    weights = {name: net.get_parameter(name).detach() for name in layers_in(net)}
    every = torch.cat([w.abs().flatten() for w in weights.values()])
    kept = torch.ones_like(every, dtype=torch.bool)
    kept[every.argsort()[: int(share * len(every))]] = False
    parts = kept.split([w.numel() for w in weights.values()])
    return Masks({name: part.view_as(weights[name]) for name, part in zip(weights, parts, strict=True)})


def same(first: nn.Module, second: nn.Module) -> bool:
    return all(map(torch.equal, first.state_dict().values(), second.state_dict().values()))


@pytest.mark.parametrize("regrow", [True, False])
@pytest.mark.parametrize("options", [{}, {"optimizer": "adam", "nesterov": False, "lr": 0.003, "ema": 0.9}])
def test_masks_fixed_from_the_start_are_plain_training_under_masks(
    digits: Splits, net: nn.Module, regrow: bool, options: dict[str, object]
) -> None:
    """With until=0 the result is, bit for bit, that of fit with the masks of the smallest weights."""
    training = SHORT.but(keep="last", **options)
    plain, masks = copy.deepcopy(net), by_size(net, 0.8)

    fit(plain, digits.train, digits.validation, training, seed=3, masks=masks)
    settings = SpliceSettings(remove=0.8, until=0, regrow=regrow, training=training, seed=3)
    found = splice(net, digits, settings)

    assert found.masks.digest == masks.digest
    assert same(found.model, plain)


def test_nothing_removed_is_plain_training(digits: Splits, net: nn.Module) -> None:
    """With a share of 0, splicing changes no bit of a training, though the swap takes place at every step."""
    plain = copy.deepcopy(net)

    fit(plain, digits.train, None, SHORT.but(keep="last"), seed=0)
    found = splice(net, digits, SpliceSettings(remove=0.0, every=1, training=SHORT))

    assert same(found.model, plain)
    assert (found.masks.share, found.returned) == (0, 0)


@pytest.mark.parametrize("regrow", [True, False])
@pytest.mark.parametrize("remove", [0.9, {"conv2": 0.5, "dense1": 0.123}])
def test_the_share_is_exact(
    digits: Splits, net: nn.Module, regrow: bool, remove: float | dict[str, float]
) -> None:
    """Of all weights, or of each named layer, exactly so many are left; what is cut is exactly zero; the network given is as it was."""
    settings = SpliceSettings(remove=remove, regrow=regrow, every=2, training=SHORT.but(ema=0.9))
    before = copy.deepcopy(net)

    found = splice(net, digits, settings)

    if isinstance(remove, dict):
        assert set(found.masks.kept) == {"conv2.weight", "dense1.weight"}
        for name, kept in found.masks.kept.items():
            assert int((~kept).sum()) == int(remove[name.removesuffix(".weight")] * kept.numel())
    else:
        assert found.masks.total - found.masks.left == int(remove * found.masks.total)
    for name, kept in found.masks.kept.items():
        weight = found.model.get_parameter(name)
        assert not weight[~kept].any()
        assert (weight[kept] != 0).all()
    assert same(net, before)
    assert regrow or found.returned == 0
    check_left_as_found(
        net, lambda: splice(net, digits, settings.model_copy(update={"training": SHORT.but(epochs=1)}))
    )


def two_inputs() -> tuple[nn.Module, Splits]:
    """A weight near zero that the data need, and one that they do not."""
    x = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
    split = Split(x, (x[:, 0] > 0).long())
    net = nn.Sequential(nn.Linear(2, 2))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[-0.05, 0.3], [0.05, -0.3]]))
    return net, Splits("two", split, split, split, classes=("no", "yes"))


@pytest.mark.parametrize("regrow", [True, False])
def test_a_weight_that_is_needed_comes_back(regrow: bool) -> None:
    """A needed weight that is cut at first is pushed above the band by the masked network's gradient and spliced in, or stays at zero."""
    net, data = two_inputs()
    training = TrainSettings(epochs=40, lr=0.1, batch_size=32, momentum=0.0)
    # the threshold is 0.175, between both
    settings = SpliceSettings(factor=0.0, regrow=regrow, every=1, gamma=0, until=0.8, training=training)

    found = splice(net, data, settings)

    assert found.masks.kept["0.weight"][:, 0].tolist() == [regrow] * 2
    assert (found.returned > 0) == regrow
    assert (
        found.history[-1].validation_accuracy > 95 if regrow else found.history[-1].validation_accuracy < 80
    )


def test_the_step_is_the_masked_networks_gradient_on_the_weights_behind() -> None:
    """One step of plain SGD: cut weights move by the gradient that they have at zero, others by theirs (equation 4)."""
    net, data = two_inputs()
    with torch.no_grad():
        net[0].weight[:, 0] *= 1e-3
    weight, rate = net[0].weight.detach().clone(), 0.01
    seen: list[TrainState] = []
    training = TrainSettings(epochs=3, lr=rate, batch_size=64, momentum=0.0)

    splice(
        net,
        data,
        SpliceSettings(factor=0.0, every=1, gamma=0, until=1.0, training=training),
        on_state=seen.append,
    )

    masks = [state.part("mask")["0.weight"] for state in seen]
    shown = copy.deepcopy(net)
    loss = nn.functional.cross_entropy
    loss(shown(data.train.inputs), data.train.targets).backward()
    first = weight - rate * shown[0].weight.grad
    torch.testing.assert_close(seen[0].part("dense")["0.weight"], first)
    assert masks[0].tolist() == [[False, True]] * 2
    with torch.no_grad():
        shown[0].weight.copy_(first * masks[0])
        shown[0].bias.copy_(seen[0].part("model")["0.bias"])
    shown.zero_grad()
    loss(shown(data.train.inputs), data.train.targets).backward()
    torch.testing.assert_close(seen[1].part("dense")["0.weight"], first - rate * shown[0].weight.grad)


def test_thresholds_follow_each_layers_spread(digits: Splits, net: nn.Module) -> None:
    """With a factor, what stays in a layer is above the band around mean + c deviations of its weights at the start."""
    settings = SpliceSettings(factor=0.5, band=0.2, until=0, training=SHORT.but(epochs=1))

    found = splice(net, digits, settings)

    for name, kept in found.masks.kept.items():
        size = net.get_parameter(name).detach().abs()
        threshold = size.mean() + 0.5 * size.std(correction=0)
        assert torch.equal(kept, size > 0.8 * threshold)


def test_sensitivity_weighs_sizes_by_gradients(digits: Splits, net: nn.Module) -> None:
    """After one step, what stays is largest by size times a power of the gradient of that step; the exponent 0 is the size alone."""
    training = TrainSettings(epochs=1, lr=1e-9, batch_size=len(digits.train), momentum=0.0)
    shown = copy.deepcopy(net).train()
    nn.functional.cross_entropy(shown(digits.train.inputs), digits.train.targets).backward()

    for power in (0.0, 0.5, 1.0):
        found = splice(
            net, digits, SpliceSettings(remove=0.7, sensitivity=power, until=1.0, training=training)
        )

        weights = [shown.get_parameter(name) for name in found.masks.kept]
        score = torch.cat([(w.abs() * w.grad.abs() ** power).flatten() for w in weights]).detach()
        kept = torch.cat([mask.flatten() for mask in found.masks.kept.values()])
        # the order of the sums differs, and so may a weight at the very edge
        assert float(score[kept].min()) >= float(score[~kept].max()) * (1 - 1e-3)


@pytest.mark.parametrize("regrow", [True, False])
def test_a_resumed_run_is_the_run(digits: Splits, net: nn.Module, regrow: bool) -> None:
    """From the state after any epoch, before and after the masks are fixed, it ends in the same bits."""
    settings = SpliceSettings(
        remove=0.8, regrow=regrow, sensitivity=0.5, every=2, training=SHORT.but(epochs=4, ema=0.9), until=0.5
    )
    states: list[TrainState] = []
    whole = splice(net, digits, settings, teacher=net, on_state=states.append)

    for state in (states[0], states[1], states[2]):
        again = splice(net, digits, settings, teacher=net, state=state)
        assert same(again.model, whole.model)
        assert again.masks.digest == whole.masks.digest
        assert (again.returned, again.history) == (whole.returned, whole.history)
    with pytest.raises(SettingsError, match="other settings of splicing"):
        splice(net, digits, settings.model_copy(update={"band": 0.3}), state=states[0])


def test_masks_change_less_often_as_time_goes_on(digits: Splits, net: nn.Module) -> None:
    """With a chance that falls to nothing at once, the masks are only set at the end."""
    settings = SpliceSettings(remove=0.5, every=1, gamma=1e9, power=2.0, training=SHORT, until=0.9)
    left: list[int] = []

    splice(
        net,
        digits,
        settings,
        on_state=lambda state: left.append(sum(int(m.sum()) for m in state.part("mask").values())),
    )

    total = by_size(net, 0.0).total
    assert left == [total, total, total - int(0.5 * total)]


def test_what_cannot_be_spliced_is_said(digits: Splits, net: nn.Module) -> None:
    """Settings that contradict each other, unknown layers and networks without one are refused."""
    for wrong, message in (
        ({}, "give either remove"),
        ({"remove": 0.5, "factor": 1.0}, "give either remove"),
        ({"factor": 0.5, "sensitivity": 1.0}, "leave out sensitivity"),
        ({"remove": 1.0}, "no share from 0"),
        ({"remove": {"dense1": -0.1}}, "no share from 0"),
        ({"remove": 0.5, "bnd": 0.1}, "did you mean 'band'"),
        ({"remove": 0.5, "every": 0}, "every"),
    ):
        with pytest.raises(SettingsError, match=message):
            SpliceSettings(**wrong)
    with pytest.raises(SettingsError, match="did you mean 'dense1'"):
        splice(net, digits, SpliceSettings(remove={"dens1": 0.5}))
    with pytest.raises(NothingToCutError, match="no dense or convolutional layer"):
        splice(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64)), digits, SpliceSettings(remove=0.5))
