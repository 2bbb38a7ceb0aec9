"""What removing whole blocks means for the groups of a plan."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from secateur.channels import Block, Channels, Group, tensors_gone
from secateur.errors import PlanError


def checked(channels: Channels, blocks: Iterable[Block]) -> tuple[Block, ...]:
    """Blocks of this network, each once.

    Raises:
        PlanError: One was found in another network.
    """
    found = {block.name: block for block in blocks}
    for block in found.values():
        if block.digest != channels.digest:
            raise PlanError(
                f"block {block.name!r} was found in another network (structure {block.digest}, this one is {channels.digest});"
                " find the blocks of the network that is to be cut"
            )
    return tuple(found.values())


def inner_groups(blocks: Iterable[Block]) -> frozenset[str]:
    """The groups that vanish with some blocks."""
    return frozenset(name for block in blocks for name in block.groups)


def closable(blocks: Iterable[Block]) -> frozenset[str]:
    """The inner groups of which nothing need be left, as blocks may go whole."""
    return frozenset(name for block in blocks for names in block.closed_by for name in names)


def closed(blocks: Iterable[Block], left: Mapping[str, int]) -> tuple[Block, ...]:
    """The blocks of whose branch nothing is left, with so many units of each group."""
    return tuple(
        block
        for block in blocks
        if any(all(left.get(name) == 0 for name in names) for names in block.closed_by)
    )


def holds(block: Block, module: str) -> bool:
    """Whether a module is a block or lies in it, by their names."""
    return module == block.name or module.startswith(f"{block.name}.")


def outside(group: Group, blocks: Iterable[Block]) -> Group:
    """A group without the members that vanish with some blocks."""
    gone = tensors_gone(blocks)
    if not any(member.tensor in gone for member in group.members):
        return group
    return replace(group, members=tuple(member for member in group.members if member.tensor not in gone))
