"""Changes to groups of channels, and the plan that collects them: decided before anything moves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateur.channels import Block, Group, Member
from secateur.cost import Cost
from secateur.errors import PlanError
from secateur.plan.left import Left

ALL_READERS = "*"


@dataclass(frozen=True, slots=True, eq=False)
class Mix:
    """How readers take over what removed units gave: old units as a combination of the new ones.

    Attributes:
        matrix: ``[n, m]``: column k says how much each old unit's weight adds to new unit k's.
        shift: ``[n]``: a constant that stands for what the combination misses of each old unit; it goes into the reader's
            bias. None for none.
    """

    matrix: NDArray[np.float64]
    shift: NDArray[np.float64] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """What happens to one group: which units make up the new one, and what its readers do about it.

    Attributes:
        group: The group's name.
        width: Its number of units before, n.
        take: ``[m]``: the old unit that each new unit is a copy of, in ascending order; a repeated one widens.
        mixes: By reader's tensor (or ``*`` for all of them). Without an entry readers take the same columns as everyone.
    """

    group: str
    width: int
    take: NDArray[np.int64]
    mixes: Mapping[str, Mix] = field(default_factory=dict[str, Mix])

    def __post_init__(self) -> None:
        if self.take.ndim != 1 or not len(self.take):
            raise PlanError(
                f"group {self.group!r} would lose all of its {self.width} units; at least one stays"
            )
        if self.take[0] < 0 or self.take[-1] >= self.width or (np.diff(self.take) < 0).any():
            raise PlanError(
                f"group {self.group!r}: `take` must be ascending units from 0 to {self.width - 1}"
            )
        for reader, mix in self.mixes.items():
            wanted = (self.width, len(self.take))
            if mix.matrix.shape != wanted:
                raise PlanError(
                    f"group {self.group!r}: the mix for {reader} is {mix.matrix.shape}, it must be {wanted}"
                )

    @property
    def kept(self) -> NDArray[np.int64]:
        """The old units that are left, each once."""
        return np.unique(self.take)

    @property
    def removed(self) -> NDArray[np.int64]:
        """The old units that go."""
        return np.setdiff1d(np.arange(self.width), self.take)

    def mix_for(self, reader: str) -> Mix | None:
        """The mix of one reader."""
        return self.mixes.get(reader, self.mixes.get(ALL_READERS))


@dataclass(frozen=True, slots=True)
class Setting:
    """What an integer that a module keeps becomes.

    Attributes:
        module: Name of the module.
        name: Name of the attribute.
        index: The place in the attribute, where it is a tuple or list.
        value: What it becomes.
    """

    module: str
    name: str
    index: int | None
    value: int


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What to cut, and what the network will then cost. A value: it prints, saves, and fits one structure only.

    Attributes:
        digest: Fingerprint of the structure it was made for.
        groups: The groups that change.
        changes: One for each of these groups.
        biases: The bias that belongs to a weight, where there is one.
        before: The cost before.
        after: The cost after, exactly what the cut network has.
        left: The groups and tensor axes that stay whole, by reason.
        settings: Integers that modules keep, which follow the cut.
        blocks: Blocks that go whole: their input goes on in their place.
    """

    digest: str
    groups: tuple[Group, ...]
    changes: tuple[Change, ...]
    biases: Mapping[str, str]
    before: Cost
    after: Cost
    left: tuple[Left, ...] = ()
    settings: tuple[Setting, ...] = ()
    blocks: tuple[Block, ...] = ()

    def __post_init__(self) -> None:
        for group, change in zip(self.groups, self.changes, strict=True):
            if group.name != change.group or group.width != change.width:
                raise PlanError(f"the change of {change.group!r} does not fit the group {group.name!r}")

    @property
    def removed(self) -> int:
        """How many units go, those of whole blocks not counted."""
        return sum(len(change.removed) for change in self.changes)

    def change(self, group: str) -> Change | None:
        """The change of one group, if it changes."""
        return next((change for change in self.changes if change.group == group), None)

    def __str__(self) -> str:
        said = [_counted(len(self.blocks), "block")] if self.blocks else []
        if self.changes or not self.blocks:
            said += [_counted(len(self.changes), "group"), _counted(self.removed, "unit")]
        lines = [
            f"{', '.join(said)} removed:"
            f" {self.before.parameters:,} -> {self.after.parameters:,} parameters,"
            f" {self.before.macs:,} -> {self.after.macs:,} MACs"
        ]
        lines += [
            f"  {change.group}: {change.width} -> {len(change.take)}{_each(group)}"
            for group, change in zip(self.groups, self.changes, strict=True)
        ]
        lines += [
            f"  {block.name}: whole block, {block.parameters:,} parameters, {block.macs:,} MACs"
            for block in self.blocks
        ]
        lines += [f"  stays: {left}" for left in self.left]
        return "\n".join(lines)

    def to_json(self) -> str:
        """The plan as text, from which :meth:`from_json` makes it again."""
        return json.dumps(
            {
                "format": 1,
                "digest": self.digest,
                "groups": [_group_document(group) for group in self.groups],
                "changes": [_change_document(change) for change in self.changes],
                "biases": dict(self.biases),
                "before": _cost_document(self.before),
                "after": _cost_document(self.after),
                "left": [{"names": list(left.names), "reason": left.reason} for left in self.left],
                "settings": [asdict(setting) for setting in self.settings],
                "blocks": [asdict(block) for block in self.blocks],
            },
            sort_keys=True,
        )

    @staticmethod
    def from_json(text: str) -> Plan:
        """A plan from its text.

        Raises:
            PlanError: The text is no plan.
        """
        try:
            document = json.loads(text)
            if document["format"] != 1:
                raise PlanError(f"the plan has format {document['format']}, this version reads format 1")
            return Plan(
                digest=str(document["digest"]),
                groups=tuple(_group(entry) for entry in document["groups"]),
                changes=tuple(_change(entry) for entry in document["changes"]),
                biases=dict(document["biases"]),
                before=Cost(**document["before"]),
                after=Cost(**document["after"]),
                left=tuple(Left(tuple(one["names"]), one["reason"]) for one in document.get("left", [])),
                settings=tuple(Setting(**entry) for entry in document.get("settings", [])),
                blocks=tuple(_block(entry) for entry in document.get("blocks", [])),
            )
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, PlanError):
                raise
            raise PlanError(f"this is not a plan: {type(error).__name__}: {error}") from error


def _each(group: Group) -> str:
    """What a unit is, where it is more than one channel: as many as what writes or reads it has positions at least."""
    members = group.by_role("write", "read", "input") or group.members
    positions = min(member.block for member in members)
    return f" units of {positions} channels" if positions > 1 else ""


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _block(document: dict[str, Any]) -> Block:
    found: dict[str, Any] = dict(document)
    found["groups"], found["terms"] = tuple(found["groups"]), tuple(found["terms"])
    found["closed_by"] = tuple(tuple(names) for names in found["closed_by"])
    return Block(**found)


def _cost_document(cost: Cost) -> dict[str, int]:
    return {"parameters": cost.parameters, "buffers": cost.buffers, "macs": cost.macs, "bytes": cost.bytes}


def _group_document(group: Group) -> dict[str, Any]:
    members = [
        {"tensor": m.tensor, "axis": m.axis, "role": m.role, "indices": m.indices.tolist()}
        for m in group.members
    ]
    return {
        "name": group.name,
        "width": group.width,
        "exact": group.exact,
        "kind": group.kind,
        "members": members,
    }


def _group(document: dict[str, Any]) -> Group:
    members = tuple(
        Member(m["tensor"], m["axis"], m["role"], np.array(m["indices"], dtype=np.int64))
        for m in document["members"]
    )
    return Group(document["name"], document["width"], members, exact=document["exact"], kind=document["kind"])


def _change_document(change: Change) -> dict[str, Any]:
    mixes = {
        reader: {"matrix": mix.matrix.tolist(), "shift": None if mix.shift is None else mix.shift.tolist()}
        for reader, mix in change.mixes.items()
    }
    return {"group": change.group, "width": change.width, "take": change.take.tolist(), "mixes": mixes}


def _change(document: dict[str, Any]) -> Change:
    mixes = {
        reader: Mix(np.array(mix["matrix"]), None if mix["shift"] is None else np.array(mix["shift"]))
        for reader, mix in document["mixes"].items()
    }
    return Change(document["group"], document["width"], np.array(document["take"], dtype=np.int64), mixes)
