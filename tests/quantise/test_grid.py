"""Grids: the error is at most half a step, what lies on a grid stays, zero is exact."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from secateur.errors import SettingsError
from secateur.quantise import Range, round_bias, round_weight, weight_steps

ENDS = st.floats(-1e4, 1e4, width=32)


@given(ENDS, ENDS, st.integers(0, 2**31))
def test_rounding_within_a_range(one, other, seed):
    """Inside the range the error is at most half a step, except that the zero point is rounded, too; twice is once."""
    grid = Range(min(one, other), max(one, other))
    low, high = min(grid.low, 0.0), max(grid.high, 0.0)
    x = low + (high - low) * torch.rand(
        50, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )

    rounded = grid.round(x)

    ends = [grid.step * (q - grid.zero) for q in (-128, 127)]
    inside = (x >= ends[0]) & (x <= ends[1])
    assert ((rounded - x).abs() <= grid.step / 2 * (1 + 1e-6))[inside].all()
    assert ((rounded - x).abs() <= grid.step * (1 + 1e-6)).all()
    assert torch.equal(grid.round(rounded), rounded)
    assert float(grid.round(torch.zeros(1))) == 0.0
    assert -128 <= grid.zero <= 127


def test_whole_numbers_stand_for_values():
    """Step and zero turn the whole numbers back into the rounded values."""
    grid = Range(-1.3, 2.9)
    x = torch.linspace(-2, 4, 101)

    q = grid.integers(x)

    assert q.min() == -128
    assert q.max() == 127
    assert torch.allclose(grid.step * (q - grid.zero), grid.round(x), atol=1e-6)


@given(st.integers(0, 2**31))
def test_weights_are_rounded_by_channel(seed):
    """The error is at most half of each channel's step, the greatest weight is exact, and twice is once."""
    weight = (
        torch.randn(5, 3, 2, generator=torch.Generator().manual_seed(seed))
        * 10.0 ** torch.arange(-3, 2)[:, None, None]
    )
    weight[2, 1] = 0

    rounded, steps = round_weight(weight), weight_steps(weight)

    assert ((rounded - weight).abs() <= steps[:, None, None] * 0.50001).all()
    assert torch.allclose(rounded.abs().flatten(1).amax(1), weight.abs().flatten(1).amax(1))
    assert torch.allclose(round_weight(rounded), rounded, rtol=1e-6, atol=0)
    assert (rounded[2, 1] == 0).all()


def test_a_channel_without_weights_stays_zero():
    """No step is zero, and nothing is divided by it."""
    assert torch.equal(round_weight(torch.zeros(2, 3)), torch.zeros(2, 3))


def test_gradients_pass_within_the_range():
    """The gradient is that of the identity within the range, zero outside; of weights and biases it is everywhere."""
    x = torch.tensor([-3.0, 0.4, 0.9, 5.0], requires_grad=True)
    weight, bias = torch.randn(2, 3, requires_grad=True), torch.randn(2, requires_grad=True)

    (
        Range(-1.0, 1.0).round(x).sum()
        + round_weight(weight).sum()
        + round_bias(bias, torch.full((2,), 0.1)).sum()
    ).backward()

    assert x.grad.tolist() == [0, 1, 1, 0]
    assert torch.equal(weight.grad, torch.ones(2, 3))
    assert torch.equal(bias.grad, torch.ones(2))


@pytest.mark.parametrize(("low", "high"), [(1.0, 0.0), (float("nan"), 1.0), (0.0, float("inf"))])
def test_ends_that_make_no_grid_are_refused(low, high):
    """A range checks itself at birth."""
    with pytest.raises(SettingsError, match="makes no grid"):
        Range(low, high)


def test_the_grid_is_that_of_the_runtime_s_quantiser():
    """Step and zero are LiteRT's quantiser's."""
    module = pytest.importorskip("ai_edge_quantizer.algorithms.uniform_quantize.uniform_quantize_tensor")
    qtyping = pytest.importorskip("ai_edge_quantizer.qtyping")
    generator = np.random.default_rng(0)
    for _ in range(50):
        low, high = sorted(generator.normal(size=2).astype(np.float32) * 10)
        zero, step = module.tensor_zp_scale_from_min_max(
            np.array([low]), np.array([high]), 8, False, qtyping.QuantGranularity.TENSORWISE
        )
        grid = Range(float(low), float(high))
        assert grid.zero == int(zero[0])
        assert grid.step == pytest.approx(float(step[0]), rel=1e-6)
