"""How outputs are compared."""

import math

import pytest
import torch

from secateur.errors import DataError
from secateur.export import compare


def test_equal_outputs_agree_wholly():
    """No deviation, no noise, the same answers."""
    same = torch.randn(5, 3)
    found = compare(same, same.clone())

    assert (found.deviation, found.sqnr, found.agreement, found.count) == (0.0, math.inf, 100.0, 5)


def test_noise_of_a_known_size_is_found():
    """Noise of a hundredth of the signal's size is 40 dB."""
    signal = torch.randn(400, 10, dtype=torch.float64)
    noise = torch.randn(400, 10, dtype=torch.float64)
    noise *= 0.01 * signal.norm() / noise.norm()

    assert compare(signal, signal + noise).sqnr == pytest.approx(40.0, abs=1e-9)


def test_answers_are_counted():
    """One of four answers differs."""
    wanted = torch.eye(4)
    found = wanted.clone()
    found[0] = torch.tensor([0.0, 1.0, 0.0, 0.0])

    assert compare(wanted, found).agreement == 75.0


def test_outputs_of_other_shapes_are_refused():
    """They are of other examples."""
    with pytest.raises(DataError, match=r"\(2, 3\).*\(3, 2\)"):
        compare(torch.zeros(2, 3), torch.zeros(3, 2))
