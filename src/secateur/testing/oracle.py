"""The oracle: what a network computes when nobody reads the removed channels."""

from __future__ import annotations

import copy
import inspect
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from secateur.channels import INPUT
from secateur.errors import PlanError
from secateur.plan import Plan

_NORM_FUNCTIONS = (F.layer_norm, F.group_norm, F.rms_norm)
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


class _KeptNorms(TorchFunctionMode):
    """Inside, layer, group and RMS norms of some weights take their statistics over kept positions; others become zero."""

    def __init__(self, kept: Mapping[Tensor, dict[int, Tensor]]) -> None:
        super().__init__()
        self.kept = kept

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in _NORM_FUNCTIONS:
            return func(*args, **kwargs)
        given = inspect.signature(func).bind(*args, **kwargs).arguments
        weight = given.get("weight")
        if weight is None or weight not in self.kept:
            return func(*args, **kwargs)
        return _over_kept(func, given, self.kept[weight])


def _over_kept(norm: Any, given: dict[str, Any], kept: Mapping[int, Tensor]) -> Tensor:
    """A call of a norm on the kept positions of some axes of its weight."""
    x, weight = given["input"], given["weight"]
    first = 1 if norm is F.group_norm else x.dim() - weight.dim()
    index = [torch.arange(size) for size in x.shape]
    smaller = dict(given)
    for axis, positions in kept.items():
        index[first + axis] = positions
        for name in ("weight", "bias"):
            if smaller.get(name) is not None:
                smaller[name] = smaller[name].index_select(axis, positions)
    grid = torch.meshgrid(*index, indexing="ij")
    smaller["input"] = x[grid]
    if norm is not F.group_norm:
        smaller["normalized_shape"] = smaller["weight"].shape
    elif given["num_groups"] == len(weight):
        smaller["num_groups"] = len(smaller["weight"])
    result = torch.zeros_like(x)
    result[grid] = norm(**smaller)
    return result


class _Unread(nn.Module):
    """A network whose norms see the kept channels only."""

    def __init__(self, model: nn.Module, kept: Mapping[Tensor, dict[int, Tensor]]) -> None:
        super().__init__()
        self.model, self.kept = model, kept

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the network."""
        with _KeptNorms(self.kept):
            return self.model(*args, **kwargs)


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
    norms: dict[Tensor, dict[int, NDArray[np.bool_]]] = defaultdict(dict)
    tensors: dict[str, Tensor] = dict(result.named_parameters()) | dict(result.named_buffers())
    for group, change in zip(plan.groups, plan.changes, strict=True):
        if change.mixes or len(change.kept) != len(change.take):
            raise PlanError(
                f"the plan merges, compensates or widens {group.name!r}; leave out what removed units gave instead"
            )
        for member in group.members:
            if member.tensor == INPUT:
                continue
            gone, tensor = member.indices[change.removed].ravel(), tensors[member.tensor]
            derived = (
                member.role == "carry" and member.axis > 0
            )  # a reader whose weight is computed from this one
            if member.role == "read" or derived:
                tensor.index_fill_(member.axis, torch.as_tensor(gone), 0)
            if member.role == "carry" and not group.exact:
                size = tensor.shape[member.axis]
                norms[tensor].setdefault(member.axis, np.ones(size, dtype=bool))[gone] = False
    if not norms:
        return result
    kept = {
        tensor: {axis: torch.as_tensor(np.flatnonzero(alive)) for axis, alive in axes.items()}
        for tensor, axes in norms.items()
    }
    return _Unread(result, kept)
