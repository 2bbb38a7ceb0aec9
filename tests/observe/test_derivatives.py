"""Tests of secateur.observe.derivatives."""

import re

import pytest
import torch
from torch.nn import functional as F

from secateur.errors import DataError, ModelError, SettingsError
from secateur.observe.derivatives import cross_entropy, gradients, hessian_diagonal


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_hutchinson_is_exact_for_a_diagonal_hessian() -> None:
    """One probe gives the diagonal exactly where nothing lies beside it, over several tensors."""
    c1, c2 = torch.rand(3, 4, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    w1 = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    w2 = torch.randn(5, dtype=torch.float64, requires_grad=True)
    first = gradients((c1 * w1**2).sum() + (c2 * w2**2).sum(), [w1, w2], twice=True)

    found = hessian_diagonal(first, [w1, w2], probes=1, generator=generator())

    torch.testing.assert_close(found, (2 * c1, 2 * c2), rtol=1e-14, atol=0)


def test_hutchinson_is_unbiased_with_the_stated_variance() -> None:
    """On a full quadratic the error shrinks as stated: variance sum_j!=i H_ij^2 / K."""
    probes = 2000
    a = torch.randn(6, 6, dtype=torch.float64, generator=generator(1))
    hessian = a + a.T
    w = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    first = gradients(w @ hessian @ w / 2, [w], twice=True)

    (found,) = hessian_diagonal(first, [w], probes=probes, generator=generator())

    off = hessian - torch.diag(hessian.diagonal())
    deviation = (off.square().sum(1) / probes).sqrt()
    z = (found - hessian.diagonal()) / deviation
    assert float(z.abs().max()) < 4
    assert float(z.abs().max()) > 0.1


def test_a_linear_loss_has_no_curvature() -> None:
    """Where the gradient depends on no weight the diagonal is zero."""
    w = torch.ones(3, requires_grad=True)
    first = gradients((2 * w).sum(), [w], twice=True)

    (found,) = hessian_diagonal(first, [w], probes=3, generator=generator())

    assert found.tolist() == [0, 0, 0]


def test_an_operator_without_second_derivative_is_refused() -> None:
    """The message says what failed and which criterion to use instead."""
    w = torch.ones(1, 1, 4, 8, requires_grad=True)
    attended = F.scaled_dot_product_attention(w, w, w)
    first = gradients((attended**2).sum(), [w], twice=True)

    with pytest.raises(ModelError, match=r"second derivative, which failed: .* use the criterion 'taylor'"):
        hessian_diagonal(first, [w], probes=1, generator=generator())


def test_a_loss_must_be_a_number_that_depends_on_the_weights() -> None:
    """A vector and a constant are refused, each with its reason."""
    w = torch.ones(2, requires_grad=True)

    with pytest.raises(SettingsError, match=re.escape("the loss has shape (2,); it must be one number")):
        gradients(w * 2, [w], twice=False)
    with pytest.raises(ModelError, match="detached from the weights"):
        gradients(torch.tensor(1.0), [w], twice=False)


def test_labels_outside_the_classes_are_refused() -> None:
    """A label that is no output's index is a mistake of the data, and is named."""
    with pytest.raises(DataError, match=r"labels run from 0 to 3, but the model has 3 outputs"):
        cross_entropy(torch.zeros(2, 3), torch.tensor([0, 3]))
    with pytest.raises(ModelError, match="the model gives a tuple"):
        cross_entropy((torch.zeros(2, 3),), torch.tensor([0, 1]))  # type: ignore[arg-type]


def test_cross_entropy_takes_class_probabilities() -> None:
    """Soft labels are not checked as indices."""
    soft = torch.tensor([[0.5, 0.5]])

    assert float(cross_entropy(torch.zeros(1, 2), soft)) == pytest.approx(0.6931, abs=1e-4)
