"""Keeping on a network which of its layers were replaced, and replacing them again when it is built anew."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from torch import nn

from secateur.channels.pass_through import put_in
from secateur.surgery.blocks import is_gone
from secateur.surgery.modules import fits, stand_in

REPLACED = "_secateur_replaced"


def record_replaced(model: nn.Module, entries: Iterable[Mapping[str, Any]]) -> None:
    """Keep on the network which layers were replaced, after those from before: some may be parts of these."""
    setattr(model, REPLACED, [*getattr(model, REPLACED, []), *(dict(entry) for entry in entries)])


def forget_replaced(model: nn.Module) -> None:
    """Forget layers in blocks that have been taken out."""
    if hasattr(model, REPLACED):
        entries: Sequence[dict[str, Any]] = getattr(model, REPLACED)
        setattr(model, REPLACED, [entry for entry in entries if not is_gone(model, entry["name"])])


def rebuilt_with(model: nn.Module, entries: Iterable[Mapping[str, Any]]) -> str | None:
    """Replace the recorded layers of a network that was built anew, by modules whose weights are not set.

    What is replaced in the built network already, because a network with factors was the unreduced one, is left.

    Args:
        model: The network, which is changed.
        entries: The records, as they are kept on a network.

    Returns:
        The first name that is no layer of this network that its kind can stand for; None if there is none.
    """
    done: Sequence[Mapping[str, Any]] = getattr(model, REPLACED, [])
    for entry in entries:
        if entry in done:
            continue
        layer = dict(cast("Iterable[tuple[str, nn.Module]]", model.named_modules())).get(entry["name"])
        if not fits(layer, entry["kind"]):
            return str(entry["name"])
        made = stand_in(cast("Any", layer), entry["kind"], parts=entry["parts"] or None)
        put_in(model, {id(layer): made})
    return None
