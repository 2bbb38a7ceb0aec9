"""Apply a plan: one operation that prunes, merges and widens."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from secateur._model import named_tensors
from secateur.channels import INPUT, Group, Member, digest_of
from secateur.channels.inputs import keep_inputs
from secateur.errors import PlanError
from secateur.plan.change import Plan
from secateur.surgery.modules import fit_attributes
from secateur.surgery.tensors import Part, bias_shift, change_axis, new_order

CHANGES = "_secateur_changes"
_FORMATS = (torch.channels_last, torch.channels_last_3d)

Parts = dict[str, dict[int, list[Part]]]


def _parts(plan: Plan) -> Parts:
    """What happens to each axis of each tensor."""
    parts: Parts = defaultdict(lambda: defaultdict(list))
    for group, change in zip(plan.groups, plan.changes, strict=True):
        for member in group.members:
            mix = change.mix_for(member.tensor) if member.role == "read" else None
            parts[member.tensor][member.axis].append(Part(member.indices, change.take, mix))
    return parts


def _changed(tensor: Tensor, axes: dict[int, list[Part]], *, mixed: bool = True) -> Tensor:
    """A tensor with all its axes changed; ``mixed=False`` only takes (for what is no weight: squared gradients)."""
    result = tensor
    for axis, parts in axes.items():
        plain = parts if mixed else [Part(part.indices, part.take) for part in parts]
        result = change_axis(result, axis, plain)
    for memory_format, dimensions in zip(_FORMATS, (4, 5), strict=True):
        if (
            tensor.dim() == dimensions
            and not tensor.is_contiguous()
            and tensor.is_contiguous(memory_format=memory_format)
        ):
            return result.contiguous(memory_format=memory_format)
    return result if result is not tensor else tensor.clone()


def _shifts(plan: Plan, tensors: dict[str, Tensor], parts: Parts) -> dict[str, Tensor]:
    """What biases gain from constants that stand for removed units, in the width before the cut."""
    gained: dict[str, Tensor] = {}
    for weight, bias in plan.biases.items():
        for axis, entries in parts.get(weight, {}).items():
            for part in entries:
                shift = bias_shift(tensors[weight], axis, part, length=len(tensors[bias]))
                if shift is not None:
                    gained[bias] = gained[bias] + shift if bias in gained else shift
    return gained


@torch.no_grad()
def _new_tensors(model: nn.Module, plan: Plan, parts: Parts) -> dict[str, Tensor]:
    """The tensors that change, by name."""
    tensors = named_tensors(model)
    shifts = _shifts(plan, tensors, parts)
    result: dict[str, Tensor] = {}
    for name in {*parts, *shifts} - {INPUT}:
        old = tensors[name].detach()
        if name in shifts:
            old = (old.to(torch.float64) + shifts[name]).to(old.dtype)
        result[name] = _changed(old, parts[name]) if name in parts else old
    return result


def _check(model: nn.Module, plan: Plan) -> None:
    found = digest_of(model)
    if found != plan.digest:
        raise PlanError(
            f"the plan was made for another network (structure {plan.digest}, this one is {found});"
            " watch this network and make a plan for it"
        )


def apply(
    model: nn.Module,
    plan: Plan,
    *,
    optimizer: torch.optim.Optimizer | Iterable[torch.optim.Optimizer] | None = None,
    inplace: bool = False,
) -> nn.Module:
    """Cut, merge or widen a network as planned: a new module of the same class.

    Every tensor that writes or carries a channel is indexed by the plan's ``take``; every tensor that reads it is multiplied
    by its ``mix``. Mode, hooks, number and memory formats, devices and ``requires_grad`` stay. Gradients are not kept.

    Args:
        model: The network that the plan was made for. It is left as it is unless ``inplace``.
        plan: What to do.
        optimizer: Optimisers of ``model``: they are pointed at the new parameters, and their state (momentum, running
            squares) follows its channels. With ``inplace=False`` they no longer belong to ``model`` afterwards.
        inplace: Change ``model`` itself, which needs no second copy in memory.

    Returns:
        The network as planned (``model`` itself if ``inplace``).

    Raises:
        PlanError: The plan was made for another network.

    Example:
        >>> import torch, secateur
        >>> net = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
        >>> channels = secateur.watch(net, torch.zeros(1, 8))
        >>> plan = secateur.plan(channels, secateur.score(net, channels, "l1"), remove=0.5)
        >>> apply(net, plan)[0]
        Linear(in_features=8, out_features=3, bias=True)
    """
    _check(model, plan)
    parts = _parts(plan)
    fresh = _new_tensors(model, plan, parts)
    old = named_tensors(model)
    shapes = {id(tensor): tuple(tensor.shape) for tensor in old.values()}
    lengths = {
        (name, axis): tensor.shape[axis] for name, tensor in old.items() for axis in range(tensor.dim())
    }
    if inplace:
        for name, tensor in fresh.items():
            old[name].data = tensor
            old[name].grad = None
        result = model
        moved = {id(old[name]): old[name] for name in fresh}
    else:
        # deepcopy finds the new tensors under the old ones' identities, so nothing is copied that is cut
        memo: dict[int, Any] = {id(old[name]): _as_kind(old[name], tensor) for name, tensor in fresh.items()}
        result = copy.deepcopy(model, memo)
        moved = {id(tensor): memo[id(tensor)] for tensor in old.values()}
    changed = {id(old[name]) for name in fresh}
    for owner in {_owner(name) for name, tensor in old.items() if id(tensor) in changed}:
        fit_attributes(result.get_submodule(owner))
    for entry in _listed(optimizer):
        _follow(entry, {id(old[name]): parts[name] for name in fresh if name in parts}, shapes, moved)
    _record(result, plan, parts, lengths)
    return result


def _owner(tensor: str) -> str:
    """The module whose attributes repeat a tensor's sizes; for a parametrised tensor, the module that it belongs to."""
    module = tensor.rpartition(".")[0]
    return module.rpartition("parametrizations.")[0].rstrip(".") if "parametrizations." in module else module


def _as_kind(old: Tensor, new: Tensor) -> Tensor:
    """A parameter stays a parameter (of its class), a buffer a buffer."""
    return nn.Parameter(new, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else new


def _listed(
    optimizer: torch.optim.Optimizer | Iterable[torch.optim.Optimizer] | None,
) -> list[torch.optim.Optimizer]:
    if optimizer is None:
        return []
    return [optimizer] if isinstance(optimizer, torch.optim.Optimizer) else list(optimizer)


@torch.no_grad()
def _follow(
    optimizer: torch.optim.Optimizer,
    axes: dict[int, dict[int, list[Part]]],
    shapes: dict[int, tuple[int, ...]],
    moved: dict[int, Tensor],
) -> None:
    """Point an optimiser at the new parameters; what it keeps for each number follows that number."""
    for settings in optimizer.param_groups:
        parameters: list[Tensor] = settings["params"]
        for position, parameter in enumerate(parameters):
            state: dict[str, Any] | None = optimizer.state.pop(parameter, None)
            new = moved.get(id(parameter), parameter)
            parameters[position] = new
            if state is None:
                continue
            for key, value in state.items():
                if (
                    id(parameter) in axes
                    and isinstance(value, Tensor)
                    and tuple(value.shape) == shapes[id(parameter)]
                ):
                    state[key] = _changed(value, axes[id(parameter)], mixed=False)
            optimizer.state[new] = state


def _record(model: nn.Module, plan: Plan, parts: Parts, lengths: dict[tuple[str, int], int]) -> None:
    """Keep on the network which positions of the first axis of each group are left, and cut its input.

    Tensors are named, not groups: a group may have another name once others are gone.
    """
    history: dict[tuple[str, int], dict[str, Any]] = {
        (entry["tensor"], entry["axis"]): dict(entry) for entry in getattr(model, CHANGES, [])
    }
    for group, change in zip(plan.groups, plan.changes, strict=True):
        for member in group.by_role("input"):
            size = member.indices.size
            keep_inputs(
                model, np.sort(member.indices[change.take].ravel()).tolist(), axis=member.axis, size=size
            )
    for tensor, axis in {(_leader(group).tensor, _leader(group).axis) for group in plan.groups}:
        if tensor == INPUT:
            continue
        size = lengths[tensor, axis]
        entry = history.setdefault(
            (tensor, axis), {"tensor": tensor, "axis": axis, "size": size, "kept": list(range(size))}
        )
        entry["kept"] = [
            entry["kept"][position] for position in new_order(size, parts[tensor][axis]).tolist()
        ]
    setattr(model, CHANGES, [history[key] for key in sorted(history)])


def _leader(group: Group) -> Member:
    """The member that writes a group first."""
    return (group.by_role("write") or group.members)[0]
