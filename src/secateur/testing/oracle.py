"""The oracle: what a network computes when nobody reads the removed channels."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.backends import mha

from secateur.channels import INPUT
from secateur.channels.branches import switched_off
from secateur.errors import PlanError
from secateur.plan import Plan
from secateur.surgery.spectral import spectra_of
from secateur.testing.absent import Absent

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


class _Unread(nn.Module):
    """A network some of whose channels are absent: statistics are taken over the others."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the network."""
        before = mha.get_fastpath_enabled()
        mha.set_fastpath_enabled(False)  # it is one operator, in which nothing can be absent
        try:
            with Absent():
                return self.model(*args, **kwargs)
        finally:
            mha.set_fastpath_enabled(before)


def _of_what_is_left(matrix: Tensor, u: Tensor, v: Tensor) -> None:
    """A spectral norm's vectors, where rows or columns of its weight are absent: those of the others."""
    absent = torch.isnan(matrix)
    if not absent.any():
        return
    rows, columns = ~absent.all(1), ~absent.all(0)
    linalg: Any = torch.linalg  # partly untyped
    left, _, right = linalg.svd(matrix[rows][:, columns], full_matrices=False)
    u[rows], v[columns] = left[:, 0], right[0]


@torch.no_grad()
def unread(model: nn.Module, plan: Plan) -> nn.Module:
    """A copy of a network of the same size in which nothing reads what a plan removes.

    The readers' columns of the removed units are zero; the units themselves go on computing. Writers are not masked:
    sigmoid(0) is not 0. Where a norm or another statistic is taken over channels, removing some truly changes the others:
    there the copy marks the removed ones as not a number and takes the same statistic over the kept ones only; a spectral norm is that
    of the rows and columns that are left, whatever the network's estimate of it was. In blocks
    that go whole every parameter is zero.

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
    for block in plan.blocks:
        for tensor, value in switched_off(result.get_submodule(block.name)):
            tensor.copy_(value)
    tensors: dict[str, Tensor] = dict(result.named_parameters()) | dict(result.named_buffers())
    absent = not all(group.exact for group in plan.groups)
    marked: list[tuple[Tensor, int, Tensor]] = []
    for group, change in zip(plan.groups, plan.changes, strict=True):
        if change.mixes or len(change.kept) != len(change.take):
            raise PlanError(
                f"the plan merges, compensates or widens {group.name!r}; leave out what removed units gave instead"
            )
        for member in group.members:
            if member.tensor == INPUT:
                continue
            tensor, gone = tensors[member.tensor], torch.as_tensor(member.indices[change.removed].ravel())
            derived = (
                member.role == "carry" and member.axis > 0
            )  # a reader whose weight is computed from this one
            if member.role == "read" or (derived and not absent):
                tensor.index_fill_(member.axis, gone, 0)
            elif absent and tensor.is_floating_point():
                marked.append((tensor, member.axis, gone))
    for tensor, axis, gone in marked:  # at the end, since a row is absent only if all of it is
        tensor.index_fill_(axis, gone, torch.nan)
    for module in result.modules():
        for matrix, u, v in spectra_of(module):
            _of_what_is_left(matrix, u, v)
    return _Unread(result) if absent else result
