"""``secateur watch``: what belongs together in a network, what is fixed and why, what each group costs."""

from __future__ import annotations

import json
from typing import Annotated, Any

import torch
import typer

from secateur.channels import Channels
from secateur.channels import watch as watch_network
from secateur.cli import options as o
from secateur.cli import show
from secateur.cli.sources import Source, open_network
from secateur.cost import CostModel
from secateur.errors import SettingsError
from secateur.report import FixedAxis, GroupRow, watched


def watch(
    *,
    network: Annotated[str, typer.Argument(help="A network's name, or a saved file.", show_default=False)],
    input_shape: Annotated[
        str | None, typer.Option(help="One example's shape: 3,224,224.", show_default=False)
    ] = None,
    inputs: Annotated[bool, typer.Option("--inputs", help="Input features may go, too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The same for programs.")] = False,
    arg: o.Args = None,
    allow: o.Allow = None,
) -> None:
    """Show what belongs together, what is fixed and why, and what each group costs."""
    source = open_network(network, arguments=o.arguments(arg or ()), allow=allow or ())
    shape = o.shape(input_shape) if input_shape else _known_shape(source, network)
    channels = watch_network(source.model, torch.zeros(1, *shape), inputs=inputs)
    rows = _rows(channels)
    if as_json:
        print(json.dumps(_document(network, shape, channels, rows), indent=2))
        return
    out = show.console()
    out.print(watched(rows, title=network, fixed=_fixed(channels), unknown_ops=channels.unknown_ops))
    out.print(f"\nThe whole network, one example of shape {list(shape)}: {CostModel(channels).total()}")
    for note in channels.notes:
        out.print(f"Note: {note}", markup=False, soft_wrap=True)


def _known_shape(source: Source, named: str) -> tuple[int, ...]:
    shape = source.input_shape
    if shape is None:
        raise SettingsError(
            f"which inputs {named} takes is not known; say one example's shape without the batch, such as"
            " --input-shape 3,224,224"
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
        )
        for group in channels.groups
    ]


def _fixed(channels: Channels) -> list[FixedAxis]:
    return [
        FixedAxis(tensor=one.tensor, axis=one.axis, count=one.count, reason=one.reason)
        for one in channels.fixed
    ]


def _document(named: str, shape: tuple[int, ...], channels: Channels, rows: list[GroupRow]) -> dict[str, Any]:
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
        "notes": list(channels.notes),
    }
