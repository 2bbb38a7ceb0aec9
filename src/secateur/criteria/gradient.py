"""Criteria on weights and their gradient."""

from __future__ import annotations

from torch import Tensor

from secateur.errors import SettingsError


def taylor_weights(weight: Tensor, gradient: Tensor) -> Tensor:
    r"""First-order estimate of the loss change if a unit's weights are zeroed.

    :math:`s_c = |\sum_k w_{ck}\, g_{ck}|`

    The products are added with their sign, then the magnitude is taken: one unit goes as a whole, and what its weights
    do against each other cancels.

    Args:
        weight: Rows of one group, ``[channels, fan]``.
        gradient: Gradient of the mean loss for the same rows, ``[channels, fan]``.

    Returns:
        Scores ``[channels]``, float64, in the unit of the loss. An all-zero row scores 0, the least.

    Raises:
        SettingsError: The two shapes differ.

    Example:
        >>> import torch
        >>> taylor_weights(torch.tensor([[1.0, 2.0], [3.0, 0.0]]), torch.tensor([[0.5, 0.5], [1.0, 7.0]]))
        tensor([1.5000, 3.0000], dtype=torch.float64)

    Source:
        Molchanov et al. 2019, arXiv:1906.10771. They square the sum; its magnitude ranks alike and keeps the loss's unit.
    """
    if weight.shape != gradient.shape:
        raise SettingsError(
            f"weight {tuple(weight.shape)} and gradient {tuple(gradient.shape)} differ; give rows of the same tensor"
        )
    return (weight.double() * gradient.double()).sum(1).abs()
