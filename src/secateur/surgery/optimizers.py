"""Optimisers follow a cut: what they keep for each number of a weight goes where that number goes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn

from secateur.errors import ModelError
from secateur.surgery.tensors import Part, changed

Axes: TypeAlias = Mapping[int, Mapping[int, Sequence[Part]]]
"""What happens to each axis of each tensor, by the tensor's identity."""


def check_optimizers(optimizers: Iterable[torch.optim.Optimizer], model: nn.Module, axes: Axes) -> None:
    """Refuse optimisers that could not follow, before anything changes.

    Raises:
        ModelError: An optimiser holds no parameter of the network, or keeps numbers that belong to no single weight
            (the flat history of L-BFGS, say, which is refused before there is one, too).
    """
    own = {id(parameter) for parameter in model.parameters()}
    for optimizer in optimizers:
        held = [parameter for settings in optimizer.param_groups for parameter in settings["params"]]
        if not any(id(parameter) in own for parameter in held):
            raise ModelError(
                f"the optimiser {type(optimizer).__name__} holds none of the network's parameters, so it would go on"
                " training another one; give the optimiser that was made for this network"
            )
        if any(id(parameter) in axes for parameter in held):
            if isinstance(
                optimizer, torch.optim.LBFGS
            ):  # also before its first step: nobody would expect it then
                raise ModelError(
                    f"the optimiser {type(optimizer).__name__} keeps one history for all parameters, which cannot be cut with it;"
                    " cut without it and make a new one"
                )
            _check_state(optimizer)


def _check_state(optimizer: torch.optim.Optimizer) -> None:
    for parameter, state in optimizer.state.items():
        for key, value in cast("dict[str, Any]", state).items():
            if not _fits(value, tuple(parameter.shape)):
                told = tuple(value.shape) if isinstance(value, Tensor) else "of several tensors"
                raise ModelError(
                    f"the optimiser {type(optimizer).__name__} keeps {key!r} {told} for a parameter of shape"
                    f" {tuple(parameter.shape)}, which cannot be cut with it; cut without it and make a new one"
                )


def _fits(value: object, shape: tuple[int, ...]) -> bool:
    """Whether it is known which number of a value belongs to which weight: axis by axis, or one for all."""
    if isinstance(value, Tensor):
        same = value.dim() == len(shape) and all(a in (1, b) for a, b in zip(value.shape, shape, strict=True))
        return same or value.numel() == 1
    if isinstance(value, (list, tuple)):
        return not any(isinstance(entry, Tensor) for entry in cast("Sequence[object]", value))
    return True


@torch.no_grad()
def follow(
    optimizers: Iterable[torch.optim.Optimizer],
    model: nn.Module,
    *,
    axes: Axes,
    shapes: Mapping[int, tuple[int, ...]],
    moved: Mapping[int, Tensor],
) -> None:
    """Point optimisers at the parameters of a cut network; those that are no longer in it are let go.

    Settings, order and parameters of other networks stay, so schedulers and gradient scalers go on as they are.

    Args:
        optimizers: The optimisers, which are changed.
        model: The network after the cut.
        axes: What happened to each axis of each old tensor.
        shapes: The old shapes.
        moved: The new tensor of each old one.
    """
    live = {id(parameter) for parameter in model.parameters()}
    for optimizer in optimizers:
        for settings in optimizer.param_groups:
            _follow_group(optimizer, settings, live, axes=axes, shapes=shapes, moved=moved)


def _follow_group(
    optimizer: torch.optim.Optimizer,
    settings: dict[str, Any],
    live: set[int],
    *,
    axes: Axes,
    shapes: Mapping[int, tuple[int, ...]],
    moved: Mapping[int, Tensor],
) -> None:
    stay: list[int] = []
    parameters: list[Tensor] = settings["params"]
    for position, parameter in enumerate(parameters):
        new = moved.get(id(parameter), parameter)
        parameters[position] = new
        state: dict[str, Any] | None = optimizer.state.pop(parameter, None)
        if id(parameter) in moved and id(new) not in live:
            continue
        stay.append(position)
        if state is None:
            continue
        for key, value in state.items():
            if id(parameter) in axes and isinstance(value, Tensor):
                state[key] = _taken(value, axes[id(parameter)], shapes[id(parameter)])
        optimizer.state[new] = state
    parameters[:] = [parameters[position] for position in stay]
    names: list[str] | None = settings.get("param_names")
    if names is not None:
        names[:] = [names[position] for position in stay]


def _taken(value: Tensor, axes: Mapping[int, Sequence[Part]], shape: tuple[int, ...]) -> Tensor:
    """What an optimiser keeps for a weight, taken along the axes that it shares with it (a factored one has fewer)."""
    if value.dim() != len(shape):
        return value
    shared = {axis: parts for axis, parts in axes.items() if value.shape[axis] == shape[axis]}
    return changed(value, shared, mixed=False) if shared else value
