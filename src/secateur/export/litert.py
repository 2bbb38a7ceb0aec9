"""LiteRT (formerly TensorFlow Lite): ``.tflite``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from secateur.export.calibration import Range, Values, clipped, extremes
from secateur.export.libraries import library
from secateur.export.litert_graph import (
    CARRIERS,
    MOVERS,
    WITH_WEIGHTS,
    Operator,
    between,
    constants_in,
    graph_of,
)
from secateur.export.places import placed
from secateur.export.program import refusal, traced
from secateur.export.quiet import silenced
from secateur.export.request import (
    CALIBRATED,
    MODES,
    OBSERVERS,
    Narrowed,
    Request,
    batches_of,
    only,
    stayed_float,
)


class LiteRT:
    """Files for LiteRT; see `secateur.export.request.Target`."""

    name = "litert"
    extra = "litert"
    suffix = ".tflite"
    runtime = "ai_edge_litert.interpreter"
    modes: tuple[str, ...] = MODES
    observers: tuple[str, ...] = OBSERVERS
    keeps_float = True
    takes_ranges = True

    def convert(self, request: Request) -> bytes:
        """The float32 file's content, for one example."""
        converter = library("litert_torch", extra=self.extra)
        program = traced(request, batch="one")
        try:
            with silenced():
                return converter.convert(request.model, (request.example,)).model_content()
        except Exception as error:  # a converter raises whatever its passes do
            raise refusal("LiteRT", program, error) from error

    def quantise(self, request: Request, content: bytes) -> Narrowed:
        """The file in narrower numbers, by ai-edge-quantizer with ranges of our own."""
        algorithm_manager, qtyping, quantizer, recipe = (
            library(f"ai_edge_quantizer.{name}", extra=self.extra)
            for name in ("algorithm_manager", "qtyping", "quantizer", "recipe")
        )
        with silenced():
            float_weights = qtyping.OpQuantizationConfig(
                weight_tensor_config=qtyping.TensorQuantizationConfig(
                    num_bits=16, dtype=qtyping.TensorDataType.FLOAT
                ),
                compute_precision=qtyping.ComputePrecision.FLOAT,
                explicit_dequantize=True,
            )
            names, algorithms = qtyping.TFLOperationName, algorithm_manager.AlgorithmName
            if request.mode == "float16":
                work: Any = quantizer.Quantizer(content)
                work.update_quantization_recipe(
                    ".*", names.ALL_SUPPORTED, float_weights, algorithms.FLOAT_CASTING
                )
            elif request.mode == "dynamic":
                work = quantizer.Quantizer(content, recipe.dynamic_wi8_afp32())
            else:
                work = quantizer.Quantizer(content, recipe.static_wi8_ai8())
            for scope in _kept(request, content):
                work.update_quantization_recipe(
                    scope, names.ALL_SUPPORTED, algorithm_key=algorithms.NO_QUANTIZE
                )
            if request.mode == "int8":
                for end in (names.INPUT, names.OUTPUT):
                    work.update_quantization_recipe(".*", end, algorithm_key=algorithms.NO_QUANTIZE)
            ranges, lost = _ranges(work, request, content) if request.mode in CALIBRATED else (None, ())
            made = bytes(work.quantize(ranges, enable_progress_report=False).quantized_model)
        return Narrowed(made, _float_operators(request, made), lost)

    def open(self, content: bytes, *, threads: int) -> LiteRTRunner:
        """Load the content with LiteRT's interpreter."""
        return LiteRTRunner(content, threads=threads)


def _is_float(operator: Operator, mode: str) -> bool:
    """Whether an operator is wider than the mode says."""
    if operator.name in MOVERS:
        return False
    if mode in CALIBRATED:
        return any(held.kind == "FLOAT32" for held in operator.activations)
    return operator.name in WITH_WEIGHTS and any(held.kind == "FLOAT32" for held in operator.weights)


def _float_operators(request: Request, content: bytes) -> tuple[str, ...]:
    """Operators that compute in float, or hold float weights, though the mode says otherwise.

    An ``int8`` file may hold operators that have no integer form, as long as they hold no weights: its input and output are
    float, too. In the others nothing may stay.
    """
    graph = graph_of(content, request.modules)
    found = [one for one in graph.operators if _is_float(one, request.mode)]
    unasked = [
        str(one)
        for one in found
        if not request.keeps(one.layers)
        and (one.weights or request.mode != "int8")
        and not (request.keep_float and one.name in CARRIERS)
    ]
    if request.mode == "int8-only":
        ends = {"the input": graph.inputs, "the output": graph.outputs}
        unasked += [end for end, held in ends.items() if any(one.kind == "FLOAT32" for one in held)]
    if unasked:
        raise stayed_float("LiteRT", request, unasked)
    return tuple(str(one) for one in found) if request.mode in CALIBRATED else ()


def _kept(request: Request, content: bytes) -> list[str]:
    """Expressions that fit the operators of the layers that stay float and what carries values between them, and no others."""
    graph = graph_of(content, request.modules)
    found = [one for one in graph.operators if request.keeps(one.layers)]
    if found:
        found += between(graph, found)
    return [f"^{re.escape(one.scope)}$" for one in found]


def _ranges(work: Any, request: Request, content: bytes) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The ranges that the quantiser takes: those of activations by the observer, or as they were given where they can be placed.

    The names of the given ones that could not be placed come second.
    """
    feed = _Activations(content)
    (signature,) = feed.signatures
    (name,) = feed.signatures[signature]["inputs"]
    examples = [{name: np.asarray(example)} for example in request.batches]
    # The moving average is the quantiser's own; for the others one example tells which activations it wants.
    shown = examples if request.observer == "ema" else examples[:1]
    ranges: dict[str, Any] = work.calibrate({signature: shown}, num_threads=1)

    def run() -> Iterator[Values]:
        return (feed(example) for example in request.batches)

    found: dict[str, Range] = {}
    if request.observer == "minmax":
        found = extremes(run())
    elif request.observer == "histogram":
        found = clipped(run)
    lost: tuple[str, ...] = ()
    if request.ranges is not None:
        given, lost = placed(request.ranges, request.batches, feed)
        found |= given
    for tensor, (low, high) in found.items():
        if "min" in ranges.get(tensor, {}):
            like = ranges[tensor]["min"]
            ranges[tensor] = {"min": np.full_like(like, low), "max": np.full_like(like, high)}
    return ranges, lost


class _Activations:
    """What every operator of a float file writes for an example."""

    def __init__(self, content: bytes) -> None:
        runtime = library(LiteRT.runtime, extra=LiteRT.extra)
        with silenced():
            self._interpreter: Any = runtime.Interpreter(
                model_content=content,
                experimental_op_resolver_type=runtime.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
                experimental_preserve_all_tensors=True,
            )
            self._interpreter.allocate_tensors()
        self.signatures: dict[str, dict[str, list[str]]] = self._interpreter.get_signature_list()
        self._input: Any = only(self._interpreter.get_input_details())
        constants = constants_in(content)
        self._read: list[Any] = [
            one
            for one in self._interpreter.get_tensor_details()
            if one["dtype"] == np.float32 and one["name"] not in constants
        ]

    def __call__(self, example: Tensor) -> Values:
        """Each activation by its name."""
        self._interpreter.set_tensor(self._input["index"], np.asarray(example))
        self._interpreter.invoke()
        return {one["name"]: self._interpreter.get_tensor(one["index"]) for one in self._read}


class LiteRTRunner:
    """A ``.tflite`` that is run one example at a time."""

    def __init__(self, content: bytes, *, threads: int) -> None:
        runtime = library(LiteRT.runtime, extra=LiteRT.extra)
        with silenced():
            self._interpreter: Any = runtime.Interpreter(model_content=content, num_threads=threads)
            self._interpreter.allocate_tensors()
        self._input: Any = only(self._interpreter.get_input_details())
        self._output: Any = only(self._interpreter.get_output_details())
        self.input_shape = tuple(int(size) for size in self._input["shape"][1:])
        self.integer = self._input["dtype"] != np.float32

    def __call__(self, inputs: Tensor) -> Tensor:
        """Float outputs, example by example."""
        return torch.cat([self._one(one) for one in batches_of(inputs, 1)])

    def _one(self, example: Tensor) -> Tensor:
        ready: Any = np.asarray(example)
        if self.integer:
            scale, zero = self._input["quantization"]
            limits = torch.iinfo(torch.int8)
            whole = torch.round(example / scale) + zero
            ready = np.asarray(whole.clamp(limits.min, limits.max).to(torch.int8))
        self._interpreter.set_tensor(self._input["index"], ready)
        self._interpreter.invoke()
        given = torch.as_tensor(self._interpreter.get_tensor(self._output["index"]))
        if given.is_floating_point():
            return given
        scale, zero = self._output["quantization"]
        return (given.float() - zero) * scale
