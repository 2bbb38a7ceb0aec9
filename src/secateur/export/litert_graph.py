"""What is in a ``.tflite``: operators, the formats of their tensors, and the layers that they are from."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from secateur.export.libraries import library
from secateur.export.quiet import silenced

MOVERS = frozenset({"QUANTIZE", "DEQUANTIZE"})
"""Operators that only change the number format."""

CARRIERS = frozenset(
    {
        "EXPAND_DIMS",
        "GATHER",
        "MAX_POOL_2D",
        "MIRROR_PAD",
        "PAD",
        "PADV2",
        "RESHAPE",
        "SLICE",
        "SPLIT",
        "SQUEEZE",
        "STRIDED_SLICE",
        "TRANSPOSE",
    }
)
"""Operators that give values which they took."""

WITH_WEIGHTS = frozenset(
    {
        "BATCH_MATMUL",
        "CONV_2D",
        "CONV_3D",
        "DEPTHWISE_CONV_2D",
        "EMBEDDING_LOOKUP",
        "FULLY_CONNECTED",
        "TRANSPOSE_CONV",
    }
)
"""Operators whose weights a file of narrower weights has narrower."""


_LONGEST = 10_000
"""Where the quantiser cuts a name."""


@dataclass(frozen=True, slots=True)
class Held:
    """A tensor of a file.

    Attributes:
        name: Its name.
        kind: Its number format, such as ``INT8``.
        shape: Its shape.
        constant: Whether its values are in the file.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    constant: bool


@dataclass(frozen=True, slots=True)
class Operator:
    """An operator of a file.

    Attributes:
        name: Such as ``CONV_2D``.
        inputs: What it reads.
        outputs: What it writes.
        layers: The modules that it is from, by path; empty where the file does not tell.
    """

    name: str
    inputs: tuple[Held, ...]
    outputs: tuple[Held, ...]
    layers: tuple[str, ...]

    @property
    def activations(self) -> tuple[Held, ...]:
        """What it reads that is computed, and what it writes."""
        return (*(held for held in self.inputs if not held.constant), *self.outputs)

    @property
    def weights(self) -> tuple[Held, ...]:
        """What it reads that is in the file and has more than one axis."""
        return tuple(held for held in self.inputs if held.constant and len(held.shape) > 1)

    @property
    def scope(self) -> str:
        """By what the quantiser knows it: the names of what it writes."""
        return "".join(f"{held.name};" for held in self.outputs)[:_LONGEST]

    def __str__(self) -> str:
        return f"{self.name} of {', '.join(self.layers)}" if self.layers else self.name


@dataclass(frozen=True, slots=True)
class Graph:
    """What a file computes.

    Attributes:
        operators: In their order.
        inputs: What it takes.
        outputs: What it gives.
    """

    operators: tuple[Operator, ...]
    inputs: tuple[Held, ...]
    outputs: tuple[Held, ...]


def between(graph: Graph, kept: Collection[Operator]) -> list[Operator]:
    """The operators that only carry values from and to operators of a few, or the file's ends.

    If those stay float and these did not, values would be rounded on the way all the same.

    Args:
        graph: What the file computes.
        kept: The few.
    """
    few = {id(one) for one in kept}
    carriers = {id(one): one for one in graph.operators if one.name in CARRIERS and id(one) not in few}
    writer = {held.name: id(one) for one in graph.operators for held in one.outputs}
    readers: dict[str, set[int]] = {}
    for one in graph.operators:
        for held in one.inputs:
            readers.setdefault(held.name, set()).add(id(one))
    while True:  # all of them, without those that a neighbour rules out
        ruled_out = [
            key
            for key, one in carriers.items()
            if not {
                *(writer[held.name] for held in one.activations if held.name in writer),
                *(reader for held in one.outputs for reader in readers.get(held.name, ())),
            }
            <= few | carriers.keys()
        ]
        if not ruled_out:
            return list(carriers.values())
        for key in ruled_out:
            del carriers[key]


def graph_of(content: bytes, modules: Mapping[str, nn.Module]) -> Graph:
    """What a file computes.

    Args:
        content: The file's.
        modules: Those of the network that it was made of, by path.
    """
    flat = library("ai_edge_litert.tools.flatbuffer_utils", extra="litert")
    with silenced():
        read = flat.read_model_from_bytearray(bytearray(content))
    layers = _Layers(modules)
    (part,) = read.subgraphs
    held = [
        Held(
            tensor.name.decode(),
            str(flat.type_to_name(tensor.type)),
            _sizes(tensor),
            _is_constant(read.buffers[tensor.buffer]),
        )
        for tensor in part.tensors
    ]
    found: list[Operator] = []
    for one in part.operators:
        reads, writes = _taken(held, one.inputs), _taken(held, one.outputs)
        names = [tensor.name for tensor in (*writes, *(tensor for tensor in reads if tensor.constant))]
        name = str(flat.opcode_to_name(read, one.opcodeIndex))
        found.append(Operator(name, reads, writes, layers.of(names)))
    return Graph(tuple(found), _taken(held, part.inputs), _taken(held, part.outputs))


def constants_in(content: bytes) -> frozenset[str]:
    """The names of the tensors whose values are in a file."""
    graph = graph_of(content, {})
    return frozenset(held.name for one in graph.operators for held in one.inputs if held.constant)


def _taken(held: Sequence[Held], places: Iterable[int]) -> tuple[Held, ...]:
    """Those at the places; an operand that is left out is at −1."""
    return tuple(held[place] for place in places if place >= 0)


def _sizes(tensor: Any) -> tuple[int, ...]:
    return () if tensor.shape is None else tuple(int(size) for size in tensor.shape)


def _is_constant(buffer: Any) -> bool:
    # Large values lie behind the structure, at an offset; then `data` is empty.
    return (buffer.data is not None and len(buffer.data) > 0) or bool(buffer.size)


class _Layers:
    """Modules by the words with which the converter names tensors: every class and attribute on the way."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self._paths: dict[str, str] = {}
        self._weighted: set[str] = set()
        for path, module in modules.items():
            names = path.split(".") if path else []
            around = [".".join(names[: depth + 1]) for depth in range(len(names))]
            words = [f"{_kind(modules[outer])}_{name}" for outer, name in zip(around, names, strict=True)]
            self._paths["/".join([_kind(modules[""]), *words])] = path
            if any(p.ndim > 1 for p in module.parameters(recurse=False)):
                self._weighted.add(path)

    def of(self, names: Collection[str]) -> tuple[str, ...]:
        """The modules that the names speak of; those with weights alone where there are any.

        Constants that several layers share carry the names of all of them, so that a convolution may also name a norm of
        elsewhere.
        """
        words = [word for name in names for word in re.split(";+", name)]
        paths = dict.fromkeys(self._paths[word] for word in words if self._paths.get(word))
        weighted = tuple(path for path in paths if path in self._weighted)
        return weighted or tuple(paths)


def _kind(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"
