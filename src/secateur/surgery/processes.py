"""What the processes of a data-parallel training find out together: each asks at the same moment, and all get the same answer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from secateur._model import wrapped_as
from secateur.errors import SettingsError


def wrappers(model: nn.Module) -> Iterator[nn.Module]:
    """What PyTorch has put around a network, from the outermost inwards, without the network itself.

    Example:
        >>> [type(wrapper).__name__ for wrapper in wrappers(nn.DataParallel(nn.Linear(2, 3)))]
        ['DataParallel']
    """
    slot = wrapped_as(model)
    while slot is not None:
        yield model
        model = model.get_submodule(slot)
        slot = wrapped_as(model)


def alike(model: nn.Module, text: str) -> bool:
    """Whether all processes that train a network have the same text; of a network that is not shared, always.

    Args:
        model: The network, wrapped or not.
        text: What is compared, through a hash of 56 bits.

    Raises:
        SettingsError: Some processes may have no batches left (`_reduced`).
    """
    mine = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest())
    extremes = torch.tensor([mine, -mine])
    for wrapper in wrappers(model):
        if isinstance(wrapper, DistributedDataParallel):
            extremes = _reduced(wrapper, extremes, distributed.ReduceOp.MAX)
    return not extremes.sum().item()


def mean_over_processes(model: nn.Module, values: Tensor) -> Tensor:
    """The mean of some numbers over all processes that train a network; of a network that is not shared, the numbers themselves.

    Args:
        model: The network, wrapped or not.
        values: Of the same shape on each process.

    Returns:
        The same numbers on each, in double precision where there are several.

    Raises:
        SettingsError: Some processes may have no batches left (`_reduced`).

    Example:
        >>> mean_over_processes(nn.Linear(2, 3), torch.tensor([1.0, 3.0]))
        tensor([1., 3.])
    """
    for wrapper in wrappers(model):
        if isinstance(wrapper, DistributedDataParallel):
            size: Callable[..., int] = vars(distributed)["get_world_size"]
            values = _reduced(wrapper, values.double(), distributed.ReduceOp.SUM)
            values = values / size(_group(wrapper))
    return values


def _reduced(wrapper: DistributedDataParallel, values: Tensor, how: Any) -> Tensor:
    """Numbers of all processes reduced to one on each.

    Raises:
        SettingsError: DistributedDataParallel.join is in force. What a process without batches answers there is only what the
            wrapper itself asks, so that another question would be taken for one of these.
    """
    if getattr(vars(wrapper).get("_join_config"), "enable", False):
        raise SettingsError(
            "inside of DistributedDataParallel.join processes take different numbers of steps, so that nothing can be agreed upon"
            " between them; give each as many batches as the others and leave join out"
        )
    place: torch.device = vars(wrapper)["device"]
    result = values.detach().to(device=place, copy=True)
    reduce: Callable[..., object] = vars(distributed)["all_reduce"]
    reduce(result, op=how, group=_group(wrapper))
    return result


def _group(wrapper: DistributedDataParallel) -> Any:
    return vars(wrapper)["process_group"]
