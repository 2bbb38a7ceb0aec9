"""ONNX, run by ONNX Runtime: ``.onnx``."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from secateur.export.program import refusal, traced
from secateur.export.quiet import silenced
from secateur.export.request import Request


class Onnx:
    """Files for ONNX Runtime; see `secateur.export.request.Target`."""

    name = "onnx"
    extra = "onnx"
    suffix = ".onnx"
    modes = ("float32", "dynamic", "float16", "int8")
    observers = ("minmax",)
    keeps_float = True

    def convert(self, request: Request) -> bytes:
        """The float32 file's content, for any number of examples where the network allows it."""
        program = traced(request, batch="any")
        try:
            with silenced():
                import onnx  # noqa: F401, PLC0415
                import onnxscript  # noqa: F401, PLC0415

                made: Any = torch.onnx.export(program, dynamo=True, external_data=False, verbose=False)
                return made.model_proto.SerializeToString()
        except ImportError:
            raise
        except Exception as error:  # a converter raises whatever its passes do
            raise refusal("ONNX", program, error) from error

    def open(self, content: bytes, *, threads: int) -> OnnxRunner:
        """Load the content with ONNX Runtime."""
        return OnnxRunner(content, threads=threads)


class OnnxRunner:
    """An ``.onnx`` that is run on whole batches where it allows them."""

    def __init__(self, content: bytes, *, threads: int) -> None:
        import onnxruntime  # noqa: PLC0415

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self._session: Any = onnxruntime.InferenceSession(
            content, options, providers=["CPUExecutionProvider"]
        )
        (given,) = self._session.get_inputs()
        self._name = given.name
        self._batch: int | None = given.shape[0] if isinstance(given.shape[0], int) else None
        self.input_shape = tuple(int(size) for size in given.shape[1:])
        self.integer = given.type not in ("tensor(float)", "tensor(float16)")

    def __call__(self, inputs: Tensor) -> Tensor:
        """Float outputs, of as many examples at once as the file takes."""
        parts = inputs.split(self._batch or len(inputs))
        return torch.cat([self._several(np.ascontiguousarray(part.numpy())) for part in parts])

    def _several(self, examples: Any) -> Tensor:
        return torch.from_numpy(self._session.run(None, {self._name: examples})[0])
