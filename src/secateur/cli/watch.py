"""``secateur watch``: what belongs together in a network, what is fixed and why, what each group costs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any, cast

import torch
import typer

from secateur.channels import Block, Channels
from secateur.channels import blocks as blocks_of
from secateur.channels import watch as watch_network
from secateur.cli import options as o
from secateur.cli import show
from secateur.cli.progress import doing
from secateur.cli.sources import Source, open_example, open_network
from secateur.cost import CostModel
from secateur.errors import ModelError, SettingsError
from secateur.observe.calls import calls
from secateur.report import (
    FixedAxis,
    GroupRow,
    check_place,
    structure_of,
    text,
    tree,
    watched,
    write_structure,
)

_NAMED = 3
"""Blocks that are named before the rest are counted."""


def watch(
    *,
    network: Annotated[str, typer.Argument(help="A network's name, or a saved file.", show_default=False)],
    input_shape: Annotated[
        str | None, typer.Option(help="One example's shape: 3,224,224.", show_default=False)
    ] = None,
    example: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:FUNCTION",
            help="A function of yours that returns an input: token numbers, several tensors.",
            show_default=False,
        ),
    ] = None,
    inputs: Annotated[bool, typer.Option("--inputs", help="Input features may go, too.")] = False,
    attention: o.Attention = None,
    full: Annotated[bool, typer.Option("--full", help="Show every block, equal ones too.")] = False,
    groups: Annotated[
        bool,
        typer.Option("--groups", help="A table of the groups and what a unit costs, instead of the tree."),
    ] = False,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw it on a page of its own.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The same for programs.")] = False,
    stem: o.Stem = None,
    arg: o.Args = None,
    allow: o.Allow = None,
) -> None:
    """Show what belongs together, what is fixed and why, and what each group costs."""
    if sum((full, groups, html is not None, as_json)) > 1:
        raise SettingsError(
            "--full, --groups, --html and --json are different answers; ask for one at a time"
        )
    if input_shape and example:
        raise SettingsError("--input-shape and --example both say what the network takes; give one")
    if html is not None:
        check_place(html)
    source = open_network(network, arguments=o.arguments(arg or ()), allow=allow or (), stem=stem)
    if example:
        given, shape = open_example(example)
    else:
        shape = o.shape(input_shape) if input_shape else _known_shape(source, network)
        given = torch.zeros(1, *shape)
    with doing(f"watching {network}"):
        channels = watch_network(
            source.model, given, inputs=inputs, attention=cast("Any", attention or "heads")
        )
    with doing("looking for blocks"):
        blocks, note = _blocks(source, channels, given)
    if as_json:
        found = _document(network, shape, channels, _rows(channels), blocks)
        print(json.dumps({**found, "notes": [*channels.notes, *note]}, indent=2))
        return
    out = show.console()
    if groups:
        _table(network, shape, channels)
    else:
        with doing("looking at its layers"):
            structure = structure_of(
                source.model, channels, calls(source.model, given), network=network, input_shape=shape
            )
        if html is not None:
            written = write_structure(structure, html)
            out.print(
                f"The page: {written} ({text.size(written.stat().st_size)})", markup=False, soft_wrap=True
            )
        else:
            out.print(tree(structure, full=full))
    if not note:
        out.print(f"Blocks that can go whole: {_named(blocks)}", markup=False, soft_wrap=True)
    for told in (*channels.notes, *note):
        out.print(f"Note: {told}", markup=False, soft_wrap=True)


def _blocks(source: Source, channels: Channels, example: Any) -> tuple[tuple[Block, ...], tuple[str, ...]]:
    """The blocks; for a network that cannot be run on values a note that says so, since all else is known without."""
    try:
        return blocks_of(source.model, channels, example), ()
    except ModelError as error:
        return (), (f"no blocks were looked for: {error}",)


def _named(blocks: tuple[Block, ...]) -> str:
    """How many blocks there are, the first ones by name."""
    if not blocks:
        return "none"
    more = f" and {len(blocks) - _NAMED} more" if len(blocks) > _NAMED else ""
    return f"{len(blocks)} ({', '.join(block.name for block in blocks[:_NAMED])}{more})"


def _table(network: str, shape: tuple[int, ...], channels: Channels) -> None:
    out = show.console()
    out.print(
        watched(_rows(channels), title=network, fixed=_fixed(channels), unknown_ops=channels.unknown_ops)
    )
    out.print(f"\nThe whole network, one example of shape {list(shape)}: {CostModel(channels).total()}")


def _known_shape(source: Source, named: str) -> tuple[int, ...]:
    shape = source.input_shape
    if shape is None:
        raise SettingsError(
            f"which inputs {named} takes is not known; say one example's shape without the batch, such as"
            " --input-shape 3,224,224, or name a function that returns an input: --example package.module:function"
        )
    return shape


def _rows(channels: Channels) -> list[GroupRow]:
    each = CostModel(channels).by_group()
    return [
        GroupRow(
            name=group.name,
            kind=group.kind,
            width=group.width,
            members=len(group.members),
            parameters=each[group.name].parameters,
            macs=each[group.name].macs,
            exact=group.exact,
            limits=str(group.constraints),
        )
        for group in channels.groups
    ]


def _fixed(channels: Channels) -> list[FixedAxis]:
    return [
        FixedAxis(tensor=one.tensor, axis=one.axis, count=one.count, reason=one.reason)
        for one in channels.fixed
    ]


def _document(
    named: str, shape: tuple[int, ...], channels: Channels, rows: list[GroupRow], blocks: tuple[Block, ...]
) -> dict[str, Any]:
    model = CostModel(channels)
    total = model.total()
    return {
        "network": named,
        "input_shape": list(shape),
        "parameters": total.parameters,
        "macs": total.macs,
        "bytes": total.bytes,
        "groups": [
            {
                "name": row.name,
                "kind": row.kind,
                "width": row.width,
                "exact": row.exact,
                "constraints": dataclasses.asdict(group.constraints),
                "parameters_per_unit": row.parameters,
                "macs_per_unit": row.macs,
                "members": [
                    {
                        "tensor": one.tensor,
                        "axis": one.axis,
                        "role": one.role,
                        "positions_per_unit": one.block,
                    }
                    for one in group.members
                ],
            }
            for row, group in zip(rows, channels.groups, strict=True)
        ],
        "fixed": [one.model_dump() for one in _fixed(channels)],
        "unknown_ops": dict(channels.unknown_ops),
        "blocks": [
            {
                "name": block.name,
                "kind": block.kind,
                "groups": list(block.groups),
                "parameters": block.parameters,
                "macs": block.macs,
            }
            for block in blocks
        ],
    }
