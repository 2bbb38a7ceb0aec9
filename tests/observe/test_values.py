"""Tests of secateur.observe.values."""

import pytest
import torch

from secateur.errors import ModelError, SettingsError
from secateur.observe import Covariance, Need, Observations, pool


def of(samples: torch.Tensor) -> Covariance:
    return Covariance(samples.mean(0), samples.T @ samples / len(samples), len(samples))


def test_pooling_is_the_covariance_of_all_samples() -> None:
    """Parts of different size, pooled, are the same as all their samples at once."""
    samples = torch.randn(10, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    pooled = pool([of(samples[:3]), of(samples[3:])])

    torch.testing.assert_close(pooled.covariance, torch.cov(samples.T, correction=0))
    assert pooled.count == 10
    with pytest.raises(SettingsError, match="no covariance to pool"):
        pool([])


def test_what_was_not_observed_says_how_to() -> None:
    """A group that is missing because nobody asked gets another advice than one that could not be seen."""
    seen = Observations(needs=frozenset({Need.ACTIVATION}), examples=1, skipped={"a": "no layer reads it"})

    with pytest.raises(ModelError, match=r"has no covariance observation \(observed: activation\)"):
        seen.covariances_of("b")
    with pytest.raises(ModelError, match="could not be observed: no layer reads it; use a weight criterion"):
        seen.covariances_of("a")
    assert repr(seen) == "Observations(activation; 1 examples, 1 groups skipped)"
