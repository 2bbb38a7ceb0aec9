"""Which tensor went into each module of a network and which came out, and which units lie on their axes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from secateur._model import left_as_found, uncollected, unwrapped
from secateur.channels.groups import Indices
from secateur.channels.leaves import leaves_closed
from secateur.channels.nested import tensors_in
from secateur.channels.ties import Attention, Ties
from secateur.channels.units import Units
from secateur.channels.watch import in_format_of, kept_features, tried, watched_somehow


@dataclass(frozen=True, slots=True, eq=False)
class Passage:
    """One tensor on its way into a module or out of it.

    Attributes:
        tensor: Stands for the tensor and what was in it then: two passages of the same number are of one tensor, into which
            nothing was written between.
        units: For each axis the unit of every position (numbered through all groups), -1 for what stays; None for an axis of
            which nothing can go.
    """

    tensor: int
    units: tuple[Indices | None, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Visit:
    """One call of a module in a forward pass.

    Attributes:
        module: Name of the module; the network itself has the empty name.
        caller: The place, among all visits, of the call that it was made in; -1 for the network's own.
        taken: Its first argument, where that is the only tensor that it was called with; None where it is not, or its channels
            are not known.
        given: What it gave; None where that is no tensor or its channels are not known.
    """

    module: str
    caller: int
    taken: Passage | None
    given: Passage | None


@dataclass(frozen=True, slots=True, eq=False)
class Visits:
    """All calls of one forward pass, in the order in which they began.

    Attributes:
        calls: The calls.
        widths: The width of each group by its name, in the order in which units are numbered.
    """

    calls: tuple[Visit, ...]
    widths: Mapping[str, int]


def visits(model: nn.Module, example: Any, *, inputs: bool = False, attention: Attention = "heads") -> Visits:
    """Watch one forward pass, and note each call of each module: what went in, what came out, and whose units these carry.

    Args:
        model: The network; it is left as found.
        example: An input, as for `secateur.watch`.
        inputs: As for `secateur.watch`.
        attention: As for `secateur.watch`.

    Raises:
        WatchError: The forward pass failed.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> whole, first, relu, last = visits(net, torch.zeros(1, 4)).calls
        >>> first.module, first.given.units[1], first.given.tensor == relu.taken.tensor
        ('0', array([0, 1, 2]), True)
    """
    model = unwrapped(model)
    example = in_format_of(model, example)
    if inputs:
        example = kept_features(model, example)
    book = _Book()
    with leaves_closed(), uncollected():
        with left_as_found(model, values=False):
            for name, module in cast("Iterator[tuple[str, nn.Module]]", model.named_modules()):
                module.register_forward_pre_hook(book.before(name), with_kwargs=True)
                module.register_forward_hook(book.after())
            watched = watched_somehow(model, example, inputs=inputs, attention=attention)
        watched.close()
        units = tried(model, watched, example).units
    return Visits(
        tuple(note.visit(watched.ties, units) for note in book.notes),
        {group.name: group.width for group in units.groups},
    )


@dataclass(slots=True)
class _Note:
    """A call as it was seen: its tensors, their states and shapes then."""

    module: str
    caller: int
    taken: tuple[int, Tensor, tuple[int, ...]] | None
    given: tuple[int, Tensor, tuple[int, ...]] | None = None

    def visit(self, ties: Ties, units: Units) -> Visit:
        """With what is known of the tensors in the end."""
        return Visit(
            self.module, self.caller, _passage(self.taken, ties, units), _passage(self.given, ties, units)
        )


def _passage(seen: tuple[int, Tensor, tuple[int, ...]] | None, ties: Ties, units: Units) -> Passage | None:
    if seen is None:
        return None
    number, tensor, shape = seen
    track = ties.look(tensor)
    if track is None or track.joint is not None or len(track.axes) != len(shape):
        return None  # a constant, channels that several axes carry together, or another shape since
    axes = tuple(None if labels is None else units.units(labels) for labels in track.axes)
    if any(axis is not None and len(axis) != size for axis, size in zip(axes, shape, strict=True)):
        return None
    return Passage(number, axes)


@dataclass
class _Book:
    """Notes the calls of one forward pass in eval mode: the last one that was begun."""

    notes: list[_Note] = field(default_factory=list[_Note])
    _open: list[int] = field(default_factory=list[int])
    _numbers: dict[tuple[int, int], int] = field(default_factory=dict[tuple[int, int], int])

    def before(self, name: str) -> Any:
        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if module.training:  # what only runs in train mode is no part of the network as it is used
                return
            if not name:  # a pass on tensors without data may have failed, and this is another one
                self.notes, self._open, self._numbers = [], [], {}
            first: object = next(iter(args), None)
            alone = sum(1 for _ in tensors_in((args, kwargs))) == 1
            caller = self._open[-1] if self._open else -1
            self._open.append(len(self.notes))
            self.notes.append(_Note(name, caller, self._seen(first) if alone else None))

        return before

    def after(self) -> Any:
        def after(module: nn.Module, _args: Any, out: object) -> None:
            if not module.training:
                self.notes[self._open.pop()].given = self._seen(out)

        return after

    def _seen(self, value: object) -> tuple[int, Tensor, tuple[int, ...]] | None:
        """A tensor with the number of what is in it now; it is kept, so that no other takes its identity."""
        if not isinstance(value, torch.Tensor):
            return None
        key = id(value), value._version
        return self._numbers.setdefault(key, len(self._numbers)), value, tuple(value.shape)
