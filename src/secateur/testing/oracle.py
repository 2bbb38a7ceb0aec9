"""The oracle: what a network computes when nobody reads the removed channels."""

from __future__ import annotations

import copy
from collections import defaultdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from secateur.errors import PlanError
from secateur.plan import Plan

_Norm = nn.LayerNorm | nn.RMSNorm | nn.GroupNorm
_BATCH_NORMS = (nn.modules.batchnorm._NormBase,)  # pyright: ignore[reportPrivateUsage] - every batch and instance norm
_NORMS = (*_BATCH_NORMS, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


@torch.no_grad()
def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give every parameter and every norm's statistics random values, in place; fresh networks hide bugs.

    Norms begin with scale 1 and shift 0, biases often with 0: whatever permutes or drops these is not seen. Matrices and
    kernels keep the variance of what runs through them.

    Args:
        model: The network.
        seed: What the values are drawn from; the global random state is not used.

    Returns:
        The same network.

    Example:
        >>> norm = randomise(nn.BatchNorm2d(2))
        >>> bool((norm.weight != 1).all() and (norm.running_mean != 0).all())
        True
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(tensor: Tensor, scale: float) -> None:
        tensor.copy_(torch.randn(tensor.shape, generator=generator, dtype=torch.float64) * scale)

    for parameter in model.parameters():
        fan = parameter[0].numel() if parameter.dim() > 1 else 4
        normal(parameter, fan**-0.5)
    for module in model.modules():
        if not isinstance(module, _NORMS):
            continue
        scale: Any = module.weight
        if scale is not None:
            size = torch.rand(scale.shape, generator=generator) + 0.5
            scale.copy_(size * (torch.rand(scale.shape, generator=generator).round() * 2 - 1))
        if (
            isinstance(module, _BATCH_NORMS)
            and module.running_mean is not None
            and module.running_var is not None
        ):
            normal(module.running_mean, 0.5)
            module.running_var.copy_(torch.rand(module.running_var.shape, generator=generator) + 0.5)
    return model


class _KeptNorm(nn.Module):
    """A layer, group or RMS norm that takes its statistics over the kept channels only; the others come out as zero."""

    def __init__(self, norm: _Norm, kept: dict[int, NDArray[np.bool_]]) -> None:
        super().__init__()
        self.norm, self.kept = (
            norm,
            {axis: torch.as_tensor(alive.nonzero()[0]) for axis, alive in kept.items()},
        )

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x`` where it is kept."""
        norm = self.norm
        weight, bias = norm.weight, getattr(norm, "bias", None)
        first = 1 if isinstance(norm, nn.GroupNorm) else x.dim() - weight.dim()
        index = [torch.arange(size) for size in x.shape]
        for axis, positions in self.kept.items():
            weight = weight.index_select(axis, positions)
            bias = None if bias is None else bias.index_select(axis, positions)
            index[first + axis] = positions
        grid = torch.meshgrid(*index, indexing="ij")
        part = x[grid]
        if isinstance(norm, nn.GroupNorm):
            groups = len(weight) if norm.num_groups == norm.num_channels else norm.num_groups
            part = nn.functional.group_norm(part, groups, weight, bias, norm.eps)
        elif isinstance(norm, nn.LayerNorm):
            part = nn.functional.layer_norm(part, weight.shape, weight, bias, norm.eps)
        else:
            part = nn.functional.rms_norm(part, weight.shape, weight, norm.eps)
        result = torch.zeros_like(x)
        result[grid] = part
        return result


@torch.no_grad()
def unread(model: nn.Module, plan: Plan) -> nn.Module:
    """A copy of a network of the same size in which nothing reads what a plan removes.

    The readers' columns of the removed units are zero; the units themselves go on computing. Writers are not masked:
    sigmoid(0) is not 0. Where a norm takes statistics over channels, removing some truly changes the others: there the copy
    computes the same norm over the kept channels only.

    Args:
        model: The network that the plan was made for.
        plan: A plan that only removes. (What merging or widening does has other oracles.)

    Returns:
        The copy.

    Raises:
        PlanError: The plan merges, compensates or widens.

    Example:
        >>> import secateur
        >>> net = nn.Sequential(nn.Linear(3, 4), nn.Sigmoid(), nn.Linear(4, 2))
        >>> channels = secateur.watch(net, torch.zeros(1, 3))
        >>> plan = secateur.plan(channels, secateur.score(net, channels, "l1"), remove=0.5)
        >>> int((unread(net, plan)[2].weight == 0).sum())
        4
    """
    result = copy.deepcopy(model)
    norms: dict[str, dict[int, NDArray[np.bool_]]] = defaultdict(dict)
    tensors: dict[str, Tensor] = dict(result.named_parameters()) | dict(result.named_buffers())
    for group, change in zip(plan.groups, plan.changes, strict=True):
        if change.mixes or len(change.kept) != len(change.take):
            raise PlanError(
                f"the plan merges, compensates or widens {group.name!r}; leave out what removed units gave instead"
            )
        for member in group.members:
            gone = member.indices[change.removed].ravel()
            derived = (
                member.role == "carry" and member.axis > 0
            )  # a reader whose weight is computed from this one
            if member.role == "read" or derived:
                tensors[member.tensor].index_fill_(member.axis, torch.as_tensor(gone), 0)
            owner = member.tensor.rpartition(".")[0]
            if not group.exact and isinstance(result.get_submodule(owner), _Norm):
                size = tensors[member.tensor].shape[member.axis]
                norms[owner].setdefault(member.axis, np.ones(size, dtype=bool))[gone] = False
    for name, kept in norms.items():
        norm = result.get_submodule(name)
        if isinstance(norm, _Norm):
            result.set_submodule(name, _KeptNorm(norm, kept))
    return result
