"""ExecuTorch with XNNPACK: ``.pte``."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from secateur.export.program import module_of, refusal, traced
from secateur.export.quiet import silenced
from secateur.export.request import Narrowed, Request, stayed_float


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

    def quantise(self, request: Request, content: bytes) -> Narrowed:
        """The file in int8, by XNNPACK's quantiser: weights by channel, activations by tensor."""
        del content  # this target quantises the traced network
        program = traced(request, batch="one")
        with silenced(), torch.no_grad():
            from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (  # noqa: PLC0415
                XNNPACKQuantizer,
                get_symmetric_quantization_config,
            )
            from torchao.quantization.pt2e import MinMaxObserver  # noqa: PLC0415
            from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e  # noqa: PLC0415

            config: Any = get_symmetric_quantization_config(is_per_channel=True)
            if request.observer == "minmax":
                spec = dataclasses.replace(
                    config.input_activation,
                    observer_or_fake_quant_ctr=MinMaxObserver.with_args(eps=2**-12),
                )
                config = dataclasses.replace(config, input_activation=spec, output_activation=spec)
            quantiser = XNNPACKQuantizer().set_global(config)
            quantiser.set_filter_function(lambda node: not within(node, request.keep_float))
            graph: Any = prepare_pt2e(program.module(), quantiser)
            for example in request.batches:
                graph(example)
            graph = convert_pt2e(graph)
            narrow = torch.export.export(graph, (request.example,))
        left = _float_operators(graph)
        unasked = [node for node, weighted in left if weighted and not within(node, request.keep_float)]
        if unasked:
            raise stayed_float("ExecuTorch", request, [_said(node) for node in unasked])
        return Narrowed(lowered(narrow), tuple(_said(node) for node, _ in left))

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


def within(node: Any, layers: Collection[str]) -> bool:
    """Whether an operator of a traced network is from one of these modules, or from inside one."""
    path = module_of(node)
    return any(path == layer or path.startswith(f"{layer}.") for layer in layers)


def _float_operators(graph: Any) -> list[tuple[Any, bool]]:
    """Operators of a quantised graph that read what is not dequantised, and whether they have weights."""
    return [
        (node, _name(node) in _WITH_WEIGHTS)
        for node in graph.graph.nodes
        if node.op == "call_function" and not _is_mover(node) and not _reads_integers(node)
    ]


def _reads_integers(node: Any) -> bool:
    """Whether all that an operator computes with was dequantised just before, or comes from an operator of which that holds."""
    sources = node.all_input_nodes[:2] if _name(node) in _WITH_WEIGHTS else node.all_input_nodes
    return all(_is_mover(source) or _name(source) in _PASS_ON for source in sources)


def _is_mover(node: Any) -> bool:
    return node.op == "call_function" and "quantize" in _name(node)


def _name(node: Any) -> str:
    return str(getattr(node.target, "_opname", node.target)) if node.op == "call_function" else ""


def _said(node: Any) -> str:
    where = module_of(node)
    return f"{_name(node)} of {where}" if where else _name(node)


_WITH_WEIGHTS = frozenset(
    {"conv1d", "conv2d", "conv3d", "convolution", "conv_transpose2d", "linear", "addmm"}
)
_PASS_ON = frozenset({"conv1d", "conv2d", "linear", "add", "batch_norm"})
"""Operators that are fused with the one that reads them."""


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
