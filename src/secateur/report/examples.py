"""From two evaluations to what a page says of classes: their changes, the confusions that grew, and examples as small pictures."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence
from typing import Final

import numpy as np
from torch import Tensor

from secateur.data import Split
from secateur.evaluate import Evaluation, class_changes, confusions, identified
from secateur.report.values import ClassChange, Confusion, Example, Identified

_SHOWN: Final = 24
"""Examples of each kind on a page."""
_LARGEST: Final = 64
"""Pixels a side from which a picture is thinned out, so that a page stays small enough to mail."""
_COLOURS: Final = {1: 0, 3: 2}
"""By channels: PNG's number for grey and for red, green and blue."""


def changes_of(before: Evaluation, after: Evaluation, groups: Tensor | None) -> tuple[ClassChange, ...]:
    """How each class fared."""
    return tuple(
        ClassChange(
            name=one.name,
            count=one.count,
            before=one.before,
            after=one.after,
            change=one.points,
            low=one.low,
            high=one.high,
        )
        for one in class_changes(before, after, groups=groups)
    )


def confusions_of(before: Evaluation, after: Evaluation) -> tuple[Confusion, ...]:
    """The confusions that grew."""
    return tuple(
        Confusion(true=one.true, predicted=one.predicted, count=one.count, before=one.before, after=one.after)
        for one in confusions(before, after)
    )


def identified_of(before: Evaluation, after: Evaluation, split: Split) -> Identified:
    """Which examples only one network gets right, some of them as pictures where they are images."""
    found = identified(before, after)
    names = [one.name for one in before.per_class]
    chosen = [int(place) for kind in (found.lost, found.gained) for place in kind[:_SHOWN]]
    pictures = _pictures(split.inputs, chosen)
    more = [
        f"{_SHOWN} of {len(kind):,} that were {word} are shown, the first in the data"
        for word, kind in (("lost", found.lost), ("gained", found.gained))
        if len(kind) > _SHOWN
    ]
    shape = list(split.inputs.shape[1:])
    no_image = [f"the inputs, of shape {shape}, are no images, so examples are told by their number"]
    return Identified(
        lost=len(found.lost),
        gained=len(found.gained),
        moved=len(found.moved),
        examples=tuple(
            Example(
                index=place,
                true=names[int(before.targets[place])],
                before=names[int(before.predicted[place])],
                after=names[int(after.predicted[place])],
                picture=picture,
            )
            for place, picture in zip(chosen, pictures, strict=True)
        ),
        note="; ".join([*more, *(no_image if chosen and not pictures[0] else [])]),
    )


def _pictures(inputs: Tensor, places: Sequence[int]) -> list[str]:
    """The inputs at some places as pictures; empty ones where they are no images."""
    if inputs.ndim != 4 or inputs.shape[1] not in _COLOURS or min(inputs.shape[2:]) < 2:
        return [""] * len(places)
    # Over all examples the smallest and largest value of a channel are, for photographs, black and white.
    low, high = inputs.amin(dim=(0, 2, 3), keepdim=True)[0], inputs.amax(dim=(0, 2, 3), keepdim=True)[0]
    step = max(1, -(-max(inputs.shape[2:]) // _LARGEST))
    return [png_of((inputs[place] - low) / (high - low).clamp_min(1e-12), step=step) for place in places]


def png_of(image: Tensor, *, step: int = 1) -> str:
    """An image as the address of a PNG that holds its own data.

    Args:
        image: ``[1 or 3, height, width]``, from 0 to 1.
        step: Take every so manieth row and column.

    Example:
        >>> import torch
        >>> png_of(torch.zeros(1, 2, 2))[:40]
        'data:image/png;base64,iVBORw0KGgoAAAANSU'

    Source:
        PNG specification, third edition (W3C 2025): 8 bits a sample, no filter.
    """
    pixels = (image[:, ::step, ::step].cpu().float() * 255).round().clamp(0, 255).permute(1, 2, 0)
    rows: np.ndarray = pixels.numpy().astype(np.uint8)
    height, width, channels = rows.shape
    lines = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOURS[channels], 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines, 9)), (b"IEND", b""))
    data = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + data).decode()
