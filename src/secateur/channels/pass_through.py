"""What stands where a block was: a module that hands its input on, at every place that held the block."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor, nn

from secateur.channels.nested import tensors_in


class PassThrough(nn.Module):
    """Hands its first tensor on and ignores further arguments, whatever they are called.

    It stands where a block was that is called with more than one argument (a mask, say), which ``torch.nn.Identity`` does
    not take.

    Example:
        >>> import torch
        >>> PassThrough()(torch.ones(2), None, mask=torch.zeros(2))
        tensor([1., 1.])
    """

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Give the first tensor back, positional arguments first."""
        return next(tensors_in((args, kwargs)))


def stand_in(*, alone: bool) -> nn.Module:
    """What takes the place of a block: an identity where it is called with one argument, else a `PassThrough`."""
    return nn.Identity() if alone else PassThrough()


def put_in(model: nn.Module, stand_ins: Mapping[int, nn.Module]) -> None:
    """Replace modules, by their identity, wherever the network's modules hold them: as children, attributes, in lists.

    Args:
        model: The network, which is changed. The names of all other modules stay.
        stand_ins: By the identity of a module what takes its place.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
        >>> put_in(net, {id(net[1]): nn.Identity()})
        >>> net[1]
        Identity()
    """
    for module in list(model.modules()):
        _replace(vars(module), stand_ins)


def _replace(table: dict[Any, object], stand_ins: Mapping[int, nn.Module]) -> None:
    """Replace modules among the values of a dictionary."""
    for key, value in list(table.items()):
        new = _with(value, stand_ins)
        if new is not value:
            table[key] = new


def _with(value: object, stand_ins: Mapping[int, nn.Module]) -> object:
    """A value in which modules are replaced; lists and dictionaries stay the same objects."""
    if id(value) in stand_ins:
        return stand_ins[id(value)]
    if isinstance(value, dict):
        _replace(cast("dict[Any, object]", value), stand_ins)
    elif isinstance(value, list):
        entries = cast("list[object]", value)
        entries[:] = [_with(entry, stand_ins) for entry in entries]
    elif type(value) is tuple:
        entries = cast("tuple[object, ...]", value)
        new = tuple(_with(entry, stand_ins) for entry in entries)
        return new if any(a is not b for a, b in zip(new, entries, strict=True)) else entries
    return cast("object", value)
