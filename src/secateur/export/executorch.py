"""ExecuTorch with XNNPACK: ``.pte``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from secateur.export.program import refusal, traced
from secateur.export.quiet import silenced
from secateur.export.request import Request


class ExecuTorch:
    """Files for ExecuTorch; see `secateur.export.request.Target`."""

    name = "executorch"
    extra = "executorch"
    suffix = ".pte"
    modes = ("float32", "int8")
    observers = ("minmax", "histogram")
    keeps_float = True

    def convert(self, request: Request) -> bytes:
        """The float32 file's content, for one example."""
        return lowered(traced(request, batch="one"))

    def open(self, content: bytes, *, threads: int) -> ExecuTorchRunner:
        """Load the content with ExecuTorch's runtime, which has no setting for threads in Python."""
        del threads
        return ExecuTorchRunner(content)


def lowered(program: Any) -> bytes:
    """A traced network's file, with all that XNNPACK takes handed to it.

    Raises:
        ExportError: ExecuTorch has no kernel for an operator.
    """
    try:
        with silenced():
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import (  # noqa: PLC0415
                XnnpackPartitioner,
            )
            from executorch.exir import to_edge_transform_and_lower  # noqa: PLC0415

            made: Any = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
            return bytes(made.to_executorch().buffer)
    except ImportError:
        raise
    except Exception as error:  # a converter raises whatever its passes do
        raise refusal("ExecuTorch", program, error) from error


class ExecuTorchRunner:
    """A ``.pte`` that is run one example at a time."""

    integer = False

    def __init__(self, content: bytes) -> None:
        with silenced():
            from executorch.runtime import Runtime  # noqa: PLC0415

            self._method: Any = Runtime.get().load_program(content).load_method("forward")
        sizes = self._method.metadata.input_tensor_meta(0).sizes()
        self.input_shape = tuple(int(size) for size in sizes[1:])

    def __call__(self, inputs: Tensor) -> Tensor:
        """Float outputs, example by example."""
        return torch.cat([self._method.execute([row.contiguous()])[0].clone() for row in inputs.split(1)])
