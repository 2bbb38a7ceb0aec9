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
    # a transposed weight is read in the order in which it lies
    lengthwise = weight.stride(0) < weight.stride(1)
    table = weight.t() if lengthwise else weight
    some = min(max(_AT_ONCE // table.shape[1], 1), table.shape[0])
    # one piece of memory for all: to ask for it anew each time takes longer than the sums do
    space = torch.empty(some, table.shape[1], dtype=torch.float64, device=weight.device)
    pieces = (table[start : start + some] for start in range(0, len(table), some))
    sums = (space[: len(piece)].copy_(piece).abs_().sum(0 if lengthwise else 1) for piece in pieces)
    return (sum(sums, torch.zeros_like(space[0])) if lengthwise else torch.cat(list(sums))).cpu()


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
