"""What removing blocks does to a network: whether its code stands it, and which multiply-adds were theirs."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from secateur._model import left_as_found, named_tensors
from secateur.channels.dispatch import Pass
from secateur.channels.leaves import leaves_closed
from secateur.channels.nested import ForwardFn, run, tensors_in, with_tensors
from secateur.channels.pass_through import stand_in
from secateur.channels.ties import ties_of
from secateur.errors import ModelError


def _on_meta(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, device="meta")


def _runs(
    model: nn.Module,
    example: Any,
    blocks: Mapping[str, bool],
    forward_fn: ForwardFn | None,
    *,
    meta: bool,
) -> bool:
    """Whether a network runs without some blocks: a copy of its structure, without values or on its own tensors."""
    memo: dict[int, Any] = {
        id(model.get_submodule(name)): stand_in(alone=alone) for name, alone in blocks.items()
    }
    for tensor in named_tensors(model).values():
        new = _on_meta(tensor) if meta else tensor.detach()
        is_parameter = isinstance(tensor, nn.Parameter)
        memo[id(tensor)] = nn.Parameter(new, requires_grad=False) if is_parameter else new
    for module in model.modules():  # tensors that hooks compute cannot be copied while they have a gradient
        values = [value for value in vars(module).values() if isinstance(value, Tensor)]
        memo |= {id(value): _on_meta(value) if meta else value.detach() for value in values}
    less = copy.deepcopy(model, memo).eval()
    try:
        run(less, with_tensors(example, _on_meta) if meta else example, forward_fn)
    except Exception:  # whatever the network's code raises where a block is missing
        return False
    return True


def removable(
    model: nn.Module, example: Any, blocks: Mapping[str, bool], forward_fn: ForwardFn | None = None
) -> list[str]:
    """The blocks without which, all at once, the network's own code runs.

    Args:
        model: The network; it is left as found.
        example: An input with values.
        blocks: By name of a block whether it is called with one argument.
        forward_fn: How its user runs it.
    """
    with left_as_found(model), torch.no_grad():
        meta = _runs(model, example, {}, forward_fn, meta=True)
        if not blocks or _runs(model, example, blocks, forward_fn, meta=meta):
            return list(blocks)
        chosen: dict[str, bool] = {}
        for name, alone in blocks.items():
            if _runs(model, example, {**chosen, name: alone}, forward_fn, meta=meta):
                chosen[name] = alone
        return list(chosen)


class _Counting:
    """Notes how many products the watcher has counted when a module begins and ends."""

    def __init__(self) -> None:
        self.begins: dict[str, int] = {}
        self.ends: dict[str, int] = {}

    def before(self, name: str) -> Any:
        def begin(module: nn.Module, args: Any, kwargs: Any) -> None:
            self.begins[name] = _products(module, (args, kwargs))

        return begin

    def after(self, name: str) -> Any:
        def end(module: nn.Module, args: Any, kwargs: Any, _out: Any) -> None:
            self.ends[name] = _products(module, (args, kwargs))

        return end


def _products(module: nn.Module, given: object) -> int:
    ties = ties_of([*tensors_in(given), *module.parameters()])
    return 0 if ties is None else len(ties.products)


def products_inside(
    model: nn.Module,
    example: Any,
    names: Iterable[str],
    *,
    total: int,
    forward_fn: ForwardFn | None = None,
) -> dict[str, tuple[int, ...]]:
    """Which of the products that watching counts are computed inside of some modules that are called once.

    Args:
        model: The network; it is left as found.
        example: An input of the shape with which it was watched.
        names: Names of the modules.
        total: How many products there were when it was watched.
        forward_fn: How its user runs it.

    Returns:
        For each module the places of its products in the order of the pass.

    Raises:
        ModelError: There are more or fewer products than when it was watched.
    """
    counting = _Counting()
    with ExitStack() as stack:
        stack.enter_context(leaves_closed())
        stack.enter_context(left_as_found(model))
        model.eval()
        for name in names:
            module = model.get_submodule(name)
            module.register_forward_pre_hook(counting.before(name), with_kwargs=True)
            module.register_forward_hook(counting.after(name), with_kwargs=True)
        found = _counted(model, example, forward_fn)
    if found != total:
        raise ModelError(
            f"the network computes {found} products on this example and {total} when it was watched; pass an example of the"
            " shape with which it was watched"
        )
    return {name: tuple(range(counting.begins[name], counting.ends[name])) for name in counting.begins}


def _counted(model: nn.Module, example: Any, forward_fn: ForwardFn | None) -> int:
    """Run the network under watch, without values where it can; how many products there were."""
    try:
        watched = Pass(model, inputs=False, meta=True, forward_fn=forward_fn)
        watched.run(example, counting=True)
    except Exception:  # a forward that reads values runs on real tensors, as when it was watched
        watched = Pass(model, inputs=False, meta=False, forward_fn=forward_fn)
        watched.run(example, counting=True)
    return len(watched.ties.products)
