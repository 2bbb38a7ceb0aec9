"""Groups of channels: what belongs together, as values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from secateur.channels.constraints import Constraints, constraints_of
from secateur.errors import ModelError

Indices: TypeAlias = NDArray[np.int64]

Role = Literal["write", "carry", "read", "input"]
"""How a tensor takes part in a group of channels.

``write``: its rows compute the channel (a convolution's or dense layer's weight, axis 0).
``carry``: one entry a channel that acts on it alone (a bias, a norm, a depthwise kernel).
``read``: its columns consume the channel (the next layer's weight, axis 1).
``input``: the network's own input, where its features may be removed.
"""

_LISTED = 5
"""Groups and operators that a summary names."""

INPUT = "input"
"""The name under which the network's input appears as a tensor."""


@dataclass(frozen=True, slots=True, eq=False)
class Member:
    """One axis of one tensor on which the units of a group own positions.

    Attributes:
        tensor: Name of the parameter or buffer, as in ``state_dict``.
        axis: The axis of that tensor.
        role: What the tensor does with the channel.
        indices: Positions on the axis, ``[width, block]``: row u belongs to unit u. A convolution has one position a
            unit; a dense layer behind a flattened map has height x width of them.
    """

    tensor: str
    axis: int
    role: Role
    indices: Indices

    @property
    def block(self) -> int:
        """Positions that one unit owns."""
        return int(self.indices.shape[1])


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Channels that run through the same tensors, each of which can be removed on its own.

    Attributes:
        name: The module that writes the channels first, or ``input``.
        width: Number of units.
        members: Every tensor axis that must change when a unit goes.
        exact: Whether cutting equals not reading. False where a norm takes statistics over the channels, so that
            removing one changes the others.
        kind: What the first writer is (``Conv2d``, ``Linear``, ...), for choosing groups by type.
    """

    name: str
    width: int
    members: tuple[Member, ...]
    exact: bool = True
    kind: str = ""

    def __post_init__(self) -> None:
        if not self.members:
            raise ModelError(f"group {self.name!r} has no members")
        for member in self.members:
            if member.indices.shape[0] != self.width:
                raise ModelError(
                    f"group {self.name!r}: {member.tensor} lists {member.indices.shape[0]} units, the group has {self.width}"
                )

    def by_role(self, *roles: Role) -> tuple[Member, ...]:
        """The members that play one of the given roles."""
        return tuple(member for member in self.members if member.role in roles)

    @property
    def constraints(self) -> Constraints:
        """What holds for its width however it is cut: equal shares of an axis, whole blocks of it.

        Example:
            >>> import torch
            >>> from torch import nn
            >>> from secateur.channels import watch
            >>> net = nn.Sequential(nn.Linear(4, 6), nn.GLU(), nn.Linear(3, 2))
            >>> print(watch(net, torch.zeros(1, 4)).group("0").constraints)
            2 equal shares
        """
        writers = self.by_role("write", "input") or self.members
        return constraints_of(member.indices for member in writers)

    def __repr__(self) -> str:
        tensors = ", ".join(f"{m.tensor}[{m.axis}] {m.role}" for m in self.members)
        return f"Group({self.name!r}, width={self.width}: {tensors})"


@dataclass(frozen=True, slots=True)
class Fixed:
    """Positions of a tensor axis that cannot be removed, and why."""

    tensor: str
    axis: int
    count: int
    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class MacsTerm:
    """Multiply-adds of one operator for one example.

    Attributes:
        count: Multiply-adds for each combination of the positions that are left.
        axes: For each axis that can change, the unit of every position (numbered through all groups), -1 for what stays.
    """

    count: float
    axes: tuple[Indices, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Attribute:
    """An integer that a module of the network keeps, which is the length of an axis and follows its units.

    Attributes:
        module: Name of the module.
        name: Name of the attribute.
        index: The place in the attribute, where it is a tuple or list.
        units: The unit of each position of the axis (numbered through all groups), -1 for what stays.
    """

    module: str
    name: str
    index: int | None
    units: Indices


@dataclass(frozen=True, eq=False)
class Channels:
    """What watching one forward pass found.

    Attributes:
        groups: The groups whose units may be removed, in the order in which they are written.
        fixed: The parameter axes that stay, with the reason.
        unknown_ops: Operators without a rule and how often each was met. What they touch is fixed, never guessed.
        shapes: The shape of every parameter and buffer.
        trainable: The names of parameters (the other names of ``shapes`` are buffers).
        bytes_per_item: Bytes of one number of each tensor.
        macs: Multiply-adds of each convolution and matrix product, for one example.
        biases: The bias that belongs to a weight, where there is one.
        digest: Identifies the structure: a plan is refused by a model with another digest.
        notes: Remarks about how it was watched.
        attributes: Integers in the network's modules that follow a cut.
        values_read: Where the forward reads the values of a tensor, as in ``if x.sum() > 0``; empty if it does not.
    """

    groups: tuple[Group, ...]
    fixed: tuple[Fixed, ...]
    unknown_ops: Mapping[str, int]
    shapes: Mapping[str, tuple[int, ...]]
    trainable: frozenset[str]
    bytes_per_item: Mapping[str, int]
    macs: tuple[MacsTerm, ...]
    biases: Mapping[str, str]
    digest: str
    notes: tuple[str, ...] = field(default=())
    attributes: tuple[Attribute, ...] = field(default=())
    values_read: str = ""

    def group(self, name: str) -> Group:
        """The group of that name."""
        for group in self.groups:
            if group.name == name:
                return group
        known = ", ".join(group.name for group in self.groups) or "none"
        raise ModelError(f"no group is named {name!r}; the groups are: {known}")

    def starts(self) -> dict[str, int]:
        """The number of each group's first unit, counted through all groups."""
        result: dict[str, int] = {}
        start = 0
        for group in self.groups:
            result[group.name] = start
            start += group.width
        return result

    def units(self) -> int:
        """Units in all groups."""
        return sum(group.width for group in self.groups)

    def __repr__(self) -> str:
        return f"Channels({_counted(len(self.groups), 'group')}, {_counted(self.units(), 'unit')})"

    def __str__(self) -> str:
        """A short summary: the largest groups, how much stays and mostly why, and operators without a rule."""
        lines = [f"{_counted(len(self.groups), 'group')}, {_counted(self.units(), 'unit')} that can go"]
        largest = sorted(self.groups, key=lambda group: group.width, reverse=True)[:_LISTED]
        lines += [f"  {group.name} ({group.kind}): {_counted(group.width, 'unit')}" for group in largest]
        if len(self.groups) > _LISTED:
            lines.append(f"  and {_counted(len(self.groups) - _LISTED, 'smaller group')}")
        if self.fixed:
            reason, often = Counter(one.reason for one in self.fixed).most_common(1)[0]
            stay = _counted(len(self.fixed), "axis stays", "axes stay")
            lines.append(f"{stay}; most common reason ({often:,}): {reason}")
        if self.unknown_ops:
            named = ", ".join([*self.unknown_ops][:_LISTED])
            more = len(self.unknown_ops) - _LISTED
            lines.append(f"operators without a rule: {named}{f' and {more} more' if more > 0 else ''}")
        return "\n".join(lines)


def _counted(count: int, what: str, several: str = "") -> str:
    return f"{count:,} {what if count == 1 else several or f'{what}s'}"
