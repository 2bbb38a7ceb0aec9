"""ExecuTorch with XNNPACK: ``.pte``."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import torch
from torch import Tensor

from secateur.export.libraries import library
from secateur.export.program import module_of, refusal, traced
from secateur.export.quiet import silenced
from secateur.export.request import Narrowed, Request, batches_of, stayed_float


class ExecuTorch:
    """Files for ExecuTorch; see `secateur.export.request.Target`."""

    name = "executorch"
    extra = "executorch"
    suffix = ".pte"
    runtime = "executorch.runtime"
    modes: tuple[str, ...] = ("float32", "int8")
    observers: tuple[str, ...] = ("minmax", "histogram")
    keeps_float = True
    takes_ranges = False

    def convert(self, request: Request) -> bytes:
        """The float32 file's content, for one example."""
        return lowered(traced(request, batch="one"))

    def quantise(self, request: Request, content: bytes) -> Narrowed:
        """The file in int8, by XNNPACK's quantiser: weights by channel, activations by tensor."""
        del content  # this target quantises the traced network
        xnnpack = library("executorch.backends.xnnpack.quantizer.xnnpack_quantizer", extra=self.extra)
        pt2e = library("torchao.quantization.pt2e", extra=self.extra)
        steps = library("torchao.quantization.pt2e.quantize_pt2e", extra=self.extra)
        program = traced(request, batch="one")
        with silenced(), torch.no_grad():
            config = xnnpack.get_symmetric_quantization_config(is_per_channel=True)
            if request.observer == "minmax":
                spec = dataclasses.replace(
                    config.input_activation,
                    observer_or_fake_quant_ctr=pt2e.MinMaxObserver.with_args(eps=2**-12),
                )
                config = dataclasses.replace(config, input_activation=spec, output_activation=spec)
            quantiser = xnnpack.XNNPACKQuantizer().set_global(config)
            quantiser.set_filter_function(partial(_may_narrow, request))
            graph: Any = steps.prepare_pt2e(program.module(), quantiser)
            for example in request.batches:
                graph(example)
            graph = steps.convert_pt2e(graph)
            narrow = torch.export.export(graph, (request.example,))
        left = _float_operators(graph)
        unasked = [node for node, weighted in left if weighted and not request.keeps([module_of(node)])]
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
    exir = library("executorch.exir", extra=ExecuTorch.extra)
    partition = library("executorch.backends.xnnpack.partition.xnnpack_partitioner", extra=ExecuTorch.extra)
    try:
        with silenced():
            made = exir.to_edge_transform_and_lower(program, partitioner=[partition.XnnpackPartitioner()])
            return bytes(made.to_executorch().buffer)
    except Exception as error:  # a converter raises whatever its passes do
        raise refusal("ExecuTorch", program, error) from error


def _may_narrow(request: Request, node: Any) -> bool:
    return not request.keeps([module_of(node)])


def _float_operators(graph: Any) -> list[tuple[Any, bool]]:
    """Operators of a quantised graph that read what is not dequantised, and whether they have weights."""
    return [
        (node, _name(node) in _WITH_WEIGHTS)
        for node in graph.graph.nodes
        if node.op == "call_function" and not _is_mover(node) and not _reads_integers(node)
    ]


def _reads_integers(node: Any) -> bool:
    """Whether an operator has an integer form, and all that it computes with was dequantised just before.

    An activation function is fused with what it reads, and what only moves values has nothing to compute.
    """
    name = _name(node)
    if name in _MOVES_VALUES:
        return True
    sources = node.all_input_nodes[:2] if name in _WITH_WEIGHTS else node.all_input_nodes
    fused = name in _FUSED and all(_name(source) in _BEFORE_FUSED for source in sources)
    return name in _WHOLE and (fused or all(_is_mover(source) for source in sources))


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
_FUSED = frozenset({"relu", "relu_", "hardtanh", "hardtanh_", "clamp", "clamp_", "batch_norm"})
_BEFORE_FUSED = frozenset({*_WITH_WEIGHTS, "add", "add_", "mul", "mul_", "batch_norm"})
_MOVES_VALUES = frozenset(
    {
        "flatten",
        "view",
        "reshape",
        "permute",
        "transpose",
        "squeeze",
        "unsqueeze",
        "getitem",
        "dropout",
        "dropout_",
    }
)
_WHOLE = frozenset(
    {*_FUSED, *_BEFORE_FUSED, "cat", "mean", "adaptive_avg_pool2d", "avg_pool2d", "max_pool2d"}
)
"""Operators of which XNNPACK has integer forms."""


class ExecuTorchRunner:
    """A ``.pte`` that is run one example at a time."""

    integer = False

    def __init__(self, content: bytes) -> None:
        runtime = library(ExecuTorch.runtime, extra=ExecuTorch.extra)
        with silenced():
            # The program alone holds the content, and the method only points into it.
            self._program: Any = runtime.Runtime.get().load_program(content)
            self._method: Any = self._program.load_method("forward")
        sizes = self._method.metadata.input_tensor_meta(0).sizes()
        self.input_shape = tuple(int(size) for size in sizes[1:])

    def __call__(self, inputs: Tensor) -> Tensor:
        """Float outputs, example by example."""
        return torch.cat([self._method.execute([one])[0].clone() for one in batches_of(inputs, 1)])
