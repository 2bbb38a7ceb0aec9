"""Gradients of activations of which most are zero: an unbiased thinning of what flows back through a network."""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import contextmanager
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor, nn

_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


def thinned(gradient: Tensor, share: float) -> Tensor:
    r"""A gradient of which about a share is zero, and whose expected value is the gradient itself.

    Values g below a threshold :math:`\tau` become :math:`\pm\tau` with probability :math:`|g| / \tau` and else zero; larger ones stay.
    With :math:`\sigma = \sqrt{\pi / 2}\,\overline{|g|}`, as of a normal distribution, :math:`\tau = \sigma\,\Phi^{-1}((1 + p) / 2)` is above the share p of the values.

    Args:
        gradient: Of any shape.
        share: p, at least 0 and below 1. Of these, some become :math:`\pm\tau`, so that fewer are zero.

    Example:
        >>> g = torch.tensor([0.001, -0.002, 3.0])
        >>> torch.equal(thinned(g, 0.0), g), float(thinned(g, 0.5)[2])
        (True, 3.0)

    Source:
        Ye et al. 2020, Accelerating CNN training by pruning activation gradients, arXiv:1908.00173, section 3. There the threshold of a batch is foretold from those
        before; here it is that of the batch itself.
    """
    if share == 0:
        return gradient
    size = gradient.abs()
    threshold = size.mean() * (math.sqrt(math.pi / 2) * NormalDist().inv_cdf((1 + share) / 2))
    drawn = torch.where(
        torch.rand_like(size) * threshold < size, threshold * gradient.sign(), torch.zeros_like(size)
    )
    return torch.where(size < threshold, drawn, gradient)


@contextmanager
def sparse_gradients(model: nn.Module, share: float) -> Generator[None]:
    """Thin the gradients that convolutions and dense layers hand back from their outputs, for a while.

    Args:
        model: The network; it is left as it was.
        share: As for `thinned`.

    Example:
        >>> net, x = nn.Linear(50, 50), torch.randn(20, 50)
        >>> with sparse_gradients(net, 0.9):
        ...     net(x).square().sum().backward()
        >>> net.weight.grad.shape
        torch.Size([50, 50])
    """

    def back(gradient: Tensor) -> Tensor:
        return thinned(gradient, share)

    def ahead(_: nn.Module, __: Any, output: Tensor) -> None:
        if output.requires_grad:
            output.register_hook(back)  # pyright: ignore[reportUnknownMemberType]

    hooks = [module.register_forward_hook(ahead) for module in model.modules() if isinstance(module, _LAYERS)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
