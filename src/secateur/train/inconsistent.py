"""Inconsistent steps: batches whose loss stands out are trained on again at once, cautiously."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import torch
from torch import Tensor, nn

_DEVIATIONS: Final = 3.0
_CAUTION: Final = 0.1


class LossLimit:
    r"""The control limit of losses: :math:`\bar\psi + 3 \sigma` over the last epoch's batches.

    Args:
        count: Batches of an epoch, of which the losses are kept.
        losses: Those of before, where a training goes on.

    Example:
        >>> limit = LossLimit(4)
        >>> [limit.after(loss) for loss in (1.0, 2.0, 1.0)], round(limit.after(2.0), 2)
        ([inf, inf, inf], 3.0)
    """

    def __init__(self, count: int, losses: Iterable[float] = ()) -> None:
        self.losses: deque[float] = deque(losses, maxlen=count)
        self._count = count

    def after(self, loss: float) -> float:
        """The limit once a loss is known; infinite before an epoch of them is."""
        self.losses.append(loss)
        if len(self.losses) < self._count:
            return math.inf
        mean = math.fsum(self.losses) / self._count
        variance = math.fsum((one - mean) ** 2 for one in self.losses) / self._count
        return mean + _DEVIATIONS * math.sqrt(variance)


def conserve(
    loss_of: Callable[[], Tensor],
    parameters: Sequence[nn.Parameter],
    *,
    limit: float,
    lr: float,
    steps: int,
    backward: Callable[[Tensor], None],
) -> int:
    r"""Bring the loss on one batch down towards a limit without going far from where the weights are.

    Each step goes down the gradient of :math:`\tfrac12 (\psi(w) - \ell)^2 + \tfrac{\epsilon}{2 n} \lVert w - w_0 \rVert^2`, with
    :math:`\epsilon = 0.1` and n the number of weights.

    Args:
        loss_of: The batch's loss, anew.
        parameters: What is trained; their gradients are cleared.
        limit: ℓ, where to stop.
        lr: The rate of these steps.
        steps: How many there are at most.
        backward: Differentiates a loss.

    Returns:
        How many steps were taken.

    Example:
        >>> weight = nn.Parameter(torch.tensor([3.0]))
        >>> conserve(lambda: weight.square().sum(), [weight], limit=4.0, lr=0.01, steps=5, backward=lambda loss: loss.backward())
        5
        >>> 4.0 < float(weight.detach().square()) < 6.0
        True

    Source:
        Wang et al. 2016, Accelerating deep neural network training with inconsistent stochastic gradient descent, arXiv:1603.05544, algorithms 1 and 2.
    """
    before = [parameter.detach().clone() for parameter in parameters]
    pull = _CAUTION / sum(parameter.numel() for parameter in parameters)
    taken = 0
    while taken < steps:
        loss = loss_of()
        above = float(loss.detach()) - limit
        if not above > 0:
            break
        for parameter in parameters:
            parameter.grad = None
        backward(loss)
        with torch.no_grad():
            for parameter, start in zip(parameters, before, strict=True):
                if parameter.grad is not None:
                    parameter.sub_(lr * (above * parameter.grad + pull * (parameter - start)))
        taken += 1
    for parameter in parameters:
        parameter.grad = None
    return taken
