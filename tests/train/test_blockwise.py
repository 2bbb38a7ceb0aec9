"""Block training: what it learns, and what it leaves alone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur.errors import DataError, ModelError, SettingsError
from secateur.observe import Need, observe
from secateur.plan import compensate
from secateur.train import TrainingBlock, TrainSettings, block_around, block_outputs, fit, fit_block
from secateur.train.blocks import reached

SETTINGS = TrainSettings(epochs=3, lr=0.05, batch_size=100, keep="last", clip=1.0)


@pytest.fixture(scope="module")
def whole(digits) -> nn.Module:
    """Convolutions with norms and dropout, trained a little."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True),
        nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Dropout(0.2),
        nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip
    fit(net, digits[0], None, TrainSettings(epochs=3, lr=0.05, batch_size=50))
    return net.eval()


def around(net: nn.Module, group: str, x: Tensor) -> TrainingBlock:
    return block_around(net, secateur.watch(net, x[:1]), group, x[:1])


def without(net: nn.Module, group: str, x: Tensor, share: float = 0.5) -> nn.Module:
    channels = secateur.watch(net, x[:1])
    scores = secateur.score(net, channels, "l1")
    return secateur.apply(net, secateur.plan(channels, scores, remove={group: share}, groups=[group]))


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_outside_the_block_nothing_changes_bit_for_bit(whole, digits) -> None:
    """Weights, running statistics, modes, hooks, gradients and the random state; inside, all that is trained has moved."""
    x = digits[0].inputs
    small, block = without(whole, "3", x), around(whole, "3", x)
    small.train()
    before, reference, randomness = state(small), state(whole), torch.get_rng_state()

    fit_block(small, whole, block, digits[0], SETTINGS.but(ema=0.9), validation=digits[1])

    assert block.modules == ("3", "4", "5", "6", "7", "8")
    changed = {name for name, tensor in small.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"3.weight", "3.bias", "4.weight", "4.bias", "8.weight", "8.bias"}
    assert all(torch.equal(tensor, reference[name]) for name, tensor in whole.state_dict().items())
    assert all(module.training for module in small.modules())
    assert not any(module.training for module in whole.modules())
    assert all(
        not m._forward_hooks and not m._forward_pre_hooks for net in (small, whole) for m in net.modules()
    )
    assert all(parameter.grad is None and parameter.requires_grad for parameter in small.parameters())
    assert torch.equal(torch.get_rng_state(), randomness)


@pytest.mark.parametrize("augment", ["none", "shift"])
def test_with_nothing_cut_there_is_nothing_to_learn(whole, digits, augment) -> None:
    """The loss is zero, and training changes nothing but for rounding."""
    same, block = copy.deepcopy(whole), around(whole, "3", digits[0].inputs)

    found = fit_block(same, whole, block, digits[0], SETTINGS.but(augment=augment, shift=1))

    assert max(record.train_loss for record in found.history) < 1e-9
    before = state(whole)
    assert all(torch.allclose(t, before[name], rtol=1e-4, atol=1e-5) for name, t in same.state_dict().items())


def test_it_learns_what_the_unreduced_network_gives(whole, digits) -> None:
    """What is stored is what hooks on the whole forward pass see, and the block comes nearer to it."""
    x = digits[0].inputs
    small, block = without(whole, "3", x), around(whole, "3", x)
    seen: list[Tensor] = []
    taken: list[Tensor] = []
    hooks = [
        whole[8].register_forward_hook(lambda _m, _a, out: seen.append(out.clone())),
        whole[3].register_forward_pre_hook(lambda _m, args: taken.append(args[0].clone())),
    ]
    with torch.no_grad():
        whole(x)
        for hook in hooks:
            hook.remove()
        assert torch.allclose(block_outputs(whole, block, x), seen[0], atol=1e-5)
        assert torch.equal(reached(whole, whole[3], x, before=True), taken[0])

    def error() -> float:
        with torch.no_grad():
            got = block.of(copy.deepcopy(small).eval())(taken[0])
        return float((got - seen[0]).square().mean() / seen[0].var(dim=0, correction=0).mean())

    before = error()
    found = fit_block(small, whole, block, digits[0], SETTINGS)

    assert error() < found.history[0].train_loss < before


def test_channels_that_went_before_are_not_asked_for(whole, digits) -> None:
    """After earlier cuts on both sides the block gives, and is given, the channels that are left."""
    x = digits[0].inputs
    block = around(whole, "3", x)
    smaller = without(without(without(whole, "0", x), "8", x), "3", x)
    taken, given = block.kept(whole, smaller)

    assert taken[1] is not None
    assert len(taken[1]) == smaller[3].in_channels == 3
    assert given[1] is not None
    assert len(given[1]) == smaller[8].out_channels == 4
    assert torch.equal(whole[0].weight[taken[1]], smaller[0].weight)
    assert torch.equal(whole[8].bias[given[1]], smaller[8].bias)
    smaller[0].weight.data.mul_(1.5)  # as an earlier retraining may change what goes in
    losses = {
        source: [r.train_loss for r in fit_block(copy.deepcopy(smaller), whole, block, digits[0], SETTINGS, pairs_from=source).history]
        for source in ("reduced", "unreduced")
    }  # fmt: skip
    assert all(values[-1] < values[0] for values in losses.values())
    assert losses["reduced"] != losses["unreduced"]


def test_stored_or_not_it_is_the_same_training(whole, digits) -> None:
    """Pairs that are stored, handed over, or computed for each batch anew end in the same block but for rounding."""
    x = digits[0].inputs
    small, block = without(whole, "3", x), around(whole, "3", x)
    ways = [{}, {"outputs": block_outputs(whole, block, x)}, {"memory": 0}]
    made = [copy.deepcopy(small) for _ in ways]

    for model, options in zip(made, ways, strict=True):
        fit_block(model, whole, block, digits[0], SETTINGS, **options)

    for model in made[1:]:
        assert all(
            torch.allclose(a, b, rtol=1e-3, atol=1e-4)
            for a, b in zip(made[0].state_dict().values(), model.state_dict().values(), strict=True)
        )


def test_examples_that_change_are_seen_by_both(whole, digits) -> None:
    """With augmentation a training can be repeated to the bit, and differs from one without."""
    x = digits[0].inputs
    small, block = without(whole, "3", x), around(whole, "3", x)
    shifted = SETTINGS.but(augment="shift", shift=1)

    losses = [
        [r.train_loss for r in fit_block(copy.deepcopy(small), whole, block, digits[0], settings).history]
        for settings in (shifted, shifted, SETTINGS)
    ]

    assert losses[0] == losses[1] != losses[2]


def test_a_linear_reader_ends_at_the_least_squares_solution(toy) -> None:
    """With what writes held fixed, training the reader ends where compensation by least squares is at once."""
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(
        nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3), nn.Tanh(), nn.Linear(3, 2)
    )
    net = net.double().eval()
    for parameter in net.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    data = toy(
        torch.randn(64, 4, generator=generator, dtype=torch.float64),
        torch.randint(2, (64,), generator=generator),
    )
    x = data.inputs
    channels = secateur.watch(net, x[:1])
    plan = secateur.plan(channels, secateur.score(net, channels, "l1"), remove={"2": 0.5}, groups=["2"])
    seen = observe(net, channels, [(x, data.targets)], needs={Need.COVARIANCE}, groups=["2"])
    solved, small = secateur.apply(net, compensate(plan, seen, ridge=0.0)), secateur.apply(net, plan)
    block = block_around(net, channels, "2", x[:1])
    for parameter in small[2].parameters():
        parameter.requires_grad_(False)

    fit_block(
        small, net, block, data, TrainSettings(epochs=1500, batch_size=64, lr=0.5, momentum=0.95, keep="last")
    )

    assert block.modules == ("2", "3", "4")
    assert torch.allclose(small[4].weight, solved[4].weight, atol=1e-3)
    assert torch.allclose(small[4].bias, solved[4].bias, atol=1e-3)


def test_what_is_shared_with_the_rest_is_not_trained(toy) -> None:
    """A weight that a layer outside holds, too, stays."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)
    )
    net[4].bias = net[0].bias
    data = toy(torch.randn(60, 5), torch.randint(2, (60,)))
    small, block = without(net, "2", data.inputs), around(net, "2", data.inputs)
    before = state(small)

    fit_block(small, net, block, data, SETTINGS)

    changed = {name for name, tensor in small.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"2.weight", "2.bias", "4.weight"}
    assert small[0].bias.requires_grad


def test_epochs_are_judged_by_the_whole_network(whole, digits) -> None:
    """With validation examples an epoch's accuracy is that of the network with the averaged block, which the best one keeps."""
    x = digits[0].inputs
    small, block = without(whole, "3", x, 0.7), around(whole, "3", x)

    found = fit_block(
        small, whole, block, digits[0], SETTINGS.but(ema=0.9, keep="best"), validation=digits[1]
    )

    with torch.no_grad():
        right = small.eval()(digits[1].inputs).argmax(1) == digits[1].targets
    assert 100 * float(right.double().mean()) == found.history[found.best_epoch - 1].validation_accuracy
    stopped = fit_block(
        small, whole, block, digits[0], SETTINGS, validation=digits[1], stop_when=lambda _: True
    )
    assert (stopped.stopped, len(stopped.history)) == ("stop_when", 1)


def test_what_does_not_belong_together_is_refused(whole, digits) -> None:
    """Another network, outputs of other examples, options that cannot be."""
    x = digits[0].inputs
    small, block = without(whole, "3", x), around(whole, "3", x)
    other = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    with pytest.raises(ModelError, match="another network than the unreduced one"):
        fit_block(small, other, block, digits[0], SETTINGS)
    with pytest.raises(ModelError, match="is of another network"):
        fit_block(other, whole, block, digits[0], SETTINGS)
    with pytest.raises(DataError, match="5 outputs for 600 training examples"):
        fit_block(small, whole, block, digits[0], SETTINGS, outputs=block_outputs(whole, block, x[:5]))
    with pytest.raises(SettingsError, match="pairs_from='both'"):
        fit_block(small, whole, block, digits[0], SETTINGS, pairs_from="both")  # pyright: ignore[reportArgumentType]
    with pytest.raises(SettingsError, match="memory is -1"):
        fit_block(small, whole, block, digits[0], SETTINGS, memory=-1)
    with pytest.raises(SettingsError, match="seed is -1"):
        fit_block(small, whole, block, digits[0], SETTINGS, seed=-1)
    with pytest.raises(ModelError, match="are left of what the unreduced network gives"):
        fit_block(
            copy.deepcopy(whole),
            without(whole, "8", x),
            around(without(whole, "8", x), "3", x),
            digits[0],
            SETTINGS,
        )
