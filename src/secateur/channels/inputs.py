"""Networks that read only some features of their input."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

ATTRIBUTE = "_secateur_inputs"


class KeepInputs:
    """Picks the features that a network still reads from the full input. Runs before its forward."""

    def __init__(self, indices: list[int], axis: int, size: int) -> None:
        """Keep ``indices`` of ``axis`` (-1: the positions of the flattened input), which had ``size`` of them."""
        self.indices, self.axis, self.size = indices, axis, size
        self._index: Tensor | None = None

    def __call__(self, _module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Replace the first argument by its kept features; one that has only these passes as it is."""
        x: Tensor = args[0]
        if self.axis == -1:
            x = x.flatten(1)
        axis = 1
        if x.shape[axis] != self.size:
            return (x, *args[1:])
        if self._index is None or self._index.device != x.device:
            self._index = torch.tensor(self.indices, device=x.device)
        return (x.index_select(axis, self._index), *args[1:])

    def __deepcopy__(self, memo: dict[int, Any]) -> KeepInputs:
        return KeepInputs(list(self.indices), self.axis, self.size)


def kept_inputs(model: nn.Module) -> KeepInputs | None:
    """What a network keeps of its input, if it was cut there."""
    return next((hook for hook in _pre_hooks(model).values() if isinstance(hook, KeepInputs)), None)


def _pre_hooks(model: nn.Module) -> dict[int, object]:
    """The table of hooks that run before a network's forward; PyTorch gives no public way to look into it."""
    return cast("dict[int, object]", vars(model)["_forward_pre_hooks"])


def keep_inputs(model: nn.Module, indices: list[int], *, axis: int, size: int) -> None:
    """Let a network read only some features of its input; the caller goes on passing all of them.

    Args:
        model: The network, whose first layer has already been cut to these features.
        indices: Positions in the network's *current* input that stay.
        axis: 1 for a channel or feature axis, -1 for positions of the input flattened from axis 1 on.
        size: The length of that axis.
    """
    before = kept_inputs(model)
    if before is not None:
        indices = [before.indices[index] for index in indices]
        axis, size = before.axis, before.size
        hooks = _pre_hooks(model)
        for key in [key for key, hook in hooks.items() if hook is before]:
            del hooks[key]
    model.register_forward_pre_hook(KeepInputs(indices, axis, size))
    setattr(model, ATTRIBUTE, {"axis": axis, "indices": list(indices), "size": size})
