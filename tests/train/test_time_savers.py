"""What may save time in training: thinned gradients, and batches that are trained on again."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from secateur import data
from secateur.errors import SettingsError
from secateur.methods import PruneTrain, PruneTrainSettings
from secateur.networks import build
from secateur.train import LossLimit, TrainSettings, conserve, fit, sparse_gradients, thinned

PLAIN = TrainSettings(epochs=3, lr=0.05, batch_size=20)


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", limit=200)


def fresh() -> nn.Module:
    return build("digits-net", seed=3)


def trained(digits, train_settings: TrainSettings) -> torch.Tensor:
    net = fresh()
    fit(net, digits.train, digits.validation, train_settings, seed=1)
    return torch.cat([parameter.detach().flatten() for parameter in net.parameters()])


# thinned gradients


def test_nothing_is_thinned_at_a_share_of_zero():
    """It is the gradient itself."""
    gradient = torch.randn(100)
    net = nn.Linear(4, 4)
    x = torch.randn(3, 4)

    with sparse_gradients(net, 0.0):
        net(x).square().sum().backward()
    kept = net.weight.grad.clone()
    net.weight.grad = None
    net(x).square().sum().backward()

    assert thinned(gradient, 0.0) is gradient
    assert torch.equal(kept, net.weight.grad)


@settings(deadline=None, max_examples=15)
@given(share=st.floats(0.2, 0.95), seed=st.integers(0, 99))
def test_what_is_thinned_is_right_on_average(share, seed):
    """Large values stay; small ones are zero or at the threshold; the mean over many draws is the gradient."""
    gradient = torch.randn(400, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        draws = torch.stack([thinned(gradient, share) for _ in range(400)])
    threshold = float(draws.abs()[draws != gradient].max())
    large = gradient.abs() > threshold * (1 + 1e-9)

    assert torch.equal(draws[:, large], gradient[large].expand(400, -1))
    small = draws[:, ~large].abs()
    assert bool(((small == 0) | torch.isclose(small, torch.tensor(threshold, dtype=torch.float64))).all())
    assert abs(float((gradient.abs() < threshold).double().mean()) - share) < 0.1
    error = (draws.mean(0) - gradient).abs().max()
    assert float(error) < 6 * threshold / math.sqrt(400)


def test_a_network_s_gradients_flow_thinned_and_it_is_left_as_it_was():
    """Most of what a layer hands back is zero, and afterwards nothing is."""
    net = nn.Sequential(nn.Linear(50, 80), nn.Tanh(), nn.Linear(80, 30))
    x = torch.randn(20, 50)
    seen: list[torch.Tensor] = []
    with torch.random.fork_rng():
        torch.manual_seed(0)
        with sparse_gradients(net, 0.9):
            out = net(x)
            out.register_hook(seen.append)
            (out * torch.randn(20, 30)).sum().backward()
        inside = net[2].bias.grad.clone()
    zeros = float((seen[-1] == 0).double().mean()) if seen else 0.0

    net.zero_grad()
    net(x).sum().backward()

    assert not net[0]._forward_hooks
    assert zeros > 0.4
    assert inside.count_nonzero() > 0
    assert torch.equal(net[2].bias.grad, torch.full((30,), 20.0))


def test_thinned_training_learns_and_resumes(digits):
    """It ends otherwise than plain training, the same from a state in its midst, and has learned."""
    thin = PLAIN.but(sparse_gradients=0.8, epochs=6)
    states = []
    net, again = fresh(), fresh()

    whole = fit(net, digits.train, digits.validation, thin, seed=1, on_state=states.append)
    resumed = fit(again, digits.train, digits.validation, thin, seed=1, state=states[2])

    assert resumed.history == whole.history
    assert all(map(torch.equal, net.state_dict().values(), again.state_dict().values()))
    assert not torch.equal(trained(digits, PLAIN), trained(digits, PLAIN.but(sparse_gradients=0.8)))
    assert whole.history[-1].validation_accuracy > 60


# batches that are trained on again


def test_with_up_to_ten_batches_no_loss_can_stand_out(digits):
    """Among ten numbers none is three deviations above the mean (Samuelson), so that it is plain training, to the bit."""
    assert torch.equal(trained(digits, PLAIN), trained(digits, PLAIN.but(inconsistent=5)))


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0, 10), min_size=3, max_size=30), st.integers(2, 8))
def test_the_limit_is_that_of_the_last_epoch(losses, count):
    """Mean and three deviations of the last so many; infinite before."""
    limit = LossLimit(count)
    found = [limit.after(loss) for loss in losses]

    for place, one in enumerate(found, start=1):
        last = torch.tensor(losses[max(place - count, 0) : place], dtype=torch.float64)
        expected = math.inf if place < count else float(last.mean() + 3 * last.std(correction=0))
        assert one == pytest.approx(expected, abs=1e-6)


def test_a_batch_comes_down_towards_the_limit():
    """Step by step, the slower the nearer; a batch within the limit stays as it is."""
    weight = nn.Parameter(torch.tensor([2.0, -1.0]))
    losses: list[float] = []

    def loss_of() -> torch.Tensor:
        loss = weight.square().sum()
        losses.append(float(loss.detach()))
        return loss

    def taken(steps: int, limit: float) -> int:
        return conserve(
            loss_of, [weight], limit=limit, lr=0.02, steps=steps, backward=lambda loss: loss.backward()
        )

    assert taken(0, 1.0) == 0
    assert taken(100, 6.0) == 0
    losses.clear()
    assert taken(20, 2.0) == 20
    assert losses == sorted(losses, reverse=True)
    assert 2.0 < losses[-1] < 2.5
    assert taken(100, losses[-1]) <= 1
    assert weight.grad is None


def test_a_loss_that_stands_out_is_trained_on_again_and_goes_on_to_the_bit(digits, monkeypatch):
    """Where one did, the end is another; from a state in the midst it is the same."""
    small = PLAIN.but(
        batch_size=2, lr=1e-4, inconsistent=5, epochs=4
    )  # so small that a loss hardly moves in one step
    learned = fresh()
    fit(learned, digits.train, None, PLAIN.but(epochs=6))  # most losses are small, and some stand out
    counts: list[int] = []

    def counted(*args, **kwargs):
        counts.append(conserve(*args, **kwargs))
        return counts[-1]

    monkeypatch.setattr("secateur.train.loop.conserve", counted)
    states = []
    net, again, plain = (copy.deepcopy(learned) for _ in range(3))
    whole = fit(net, digits.train, digits.validation, small, seed=1, on_state=states.append)
    assert sum(counts) > 0
    resumed = fit(again, digits.train, digits.validation, small, seed=1, state=states[1])

    assert resumed.history == whole.history
    assert all(map(torch.equal, net.state_dict().values(), again.state_dict().values()))
    other = fit(plain, digits.train, digits.validation, small.but(inconsistent=0), seed=1)
    assert other.history != whole.history


def test_what_does_not_go_together_is_refused(digits):
    """Steps past the optimiser beside what relies on it; numbers out of their range."""
    net = fresh()
    session = PruneTrain(net, digits.train.inputs[:1], PruneTrainSettings(every=1), epochs=3)
    with pytest.raises(SettingsError, match="leave it out"):
        fit(net, digits.train, None, PLAIN.but(inconsistent=5), companion=session)
    with pytest.raises(SettingsError, match="sparse_gradients"):
        PLAIN.but(sparse_gradients=1.0)
    with pytest.raises(SettingsError, match="inconsistent"):
        PLAIN.but(inconsistent=-1)
