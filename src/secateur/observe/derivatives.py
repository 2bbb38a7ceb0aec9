"""Losses, gradients and the Hessian's diagonal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from secateur.errors import DataError, ModelError, SettingsError

Loss: TypeAlias = Callable[[Any, Any], Tensor]
"""From the model's output and the targets to the mean loss over the batch, a scalar."""


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy of a classifier; the loss where none is given.

    Args:
        outputs: Logits ``[n, classes, ...]``.
        targets: Class indices ``[n, ...]``, int64.

    Raises:
        DataError: A label is not the index of a class.
        ModelError: The output is not one tensor.

    Example:
        >>> cross_entropy(torch.tensor([[0.0, 0.0]]), torch.tensor([1]))
        tensor(0.6931)
    """
    if not isinstance(outputs, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ModelError(
            f"the model gives a {type(outputs).__name__}, cross entropy needs one tensor of logits; pass loss=..."
        )
    if not targets.is_floating_point():
        low, high = int(targets.min()), int(targets.max())
        if low < 0 or high >= outputs.shape[1]:
            raise DataError(
                f"labels run from {low} to {high}, but the model has {outputs.shape[1]} outputs;"
                " labels must be 0 to outputs - 1"
            )
    return F.cross_entropy(outputs, targets)


def gradients(loss: Tensor, wanted: Sequence[Tensor], *, twice: bool) -> tuple[Tensor, ...]:
    """Gradients of a scalar loss; zero for what it does not depend on.

    Args:
        loss: The mean loss, a scalar.
        wanted: Tensors of the graph.
        twice: Whether the gradients will be differentiated again.

    Raises:
        SettingsError: The loss is not a scalar.
        ModelError: The loss depends on nothing that can be differentiated.
    """
    if not wanted:
        return ()
    if loss.numel() != 1:
        raise SettingsError(
            f"the loss has shape {tuple(loss.shape)}; it must be one number, the mean over the batch"
        )
    if not loss.requires_grad:
        raise ModelError(
            "the loss has no gradient: the model's output or the loss function is detached from the weights;"
            " use a weight criterion such as 'l1'"
        )
    return torch.autograd.grad(
        loss.reshape(()),
        wanted,
        create_graph=twice,
        retain_graph=twice,
        allow_unused=True,
        materialize_grads=True,
    )


def hessian_diagonal(
    first: Sequence[Tensor], weights: Sequence[Tensor], *, probes: int, generator: torch.Generator
) -> tuple[Tensor, ...]:
    r"""Hutchinson's estimate of the Hessian's diagonal.

    :math:`\mathrm{diag}(H) \approx \frac{1}{K} \sum_k z_k \odot H z_k`, with entries of :math:`z_k` being +1 or -1. Unbiased;
    exact with one probe where the Hessian is diagonal. (A custom function marked ``once_differentiable`` counts as linear:
    torch does not say so.) The variance of entry i is :math:`\sum_{j \ne i} H_{ij}^2 / K`.

    Args:
        first: Gradients of the loss for the weights, with their graph.
        weights: The weights.
        probes: Number of probes K, at least 1.
        generator: Source of the probes, on the CPU.

    Returns:
        One tensor a weight, of its shape.

    Raises:
        ModelError: An operator of the model cannot be differentiated twice.

    Example:
        >>> w = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> (g,) = gradients((torch.tensor([3.0, 5.0]) * w**2).sum(), [w], twice=True)
        >>> hessian_diagonal([g], [w], probes=1, generator=torch.Generator())
        (tensor([ 6., 10.]),)

    Source:
        Bekas, Kokiopoulou, Saad 2007, An estimator for the diagonal of a matrix.
    """
    totals = [torch.zeros_like(weight) for weight in weights]
    for _ in range(probes):
        signs = [
            (torch.randint(0, 2, weight.shape, generator=generator) * 2 - 1).to(weight) for weight in weights
        ]
        product = torch.stack([(g * z).sum() for g, z in zip(first, signs, strict=True)]).sum()
        if not product.requires_grad:
            break  # the loss is linear in the weights: its curvature is zero
        try:
            curved = torch.autograd.grad(
                product, weights, retain_graph=True, allow_unused=True, materialize_grads=True
            )
        except RuntimeError as error:
            raise ModelError(
                f"the Hessian's diagonal needs an operator's second derivative, which failed: {error};"
                " use the criterion 'taylor' or 'l1' for this network"
            ) from error
        for total, z, hz in zip(totals, signs, curved, strict=True):
            total.add_(z * hz.detach())
    return tuple(total / probes for total in totals)
