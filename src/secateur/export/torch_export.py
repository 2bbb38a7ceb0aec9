"""PyTorch's own exported programs: ``.pt2``."""

from __future__ import annotations

import io
from typing import Any

import torch
from torch import Tensor

from secateur.errors import ExportError
from secateur.export.program import traced
from secateur.export.quiet import silenced
from secateur.export.request import Narrowed, Request, batches_of, only


class TorchExport:
    """Files of ``torch.export``; see `secateur.export.request.Target`."""

    name = "torch"
    extra = ""
    suffix = ".pt2"
    runtime = ""
    modes: tuple[str, ...] = ("float32",)
    observers: tuple[str, ...] = ()
    keeps_float = False
    takes_ranges = False

    def convert(self, request: Request) -> bytes:
        """The float32 file's content, for any number of examples where the network allows it."""
        program = traced(request, batch="any")
        buffer = io.BytesIO()
        with silenced():
            torch.export.save(program, buffer)
        return buffer.getvalue()

    def quantise(self, request: Request, content: bytes) -> Narrowed:
        """Never called: float32 is all that this target offers."""
        raise ExportError(
            f"torch does not offer {request.mode} (of {len(content)} bytes); take another target"
        )

    def open(self, content: bytes, *, threads: int) -> TorchRunner:
        """Load the content; it is computed with as many threads as PyTorch uses."""
        del threads
        return TorchRunner(content)


class TorchRunner:
    """A ``.pt2`` that is run on whole batches where it allows them."""

    integer = False

    def __init__(self, content: bytes) -> None:
        with silenced():
            program = torch.export.load(io.BytesIO(content))
            self._module: Any = program.module()
        name = only(list(program.graph_signature.user_inputs))
        node = next(node for node in program.graph.nodes if node.name == name)
        batch, *shape = node.meta["val"].shape
        self._batch = batch if isinstance(batch, int) else None
        self.input_shape = tuple(int(size) for size in shape)

    def __call__(self, inputs: Tensor) -> Tensor:
        """Float outputs, of as many examples at once as the file takes."""
        with torch.no_grad():
            return torch.cat([self._module(part) for part in batches_of(inputs, self._batch or len(inputs))])
