"""LiteRT (formerly TensorFlow Lite): ``.tflite``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateur.export.calibration import Values, clipped, extremes
from secateur.export.litert_graph import MOVERS, WITH_WEIGHTS, Operator, constants_in, graph_of
from secateur.export.program import refusal, traced
from secateur.export.quiet import silenced
from secateur.export.request import CALIBRATED, MODES, OBSERVERS, Narrowed, Request, stayed_float


class LiteRT:
    """Files for LiteRT; see `secateur.export.request.Target`."""

    name = "litert"
    extra = "litert"
    suffix = ".tflite"
    modes = MODES
    observers = OBSERVERS
    keeps_float = True

    def convert(self, request: Request) -> bytes:
        """The float32 file's content, for one example."""
        program = traced(request, batch="one")
        try:
            with silenced():
                import litert_torch  # noqa: PLC0415  # pyright: ignore[reportMissingTypeStubs]

                return litert_torch.convert(request.model, (request.example,)).model_content()
        except ImportError:
            raise
        except Exception as error:  # a converter raises whatever its passes do
            raise refusal("LiteRT", program, error) from error

    def quantise(self, request: Request, content: bytes) -> Narrowed:
        """The file in narrower numbers, by ai-edge-quantizer with ranges of our own."""
        with silenced():
            from ai_edge_quantizer import algorithm_manager, qtyping, quantizer, recipe  # noqa: PLC0415

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
            ranges = _ranges(work, request, content) if request.mode in CALIBRATED else None
            made = bytes(work.quantize(ranges, enable_progress_report=False).quantized_model)
        return Narrowed(made, _float_operators(request, made))

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
    graph = graph_of(content, request.model)
    found = [one for one in graph.operators if _is_float(one, request.mode)]
    unasked = [
        str(one)
        for one in found
        if not one.within(request.keep_float) and (one.weights or request.mode != "int8")
    ]
    if request.mode == "int8-only":
        ends = {"the input": graph.inputs, "the output": graph.outputs}
        unasked += [end for end, held in ends.items() if any(one.kind == "FLOAT32" for one in held)]
    if unasked:
        raise stayed_float("LiteRT", request, unasked)
    return tuple(str(one) for one in found) if request.mode in CALIBRATED else ()


def _kept(request: Request, content: bytes) -> list[str]:
    """Expressions that fit the operators of the layers that stay float, and no others."""
    found = [one for one in graph_of(content, request.model).operators if one.within(request.keep_float)]
    return [f"^{re.escape(one.scope)}$" for one in found]


def _ranges(work: Any, request: Request, content: bytes) -> dict[str, Any]:
    """The ranges that the quantiser takes, with those of activations by the observer."""
    feed = _Activations(content)
    (signature,) = feed.signatures
    (name,) = feed.signatures[signature]["inputs"]
    examples = [{name: example.numpy()} for example in request.batches]
    if request.observer == "ema":
        return work.calibrate({signature: examples}, num_threads=1)
    ranges: dict[str, Any] = work.calibrate({signature: examples[:1]}, num_threads=1)

    def run() -> Iterator[Values]:
        return (feed(example) for example in request.batches)

    for tensor, (low, high) in (extremes(run()) if request.observer == "minmax" else clipped(run)).items():
        if "min" in ranges.get(tensor, {}):
            like = ranges[tensor]["min"]
            ranges[tensor] = {"min": np.full_like(like, low), "max": np.full_like(like, high)}
    return ranges


class _Activations:
    """What every operator of a float file writes for an example."""

    def __init__(self, content: bytes) -> None:
        with silenced():
            from ai_edge_litert.interpreter import Interpreter, OpResolverType  # noqa: PLC0415

            self._interpreter: Any = Interpreter(
                model_content=content,
                experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
                experimental_preserve_all_tensors=True,
            )
            self._interpreter.allocate_tensors()
        self.signatures: dict[str, dict[str, list[str]]] = self._interpreter.get_signature_list()
        (self._input,) = self._interpreter.get_input_details()
        constants = constants_in(content)
        self._read: list[Any] = [
            one
            for one in self._interpreter.get_tensor_details()
            if one["dtype"] == np.float32 and one["name"] not in constants
        ]

    def __call__(self, example: Tensor) -> Values:
        """Each activation by its name."""
        self._interpreter.set_tensor(self._input["index"], example.numpy())
        self._interpreter.invoke()
        return {one["name"]: self._interpreter.get_tensor(one["index"]) for one in self._read}


class LiteRTRunner:
    """A ``.tflite`` that is run one example at a time."""

    def __init__(self, content: bytes, *, threads: int) -> None:
        with silenced():
            from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415

            self._interpreter: Any = Interpreter(model_content=content, num_threads=threads)
            self._interpreter.allocate_tensors()
        (self._input,) = self._interpreter.get_input_details()
        (self._output,) = self._interpreter.get_output_details()
        self.input_shape = tuple(int(size) for size in self._input["shape"][1:])
        self.integer = self._input["dtype"] != np.float32

    def __call__(self, inputs: Tensor) -> Tensor:
        """Float outputs, example by example."""
        rows = [torch.from_numpy(self._one(row)) for row in inputs.numpy()[:, None]]
        return torch.cat(rows)

    def _one(self, example: NDArray[np.float32]) -> NDArray[np.float32]:
        ready = example
        if self.integer:
            scale, zero = self._input["quantization"]
            limits = np.iinfo(self._input["dtype"])
            ready = np.clip(np.round(example / scale) + zero, limits.min, limits.max).astype(
                self._input["dtype"]
            )
        self._interpreter.set_tensor(self._input["index"], np.ascontiguousarray(ready))
        self._interpreter.invoke()
        given = self._interpreter.get_tensor(self._output["index"])
        if self._output["dtype"] == np.float32:
            return given
        scale, zero = self._output["quantization"]
        return ((given.astype(np.float32) - zero) * np.float32(scale)).astype(np.float32)
