"""Criteria on weights and the curvature of the loss."""

from __future__ import annotations

from torch import Tensor

from secateur.errors import SettingsError


def obd(weight: Tensor, curvature: Tensor) -> Tensor:
    r"""Second-order estimate of the loss change if a unit's weights are zeroed (optimal brain damage).

    :math:`s_c = \frac{1}{2} \sum_k h_{ck}\, w_{ck}^2` with :math:`h` the diagonal of the Hessian.

    Exact at a minimum of a loss that is quadratic with a diagonal Hessian. Away from a minimum the curvature may be
    negative; its sign is kept, so that such a unit goes first.

    Args:
        weight: Rows of one group, ``[channels, fan]``.
        curvature: Diagonal of the Hessian for the same rows, ``[channels, fan]``; `secateur.observe` estimates it
            with Hutchinson's method.

    Returns:
        Scores ``[channels]``, float64, in the unit of the loss. An all-zero row scores 0.

    Raises:
        SettingsError: The two shapes differ.

    Example:
        >>> import torch
        >>> obd(torch.tensor([[1.0, 2.0], [3.0, 0.0]]), torch.tensor([[2.0, 1.0], [2.0, 7.0]]))
        tensor([3., 9.], dtype=torch.float64)

    Source:
        LeCun, Denker, Solla 1990, Optimal Brain Damage. They score single weights and compute the diagonal by a
        backward recursion; here a unit's weights are added up and the diagonal is estimated.
    """
    if weight.shape != curvature.shape:
        raise SettingsError(
            f"weight {tuple(weight.shape)} and curvature {tuple(curvature.shape)} differ; give rows of the same tensor"
        )
    return (curvature.double() * weight.double().square()).sum(1) / 2
