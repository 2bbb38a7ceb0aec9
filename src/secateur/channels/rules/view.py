"""Views: axes are merged or divided, the order of the elements stays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
import torch

from secateur.channels.ties import Axes, Call, Joint, Labels, Ties


def _segments(old: Sequence[int], new: Sequence[int]) -> list[tuple[range, range]]:
    """Cut two shapes of the same size into the smallest stretches whose products agree.

    >>> _segments((2, 6, 5, 5), (2, 150))
    [(range(0, 1), range(0, 1)), (range(1, 4), range(1, 2))]
    """
    result: list[tuple[range, range]] = []
    i = j = 0
    while i < len(old) and j < len(new):
        a, b, left, right = i, j, old[i], new[j]
        i, j = i + 1, j + 1
        while left != right:
            if left < right:
                left, i = left * old[i], i + 1
            else:
                right, j = right * new[j], j + 1
        result.append((range(a, i), range(b, j)))
    return result


Block: TypeAlias = "tuple[tuple[int, ...], Labels]"
"""Axes of a tensor, and a label for each combination of their positions."""


def _within(block: Block, before: range, after: range, old: Sequence[int], new: Sequence[int]) -> Block:
    """A block whose axes in one stretch of the old shape become those of the new one; other axes stay.

    Until all stretches are done, new axes are counted from 1,000 on.
    """
    axes, table = block
    if len(axes) == len(before) == 1:
        made = table if len(after) == 1 else table.reshape([new[axis] for axis in after])
        return tuple(1000 + axis for axis in after), made
    inside = [axis for axis in axes if axis in before]
    place = axes.index(inside[0])
    rest = (*axes[:place], *axes[place + len(inside) :])
    last = np.moveaxis(table, [axes.index(axis) for axis in inside], range(-len(inside), 0))
    shape: tuple[int, ...] = last.shape[: len(rest)]
    spread = last.reshape(*shape, *(old[axis] if axis in inside else 1 for axis in before))
    whole = np.broadcast_to(spread, (*shape, *(old[axis] for axis in before)))
    made = whole.reshape(*shape, *(new[axis] for axis in after))
    return (*rest, *(1000 + axis for axis in after)), made


def varying(block: Block) -> Block:
    """A block without the axes along which nothing changes; one axis stays."""
    axes, table = block
    if table.ndim == 1:
        return block
    keep: list[int] = [place for place in range(table.ndim) if (table != table.take([0], axis=place)).any()]
    if not keep:
        keep = [int(np.argmax(table.shape))]
    for place in reversed(range(table.ndim)):
        if place not in keep:
            table = table.take(0, axis=place)
    chosen = [axes[place] for place in keep]
    order: list[int] = np.argsort(chosen).tolist()
    return tuple(chosen[place] for place in order), np.transpose(table, order)


def _blocks(axes: Axes, joint: Joint | None) -> list[Block]:
    found: list[Block] = [((axis,), labels) for axis, labels in enumerate(axes) if labels is not None]
    return found if joint is None else [*found, (joint.axes, joint.table)]


def reshape(
    ties: Ties, axes: Axes, joint: Joint | None, old: Sequence[int], new: Sequence[int]
) -> tuple[list[Labels | None], Joint | None]:
    """The labels after a view of shape ``old`` as shape ``new``."""
    segments = _segments(old, new)
    blocks: list[Block] = []
    for block in _merged_once(ties, _blocks(axes, joint), segments, old):
        for before, after in segments:
            if any(axis in before for axis in block[0]):
                block = _within(block, before, after, old, new)  # noqa: PLW2901
        found = _without_gone(block)
        if found is not None:
            blocks.append(_without_repeats(found) if ties.one_unit(found[1]) else varying(found))
    result: list[Labels | None] = [None] * len(new)
    divided: list[Joint] = []
    for block in blocks:
        first = next(iter(block[0]))
        if len(block[0]) == 1:
            result[first] = np.ascontiguousarray(block[1])
        else:
            divided.append(Joint(block[0], block[1], int(block[0][-1])))
    for extra in divided[1:]:  # more than one at once: the innermost axis carries
        rows = extra.table.reshape(-1, extra.table.shape[-1])
        ties.tie_rows(rows)
        result[extra.axes[-1]] = rows[0]
    return result, divided[0] if divided else None


def _without_gone(block: Block) -> Block | None:
    """A block with the new numbers of its axes; what was of size one may be gone."""
    axes, table = block
    kept = [place for place, axis in enumerate(axes) if axis >= 1000]
    if not kept:
        return None
    for place in reversed(range(table.ndim)):
        if place not in kept:
            table = table.take([0], axis=place).squeeze(place)
    return tuple(axes[place] % 1000 for place in kept), table


def _without_repeats(block: Block) -> Block:
    """A block of one unit without the longer axes along which its positions are repeated: an axis of size one was merged there."""
    axes, table = block
    for place in reversed(range(table.ndim)):
        if table.ndim > 1 and table.shape[place] > 1 and (table == table.take([0], axis=place)).all():
            axes, table = axes[:place] + axes[place + 1 :], table.take([0], axis=place).squeeze(place)
    return axes, table


def _merged_once(
    ties: Ties, blocks: list[Block], segments: Sequence[tuple[range, range]], old: Sequence[int]
) -> list[Block]:
    """The blocks, without those that a stretch of the shape merges with each other: these stay whole."""
    if len(blocks) < 2:
        return blocks
    gone: set[int] = set()
    for before, _ in segments:
        here = [n for n, (axes, _) in enumerate(blocks) if any(axis in before for axis in axes)]
        wide = [n for n in here if any(old[axis] > 1 for axis in blocks[n][0] if axis in before)] or here[:1]
        gone.update(set(here) - set(wide))
        if len(wide) > 1:
            gone.update(wide)
            for n in wide:
                ties.fix(blocks[n][1].reshape(-1), "is merged with another channel axis by a view")
    return [block for n, block in enumerate(blocks) if n not in gone]


def view(ties: Ties, call: Call) -> None:
    """Axes are merged or divided; the order of the elements stays."""
    x, out = call.tensor(0), call.result
    if _flattens_input(ties, x, out):
        return
    if x.numel() == 0:
        ties.set(out, (None,) * out.dim())
        return
    if _merges(ties.parts(x)[1], x.shape, out.shape):
        ties.axes(x)  # what was divided is put together again: it is settled first
    given = [int(size) for size in call.args[1]]
    axes, joint = reshape(ties, *ties.parts(x), x.shape, out.shape)
    if joint is not None:
        left_open = given.index(-1) if -1 in given else -1
        joint = replace(joint, prefer=left_open if left_open in joint.axes else joint.axes[-1])
    ties.set(out, axes, parameter=ties.parameter(x), joint=joint)


def _merges(joint: Joint | None, old: Sequence[int], new: Sequence[int]) -> bool:
    """Whether a view puts joint axes together."""
    return joint is not None and any(
        sum(axis in before for axis in joint.axes) > 1 for before, _ in _segments(old, new)
    )


def _flattens_input(ties: Ties, x: torch.Tensor, out: torch.Tensor) -> bool:
    """Where removable inputs are flattened at once, every position is a feature of its own."""
    track = ties.look(x)
    flat = (
        track is not None
        and track.is_input
        and out.dim() == 2
        and out.shape[0] == x.shape[0]
        and out.shape[1] == math.prod(x.shape[1:])
    )
    if not flat or ties.flat_input is None:
        return False
    ties.flattened = True
    ties.set(out, (None, ties.flat_input))
    return True


aten = torch.ops.aten
RULES = {
    aten.view: view,
    aten._unsafe_view: view,
    aten.reshape: view,
    aten._reshape_alias: view,
}
