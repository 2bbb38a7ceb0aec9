"""Batch norms whose statistics are those of small groups of a large batch, so that batches can grow at the same accuracy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class GhostNorms(TorchFunctionMode):
    r"""While it is entered, batch norms that are training take their statistics over groups of a batch.

    A batch of n examples is taken as :math:`\max(1, \lfloor n / g \rfloor)` groups as equal in size as can be, of g examples at
    least, each normalised by its own mean and variance. Running statistics move once a step, towards the mean of the groups'.
    What is evaluated is computed as ever. A batch of fewer than 2g examples is one group, which is plain batch norm.

    Args:
        size: g, the examples of a group; 2 or more.

    Example:
        >>> norm, x = torch.nn.BatchNorm1d(3), torch.randn(8, 3)
        >>> with GhostNorms(4):
        ...     y = norm(x)
        >>> bool(torch.allclose(y[:4].mean(0), torch.zeros(3), atol=1e-6))
        True

    Source:
        Hoffer, Hubara and Soudry 2017, Train longer, generalize better, arXiv:1705.08741, algorithm 1. There the running statistics are moved by
        each group in turn.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Compute a batch norm in groups if it is training on more than one."""
        if func is not F.batch_norm:
            return func(*args, **(kwargs or {}))
        return self._norm(*args, **(kwargs or {}))

    def _norm(  # noqa: PLR0917 - batch_norm may be called so
        self,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        groups = len(input) // self.size
        running = [one for one in (running_mean, running_var) if one is not None]
        if not training or groups < 2:
            return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
        moved = [[one.clone() for _ in range(groups)] for one in running] or [[None] * groups] * 2
        parts = [
            F.batch_norm(part, mean, variance, weight, bias, True, momentum, eps)
            for part, mean, variance in zip(torch.tensor_split(input, groups), *moved, strict=True)
        ]
        for one, each in zip(running, moved, strict=False):
            one.copy_(torch.stack([found for found in each if found is not None]).mean(0))
        return torch.cat(parts)
