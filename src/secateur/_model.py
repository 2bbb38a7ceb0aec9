"""Running somebody's model and leaving it as it was found."""

from __future__ import annotations

import copy
import gc
import random
from collections import OrderedDict
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from secateur.errors import ModelError

_HOOK_TABLES = (
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_backward_pre_hooks",
    "_backward_hooks",
)

_ATOMS: frozenset[Any] = frozenset({bool, int, float, str, type(None)})
_CONTAINERS: frozenset[Any] = frozenset({OrderedDict, dict, list, set})


@contextmanager
def left_as_found(model: nn.Module, *, values: bool = True) -> Generator[None]:
    """Give the model back as it was: mode, hooks, attributes, ``requires_grad``, gradients, buffers, random state.

    Inside, every parameter's ``.grad`` is ``None``, so that gradients that the caller has accumulated cannot be added
    to; the same tensors are put back at the end. Buffers (running statistics) are restored to their values. The random
    state is that of torch (every device in use), numpy and Python. All of it holds after an exception, too.

    Args:
        model: The model that is about to be run.
        values: Whether the values of buffers are kept, too, which costs a copy of them. Without, whoever runs the model
            answers for them.

    Example:
        >>> model = nn.Sequential(nn.BatchNorm1d(2)).train()
        >>> with left_as_found(model):
        ...     _ = model.eval()
        >>> model[0].training
        True
    """
    modules = list(model.modules())
    modes = [module.training for module in modules]
    hooks = [(table, dict(table)) for module in modules for table in hook_tables(module)]
    parameters = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    buffers = [(b, b.detach().clone()) for b in model.buffers()] if values else []
    attributes = [(vars(module), dict(vars(module)), dict(vars(module)["_buffers"])) for module in modules]
    randomness = _random_state()
    for parameter, _, _ in parameters:
        parameter.grad = None
    try:
        yield
    finally:
        for current, before, held in attributes:  # what a forward caches, counts or replaces
            current.clear()
            current.update(before)
            current["_buffers"].clear()
            current["_buffers"].update(held)
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode
        for table, entries in hooks:
            table.clear()
            table.update(entries)
        for parameter, requires_grad, grad in parameters:
            parameter.requires_grad_(requires_grad)
            parameter.grad = grad
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
        _set_random_state(randomness)


def hook_tables(module: nn.Module) -> list[dict[int, Any]]:
    """The tables in which a module keeps its hooks, always in the same order."""
    return [getattr(module, name) for name in _HOOK_TABLES]


def wrapped_as(model: nn.Module) -> str | None:
    """The attribute under which a wrapper of PyTorch's keeps the network; None for a network.

    >>> wrapped_as(torch.optim.swa_utils.AveragedModel(nn.Linear(1, 1)))
    'module'
    >>> wrapped_as(nn.Linear(1, 1)) is None
    True
    """
    if isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel, AveragedModel)):
        return "module"
    return "_orig_mod" if is_compiled(model) else None


def is_compiled(model: nn.Module) -> bool:
    """Whether a module is what ``torch.compile`` makes of a network."""
    if "_orig_mod" not in dict(model.named_children()):
        return False
    from torch._dynamo import OptimizedModule  # noqa: PLC0415 - slow, and loaded already where there is one

    return isinstance(model, OptimizedModule)


def unwrapped(model: nn.Module) -> nn.Module:
    """The network itself, without what ``torch.compile``, data parallelism or averaging put around it.

    Names of tensors, plans and files are those of the network itself.

    Example:
        >>> network = nn.Linear(2, 3)
        >>> unwrapped(nn.DataParallel(torch.compile(network, backend="eager"))) is network
        True
    """
    slot = wrapped_as(model)
    while slot is not None:
        model = model.get_submodule(slot)
        slot = wrapped_as(model)
    return model


@contextmanager
def uncollected() -> Generator[None]:
    """Inside, Python does not look for garbage in cycles.

    Many small objects that live for a moment make it walk through all that a process has loaded, again and again.

    Example:
        >>> with uncollected():
        ...     gc.isenabled()
        False
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _random_state() -> tuple[Any, ...]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    return torch.get_rng_state(), cuda, np.random.get_state(), random.getstate()


def _set_random_state(state: tuple[Any, ...]) -> None:
    torch_state, cuda, numpy_state, python_state = state
    torch.set_rng_state(torch_state)
    if cuda is not None:
        torch.cuda.set_rng_state_all(cuda)
    np.random.set_state(numpy_state)
    random.setstate(python_state)


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer by its name; a shared one under each of its names.

    Example:
        >>> list(named_tensors(nn.Linear(2, 3)))
        ['weight', 'bias']
    """
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


def tensors_in_place(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer by the first name of its module: each place once, though a module may be in several.

    So others can stand in for them: what is put twice into one place is not found again when it is taken out.

    Example:
        >>> layer = nn.Linear(2, 3)
        >>> list(tensors_in_place(nn.Sequential(layer, layer)))
        ['0.weight', '0.bias']
    """
    return {
        f"{path}.{name}".lstrip("."): tensor
        for path, module in cast("Iterator[tuple[str, nn.Module]]", model.named_modules())
        for name, tensor in (
            *module.named_parameters(recurse=False, remove_duplicate=False),
            *module.named_buffers(recurse=False, remove_duplicate=False),
        )
    }


def copied(model: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """What ``copy.deepcopy(model, memo)`` gives, without its detour for each module and each of its empty tables.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 3))
        >>> weight = nn.Parameter(torch.zeros(1, 2))
        >>> copied(model, {id(model[0].weight): weight})[0].weight is weight
        True
    """
    reached: dict[int, nn.Module] = {}
    _reach(model, memo, reached)
    plain = {kind for kind in set(map(type, reached.values())) if _is_copied_by_its_attributes(kind)}
    modules = [module for module in reached.values() if type(module) in plain]
    for module in modules:
        memo[id(module)] = object.__new__(type(module))
    for module in reversed(modules):  # a module that copies itself finds its children done
        memo[id(module)].__setstate__(
            {name: _copied_value(value, memo) for name, value in module.__getstate__().items()}
        )
    return copy.deepcopy(model, memo)


def _reach(module: nn.Module, memo: Mapping[int, Any], reached: dict[int, nn.Module]) -> None:
    """The modules in a module, itself first, without those that something stands for, and what these contain."""
    if id(module) not in memo and id(module) not in reached:
        reached[id(module)] = module
        for child in module.children():
            _reach(child, memo, reached)


def _is_copied_by_its_attributes(kind: type[nn.Module]) -> bool:
    """Whether a class says nothing of its own about how it is copied, and has no slots."""
    same = all(
        getattr(kind, name) is getattr(base, name)
        for base, name in (
            (object, "__new__"),
            (object, "__reduce__"),
            (object, "__reduce_ex__"),
            (nn.Module, "__getstate__"),
        )
    )
    slots = any(vars(base).get("__slots__") for base in kind.__mro__)
    return same and not slots and not hasattr(kind, "__deepcopy__")


def _copied_value(value: object, memo: dict[int, Any]) -> Any:
    """One attribute's copy."""
    kind = type(value)
    if kind in _ATOMS:
        return value
    known = memo.get(id(value))
    if known is not None:
        return known
    if isinstance(value, Tensor) and not value.is_leaf:
        # computed before each forward, as by the old weight norm
        memo[id(value)] = made = value.detach().clone()
        return made
    if kind in _CONTAINERS and not value:
        memo[id(value)] = made = kind()
        return made
    if kind is dict:
        memo[id(value)] = table = dict[Any, Any]()
        for key, entry in cast("dict[Any, Any]", value).items():
            table[key if type(key) is str else copy.deepcopy(key, memo)] = _copied_value(entry, memo)
        return table
    if kind is tuple and all(type(entry) in _ATOMS for entry in cast("tuple[object, ...]", value)):
        return value
    return copy.deepcopy(value, memo)


def check_finite(tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors that hold NaN or infinity.

    Raises:
        ModelError: One does; its name is in the message.
    """
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or bool(torch.isfinite(tensor.sum())):
            continue  # a sum is finite only if all of its terms are; that is five times as fast to find out
        if not bool(torch.isfinite(tensor).all()):
            bad = int((~torch.isfinite(tensor)).sum())
            raise ModelError(
                f"{name!r} holds {bad} values that are NaN or infinite (of {tensor.numel()}), so nothing can be"
                " computed from it; load the model from a state before its training diverged"
            )
