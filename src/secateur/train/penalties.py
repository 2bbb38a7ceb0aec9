"""Penalties that a loss carries so that channels die while a network trains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from secateur._model import unwrapped
from secateur._options import expect
from secateur.channels import Channels, Group, Member
from secateur.train.forward import device_of

_linalg: Any = torch.linalg  # partly untyped


@dataclass(frozen=True, slots=True, eq=False)
class _Side:
    """The weights by which one tensor writes, or reads, the units of one group.

    Attributes:
        tensor: Its name.
        axis: The axis on which the units lie.
        shape: Units, and positions of each.
        order: The positions, unit by unit; None where they are the whole axis as it stands.
    """

    tensor: str
    axis: int
    shape: tuple[int, int]
    order: Tensor | None

    def norms(self, weight: Tensor) -> Tensor:
        """The Euclidean norm of each unit's weights, ``[width]``."""
        if self.order is not None:
            weight = weight.index_select(self.axis, self.order.to(weight.device))
        parts = weight.reshape(*weight.shape[: self.axis], *self.shape, *weight.shape[self.axis + 1 :])
        others = [axis for axis in range(parts.dim()) if axis != self.axis]
        return _linalg.vector_norm(parts, dim=others)


class GroupLasso:
    r"""Group lasso over units: what pushes all weights that write or read a unit to zero together.

    :math:`\lambda \sum_g \sum_{u \in g} \bigl( \sum_{w} \|W_{w,u}\|_2 + \sum_{r} \|W_{r,u}\|_2 \bigr)`, over the tensors w that
    write a unit u of a group g and the tensors r that read it. In a plain chain of convolutions these are, for each layer, its
    filters and its input channels, but for the inputs of the first layer and the outputs of the last. Where layers meet in an
    addition, the units are those that they share. Biases, norms and frozen weights are left out, and so are units
    that cannot go.

    Args:
        channels: What watching the network found.
        strength: λ.

    Example:
        >>> import secateur
        >>> net = nn.Sequential(nn.Linear(3, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False))
        >>> for weight in net.parameters():
        ...     _ = nn.init.ones_(weight)
        >>> lasso = GroupLasso(secateur.watch(net, torch.zeros(1, 3)))
        >>> f"{lasso(net).detach():.4f}"  # two units, each written by three ones and read by one: 2 (sqrt 3 + 1)
        '5.4641'

    Source:
        Lym et al. 2019, PruneTrain, arXiv:1901.09290, equation 2, there of convolutions alone. Yuan and Lin 2006 weigh a group by the
        root of its size, which PruneTrain does not.
    """

    def __init__(self, channels: Channels, *, strength: float = 1.0) -> None:
        expect("GroupLasso(channels)", channels=(channels, Channels))
        self.strength = strength
        self._sides = [
            _side(group, member, channels.shapes[member.tensor][member.axis])
            for group in channels.groups
            for member in group.by_role("write", "read")
            if member.tensor in channels.trainable
        ]

    @property
    def weights(self) -> tuple[str, ...]:
        """The names of the weights that it is over, each once."""
        return tuple(dict.fromkeys(side.tensor for side in self._sides))

    def __call__(self, model: nn.Module) -> Tensor:
        """The penalty of a network of the structure that was watched, a scalar with a gradient.

        Args:
            model: The network, wrapped or not. Weights that need no gradient add nothing.
        """
        network = unwrapped(model)
        weights = {side.tensor: network.get_parameter(side.tensor) for side in self._sides}
        trained = [
            side.norms(weights[side.tensor]) for side in self._sides if weights[side.tensor].requires_grad
        ]
        if not trained:
            return torch.zeros((), device=device_of(network))
        return torch.cat(trained).sum() * self.strength


def _side(group: Group, member: Member, length: int) -> _Side:
    order = member.indices.ravel()
    whole = len(order) == length and bool((order == np.arange(length)).all())
    shape = (group.width, member.block)
    return _Side(member.tensor, member.axis, shape, None if whole else torch.as_tensor(order.copy()))
