"""How large a network is in memory."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True, slots=True)
class Size:
    """Numbers and bytes that a network holds; tensors that are shared count once.

    Attributes:
        parameters: Numbers in parameters.
        trainable: Of these, numbers that need a gradient.
        buffers: Numbers in buffers (running means and the like).
        bytes: Bytes of both together, as held in memory.
    """

    parameters: int
    trainable: int
    buffers: int
    bytes: int


def measure_size(model: nn.Module) -> Size:
    """Count a network's numbers and bytes. Multiply-adds are ``secateur.cost``'s.

    Args:
        model: The network.

    Returns:
        Its size.

    Example:
        >>> measure_size(nn.BatchNorm1d(3))
        Size(parameters=6, trainable=6, buffers=7, bytes=56)
    """
    parameters, buffers = list(model.parameters()), list(model.buffers())
    return Size(
        parameters=sum(p.numel() for p in parameters),
        trainable=sum(p.numel() for p in parameters if p.requires_grad),
        buffers=sum(b.numel() for b in buffers),
        bytes=sum(t.numel() * t.element_size() for t in [*parameters, *buffers]),
    )
