"""Where int8 runtimes round: which layers' weights, and behind which operators activations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from secateur._options import did_you_mean, expect_names
from secateur.errors import SettingsError
from secateur.quantise.flow import LAYERS, Flow, Step
from secateur.quantise.grid import SIGNED_UNIT, UNIT, Range

INPUT = "input"
"""The name of the place at which the network's input is rounded."""

_MOVING = frozenset(
    [
        "max_pool1d",
        "max_pool2d",
        "max_pool3d",
        "adaptive_max_pool1d",
        "adaptive_max_pool2d",
        "adaptive_max_pool3d",
        "flatten",
        "reshape",
        "view",
        "view_as",
        "reshape_as",
        "unflatten",
        "permute",
        "transpose",
        "swapaxes",
        "movedim",
        "T",
        "mT",
        "squeeze",
        "unsqueeze",
        "expand",
        "expand_as",
        "repeat",
        "contiguous",
        "clone",
        "detach",
        "data",
        "to",
        "float",
        "double",
        "dropout",
        "dropout1d",
        "dropout2d",
        "dropout3d",
        "alpha_dropout",
        "feature_dropout",
        "chunk",
        "split",
        "tensor_split",
        "unbind",
        "getitem",
        "narrow",
        "select",
        "index_select",
        "gather",
        "pad",
        "flip",
        "roll",
        "pixel_shuffle",
        "pixel_unshuffle",
        "channel_shuffle",
        "requires_grad",
    ]
)
"""Functions that give values which they took: what lay on a grid still does."""

_AVERAGING = frozenset(
    {"avg_pool1d", "avg_pool2d", "avg_pool3d", "interpolate", "upsample", "adaptive_avg_pool1d"}
)
"""Functions whose results runtimes round to the grid of what was taken."""

_FUSING = frozenset({*LAYERS, "add", "iadd", "sub", "isub", "mul", "imul", "batch_norm"})
"""Operators with which runtimes compute the activation function behind, before they round."""

_FUSED = frozenset({"relu", "relu6", "hardtanh", "hardsigmoid", "clamp", "clip"})
"""Activation functions that runtimes compute with the operator before."""

_JOINING = frozenset({"cat", "concat", "concatenate", "stack"})
"""Functions that put tensors side by side, which then share a grid."""

INNER: Mapping[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "hardsigmoid": (lambda x: F.relu6(x + 3), lambda _x, inner: inner / 6),
    "silu": (torch.sigmoid, lambda x, inner: x * inner),
}
"""Functions that runtimes compute in two operators: what the first gives, and what the second makes of it."""

_FIXED = {"sigmoid": UNIT, "softmax": UNIT, "tanh": SIGNED_UNIT}
"""Functions whose grid runtimes fix."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer whose weights are rounded.

    Attributes:
        name: Its module.
        takes: The place at which what it takes was rounded.
        gives: The place at which what it gives is rounded.
        weight: Name of its weight; None where that is computed.
    """

    name: str
    takes: int
    gives: int
    weight: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Scheme:
    """Where a network is rounded.

    A *place* is where activations are rounded to a grid of their own; places are numbered from 0, which is the network's input. Who rounds has a
    name: a layer that of its module, another operator that of its module and its function.

    Attributes:
        places: The name of each place.
        layers: The layers by the keys of their steps, in the order in which they run.
        rounds: By a step's key the place at which its outcome is rounded.
        inner: By the key of a step that runtimes compute in two operators the place between them.
        fixed: The ranges that runtimes fix, by place.
        writers: For each place the names of those whose outcome is rounded there.
        readers: For each place the names of those that read what was rounded there.
    """

    places: tuple[str, ...]
    layers: Mapping[str, Layer]
    rounds: Mapping[str, int]
    inner: Mapping[str, int]
    fixed: Mapping[int, Range]
    writers: tuple[frozenset[str], ...]
    readers: tuple[frozenset[str], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """All who round, in the order in which they run; the input is none of them."""
        order = dict.fromkeys(layer.name for layer in self.layers.values())
        found = {name: None for writers in self.writers for name in sorted(writers) if name != INPUT}
        return tuple(order | found)

    def check(self, keep_float: Collection[str]) -> frozenset[str]:
        """All who have one of the names, or are inside a module that has.

        Raises:
            SettingsError: Nobody who rounds has one of the names.
        """
        expect_names(keep_float=keep_float)
        found: set[str] = set()
        for name in keep_float:
            inside = {one for one in self.names if one == name or one.startswith(f"{name}.")}
            found |= inside
            if not inside:
                raise SettingsError(
                    f"no layer or operator that int8 rounds is named {name!r}; {did_you_mean(name, self.names)}"
                )
        return frozenset(found)

    def rounded_places(self, keep_float: Collection[str]) -> frozenset[int]:
        """The places at which something is rounded while some stay float: between two that do, nothing is."""
        kept = {*keep_float, INPUT}
        return frozenset(
            place
            for place, (writers, readers) in enumerate(zip(self.writers, self.readers, strict=True))
            if (writers | readers) - kept
        )


def scheme_of(flow: Flow) -> Scheme:
    """Where a network is rounded, by what one forward pass calls.

    Args:
        flow: The pass, of a network whose norms are folded.
    """
    return _Making(flow).scheme()


class _Making:
    """The tables of a scheme while they are filled, step by step."""

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        self.readers_of: dict[int, list[Step]] = {}
        for step in flow.steps:
            for number in set(step.takes):
                self.readers_of.setdefault(number, []).append(step)
        self.places: list[str] = [INPUT]
        self.same: list[int] = [0]
        self.writers: list[set[str]] = [{INPUT}]
        self.readers: list[set[str]] = [set()]
        self.place: dict[int, int] = dict.fromkeys(flow.inputs, 0)
        self.pending: dict[int, tuple[str, Step]] = {}
        self.layers: dict[str, Layer] = {}
        self.rounds: dict[str, int] = {}
        self.inner: dict[str, int] = {}
        self.fixed: dict[int, Range] = {}
        self._taken: Counter[str] = Counter({INPUT: 1})

    def scheme(self) -> Scheme:
        """Fill the tables, then number the places that are left after joining."""
        for step in self.flow.steps:
            self._add(step)
        root = [self._root(place) for place in range(len(self.places))]
        left = sorted(set(root))
        number = {old: new for new, old in enumerate(left)}
        for place, old in enumerate(root):
            if place != old:
                self.writers[old] |= self.writers[place]
                self.readers[old] |= self.readers[place]
        return Scheme(
            places=tuple(self.places[old] for old in left),
            layers={
                key: Layer(layer.name, number[root[layer.takes]], number[root[layer.gives]], layer.weight)
                for key, layer in self.layers.items()
            },
            rounds={key: number[root[place]] for key, place in self.rounds.items()},
            inner={key: number[root[place]] for key, place in self.inner.items()},
            fixed={number[root[place]]: grid for place, grid in self.fixed.items()},
            writers=tuple(frozenset(self.writers[old]) for old in left),
            readers=tuple(frozenset(self.readers[old]) for old in left),
        )

    def _add(self, step: Step) -> None:
        first = step.takes[0]
        if step.function in _MOVING and first not in self.pending:
            for number in step.gives:
                self.place[number] = self.place[first]
            return
        if step.function in _AVERAGING:
            for number in step.gives:
                self.place[number] = self.rounds[step.key] = self.place[first]
            return
        if first in self.pending:  # the activation function that is computed with the operator before
            name, before = self.pending.pop(first)
            self._round(step, name)
            if before.is_layer:
                layer = self.layers[before.key]
                self.layers[before.key] = replace(layer, gives=self.place[step.gives[0]])
            return
        name = self._name_of(step)
        for number in step.takes:
            self.readers[self.place[number]].add(name)
        if step.is_layer:
            self.layers[step.key] = Layer(name, self.place[first], -1, step.weight)
        if self._fuses(step):
            self.pending[step.gives[0]] = (name, step)
            return
        self._round(step, name)
        if step.is_layer:
            self.layers[step.key] = replace(self.layers[step.key], gives=self.place[step.gives[0]])
        if step.function in _JOINING:
            for number in step.takes:
                self._join(self.place[number], self.place[step.gives[0]])

    def _round(self, step: Step, name: str) -> None:
        """A place of its own behind a step, and one between its two halves."""
        if step.function in INNER:
            self.inner[step.key] = self._new(f"{name} (inner)", name)
            self.readers[-1].add(name)
            if step.function == "silu":
                self.fixed[self.inner[step.key]] = UNIT
        self.rounds[step.key] = place = self._new(name, name)
        for number in step.gives:
            self.place[number] = place
        if step.function in _FIXED:
            self.fixed[place] = _FIXED[step.function]

    def _new(self, called: str, writer: str) -> int:
        place = len(self.places)
        self.places.append(called)
        self.same.append(place)
        self.writers.append({writer})
        self.readers.append(set())
        return place

    def _join(self, one: int, other: int) -> None:
        """Two places share a range, unless one is the input's or a fixed one."""
        one, other = self._root(one), self._root(other)
        if one != other and 0 not in (one, other) and not {one, other} & set(self.fixed):
            self.same[max(one, other)] = min(one, other)

    def _root(self, place: int) -> int:
        while self.same[place] != place:
            place = self.same[place]
        return place

    def _fuses(self, step: Step) -> bool:
        """Whether an activation function behind is all that reads what a step gives."""
        if step.function not in _FUSING or len(step.gives) != 1 or step.gives[0] in self.flow.outputs:
            return False
        readers = self.readers_of.get(step.gives[0], [])
        return len(readers) == 1 and readers[0].function in _FUSED

    def _name_of(self, step: Step) -> str:
        """A layer's module; of another operator its module, with the function unless that is all that the module does."""
        if step.weight is not None and step.weight.rpartition(".")[0]:
            name = step.weight.rpartition(".")[0]
        else:
            mates = [one for one in self.flow.steps if f"{one.module}.".startswith(f"{step.module}.")]
            name = (
                step.module
                if step.module and len(mates) == 1
                else f"{step.module}.{step.function}".strip(".")
            )
        self._taken[name] += 1
        return name if self._taken[name] == 1 else f"{name}#{self._taken[name]}"
