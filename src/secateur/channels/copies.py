"""A copy of a network, cut on trial: which units go, and what is left of every axis."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from secateur._model import copied, named_tensors
from secateur.channels.attributes import fit_attributes, set_attribute
from secateur.channels.groups import Group
from secateur.channels.ties import Labels, Ties
from secateur.channels.units import Units


@dataclass(frozen=True, slots=True, eq=False)
class Repair:
    """An integer that a module keeps, which is the length of an axis: it follows the units along that axis.

    Attributes:
        module: Name of the module.
        attribute: Name of the attribute.
        index: The place in the attribute, where it is a tuple or list.
        labels: The labels along the axis when the network was watched.
    """

    module: str
    attribute: str
    index: int | None
    labels: Labels


def _removed(
    group: Group,
    number: int,
    alike: int,
    sizes: Mapping[tuple[str, int], int],
    kernels: Container[str],
) -> Labels:
    """About a third of the units, scattered; of neighbouring groups not the same ones.

    A prime number stays, so that it is no multiple of a width of something else by chance. Of groups of one width different
    numbers stay, by turns (``alike`` counts them): code that takes the size of one for another's would else run, and fail once
    they are cut differently.

    Of two in a convolution's group none goes: with a single one it would be taken for a depthwise one.
    """
    if group.width == 2 and any(
        sizes[member.tensor, member.axis] == 2 and (member.tensor in kernels or (member.tensor, 2) in sizes)
        for member in group.by_role("read", "write")
    ):
        return np.arange(0)
    count = group.width - _primes_near_two_thirds(group.width)[alike % _choices(group.width)]
    spread = np.linspace(0, group.width - 1, count).round().astype(np.int64)
    return (spread + number % 2) % group.width


def positions_left(ties: Ties, groups: Sequence[Group]) -> dict[tuple[str, int], Labels]:
    """The positions that are left of each axis that loses some."""
    sizes = {(base.tensor, base.axis): base.size for base in ties.bases}
    left: dict[tuple[str, int], NDArray[np.bool_]] = {}
    widths: Counter[int] = Counter()
    for number, group in enumerate(groups):
        if group.by_role("input"):
            continue
        removed = _removed(group, number, widths[group.width], sizes, ties.kernels)
        widths[group.width] += 1
        for member in group.members:
            key = member.tensor, member.axis
            if key not in left:
                left[key] = np.ones(sizes[key], dtype=bool)
            left[key][member.indices[removed]] = False
    return {key: np.flatnonzero(alive) for key, alive in left.items()}


class Copies:
    """Copies of a network in eval mode that are cut on trial: on meta tensors, or on its own where its forward reads values."""

    def __init__(self, model: nn.Module, *, meta: bool) -> None:
        """Look up once what all copies need."""
        self._model, self._meta = model, meta
        self._tensors = named_tensors(model)
        own = [(type(module).train, type(module).eval) for module in model.modules()]
        self._settles = any(modes != (nn.Module.train, nn.Module.eval) for modes in own)

    def cut(self, kept: Mapping[tuple[str, int], Labels]) -> tuple[nn.Module, dict[str, Tensor]]:
        """A copy with some positions of its tensors' axes, and its tensors by name."""
        by_tensor: dict[str, dict[int, Labels]] = {}
        for (tensor, axis), positions in kept.items():
            by_tensor.setdefault(tensor, {})[axis] = positions
        memo: dict[int, Any] = {}
        for name, tensor in self._tensors.items():
            if id(tensor) not in memo:
                new = self._taken(tensor, by_tensor.get(name, {}))
                is_parameter = isinstance(tensor, nn.Parameter)
                memo[id(tensor)] = nn.Parameter(new, requires_grad=False) if is_parameter else new
        tensors = {name: memo[id(tensor)] for name, tensor in self._tensors.items()}
        result = copied(self._model, memo)
        for module in {tensor.rpartition(".")[0] for tensor in by_tensor}:
            fit_attributes(result.get_submodule(owner_of(module)))
        if self._settles:  # all are in eval mode, but some do more than that then: they empty what they keep
            result.eval()
        return result, tensors

    def _taken(self, tensor: Tensor, axes: Mapping[int, Labels]) -> Tensor:
        """A tensor with some positions of its axes."""
        if self._meta:
            shape = [len(axes[axis]) if axis in axes else size for axis, size in enumerate(tensor.shape)]
            return torch.empty(shape, dtype=tensor.dtype, device="meta")
        new = tensor.detach()
        for axis, positions in axes.items():
            new = new.index_select(axis, torch.as_tensor(positions, device=new.device))
        return new


def carry_out(model: nn.Module, repairs: Sequence[Repair], alive: Labels) -> None:
    """Set the integers that follow to what is left of their axes."""
    for repair in repairs:
        count = int(alive[repair.labels].sum())
        set_attribute(model.get_submodule(repair.module), repair.attribute, repair.index, count)


def labels_left(ties: Ties, units: Units, kept: Mapping[tuple[str, int], Labels]) -> Labels:
    """For each label whether its component is left."""
    alive = np.ones(len(units.blocked), dtype=bool)
    for base in ties.bases:
        positions = kept.get((base.tensor, base.axis))
        if positions is not None:
            gone = np.ones(base.size, dtype=bool)
            gone[positions] = False
            alive[units.component[base.start : base.start + base.size][gone]] = False
    return alive[units.component]


def _choices(width: int) -> int:
    """From how many prime numbers it is chosen how many units stay."""
    return next(count for least, count in ((40, 5), (12, 3), (3, 2), (0, 1)) if width >= least)


@cache
def _primes_near_two_thirds(width: int) -> list[int]:
    """The prime numbers (or 1) below a width that are nearest to two thirds of it, the nearest first, five at most.

    >>> [_primes_near_two_thirds(width) for width in (2, 3, 4, 12, 768)]
    [[1], [2, 1], [3, 2, 1], [7, 5, 11, 3, 2], [509, 503, 521, 523, 499]]
    """
    size = 2 * width / 3
    candidates = sorted(range(1, width), key=lambda n: abs(n - size))
    primes = (n for n in candidates if all(n % d for d in range(2, math.isqrt(n) + 1)))
    return list(islice(primes, 5))


def owner_of(module: str) -> str:
    """The module whose attributes repeat a tensor's sizes; for a parametrised tensor, the module that it belongs to."""
    return module.rpartition("parametrizations.")[0].rstrip(".") if "parametrizations." in module else module
