"""Labels on the axes of tensors, and the ties between them.

Every axis of a tensor carries a vector of integer labels, one per index, or ``None`` where nothing on it can ever be
removed (a batch axis, a spatial axis). Operators *tie* labels: tied positions are the same channel. Label 0 is FIXED: what
is tied to it stays. Ties are only collected here; one call at the end (:mod:`secateur.channels.units`) turns them into
units.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

Labels: TypeAlias = NDArray[np.int64]
Axes: TypeAlias = "tuple[Labels | None, ...]"
Attention: TypeAlias = Literal["heads", "width"]
"""What of attention may go: whole heads, or positions of every head's width."""

FIXED = 0
_ATTRIBUTE = "_secateur_axes"


class MisfitError(Exception):
    """In a network that was cut on trial, an operator met channels that are not those that it met before.

    Attributes:
        labels: Those that it met, and those that it should have met.
    """

    def __init__(self, message: str, *labels: Labels) -> None:
        """Say what does not fit, and which labels met."""
        super().__init__(message)
        self.labels = labels


@dataclass(frozen=True, slots=True, eq=False)
class Joint:
    """Labels that several axes carry together: a channel axis that a view has divided, before it is known which part can go.

    Attributes:
        axes: The axes, ascending.
        table: A label for each combination of their positions.
        prefer: The axis whose size the code left open (-1), if it did: it can carry the channels.
    """

    axes: tuple[int, ...]
    table: Labels
    prefer: int | None = None

    def without(self, axis: int) -> tuple[int, ...]:
        """The other axes."""
        return tuple(other for other in self.axes if other != axis)


@dataclass(slots=True)
class Track:
    """What is known of one tensor: its labels, the parameter it is (or is a view of), and whether it is one number repeated.

    A weight is a parameter, or what is computed from nothing else, as under weight and spectral norm.
    What is one number repeated is so until somebody writes into it: ``uniform`` is the version in which it was.
    """

    owner: Ties
    axes: Axes
    parameter: str | None = None
    is_input: bool = False
    joint: Joint | None = None
    uniform: int | None = None
    computed: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """One call of an operator: what came in and what came out, with what is known of them in the end."""

    name: str
    into: tuple[Track | None, ...]
    out: tuple[tuple[tuple[int, ...], Track | None], ...]


@dataclass(frozen=True, slots=True)
class Base:
    """Where the labels of one axis of a parameter, buffer or input begin."""

    tensor: str
    axis: int
    start: int
    size: int
    buffer: bool = False


@dataclass(frozen=True, slots=True)
class Product:
    """Multiply-adds of one operator: ``count`` times the number of labels that are left in each vector."""

    count: float
    factors: tuple[Labels, ...]


@dataclass
class Ties:
    """Collects labels, ties and multiply-adds during one forward pass. Knows nothing of the dispatcher."""

    bases: list[Base] = field(default_factory=list[Base])
    kernels: set[str] = field(default_factory=set[str])
    attention: Attention = "heads"
    pairs: list[tuple[Labels, Labels]] = field(default_factory=list[tuple[Labels, Labels]])
    fixed: list[tuple[Labels, str]] = field(default_factory=list[tuple[Labels, str]])
    writers: list[Labels] = field(default_factory=list[Labels])
    readers: list[Labels] = field(default_factory=list[Labels])
    inexact: list[Labels] = field(default_factory=list[Labels])
    statistics: dict[int, list[Labels]] = field(default_factory=dict[int, list[Labels]])
    unknown: Counter[str] = field(default_factory=Counter[str])
    products: list[Product] = field(default_factory=list[Product])
    biases: dict[str, str] = field(default_factory=dict[str, str])
    used: dict[str, None] = field(default_factory=dict[str, None])  # in the order of their first use
    notes: list[str] = field(default_factory=list[str])
    values_read: str = ""
    counting: bool = True
    flat_input: Labels | None = None
    flattened: bool = False
    input_touched: bool = False
    next_label: int = 1
    calls: int = 0
    settled: dict[int, int] = field(default_factory=dict[int, int])
    seen: list[Seen] = field(default_factory=list[Seen])

    # --- labels -------------------------------------------------------------------------------------------------

    def fresh(self, size: int) -> Labels:
        """New labels that are tied to nothing yet."""
        start = self.next_label
        self.next_label = start + size
        return np.arange(start, start + size, dtype=np.int64)

    def base(self, tensor: str, axis: int, size: int, *, buffer: bool = False) -> Labels:
        """New labels for one axis of a parameter, buffer or input."""
        labels = self.fresh(size)
        self.bases.append(Base(tensor, axis, int(labels[0]) if size else self.next_label, size, buffer))
        return labels

    def of_buffer(self, labels: Labels) -> bool:
        """Whether labels are those of a buffer, which nothing writes: a table of numbers."""
        first = int(labels.flat[0])
        place = bisect_right(self.bases, first, key=lambda base: base.start) - 1
        return (
            place >= 0
            and self.bases[place].buffer
            and first < self.bases[place].start + self.bases[place].size
        )

    def one_unit(self, labels: Labels) -> bool:  # noqa: ARG002 - it is known on trial only
        """Whether several labels are known to be one unit's, so that they do not show along which axis units differ."""
        return False

    def labels(self, base: Base) -> Labels:
        """The labels of one axis of a parameter, buffer or input."""
        return np.arange(base.start, base.start + base.size, dtype=np.int64)

    def look(self, tensor: torch.Tensor) -> Track | None:
        """What is known of a tensor, without taking it as used. None where no rule of this pass has seen it."""
        track: Track | None = getattr(tensor, _ATTRIBUTE, None)
        return track if track is not None and track.owner is self else None

    def track_of(self, tensor: torch.Tensor) -> Track | None:
        """What is known of a tensor that an operator uses."""
        track = self.look(tensor)
        if track is not None:
            if track.parameter is not None:
                self.used[track.parameter] = None
            if track.is_input:
                self.input_touched = True
        return track

    def axes(self, tensor: torch.Tensor) -> Axes:
        """The labels of a tensor; a tensor that no rule has seen is a constant, which cannot change.

        Whoever asks for each axis by itself decides for joint axes: as it was decided for the same channels elsewhere, else
        the one carries whose size was left open, else the innermost. The others lose nothing.
        """
        track = self.track_of(tensor)
        if track is None:
            return (None,) * tensor.dim()
        if track.joint is not None:
            self.settle(tensor, self._carrier(track.joint))
        return track.axes

    def parts(self, tensor: torch.Tensor) -> tuple[Axes, Joint | None]:
        """The labels of a tensor with its joint axes (which are None among the others) as they are."""
        track = self.track_of(tensor)
        return ((None,) * tensor.dim(), None) if track is None else (track.axes, track.joint)

    def settle(self, tensor: torch.Tensor, carrier: int) -> None:
        """Decide which of a tensor's joint axes carries its channels: along the others the same positions go."""
        track = self.track_of(tensor)
        if track is None or track.joint is None:
            return
        joint, track.joint = track.joint, None
        table = np.moveaxis(joint.table, joint.axes.index(carrier), -1)
        rows = table.reshape(-1, table.shape[-1])
        self.tie_rows(rows)
        for row in rows:
            self.settled.update(zip(row.tolist(), rows[0].tolist(), strict=True))
        axes = list(track.axes)
        axes[carrier] = rows[0]
        track.axes = tuple(axes)

    def _carrier(self, joint: Joint) -> int:
        """Which of joint axes carries where nothing else decides."""
        known = (
            [self.settled.get(label) for label in joint.table.reshape(-1).tolist()]
            if self.settled
            else [None]
        )
        if None not in known:
            decided = np.array(known).reshape(joint.table.shape)
            for place in reversed(range(decided.ndim)):
                if (decided != decided.take([0], axis=place)).any():
                    return joint.axes[place]
        return joint.axes[-1] if joint.prefer is None else joint.prefer

    def tie_rows(self, rows: Labels) -> None:
        """Say that all rows of a table are the same axis."""
        if len(rows) > 1:
            self.tie(np.broadcast_to(rows[0], rows[1:].shape).reshape(-1), rows[1:].reshape(-1))

    def parameter(self, tensor: torch.Tensor | None) -> str | None:
        """The name of the parameter that a tensor is, or is a view of."""
        track = None if tensor is None else self.track_of(tensor)
        return track.parameter if track is not None else None

    def is_weight(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor is a parameter, or is computed from parameters alone, element by element or by norms."""
        track = self.look(tensor)
        return track is not None and (track.parameter is not None or track.computed)

    def hand_on(self, call: Call) -> None:
        """Note of what is computed from weights alone (and single numbers) that it is a weight, too."""
        given = tensors_of((call.args, call.kwargs))
        if any(map(self.is_weight, given)) and all(
            tensor.dim() == 0 or self.is_weight(tensor) or self.look(tensor) is None for tensor in given
        ):
            for out in tensors_of(call.out):
                track = self.look(out)
                if track is not None:
                    track.computed = True

    def set(
        self,
        tensor: torch.Tensor,
        axes: Sequence[Labels | None],
        *,
        parameter: str | None = None,
        is_input: bool = False,
        joint: Joint | None = None,
        uniform: bool = False,
    ) -> None:
        """Give a tensor its labels."""
        version = tensor._version if uniform else None
        setattr(tensor, _ATTRIBUTE, Track(self, tuple(axes), parameter, is_input, joint, version))

    def is_uniform(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor is one number repeated: it has as many of it as somebody's code asks for, and no channels."""
        track = self.look(tensor)
        return track is not None and track.uniform is not None and track.uniform == tensor._version

    def note(self, call: Call) -> None:
        """Remember a call, for comparison with the same call in a cut network."""
        into = tuple(self.look(tensor) for tensor in tensors_of((call.args, call.kwargs)))
        made = tensors_of(call.out)  # one number repeated has no size of its own to compare
        out = tuple((tuple(x.shape), None if self.is_uniform(x) else self.look(x)) for x in made)
        self.seen.append(Seen(call.name, into, out))

    # --- ties ---------------------------------------------------------------------------------------------------

    def tie(
        self,
        a: Labels | None,
        b: Labels | None,
        reason: str = "is added to or multiplied with something fixed",
    ) -> None:
        """Say that two label vectors of the same length are the same axis."""
        if a is b:
            return
        if a is None or b is None:
            self.fix(a if b is None else b, reason)
            return
        self.pairs.append((a, b))

    def fix(self, labels: Labels | None, reason: str) -> None:
        """Say that an axis cannot be cut."""
        if labels is not None:
            self.fixed.append((labels, reason))

    def write(self, weight: torch.Tensor, axis: int) -> None:
        """Say that the rows of a weight compute a channel: a parameter's, or one that is computed from it."""
        labels = self.axes(weight)[axis]
        if labels is not None:
            self.writers.append(labels)

    def read(self, weight: torch.Tensor, axis: int) -> None:
        """Say that the columns of a parameter consume a channel. Readers can be mixed, so only parameters themselves are."""
        labels = self.axes(weight)[axis]
        if labels is not None and self.parameter(weight) is not None:
            self.readers.append(labels)

    def norm(self, labels: Labels | None) -> None:
        """Say that a norm takes statistics over an axis: cutting it changes what stays."""
        if labels is not None:
            self.inexact.append(labels)
            self.statistics.setdefault(self.calls, []).append(labels)

    def bias(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """Say which bias belongs to a weight."""
        names = self.parameter(weight), self.parameter(bias)
        if names[0] is not None and names[1] is not None:
            self.biases[names[0]] = names[1]

    def macs(self, count: float, *factors: tuple[Labels | None, int]) -> None:
        """Count ``count`` x the product of the factors' lengths as multiply-adds; each factor is (labels, length)."""
        if not self.counting:
            return
        constant = count * math.prod(length for labels, length in factors if labels is None)
        self.products.append(Product(constant, tuple(labels for labels, _ in factors if labels is not None)))


def tensors_of(values: object) -> list[torch.Tensor]:
    """The tensors among arguments, lists included."""
    found: list[torch.Tensor] = []
    _gather(values, found)
    return found


def _gather(values: Any, found: list[torch.Tensor]) -> None:
    if isinstance(values, torch.Tensor):
        found.append(values)
    elif isinstance(values, (list, tuple, dict)):
        for value in cast("Any", values).values() if isinstance(values, dict) else cast("Any", values):
            if isinstance(value, torch.Tensor):
                found.append(value)
            elif isinstance(value, (list, tuple, dict)):
                _gather(value, found)


def ties_of(tensors: Iterable[torch.Tensor]) -> Ties | None:
    """The pass that labelled some tensors; None outside of one."""
    tracks: list[Track | None] = [getattr(tensor, _ATTRIBUTE, None) for tensor in tensors]
    return next((track.owner for track in tracks if track is not None), None)


def moved(joint: Joint | None, places: Mapping[int, int]) -> Joint | None:
    """A joint after its tensor's axes have moved: ``places`` names the new place of each old axis."""
    if joint is None:
        return None
    axes = [places[axis] for axis in joint.axes]
    order: list[int] = np.argsort(axes).tolist()
    prefer = None if joint.prefer is None else places[joint.prefer]
    return Joint(tuple(axes[place] for place in order), np.transpose(joint.table, order), prefer)


def vector(labels: Labels | None, size: int) -> Labels:
    """Labels as an array, FIXED ones written out."""
    return np.zeros(size, dtype=np.int64) if labels is None else labels


@dataclass(frozen=True, slots=True)
class Call:
    """One call of an operator as a rule sees it.

    Attributes:
        name: The operator's, ``namespace.name``; a class's where it is a module or function that is seen as a whole.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        out: What came out: a tensor, or several.
        module: The module, where a module is seen as a whole; its parameters are its attributes as always.
    """

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: Any
    module: nn.Module | None = None

    def tensor(self, position: int) -> torch.Tensor:
        """A positional argument that is a tensor."""
        return self.args[position]

    @property
    def result(self) -> torch.Tensor:
        """The one tensor that came out, or the first of several."""
        return self.out if isinstance(self.out, torch.Tensor) else self.out[0]

    def arg(self, position: int, name: str, default: Any = None) -> Any:
        """An argument by position or name."""
        if position < len(self.args):
            return self.args[position]
        return self.kwargs.get(name, default)


@dataclass(frozen=True, slots=True)
class Whole:
    """A function that is seen as one operator, though the dispatcher would only see its parts.

    Attributes:
        name: What it is called in reports.
        rule: What it does to labels.
        on_meta: What it gives on meta tensors; None where it is quick to run.
    """

    name: str
    rule: Callable[[Ties, Call], None]
    on_meta: Callable[[Any, Any], Any] | None = None
