"""The network as a graph of operators, and which of its layers an operator belongs to."""

from __future__ import annotations

import re
from typing import Any, cast

import torch
from torch import Tensor, nn

from secateur.errors import ExportError
from secateur.export.quiet import silenced
from secateur.export.request import Request, named

_OPERATOR = re.compile(r"(?:(?:aten|prims|torchvision)\W+|opcode '(?:STABLEHLO_)?)(\w+)")


def traced(request: Request, *, batch: str) -> Any:
    """The network's operators for one example, or for any number of them.

    Args:
        request: The network.
        batch: ``"one"``; or ``"any"``, where a network whose own code pins the number gets a program for one.

    Raises:
        ExportError: The network cannot be traced.
    """
    if batch == "any":
        program = _traced_for_any(request.model, request.example)
        if program is not None:
            return program
    try:
        with silenced(), torch.no_grad():
            return torch.export.export(request.model, (request.example,))
    except Exception as error:  # whatever a network's own code raises while it is traced
        raise ExportError(
            f"the network cannot be traced by torch.export, which every target starts from ({named(error)}); write its"
            " forward without branches on values"
        ) from error


def _traced_for_any(model: nn.Module, example: Tensor) -> Any | None:
    several = torch.cat([example, example])  # of one example the batch is taken for a constant
    free = {0: torch.export.Dim.DYNAMIC}
    try:
        with silenced(), torch.no_grad():
            return torch.export.export(model, (several,), dynamic_shapes=(free,))
    except Exception:
        return None


def layer_of(program: Any, words: str) -> str | None:
    """The first layer that uses an operator which an error names; None if none is found.

    Args:
        program: The traced network.
        words: What the error says.

    Example:
        >>> class Net(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.head = nn.Softplus()
        ...     def forward(self, x):
        ...         return self.head(x)
        >>> program = torch.export.export(Net(), (torch.zeros(1, 2),))
        >>> layer_of(program, "no rule for aten.softplus.default")
        'head (softplus)'
    """
    wanted = {_bare(name) for name in _OPERATOR.findall(words)}
    with silenced():
        smaller = program.run_decompositions()
    for graph in (program.graph, smaller.graph):
        for node in graph.nodes:
            if node.op != "call_function":
                continue
            name = str(getattr(node.target, "_opname", node.target))
            if _bare(name) in wanted or ("complex" in words and _is_complex(node)):
                return f"{module_of(node) or 'the network itself'} ({name})"
    return None


def _bare(name: str) -> str:
    """An operator's name as the libraries have in common: they differ in underscores."""
    return name.replace("_", "").lower()


def _is_complex(node: Any) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.is_complex()


def module_of(node: Any) -> str:
    """The path of the module in whose forward an operator stands; empty for the network's own.

    >>> program = torch.export.export(nn.Sequential(nn.Sequential(nn.ReLU())), (torch.zeros(1),))
    >>> [module_of(node) for node in program.graph.nodes if node.op == "call_function"]
    ['0.0']
    """
    stack = cast("dict[str, tuple[str, Any]]", node.meta.get("nn_module_stack") or {})
    paths = [path for path, _ in stack.values()]
    return re.sub(r"@\d+$", "", paths[-1]) if paths else ""


def refusal(target: str, program: Any, error: BaseException) -> ExportError:
    """An error of a target's converter, with the layer that it is about."""
    chain = [error]
    while (before := chain[-1].__cause__ or chain[-1].__context__) is not None and before not in chain:
        chain.append(before)
    # The first cause speaks of the operator; what was raised on the way may hold the whole network in words.
    layer = next(filter(None, (layer_of(program, str(one)) for one in reversed(chain))), None)
    where = f"; the first layer that uses it is {layer}" if layer else ""
    return ExportError(
        f"{target} cannot take this network ({named(chain[-1])}){where}; replace that operator in the network, or take another"
        " target"
    )
