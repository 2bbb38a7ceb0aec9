"""The groups of a network as a picture on one self-contained page: layers from top to bottom, groups as bands between them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from secateur.channels.groups import Role
from secateur.errors import StoreError
from secateur.report import charts
from secateur.report.page import digest_of, environment, replace, resource
from secateur.report.structure import VERBS, GroupView, Layer, Structure

LANE: Final = 30
ROW: Final = 28
_HUES: Final = 8
_THICK: Final = (3.0, 13.0)
"""Pixels of the narrowest and the widest band."""
_MARK: Final = '<meta name="generator" content="Secateur">'
_LOOKED_AT: Final = 1000


@dataclass(frozen=True, slots=True)
class Strand:
    """A group's band at one layer.

    Attributes:
        group: Its number.
        x: The middle of its lane.
        hue: Which of the colours.
        thick: The band's width, which grows with the logarithm of the group's.
        top: Where the band begins in the row.
        bottom: Where it ends.
        roles: What the layer does with the group; none where the band only passes.
    """

    group: int
    x: int
    hue: int
    thick: float
    top: int
    bottom: int
    roles: tuple[Role, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """One layer in the picture: its bands, and its shares of the network's parameters and multiply-adds."""

    layer: Layer
    strands: tuple[Strand, ...]
    parameter_share: float
    mac_share: float


def rows(structure: Structure) -> tuple[Row, ...]:
    """Each layer with the bands that begin, pass and end there.

    A band runs from the first layer that takes part in its group to the last; bands that do not overlap share a lane.
    """
    spans = _spans(structure.layers)
    lanes = _lanes(spans)
    widest = max((view.group.width for view in structure.groups), default=1)
    thick = {view.number: _thickness(view, widest) for view in structure.groups}
    made: list[Row] = []
    for place, layer in enumerate(structure.layers):
        roles: dict[int, tuple[Role, ...]] = {}
        for role, parts in layer.uses().items():
            for number in parts:
                roles[number] = (*roles.get(number, ()), role)
        strands = tuple(
            Strand(
                group=number,
                x=lanes[number] * LANE + LANE // 2,
                hue=(number - 1) % _HUES,
                thick=thick[number],
                top=ROW // 2 if place == first else 0,
                bottom=ROW // 2 if place == last else ROW,
                roles=roles.get(number, ()),
            )
            for number, (first, last) in spans.items()
            if first <= place <= last
        )
        total = structure.total
        made.append(
            Row(layer, strands, layer.parameters / max(total.parameters, 1), layer.macs / max(total.macs, 1))
        )
    return tuple(made)


def render_structure(structure: Structure) -> str:
    """The page of a network's structure; the same structure gives the same page.

    Args:
        structure: What watching found.

    Returns:
        A whole HTML document that needs no other file.
    """
    script = resource("structure.js")
    drawn = rows(structure)
    context: dict[str, Any] = {
        "structure": structure,
        "style": resource("report.css") + resource("structure.css"),
        "script": script,
        "digest": digest_of(script),
        "rows": drawn,
        "field": max((strand.x for row in drawn for strand in row.strands), default=0) + LANE // 2,
        "row_height": ROW,
        "largest": max((max(row.parameter_share, row.mac_share) for row in drawn), default=0.0) or 1.0,
        "fixed": charts.fixed_by_reason(structure.fixed),
        "verbs": VERBS,
        "values": {
            "groups": [_group_values(view) for view in structure.groups],
            "layers": [_layer_values(row.layer, structure) for row in drawn],
        },
    }
    return environment().get_template("structure.html.jinja").render(context)


def write_structure(structure: Structure, file: Path) -> Path:
    """Write the page of a network's structure, whole or not at all.

    Args:
        structure: What watching found.
        file: Where. A page that Secateur wrote is replaced, any other file is left alone.

    Raises:
        StoreError: The folder is not there, the file exists and is no such page, or it could not be written.
    """
    check_place(file)
    return replace(file, render_structure(structure))


def check_place(file: Path) -> None:
    """Refuse a place where a page cannot be written, or where something else would be lost.

    Raises:
        StoreError: The folder is not there, or the file exists and is no page of Secateur's.
    """
    if not file.parent.is_dir():
        raise StoreError(f"{file.parent} is no folder, so {file.name} cannot be written there; make it first")
    if file.is_dir():
        raise StoreError(f"{file} is a folder; name a file, such as {file / 'structure.html'}")
    if not file.exists():
        return
    try:
        with file.open(encoding="utf-8", errors="replace") as stream:
            ours = _MARK in stream.read(_LOOKED_AT)
    except OSError as error:
        raise StoreError(f"{file} cannot be read ({error.strerror}); name another file") from error
    if not ours:
        raise StoreError(f"{file} exists and is no page of Secateur's; name another file, or remove it")


def _spans(layers: Iterable[Layer]) -> dict[int, tuple[int, int]]:
    """The first and the last layer of each group, by number."""
    found: dict[int, tuple[int, int]] = {}
    for place, layer in enumerate(layers):
        for part in layer.parts:
            first, _ = found.get(part.group, (place, place))
            found[part.group] = (first, place)
    return dict(sorted(found.items()))


def _lanes(spans: dict[int, tuple[int, int]]) -> dict[int, int]:
    """A lane for each group, such that no two overlap; the first that is free.

    >>> _lanes({1: (0, 4), 2: (1, 2), 3: (3, 5)})
    {1: 0, 2: 1, 3: 1}
    """
    ends: list[int] = []
    lanes: dict[int, int] = {}
    for number, (first, last) in sorted(spans.items(), key=lambda entry: (entry[1][0], entry[0])):
        lane = next((lane for lane, end in enumerate(ends) if end < first), len(ends))
        ends[lane : lane + 1] = [last]
        lanes[number] = lane
    return lanes


def _thickness(view: GroupView, widest: int) -> float:
    thin, thick = _THICK
    return round(thin + (thick - thin) * math.log2(view.group.width) / max(math.log2(widest), 1.0), 1)


def _group_values(view: GroupView) -> dict[str, Any]:
    """What the page shows of a group when it is chosen."""
    group = view.group
    return {
        "number": view.number,
        "name": group.name,
        "kind": group.kind,
        "units": group.width,
        "parameters": view.parameters,
        "macs": round(view.macs),
        "parameterShare": view.parameter_share,
        "macShare": view.mac_share,
        "exact": group.exact,
        "why": view.why,
        "members": [
            [VERBS[one.role], f"{one.tensor}[{one.axis}]", one.block]
            for role in VERBS
            for one in group.by_role(role)
        ],
    }


def _layer_values(layer: Layer, structure: Structure) -> dict[str, Any]:
    """What the page shows of a layer when it is chosen."""
    return {
        "name": layer.name or "(the network itself)",
        "kind": layer.kind,
        "parameters": layer.parameters,
        "macs": layer.macs,
        "axes": [
            [f"{part.tensor}[{part.axis}]", VERBS[part.role], part.group, part.units, part.block]
            for part in layer.parts
        ],
        "fixed": [[f"{axis.tensor}[{axis.axis}]", axis.count, axis.reason] for axis in layer.fixed],
        "words": " ".join(
            [layer.name, layer.kind]
            + [structure.group(number).group.name for number in sorted({p.group for p in layer.parts})]
            + sorted({axis.reason for axis in layer.fixed})
        ).lower(),
    }
