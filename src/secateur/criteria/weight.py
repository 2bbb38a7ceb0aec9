"""Criteria on weights alone: rows ``[channels, fan]`` to scores ``[channels]``."""

from __future__ import annotations

import torch
from torch import Tensor

_AT_ONCE = 1 << 16
"""Numbers that are converted to float64 at once: so few stay in the processor's cache."""


def l1(weight: Tensor) -> Tensor:
    r"""Sum of absolute weights.

    :math:`s_c = \sum_k |w_{ck}|`

    On a unit's own weights this is variant 1, on the weights that read it variant 2, their sum variant 3.

    Args:
        weight: Rows of one group, ``[channels, fan]``.

    Returns:
        Scores ``[channels]``, float64, in the unit of the weights. An all-zero row scores 0, the least.

    Example:
        >>> l1(torch.tensor([[1.0, -2.0], [0.0, 0.5]]))
        tensor([3.0000, 0.5000], dtype=torch.float64)

    Source:
        Li et al. 2017, Pruning Filters for Efficient ConvNets, arXiv:1608.08710.
    """
    if not weight.numel():
        return torch.zeros(weight.shape[0], dtype=torch.float64)
    some = max(_AT_ONCE // weight.shape[1], 1)
    pieces = (weight[start : start + some] for start in range(0, weight.shape[0], some))
    return torch.cat([piece.to(torch.float64, copy=True).abs_().sum(1) for piece in pieces]).cpu()


def l2(weight: Tensor) -> Tensor:
    r"""Euclidean norm of the weights.

    :math:`s_c = \sqrt{\sum_k w_{ck}^2}`

    Args:
        weight: Rows of one group, ``[channels, fan]``.

    Returns:
        Scores ``[channels]``, float64, in the unit of the weights. An all-zero row scores 0, the least.

    Example:
        >>> l2(torch.tensor([[3.0, -4.0], [0.0, 0.5]]))
        tensor([5.0000, 0.5000], dtype=torch.float64)

    Source:
        He et al. 2018, Soft Filter Pruning, arXiv:1808.06866.
    """
    return weight.double().square().sum(1).sqrt()


def random(channels: int, generator: torch.Generator) -> Tensor:
    """Uniform scores: the baseline that every criterion must beat.

    Args:
        channels: Units in the group.
        generator: Source of the numbers; the global random state is never touched.

    Returns:
        Scores ``[channels]``, float64 in [0, 1).

    Example:
        >>> random(3, torch.Generator().manual_seed(0)).shape
        torch.Size([3])
    """
    return torch.rand(channels, generator=generator, dtype=torch.float64)
