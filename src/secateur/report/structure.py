"""What watching found of a network, layer by layer and group by group, as values that can be drawn."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import cast

from torch import nn

from secateur.channels import INPUT, Channels, Group, Member
from secateur.channels.groups import Role
from secateur.cost import Cost, CostModel
from secateur.observe.calls import Calls
from secateur.report.document import FixedAxis

ORDER: tuple[Role, ...] = ("input", "write", "carry", "read")
VERBS: Mapping[Role, str] = {"input": "is", "write": "writes", "carry": "carries", "read": "reads"}


@dataclass(frozen=True, slots=True)
class Part:
    """One member of a group on one of a layer's tensor axes: the group's number, the role, units, positions a unit."""

    group: int
    role: Role
    tensor: str
    axis: int
    units: int
    block: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A module that holds tensors of its own.

    Attributes:
        name: As in the network; empty for the network itself.
        kind: Its class.
        parameters: Of its own tensors.
        macs: Multiply-adds for one example, without those of layers inside it.
        parts: Which groups its axes belong to.
        fixed: Which of its axes stay, and why.
    """

    name: str
    kind: str
    parameters: int
    macs: int
    parts: tuple[Part, ...]
    fixed: tuple[FixedAxis, ...]

    def uses(self) -> dict[Role, dict[int, Part]]:
        """By role: the groups that take part, each once."""
        found: dict[Role, dict[int, Part]] = {}
        for role in ORDER:
            for part in self.parts:
                if part.role == role:
                    found.setdefault(role, {}).setdefault(part.group, part)
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupView:
    """A group of channels with its cost.

    Attributes:
        number: Counted from 1, in the order in which groups are first met in the forward pass.
        group: The group itself.
        parameters: That one unit accounts for.
        macs: That one unit accounts for.
        parameter_share: Of the network's parameters, that all its units account for one by one.
        mac_share: Of its multiply-adds, likewise.
    """

    number: int
    group: Group
    parameters: int
    macs: float
    parameter_share: float
    mac_share: float

    @property
    def why(self) -> str:
        """What its members do, and why they go together."""
        of = self.group.by_role
        writers, carriers, readers = len(of("write", "input")), len(of("carry")), len(of("read"))
        said = [
            f"{_count(writers, 'tensor')} {_verb(writers, 'write')} these channels, {carriers} {_verb(carriers, 'carry')}"
            f" one number or more of each, {readers} {_verb(readers, 'read')} them: a channel goes from all of them or none."
        ]
        if writers > 1:
            said.append(
                "What the writers make is added, multiplied or shares a weight, so they lose the same channels."
            )
        wide = [member for member in self.group.members if member.block > 1]
        if wide:
            said.append(
                "One unit owns several positions: "
                + ", ".join(f"{one.block} of {_axis(one)}" for one in wide[:3])
                + (f" and of {len(wide) - 3} more axes." if len(wide) > 3 else ".")
            )
        limits = str(self.group.constraints)
        if limits:
            said.append(f"However it is cut, what holds is: {limits}.")
        if not self.group.exact:
            said.append("A norm takes statistics over these channels, so removing one changes the others.")
        return " ".join(said)


@dataclass(frozen=True, slots=True, kw_only=True)
class Structure:
    """A network as watching saw it.

    Attributes:
        network: How the network was named.
        input_shape: Of one example.
        layers: In the order of the forward pass; what it does not call stands behind its container.
        groups: By number.
        containers: The class of every module by its name.
        total: The whole network's cost.
        unknown_ops: Operators without a rule, and how often each was met.
        notes: Remarks.
    """

    network: str
    input_shape: tuple[int, ...]
    layers: tuple[Layer, ...]
    groups: tuple[GroupView, ...]
    containers: Mapping[str, str]
    total: Cost
    unknown_ops: Mapping[str, int]
    notes: tuple[str, ...]

    @property
    def units(self) -> int:
        """Units that can go, in all groups."""
        return sum(view.group.width for view in self.groups)

    @property
    def fixed(self) -> tuple[FixedAxis, ...]:
        """Every axis that stays."""
        return tuple(axis for layer in self.layers for axis in layer.fixed)

    def group(self, number: int) -> GroupView:
        """The group of a number."""
        return self.groups[number - 1]


def structure_of(
    model: nn.Module, channels: Channels, called: Calls, *, network: str, input_shape: tuple[int, ...]
) -> Structure:
    """Gather what watching found by layers.

    Args:
        model: The network.
        channels: What watching it found.
        called: The order in which its modules run.
        network: How to name it.
        input_shape: The shape of one example.

    Example:
        >>> import torch
        >>> from secateur.channels import watch
        >>> from secateur.observe.calls import calls
        >>> net = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
        >>> x = torch.zeros(1, 8)
        >>> made = structure_of(net, watch(net, x), calls(net, x), network="net", input_shape=(8,))
        >>> [(layer.name, layer.parameters, layer.macs) for layer in made.layers]
        [('0', 54, 48), ('2', 14, 12)]
        >>> print(made.group(1).why)
        1 tensor writes these channels, 1 carries one number or more of each, 1 reads them: a channel goes from all of them \
or none.
    """
    named = cast("Iterable[tuple[str, nn.Module]]", model.named_modules())
    kinds = {name: type(module).__name__ for name, module in named}
    owners = _ordered({_owner(name) for name in channels.shapes}, kinds, called.order)
    numbers = _numbers(channels.groups, owners)
    parts = _parts(channels.groups, numbers)
    layers = [
        Layer(
            name=owner,
            kind=kinds.get(owner, ""),
            parameters=sum(
                math.prod(shape)
                for name, shape in channels.shapes.items()
                if name in channels.trainable and _owner(name) == owner
            ),
            macs=_own_macs(owner, called.macs),
            parts=tuple(parts.get(owner, ())),
            fixed=tuple(
                FixedAxis(tensor=one.tensor, axis=one.axis, count=one.count, reason=one.reason)
                for one in channels.fixed
                if _owner(one.tensor) == owner
            ),
        )
        for owner in owners
    ]
    if INPUT in parts:
        layers.insert(
            0, Layer(name=INPUT, kind="Input", parameters=0, macs=0, parts=tuple(parts[INPUT]), fixed=())
        )
    model_cost = CostModel(channels)
    return Structure(
        network=network,
        input_shape=input_shape,
        layers=tuple(layers),
        groups=_views(channels.groups, numbers, model_cost),
        containers=kinds,
        total=model_cost.total(),
        unknown_ops=dict(channels.unknown_ops),
        notes=channels.notes,
    )


def _owner(tensor: str) -> str:
    """The layer that a tensor belongs to; a parametrisation belongs to the module that it parametrises."""
    if tensor == INPUT:
        return INPUT
    module = tensor.rpartition(".")[0]
    return module.rpartition("parametrizations.")[0].rstrip(".") if "parametrizations." in module else module


def _ordered(owners: Iterable[str], kinds: Mapping[str, str], order: tuple[str, ...]) -> list[str]:
    """Layers by their first call; one that is not called itself stands where the module around it is."""
    called = {name: place for place, name in enumerate(order)}
    registered = {name: place for place, name in enumerate(kinds)}

    def place(name: str) -> tuple[int, int]:
        around = name
        while around and around not in called:
            around = around.rpartition(".")[0]
        seen = around in called and (around or not name)
        return (called[around] if seen else len(order), registered.get(name, len(registered)))

    return sorted(owners, key=place)


def _own_macs(name: str, macs: Mapping[str, int]) -> int:
    """A module's multiply-adds without those of the modules directly inside it."""
    if name not in macs:
        return 0
    inside = sum(
        count for other, count in macs.items() if other and other != name and other.rpartition(".")[0] == name
    )
    return macs[name] - inside


def _numbers(groups: tuple[Group, ...], owners: list[str]) -> dict[str, int]:
    """Each group's number: by the first layer that takes part in it."""
    places = {name: place for place, name in enumerate(owners)} | {INPUT: -1}
    firsts = {group.name: min(places[_owner(member.tensor)] for member in group.members) for group in groups}
    ordered = sorted(firsts, key=lambda name: firsts[name])
    return {name: number for number, name in enumerate(ordered, 1)}


def _parts(groups: tuple[Group, ...], numbers: Mapping[str, int]) -> dict[str, list[Part]]:
    found: dict[str, list[Part]] = {}
    for group in sorted(groups, key=lambda one: numbers[one.name]):
        for member in group.members:
            part = Part(
                numbers[group.name], member.role, member.tensor, member.axis, group.width, member.block
            )
            found.setdefault(_owner(member.tensor), []).append(part)
    return found


def _views(groups: tuple[Group, ...], numbers: Mapping[str, int], model: CostModel) -> tuple[GroupView, ...]:
    each, total = model.by_group(), model.total()
    views = [
        GroupView(
            number=numbers[group.name],
            group=group,
            parameters=each[group.name].parameters,
            macs=each[group.name].macs,
            parameter_share=min(group.width * each[group.name].parameters / max(total.parameters, 1), 1.0),
            mac_share=min(group.width * each[group.name].macs / max(total.macs, 1), 1.0),
        )
        for group in groups
    ]
    return tuple(sorted(views, key=lambda view: view.number))


def _axis(member: Member) -> str:
    return f"{member.tensor}[{member.axis}]"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _verb(number: int, verb: str) -> str:
    if number != 1:
        return verb
    return f"{verb[:-1]}ies" if verb.endswith("y") else f"{verb}s"
