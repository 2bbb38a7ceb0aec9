"""What a network costs: parameters, multiply-adds, bytes; of the whole and of one unit of each group.

Everything here is counted from shapes, never measured, and a forecast for fewer channels equals what the cut network then
has, exactly. One multiply-add counts as one. Only convolutions and matrix products count as multiply-adds; norms,
activations and pooling do not. Operators without a rule are not counted and are named in ``Channels.unknown_ops``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secateur.channels import INPUT, Block, Channels, Group, tensors_gone

Alive = NDArray[np.int64]
"""How many copies of each unit there are: none of a removed one, several of a widened one."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Costs of a network for one example.

    Attributes:
        parameters: Numbers that are trained.
        buffers: Further numbers that are stored (a batch norm's running mean and variance).
        macs: Multiply-adds of one forward pass.
        bytes: Parameters and buffers in their own number formats.
    """

    parameters: int
    buffers: int
    macs: int
    bytes: int

    def __str__(self) -> str:
        return f"{self.parameters:,} parameters, {self.macs:,} MACs, {self.bytes:,} bytes"


@dataclass(frozen=True, slots=True, eq=False)
class UnitCost:
    """What one unit of a group costs: what the network would lose if that unit alone went."""

    parameters: int
    macs: float
    bytes: int


class CostModel:
    """Counts the cost of a network for any choice of its units.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from secateur.channels import watch
        >>> net = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
        >>> model = CostModel(watch(net, torch.zeros(1, 8)))
        >>> print(model.total())
        68 parameters, 60 MACs, 272 bytes
        >>> print(model.at({"0": 3}))
        35 parameters, 30 MACs, 140 bytes
    """

    def __init__(self, channels: Channels) -> None:
        """Prepare the tables; ``channels`` is what watching the network found."""
        self.channels = channels
        self._starts = channels.starts()
        self._tensors = self._axes_of_tensors()

    def _axes_of_tensors(self) -> dict[str, list[NDArray[np.int64]]]:
        """For each tensor that can change: the unit of every position of each axis, -1 for what stays."""
        shapes = self.channels.shapes
        found: dict[str, list[NDArray[np.int64]]] = {}
        for group in self.channels.groups:
            numbers = self._starts[group.name] + np.arange(group.width)
            for member in group.members:
                if member.tensor == INPUT:
                    continue
                axes = found.setdefault(
                    member.tensor, [np.full(size, -1, dtype=np.int64) for size in shapes[member.tensor]]
                )
                axes[member.axis][member.indices] = numbers[:, None]
        return found

    def alive(self, kept: Mapping[str, NDArray[np.int64]]) -> Alive:
        """How many copies of each unit are left; ``kept`` names the units of the groups that change, repeated or not."""
        alive = np.ones(
            self.channels.units() + 1, dtype=np.int64
        )  # the last entry answers for -1, what stays
        for name, indices in kept.items():
            start, width = self._starts[name], self.channels.group(name).width
            alive[start : start + width] = np.bincount(np.asarray(indices, dtype=np.int64), minlength=width)
        return alive

    def total(self) -> Cost:
        """The cost of the network as it is."""
        return self.of(self.alive({}))

    def at(self, widths: Mapping[str, int]) -> Cost:
        """The cost when groups have other widths, smaller or larger (units of a group cost the same)."""
        return self.of(
            self.alive(
                {name: np.arange(width) % self.channels.group(name).width for name, width in widths.items()}
            )
        )

    def kept(self, kept: Mapping[str, NDArray[np.int64]], *, without: Iterable[Block] = ()) -> Cost:
        """The cost when only these units of the named groups are left, a repeated one as often as it is named.

        Args:
            kept: The units that are left, by group; groups that are not named stay as they are.
            without: Blocks that are gone whole.
        """
        return self.of(self.alive(kept), without=without)

    def of(self, alive: Alive, *, without: Iterable[Block] = ()) -> Cost:
        """The cost with so many copies of each unit, and without some blocks."""
        blocks = list(without)
        gone, theirs = tensors_gone(blocks), {place for block in blocks for place in block.terms}
        parameters = buffers = size = 0
        for name, shape in self.channels.shapes.items():
            if name in gone:
                continue
            axes = self._tensors.get(name)
            numbers = math.prod(shape) if axes is None else math.prod(int(alive[axis].sum()) for axis in axes)
            size += numbers * self.channels.bytes_per_item[name]
            if name in self.channels.trainable:
                parameters += numbers
            else:
                buffers += numbers
        macs = sum(
            term.count * math.prod(int(alive[axis].sum()) for axis in term.axes)
            for place, term in enumerate(self.channels.macs)
            if place not in theirs
        )
        return Cost(parameters, buffers, round(macs), size)

    def by_group(self) -> dict[str, UnitCost]:
        """The cost of one unit of each group."""
        units = self.channels.units()
        parameters, size, macs = np.zeros(units), np.zeros(units), np.zeros(units)
        for name, axes in self._tensors.items():
            share = _marginal(1.0, axes, units)
            size += share * self.channels.bytes_per_item[name]
            if name in self.channels.trainable:
                parameters += share
        for term in self.channels.macs:
            macs += _marginal(term.count, term.axes, units)
        firsts = self._starts
        return {
            group.name: UnitCost(
                round(parameters[firsts[group.name]]),
                float(macs[firsts[group.name]]),
                round(size[firsts[group.name]]),
            )
            for group in self.channels.groups
        }

    def of_group(self, group: Group) -> Cost:
        """The cost that a whole group takes part in: of every tensor that it touches."""
        touched = {member.tensor for member in group.members if member.tensor != INPUT}
        shapes, trainable = self.channels.shapes, self.channels.trainable
        start = self._starts[group.name]
        macs = sum(
            term.count * math.prod(len(axis) for axis in term.axes)
            for term in self.channels.macs
            if any(((axis >= start) & (axis < start + group.width)).any() for axis in term.axes)
        )
        return Cost(
            parameters=sum(math.prod(shapes[name]) for name in touched & trainable),
            buffers=sum(math.prod(shapes[name]) for name in touched - trainable),
            macs=round(macs),
            bytes=sum(math.prod(shapes[name]) * self.channels.bytes_per_item[name] for name in touched),
        )


def _marginal(
    count: float, axes: list[NDArray[np.int64]] | tuple[NDArray[np.int64], ...], units: int
) -> NDArray[np.float64]:
    """What each unit alone takes from a product of axis lengths: a unit on two axes is not counted twice."""
    lengths = [len(axis) for axis in axes]
    full = count * math.prod(lengths)
    owned = [np.bincount(axis[axis >= 0], minlength=units) for axis in axes]
    left = np.full(units, count, dtype=np.float64)
    for length, mine in zip(lengths, owned, strict=True):
        left *= length - mine
    return full - left
