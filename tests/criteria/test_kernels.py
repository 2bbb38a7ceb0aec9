"""Tests of the kernels on rows: weight, activation, gradient, curvature."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from secateur.criteria import activation, curvature, gradient, weight
from secateur.errors import SettingsError
from secateur.observe import Moments, Taylor

KERNELS = {
    "l1": (lambda w, _: weight.l1(w), 1),
    "l2": (lambda w, _: weight.l2(w), 1),
    "taylor-weights": (gradient.taylor_weights, 1),
    "obd": (curvature.obd, 2),
}
"""A kernel of weights and a companion of their shape, and its degree in the weights. A new one joins by a line."""

every_kernel = pytest.mark.parametrize(("kernel", "degree"), KERNELS.values(), ids=list(KERNELS))
sizes = st.integers(1, 6)
seeds = st.integers(0, 2**32 - 1)


def random_rows(seed: int, channels: int, fan: int) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(seed)
    return torch.randn(2, channels, fan, generator=source, dtype=torch.float64).unbind(0)


@every_kernel
@given(seed=seeds, channels=sizes, fan=sizes)
@settings(deadline=None, max_examples=25)
def test_scores_follow_their_channels(kernel, degree: int, seed: int, channels: int, fan: int) -> None:
    """Renaming channels renames their scores and changes nothing else; scores are finite, one a channel."""
    w, d = random_rows(seed, channels, fan)
    p = torch.randperm(channels, generator=torch.Generator().manual_seed(seed))

    scores = kernel(w, d)

    torch.testing.assert_close(kernel(w[p], d[p]), scores[p], rtol=1e-12, atol=1e-14)
    assert scores.shape == (channels,)
    assert scores.dtype == torch.float64
    assert bool(torch.isfinite(scores).all())


@every_kernel
@given(seed=seeds, scale=st.floats(1e-3, 1e3))
@settings(deadline=None, max_examples=25)
def test_scores_scale_with_their_weights(kernel, degree: int, seed: int, scale: float) -> None:
    """Weights times c score c^degree times as much."""
    w, d = random_rows(seed, 4, 5)

    torch.testing.assert_close(kernel(w * scale, d), kernel(w, d) * scale**degree, rtol=1e-10, atol=0)


@every_kernel
@given(seed=seeds)
@settings(deadline=None, max_examples=25)
def test_float32_scores_are_those_of_float64(kernel, degree: int, seed: int) -> None:
    """The number format of the weights changes scores by its rounding only."""
    w, d = random_rows(seed, 4, 50)

    torch.testing.assert_close(kernel(w.float(), d.float()), kernel(w, d), rtol=1e-5, atol=1e-4)


@every_kernel
def test_a_channel_of_zeros_scores_zero(kernel, degree: int) -> None:
    """Nothing is lost with weights that are all zero."""
    w, d = random_rows(0, 4, 5)
    w[2] = 0

    assert float(kernel(w, d)[2]) == 0


@pytest.mark.parametrize("kernel", [gradient.taylor_weights, curvature.obd])
def test_rows_of_other_shape_are_refused(kernel) -> None:
    """Weights and their companion must be rows of the same tensor."""
    with pytest.raises(SettingsError, match=r"weight \(2, 3\) and (gradient|curvature) \(3, 2\) differ"):
        kernel(torch.zeros(2, 3), torch.zeros(3, 2))


def test_obd_is_exact_at_the_minimum_of_a_diagonal_quadratic() -> None:
    """For a quadratic loss with a diagonal Hessian the score is the exact rise of the loss."""
    minimum, h = random_rows(0, 5, 7)
    h = h.abs()

    def loss(w: Tensor) -> Tensor:
        return 3.0 + (h * (w - minimum) ** 2).sum() / 2

    scores = curvature.obd(minimum, h)

    for unit in range(5):
        without = minimum.clone()
        without[unit] = 0
        assert float(scores[unit]) == pytest.approx(float(loss(without) - loss(minimum)), rel=1e-12)


def test_taylor_of_weights_is_first_order() -> None:
    """Shrinking a row by eps, the signed estimate errs by O(eps^2): the log-log slope is 2."""
    w, target = random_rows(3, 4, 6)

    def loss(w: Tensor) -> Tensor:
        return torch.cosh(w - target).sum()

    g = torch.func.grad(loss)(w)
    signed = float((w[1] * g[1]).sum())
    eps = np.array([2.0**-k for k in range(4, 12)])
    shrink = torch.zeros(4, 1, dtype=torch.float64)
    shrink[1] = 1
    errors = [abs(float(loss(w * (1 - e * shrink)) - loss(w)) + e * signed) for e in eps]

    assert abs(np.polyfit(np.log(eps), np.log(errors), 1)[0] - 2) < 0.1
    assert float(gradient.taylor_weights(w, g)[1]) == pytest.approx(abs(signed), rel=1e-12)


def test_random_scores_are_those_of_their_generator() -> None:
    """The same seed gives the same numbers, another seed others; the global state is untouched."""
    before = torch.get_rng_state()

    one, same, other = (weight.random(50, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))

    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), before)
    assert float(one.min()) >= 0
    assert float(one.max()) < 1


def test_the_mean_activation_is_that_of_the_magnitude() -> None:
    """A unit that swings about zero is not idle."""
    swing = Moments(
        mean=torch.zeros(1).double(), absolute=torch.ones(1).double(), square=torch.ones(1).double(), count=2
    )

    assert activation.mean_activation(swing).tolist() == [1]


def test_taylor_of_activations_is_the_magnitude() -> None:
    """The signed effect is kept for those who need it, the score is the magnitude."""
    taylor = Taylor(magnitude=torch.tensor([2.0]).double(), gate=torch.tensor([-1.0]).double())

    assert activation.taylor_activation(taylor).tolist() == [2]
