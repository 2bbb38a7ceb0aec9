"""Tests of secateur.observe.subsets."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.channels import watch
from secateur.channels.groups import Channels
from secateur.errors import ModelError, SettingsError
from secateur.observe import Need, Subsets, observe
from secateur.testing import check_left_as_found


def network() -> tuple[nn.Module, Channels]:
    """A convolution, a depthwise and a grouped one, a transposed one, and a dense layer behind a flattened map."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.Sigmoid(), nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.Sigmoid(),
        nn.ConvTranspose2d(6, 4, 2), nn.Sigmoid(), nn.Conv2d(4, 4, 2, groups=2), nn.Sigmoid(),
        nn.Flatten(), nn.Linear(64, 5), nn.Sigmoid(), nn.Linear(5, 3),
    ).double()  # fmt: skip
    return model, watch(model, torch.zeros(1, 1, 4, 4, dtype=torch.float64))


X = torch.randn(7, 1, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
Y = torch.arange(7) % 3


@given(seed=st.integers(0, 2**31), share=st.floats(0.05, 1.0))
@settings(deadline=None, max_examples=20)
def test_leaving_out_equals_not_reading(seed: int, share: float) -> None:
    """The pass computes what the network does whose readers have zeros in the columns of what is left out."""
    model, channels = network()
    subsets = Subsets(model, channels, share=share, seed=seed)

    with subsets.drawn() as drawn:
        found = model(X)

    tensors = dict(model.named_parameters())
    with torch.no_grad():
        for group in channels.groups:
            gone = (~drawn.units[group.name]).numpy()
            for member in group.by_role("read"):
                if member.tensor in tensors:
                    tensors[member.tensor].index_fill_(
                        member.axis, torch.as_tensor(member.indices[gone].ravel()), 0
                    )
    torch.testing.assert_close(found, model(X), rtol=0, atol=1e-12)


@given(share=st.floats(0.01, 1.0))
@settings(deadline=None, max_examples=30)
def test_the_same_share_of_units_and_dummies_takes_part(share: float) -> None:
    """Exactly so many units a pass, some left out below 1; of the dummies exactly the same share, or their spread is not chance's."""
    model, channels = network()
    subsets = Subsets(model, channels, share=share)

    with subsets.drawn() as drawn:
        pass

    for group in channels.groups:
        units, dummies = drawn.units[group.name], drawn.dummies[group.name]
        taking = int(units.sum())
        assert 1 <= taking <= group.width
        assert (taking < group.width) == (share < 1)
        assert abs(taking - share * group.width) <= 1
        assert int(dummies.sum()) * group.width == taking * len(dummies)
        assert len(dummies) >= 100


def test_draws_follow_from_the_seed_their_number_and_the_group() -> None:
    """Two runs of a seed draw the same, other seeds and numbers otherwise, and other groups beside change nothing."""
    model, channels = network()
    name = channels.groups[0].name

    def masks(seed: int, groups: list[str] | None = None) -> list[list[bool]]:
        subsets = Subsets(model, channels, share=0.5, seed=seed, groups=groups)
        found = []
        for _ in range(4):
            with subsets.drawn() as drawn:
                found.append(drawn.units[name].tolist())
        return found

    assert masks(3) == masks(3) == masks(3, [name])
    assert masks(3) != masks(4)
    assert len({tuple(one) for one in masks(3)}) > 1


def test_every_unit_is_drawn_as_often_as_any() -> None:
    """Over many passes the counts are those of fair draws: within five deviations of the share."""
    model, channels = network()
    subsets, count = Subsets(model, channels, share=0.5), 400
    name, width = channels.groups[0].name, channels.groups[0].width
    seen = torch.zeros(width)
    for _ in range(count):
        with subsets.drawn() as drawn:
            seen += drawn.units[name]

    assert float(seen.sum()) == count * width / 2
    assert float((seen - count / 2).abs().max()) < 5 * math.sqrt(count / 4)


def test_relevance_is_the_sum_of_what_the_loss_was_lower() -> None:
    """By hand: a unit that took part gets E(c) - c of each pass, with E the running mean of the losses before."""
    model, channels = network()
    subsets = Subsets(model, channels, share=0.5)
    name = channels.groups[0].name
    wanted, expected = torch.zeros(channels.groups[0].width, dtype=torch.float64), None
    for loss in (2.0, 1.0, 4.0, 1.5):
        with subsets.drawn() as drawn:
            pass
        subsets.learn(drawn, loss)
        expected = loss if expected is None else expected
        wanted += drawn.units[name] * (expected - loss)
        expected = 0.9 * expected + 0.1 * loss

    torch.testing.assert_close(subsets.found()[name].units, wanted)
    assert subsets.found()[name].draws == 4


def test_passes_over_the_same_examples_are_compared_with_their_mean() -> None:
    """What all passes share of the loss cancels: their gains add up to nothing."""
    model, channels = network()
    name = channels.groups[0].name
    found = []
    for offset in (0.0, 100.0):
        subsets, seen = Subsets(model, channels, share=0.5), []
        for loss in (2.0, 1.0, 4.5):
            with subsets.drawn() as drawn:
                pass
            seen.append((drawn, loss + offset))
        subsets.compare(seen)
        found.append(subsets.found()[name].units)

    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[0].sum(), torch.zeros((), dtype=torch.float64), rtol=0, atol=1e-12)
    assert float(found[0].abs().max()) > 0.1


def test_what_was_gathered_goes_on_from_its_tensors() -> None:
    """Stopped after any pass and loaded into new subsets, the rest is the same to the bit."""
    model, channels = network()

    def go_on(subsets: Subsets, losses: Tensor) -> None:
        for loss in losses:
            with subsets.drawn() as drawn:
                model(X[:1])
            subsets.learn(drawn, float(loss))

    losses = torch.rand(9, generator=torch.Generator().manual_seed(2))
    whole, first, second = (Subsets(model, channels, seed=5) for _ in range(3))
    go_on(whole, losses)
    go_on(first, losses[:4])
    second.load(first.tensors())
    go_on(second, losses[4:])

    assert all(torch.equal(value, second.tensors()[name]) for name, value in whole.tensors().items())
    other = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    with pytest.raises(SettingsError, match="another network"):
        Subsets(other, watch(other, torch.zeros(1, 2))).load(first.tensors())


def test_a_unit_left_out_learns_nothing_in_that_pass() -> None:
    """Neither what writes it nor what reads it has a gradient: it is as if it were not there."""
    model = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2))
    subsets = Subsets(model, watch(model, torch.zeros(1, 3)), share=0.5)

    with subsets.drawn() as drawn:
        F.cross_entropy(model(torch.randn(5, 3)), torch.zeros(5, dtype=torch.int64)).backward()

    gone = ~drawn.units["0"]
    assert int(gone.sum()) == 3
    assert not model[0].weight.grad[gone].any()
    assert not model[2].weight.grad[:, gone].any()
    assert model[2].weight.grad[:, ~gone].any()


@pytest.mark.parametrize("training", [False, True])
def test_the_network_is_left_as_found(training: bool) -> None:
    """After the passes, after an error in one, and after an observation."""
    model, channels = network()
    model.train(training)
    subsets = Subsets(model, channels)

    def failing() -> None:
        with pytest.raises(ZeroDivisionError), subsets.drawn():
            raise ZeroDivisionError

    check_left_as_found(model, failing)
    check_left_as_found(model, lambda: observe(model, channels, [(X, Y)], needs={Need.RELEVANCE}, draws=3))


class Hidden(nn.Module):
    """A network that reads one layer by its weight and not by calling it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(torch.relu(self.first(x)), self.second.weight, self.second.bias)


def test_units_that_cannot_be_left_out_are_skipped_with_the_reason() -> None:
    """What is read past its layer would seem to be of no use; it is not judged."""
    model = Hidden()
    channels = watch(model, torch.zeros(1, 3))
    subsets = Subsets(model, channels)
    with subsets.drawn():
        model(torch.zeros(1, 3))

    seen = subsets.observations()
    observed = observe(
        model, channels, [(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64))], needs={Need.RELEVANCE}
    )

    for found in (seen, observed):
        assert "first" in found.skipped
        assert "first" not in found.relevance


def test_other_observations_do_not_see_the_passes() -> None:
    """Activations observed beside relevance are those of the whole network alone."""
    model, channels = network()
    alone = observe(model, channels, [(X, Y)], needs={Need.ACTIVATION})
    both = observe(model, channels, [(X, Y)], needs={Need.ACTIVATION, Need.RELEVANCE}, draws=4)

    for name, moments in alone.activations.items():
        assert torch.equal(both.activations[name].absolute, moments.absolute)
        assert both.activations[name].count == moments.count
    assert set(both.relevance) == set(alone.activations)


def test_what_cannot_be_is_refused() -> None:
    """Shares, seeds and numbers of draws out of their range, losses that are not finite, and nothing drawn."""
    model, channels = network()
    for share in (0.0, -0.1, 1.1, math.nan):
        with pytest.raises(SettingsError, match="share is"):
            Subsets(model, channels, share=share)
    with pytest.raises(SettingsError, match="seed is -1"):
        Subsets(model, channels, seed=-1)
    with pytest.raises(SettingsError, match="draws is 1"):
        observe(model, channels, [(X, Y)], needs={Need.RELEVANCE}, draws=1)
    subsets = Subsets(model, channels)
    with pytest.raises(SettingsError, match="no subset was drawn"):
        subsets.observations()
    with subsets.drawn() as drawn:
        pass
    with pytest.raises(ModelError, match="left out is nan"):
        subsets.learn(drawn, math.nan)
