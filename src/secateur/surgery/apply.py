"""Apply a plan: one operation that prunes, merges and widens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from secateur._model import copied, named_tensors, uncollected, unwrapped
from secateur._options import expect
from secateur.channels import INPUT, Group, Member, digest_of, tensors_gone
from secateur.channels.attributes import fit_attributes, set_attribute
from secateur.channels.copies import owner_of
from secateur.channels.inputs import keep_inputs
from secateur.errors import PlanError, SettingsError
from secateur.plan.change import Plan, Setting
from secateur.surgery.blocks import is_gone, record_blocks, stand_ins, take_out
from secateur.surgery.optimizers import Axes, check_optimizers, follow
from secateur.surgery.replaced import forget_replaced
from secateur.surgery.spectral import settle_spectra
from secateur.surgery.tensors import Parts, bias_shift, changed, new_order, parts_of
from secateur.surgery.wrappers import check_wrappers, cut_inside, forget_graphs

CHANGES = "_secateur_changes"
SETTINGS = "_secateur_settings"

T = TypeVar("T")


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
        result[name] = changed(old, parts[name]) if name in parts else old
    return result


def _check(networks: Sequence[nn.Module], plan: Plan) -> None:
    """Refuse a plan that was made for another network than one of these, and a network that is there twice."""
    for network in networks:
        found = digest_of(network)
        if found != plan.digest:
            raise PlanError(
                f"the plan was made for another network (structure {plan.digest}, this one is {found});"
                " watch this network and make a plan for it"
            )
    if len({id(network) for network in networks}) < len(networks):
        raise SettingsError(
            "one network is given twice, as `model` and in `averages` or twice there, so it would be cut twice;"
            " give each network once"
        )


def _several(given: object, kind: type[T], name: str) -> list[T]:
    """One or several of a kind, as a list."""
    single = given is None or isinstance(given, kind) or not hasattr(given, "__iter__")
    found: list[Any] = ([] if given is None else [given]) if single else list(cast("Any", given))
    for one in found:
        if not isinstance(one, kind):
            hint = "; a scheduler goes on by itself with its optimiser: give scheduler.optimizer"
            raise SettingsError(
                f"{name}= holds something of class {type(one).__name__}, and takes one or several of {kind.__name__}"
                f"{hint if hasattr(one, 'optimizer') else ''}"
            )
    return cast("list[T]", found)


def apply(
    model: nn.Module,
    plan: Plan,
    *,
    optimizer: torch.optim.Optimizer | Iterable[torch.optim.Optimizer] | None = None,
    averages: nn.Module | Iterable[nn.Module] | None = None,
    inplace: bool = False,
) -> nn.Module:
    """Cut, merge or widen a network as planned: a new module of the same class.

    Blocks that go whole are replaced by ``torch.nn.Identity``, or by `secateur.channels.PassThrough` where they are called with
    more than one argument, so that the names of all other modules stay. Their hooks go with them.

    Every tensor that writes or carries a channel is indexed by the plan's ``take``; every tensor that reads it is multiplied
    by its ``mix``. Mode, hooks, number and memory formats, devices and ``requires_grad`` stay. Gradients are not kept.

    A spectral norm is that of what is left: its estimate is brought up to date. So are, by themselves, all statistics over channels.

    A network inside ``torch.compile``, ``DistributedDataParallel``, ``DataParallel`` or ``AveragedModel`` is cut inside, and
    what comes back is wrapped in the same way, with the same options; graphs that were compiled are dropped. The plan is that of the network itself. On several
    processes each one must call this with the same plan.

    Args:
        model: The network that the plan was made for. It is left as it is unless ``inplace``.
        plan: What to do.
        optimizer: Optimisers of ``model``: they are pointed at the new parameters, and their state (momentum, running
            squares) follows its channels. With ``inplace=False`` they no longer belong to ``model`` afterwards.
        averages: Copies of ``model`` that go along, such as a moving average of its weights (an ``AveragedModel`` or a
            module of the same class). Like the optimisers they are changed themselves, whatever ``inplace`` says.
        inplace: Change ``model`` itself. What a tensor becomes is made before any is replaced, so that nothing is changed if
            something fails: meanwhile memory holds what is left a second time.

    Returns:
        The network as planned (``model`` itself if ``inplace``).

    Raises:
        PlanError: The plan was made for another network, or processes have different ones.
        ModelError: An optimiser belongs to another network or keeps what cannot be cut, or a wrapper cannot be made again.
            Nothing has changed then.
        SettingsError: An average is the network itself, or an argument is of another kind.

    Example:
        >>> import torch, secateur
        >>> net = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
        >>> channels = secateur.watch(net, torch.zeros(1, 8))
        >>> plan = secateur.plan(channels, secateur.score(net, channels, "l1"), remove=0.5)
        >>> apply(net, plan)[0]
        Linear(in_features=8, out_features=3, bias=True)
    """
    expect("apply(model, plan)", model=(model, nn.Module), plan=(plan, Plan))
    optimizers = _several(optimizer, torch.optim.Optimizer, "optimizer")
    copies = _several(averages, nn.Module, "averages")
    network = unwrapped(model)
    _check([network, *map(unwrapped, copies)], plan)
    for each in (model, *copies):
        check_wrappers(each, plan)
    parts = parts_of(plan)
    check_optimizers(optimizers, network, {**_axes(network, parts), **_gone(network, plan)})
    with uncollected():
        for each in copies:
            cut_inside(each, lambda inner: _cut(inner, plan, parts, (), inplace=True), inplace=True)
        result = cut_inside(
            model, lambda inner: _cut(inner, plan, parts, optimizers, inplace=inplace), inplace=inplace
        )
    for each in (model, *copies):
        forget_graphs(each)
    return result


def _cut(
    model: nn.Module, plan: Plan, parts: Parts, optimizers: Sequence[torch.optim.Optimizer], *, inplace: bool
) -> nn.Module:
    """Cut the network itself, and let its optimisers follow."""
    fresh = _new_tensors(model, plan, parts)
    old = named_tensors(model)
    axes = _axes(model, parts)
    shapes = {id(tensor): tuple(tensor.shape) for tensor in old.values()}
    lengths = {
        (name, axis): tensor.shape[axis] for name, tensor in old.items() for axis in range(tensor.dim())
    }
    if inplace:
        for tensor in old.values():
            tensor.grad = None
        for name, tensor in fresh.items():
            put_values(old[name], tensor)
        result = model
        take_out(model, plan.blocks)
        moved = {id(tensor): tensor for tensor in old.values()}
    else:
        # deepcopy finds the new tensors and stand-ins under the old ones' identities, so nothing is copied that is cut
        memo: dict[int, Any] = {id(old[name]): _as_kind(old[name], tensor) for name, tensor in fresh.items()}
        memo |= stand_ins(model, plan.blocks)
        result = copied(model, memo)
        moved = {id(tensor): memo.get(id(tensor), tensor) for tensor in old.values()}
    changed_ids = {id(old[name]) for name in fresh}
    owners = {owner_of(name.rpartition(".")[0]) for name, tensor in old.items() if id(tensor) in changed_ids}
    for name, module in cast("Any", result).named_modules(remove_duplicate=False):
        if name in owners:
            settle_spectra(module)
            fit_attributes(module)
    record_blocks(result, plan.blocks)
    forget_replaced(result)
    _set(result, plan.settings)
    follow(optimizers, result, axes=axes, shapes=shapes, moved=moved)
    _record(result, plan, parts, lengths)
    return result


def _set(model: nn.Module, settings: Sequence[Setting]) -> None:
    """Set the integers that modules keep, and keep on the network what they are."""
    history: dict[tuple[str, str, int], dict[str, Any]] = {
        (entry["module"], entry["name"], -1 if entry["index"] is None else entry["index"]): dict(entry)
        for entry in getattr(model, SETTINGS, [])
    }
    history = {key: entry for key, entry in history.items() if not is_gone(model, entry["module"])}
    for setting in settings:
        set_attribute(model.get_submodule(setting.module), setting.name, setting.index, setting.value)
        key = (setting.module, setting.name, -1 if setting.index is None else setting.index)
        history[key] = asdict(setting)
    if history or hasattr(model, SETTINGS):
        setattr(model, SETTINGS, [history[key] for key in sorted(history)])


def _axes(model: nn.Module, parts: Parts) -> Axes:
    """What happens to each axis of each tensor, by the tensor's identity."""
    return {id(tensor): parts[name] for name, tensor in named_tensors(model).items() if name in parts}


def _gone(model: nn.Module, plan: Plan) -> Axes:
    """The tensors that a network loses with its blocks, by their identity, with nothing left of their axes to take."""
    tensors = named_tensors(model)
    return {id(tensors[name]): {} for name in tensors_gone(plan.blocks)}


def put_values(tensor: Tensor, new: Tensor) -> None:
    """Put new values of another shape into a tensor that others hold.

    A loss that is still alive keeps the node that accumulates the tensor's gradient, and that node expects the old shape.
    PyTorch makes a new one only when the number format changes, so it does for a moment.
    """
    other = torch.float32 if tensor.dtype != torch.float32 else torch.float64
    tensor.data = new.new_empty(0, dtype=other)
    tensor.data = new


def _as_kind(old: Tensor, new: Tensor) -> Tensor:
    """A parameter stays a parameter (of its class), a buffer a buffer."""
    return nn.Parameter(new, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else new


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
