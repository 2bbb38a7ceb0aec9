"""Networks that PyTorch has wrapped: cut inside, and wrapped again as they were."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from secateur._model import hook_tables, is_compiled, named_tensors, wrapped_as
from secateur.errors import ModelError, PlanError
from secateur.plan import FactorPlan, Plan
from secateur.surgery.processes import alike, wrappers

_SAME_NAME = (
    "device_ids", "output_device", "dim", "process_group", "find_unused_parameters", "gradient_as_bucket_view",
    "static_graph", "skip_all_reduce_unused_params", "batched_grad_copy",
)  # fmt: skip
"""Options of DistributedDataParallel that it keeps under their own names; older versions of PyTorch lack the last ones."""
_MIB = 1024 * 1024


def check_wrappers(model: nn.Module, plan: Plan | FactorPlan) -> None:
    """Refuse wrappers that cannot be made again, sharded networks, and a plan that is not the same on all processes.

    Raises:
        ModelError: DistributedDataParallel has options from which it cannot be made again, or a tensor is sharded.
        PlanError: Another process has another plan.
    """
    for name, tensor in named_tensors(model).items():
        if type(tensor).__module__.startswith("torch.distributed."):
            raise ModelError(
                f"{name!r} is spread over processes ({type(tensor).__name__}), so no process has all channels of it;"
                " cut the network before it is sharded"
            )
    for wrapper in wrappers(model):
        if not isinstance(wrapper, DistributedDataParallel):
            continue
        lost = {
            "mixed_precision": getattr(wrapper, "mixed_precision", None) is not None,
            "delay_all_reduce_named_params": bool(getattr(wrapper, "_delay_all_reduce_params", ())),
        }
        for option, used in lost.items():
            if used:
                raise ModelError(
                    f"DistributedDataParallel with {option} changes the network inside it, so it cannot be wrapped"
                    " again after a cut; cut the network first, then wrap it"
                )
        _check_same_plan(wrapper, plan)


def _check_same_plan(wrapper: nn.Module, plan: Plan | FactorPlan) -> None:
    if not alike(wrapper, plan.to_json()):
        raise PlanError(
            "the processes have different plans, so their networks would differ; make the plan in one process and send"
            " it to the others: torch.distributed.broadcast_object_list, `plan.to_json()` and `Plan.from_json`"
        )


def cut_inside(model: nn.Module, cut: Callable[[nn.Module], nn.Module], *, inplace: bool) -> nn.Module:
    """Cut the network inside of wrappers and wrap what comes back in the same way.

    Args:
        model: The network, wrapped or not.
        cut: From the network itself to the cut one, which is the same module if ``inplace``.
        inplace: Whether the wrappers stay the same modules, too.
    """
    slot = wrapped_as(model)
    if slot is None:
        return cut(model)
    inner = model.get_submodule(slot)
    fresh = cut_inside(inner, cut, inplace=inplace)
    if isinstance(model, DistributedDataParallel):
        return _distributed(model, fresh, inplace=inplace)
    if inplace:
        return model
    if is_compiled(model):
        compiled: Any = model  # the class is private to PyTorch
        return _dressed(type(compiled)(fresh, compiled.dynamo_ctx), model)
    return copy.deepcopy(model, {id(inner): fresh})


def forget_graphs(model: nn.Module) -> None:
    """Drop compiled code where a network has any: it is for sizes that are gone.

    PyTorch compiles again by itself, but only eight times for one function, and then refuses or goes on without compiling.
    """
    if any(is_compiled(module) or vars(module).get("_compiled_call_impl") for module in model.modules()):
        torch.compiler.reset()


def _dressed(fresh: nn.Module, model: nn.Module) -> nn.Module:
    """A wrapper with the hooks and the mode of another one."""
    return _with(fresh, *_manner(model))


def _manner(model: nn.Module) -> tuple[list[dict[int, Any]], bool | None, bool]:
    """A module's hooks, whether those of the backward pass are full ones, and its mode."""
    state = vars(model)
    return [dict(table) for table in hook_tables(model)], state.get("_is_full_backward_hook"), model.training


def _with(fresh: nn.Module, hooks: list[dict[int, Any]], full: bool | None, training: bool) -> nn.Module:
    for table, before in zip(hook_tables(fresh), hooks, strict=True):
        table.update(before)
    vars(fresh)["_is_full_backward_hook"] = full  # without it PyTorch takes them for hooks of the old kind
    fresh.training = training
    return fresh


def _distributed(model: nn.Module, inner: nn.Module, *, inplace: bool) -> nn.Module:
    """Wrap for the same processes: what sums the gradients is built for the sizes of the parameters, so it is built again.

    Parameters are sent from the first process to all others, as always when a network is wrapped.
    """
    wrap: Callable[..., None] = vars(DistributedDataParallel)["__init__"]
    known = inspect.signature(wrap).parameters
    state = vars(model)
    options = {name: state[name] for name in _SAME_NAME if name in known and name in state}
    if state.get("bucket_bytes_cap_list"):
        options["bucket_cap_mb_list"] = [size / _MIB for size in state["bucket_bytes_cap_list"]]
    elif not state.get("bucket_bytes_cap_default", True):
        options["bucket_cap_mb"] = state["bucket_bytes_cap"] / _MIB
    if not state.get("forward_sync_buffers", state.get("broadcast_buffers", True)):
        options["broadcast_buffers"] = False  # of the two names the one that keeps each process's own buffers
    manner = _manner(model)
    communication: list[tuple[Any, Any]] = list(state.get("_comm_hooks", ()))
    fresh: Any = model if inplace else object.__new__(type(model))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        wrap(fresh, inner, **options)
    _with(fresh, *manner)
    for hook, its_state in communication:
        fresh.register_comm_hook(its_state, hook)
    return fresh
