"""Taking whole blocks out of a network, and keeping on it which."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from torch import nn

from secateur.channels import Block
from secateur.channels.pass_through import put_in, stand_in

BLOCKS = "_secateur_blocks"


def stand_ins(model: nn.Module, blocks: Iterable[Block]) -> dict[int, nn.Module]:
    """What takes the place of each block, by the block's identity, in the mode that the block was in."""
    result: dict[int, nn.Module] = {}
    for block in blocks:
        module = model.get_submodule(block.name)
        result[id(module)] = stand_in(alone=block.alone).train(module.training)
    return result


def take_out(model: nn.Module, blocks: Sequence[Block]) -> None:
    """Replace blocks in the network itself."""
    if blocks:
        put_in(model, stand_ins(model, blocks))


def record_blocks(model: nn.Module, blocks: Iterable[Block]) -> None:
    """Keep on the network which blocks are gone, also from before, but not those inside of others."""
    gone: dict[str, bool] = {entry["name"]: entry["alone"] for entry in getattr(model, BLOCKS, [])}
    gone |= {block.name: block.alone for block in blocks}
    outer = [name for name in sorted(gone) if not any(name.startswith(f"{other}.") for other in gone)]
    if outer:
        setattr(model, BLOCKS, [{"name": name, "alone": gone[name]} for name in outer])


def is_gone(model: nn.Module, module: str) -> bool:
    """Whether a module is, or was in, a block that has been taken out."""
    gone: list[dict[str, Any]] = getattr(model, BLOCKS, [])
    return any(module == entry["name"] or module.startswith(f"{entry['name']}.") for entry in gone)


def rebuilt_without(model: nn.Module, blocks: Iterable[Mapping[str, Any]]) -> list[str]:
    """Take recorded blocks out of a network that was built anew.

    Args:
        model: The network, which is changed.
        blocks: The records, as they are kept on a network.

    Returns:
        The names that are no modules of this network; nothing is done about them.
    """
    modules = dict(cast("Iterable[tuple[str, nn.Module]]", model.named_modules()))
    known = [entry for entry in blocks if entry["name"] and entry["name"] in modules]
    put_in(model, {id(modules[entry["name"]]): stand_in(alone=entry["alone"]) for entry in known})
    return sorted({entry["name"] for entry in blocks} - {entry["name"] for entry in known})
