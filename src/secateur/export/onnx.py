"""ONNX, run by ONNX Runtime: ``.onnx``."""

from __future__ import annotations

import ast
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from secateur.export.libraries import library
from secateur.export.program import refusal, traced
from secateur.export.quiet import silenced
from secateur.export.request import Narrowed, Request, batches_of, only, stayed_float


class Onnx:
    """Files for ONNX Runtime; see `secateur.export.request.Target`."""

    name = "onnx"
    extra = "onnx"
    suffix = ".onnx"
    runtime = "onnxruntime"
    modes: tuple[str, ...] = ("float32", "dynamic", "float16", "int8")
    observers: tuple[str, ...] = ("minmax",)
    keeps_float = True
    takes_ranges = False

    def convert(self, request: Request) -> bytes:
        """The float32 file's content, for any number of examples where the network allows it."""
        for name in ("onnx", "onnxscript"):
            library(name, extra=self.extra)
        program = traced(request, batch="any")
        write = cast("Any", torch.onnx).export
        try:
            with silenced():
                made = write(program, dynamo=True, external_data=False, verbose=False)
                return made.model_proto.SerializeToString()
        except Exception as error:  # a converter raises whatever its passes do
            raise refusal("ONNX", program, error) from error

    def quantise(self, request: Request, content: bytes) -> Narrowed:
        """The file in narrower numbers, by ONNX Runtime's tools."""
        graph = library("onnx", extra=self.extra).load_from_string(content)
        layers = _layers(graph, request)
        kept = [node.name for node in graph.graph.node if request.keeps(layers[node.name])]
        with silenced():
            made = _NARROW[request.mode](graph, request, kept)
        left = _FLOAT[request.mode](made)
        unasked = [node for node, weighted in left if weighted and node.name not in kept]
        if unasked:
            raise stayed_float("ONNX Runtime", request, [_said(node, layers) for node in unasked])
        listed = tuple(_said(node, layers) for node, _ in left) if request.mode == "int8" else ()
        return Narrowed(made.SerializeToString(), listed)

    def open(self, content: bytes, *, threads: int) -> OnnxRunner:
        """Load the content with ONNX Runtime."""
        return OnnxRunner(content, threads=threads)


_ALONE = "secateur.examples_at_a_time"
"""Under this key a file says that its examples are to be run one by one."""


def _layers(graph: Any, request: Request) -> dict[str, tuple[str, ...]]:
    """The modules that each operator is from: those whose weights it reads, or else the one whose forward has it."""
    paths = request.modules
    found: dict[str, tuple[str, ...]] = {}
    for node in graph.graph.node:
        owners = [name.rpartition(".")[0] for name in node.input]
        weighted = tuple(dict.fromkeys(path for path in owners if path and path in paths))
        scopes = [entry.value for entry in node.metadata_props if entry.key == "pkg.torch.onnx.name_scopes"]
        inner = [path for scope in scopes for path in ast.literal_eval(scope) if path and path in paths]
        found[node.name] = weighted or tuple(inner[-1:])
    return found


def _said(node: Any, layers: dict[str, tuple[str, ...]]) -> str:
    where = ", ".join(layers.get(node.name, ()))
    return f"{node.op_type} of {where}" if where else str(node.op_type)


def _dynamic(graph: Any, request: Request, kept: list[str]) -> Any:
    """Int8 weights by channel; activations are quantised as they come."""
    del request
    tools = library("onnxruntime.quantization", extra=Onnx.extra)
    # An activation's range is that of the whole batch, so that an example's answer would depend on its neighbours.
    graph.metadata_props.add(key=_ALONE, value="1")
    # What the exporter noted of shapes contradicts what this tool makes of dense layers.
    del graph.graph.value_info[:]
    return _in_a_file(
        lambda file: tools.quantize_dynamic(
            graph, file, per_channel=True, weight_type=tools.QuantType.QInt8, nodes_to_exclude=kept
        )
    )


def _float16(graph: Any, request: Request, kept: list[str]) -> Any:
    """Weights and computation of 16 bits, between a float input and output."""
    del request
    tools = library("onnxruntime.transformers.float16", extra=Onnx.extra)
    return tools.convert_float_to_float16(graph, keep_io_types=True, node_block_list=kept)


def _int8(graph: Any, request: Request, kept: list[str]) -> Any:
    """Activations uint8, which is the quicker on x86, weights int8 by channel; ranges are all that was seen."""
    tools = library("onnxruntime.quantization", extra=Onnx.extra)
    (given,) = graph.graph.input

    class Reader(tools.CalibrationDataReader):
        def __init__(self) -> None:
            self._rest = iter(request.batches)

        def get_next(self) -> Any:
            example = next(self._rest, None)
            return None if example is None else {given.name: np.asarray(example)}

    return _in_a_file(
        lambda file: tools.quantize_static(
            graph,
            file,
            Reader(),
            per_channel=True,
            activation_type=tools.QuantType.QUInt8,
            weight_type=tools.QuantType.QInt8,
            calibrate_method=tools.CalibrationMethod.MinMax,
            nodes_to_exclude=kept,
        )
    )


def _in_a_file(write: Callable[[Path], object]) -> Any:
    """What a tool writes that knows only files."""
    onnx = library("onnx", extra=Onnx.extra)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "narrow.onnx"
        write(file)
        return onnx.load(file)


def _float_weights(graph: Any) -> list[tuple[Any, bool]]:
    """Operators that read float32 weights."""
    wide = {one.name for one in graph.graph.initializer if one.data_type == 1 and len(one.dims) > 1}
    return [
        (node, True)
        for node in graph.graph.node
        if node.op_type in _WITH_WEIGHTS and wide.intersection(node.input)
    ]


def _float_activations(graph: Any) -> list[tuple[Any, bool]]:
    """Operators that read or write what is not quantised, and whether they have weights."""
    registry = library("onnxruntime.quantization.registry", extra=Onnx.extra)
    whole = {*registry.QDQRegistry, *registry.QLinearOpsRegistry}  # what has kernels for integers
    nodes = list(graph.graph.node)
    floats = {one.name for one in graph.graph.initializer if one.data_type == 1}
    computed = {name: node.op_type for node in nodes for name in node.output}
    readers: dict[str, list[str]] = {}
    for node in nodes:
        for name in node.input:
            readers.setdefault(name, []).append(node.op_type)
    found: list[tuple[Any, bool]] = []
    for node in nodes:
        if node.op_type in _MOVERS:
            continue
        weighted = node.op_type in _WITH_WEIGHTS
        wide_weights = weighted and bool(floats.intersection(node.input[1:2]))
        reads = [computed[name] for name in node.input if name in computed]
        writes = [kind for name in node.output for kind in readers.get(name, ["the output"])]
        plain = any(kind != "DequantizeLinear" for kind in reads)
        rounded = not plain and all(kind == "QuantizeLinear" for kind in writes)
        if wide_weights or not rounded or node.op_type not in whole:
            found.append((node, weighted and (wide_weights or plain)))
    return found


_MOVERS = frozenset(
    {
        "QuantizeLinear",
        "DequantizeLinear",
        "Reshape",
        "Flatten",
        "Squeeze",
        "Unsqueeze",
        "Transpose",
        "Shape",
        "Identity",
    }
)
"""Operators that change the number format, or nothing about the values."""
_WITH_WEIGHTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_NARROW: Mapping[str, Callable[[Any, Request, list[str]], Any]] = MappingProxyType(
    {"dynamic": _dynamic, "float16": _float16, "int8": _int8}
)
_FLOAT: Mapping[str, Callable[[Any], list[tuple[Any, bool]]]] = MappingProxyType(
    {"dynamic": _float_weights, "float16": _float_weights, "int8": _float_activations}
)


_EXACT = ("session.x64quantprecision", "1")
"""Without it sums of int8 weights saturate on x86 processors that have AVX2 and no VNNI: 14 dB lost on a small network."""


class OnnxRunner:
    """An ``.onnx`` that is run on whole batches where it allows them."""

    def __init__(self, content: bytes, *, threads: int) -> None:
        onnxruntime = library(Onnx.runtime, extra=Onnx.extra)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        options.add_session_config_entry(*_EXACT)
        self._session: Any = onnxruntime.InferenceSession(
            content, options, providers=["CPUExecutionProvider"]
        )
        given = only(self._session.get_inputs())
        only(self._session.get_outputs())
        self._name = given.name
        noted: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        fixed = given.shape[0] if isinstance(given.shape[0], int) else None
        self._batch: int | None = 1 if _ALONE in noted else fixed
        self.input_shape = tuple(int(size) for size in given.shape[1:])
        self.integer = given.type not in ("tensor(float)", "tensor(float16)")

    def __call__(self, inputs: Tensor) -> Tensor:
        """Float outputs, of as many examples at once as the file takes."""
        parts = batches_of(inputs, self._batch or len(inputs))
        return torch.cat([self._several(np.asarray(part)) for part in parts])

    def _several(self, examples: Any) -> Tensor:
        return torch.as_tensor(self._session.run(None, {self._name: examples})[0])
