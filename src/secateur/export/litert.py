"""LiteRT (formerly TensorFlow Lite): ``.tflite``."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateur.export.program import refusal, traced
from secateur.export.quiet import silenced
from secateur.export.request import MODES, OBSERVERS, Request


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

    def open(self, content: bytes, *, threads: int) -> LiteRTRunner:
        """Load the content with LiteRT's interpreter."""
        return LiteRTRunner(content, threads=threads)


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
