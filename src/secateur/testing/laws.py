"""The laws that hold for every cut, as checks with figures."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.backends import mha
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from secateur._model import named_tensors
from secateur.channels.nested import as_call, outputs_in, tensors_in, with_tensors
from secateur.cost import Cost
from secateur.plan import Plan
from secateur.surgery import apply
from secateur.testing.oracle import unread


class LawError(AssertionError):
    """A law does not hold; the figures are in the message."""


def _double(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def outputs_of(model: nn.Module, example: Any) -> list[Tensor]:
    """Everything that a network returns for an example, in eval mode, without gradients; the mode is put back.

    >>> outputs_of(nn.Identity(), torch.ones(2))
    [tensor([1., 1.])]
    """
    args, kwargs = as_call(example)
    modes = [(module, module.training) for module in model.modules()]
    try:
        with torch.no_grad():
            outputs = outputs_in(model.eval()(*args, **kwargs))
        if not outputs:
            raise LawError("the network returns no tensor, so nothing can be compared")
        return outputs
    finally:
        for module, mode in modes:
            module.training = mode


def relative_error(found: list[Tensor], wanted: list[Tensor]) -> float:
    """The largest difference between two lists of tensors, as a share of the largest value wanted.

    >>> relative_error([torch.tensor([1.0, 3.0])], [torch.tensor([1.0, 4.0])])
    0.25
    """
    if [tensor.shape for tensor in found] != [tensor.shape for tensor in wanted]:
        raise LawError(
            f"the outputs have shapes {[tuple(t.shape) for t in found]}, they should have"
            f" {[tuple(t.shape) for t in wanted]}"
        )
    worst = 0.0
    for mine, theirs in zip(found, wanted, strict=True):
        if not mine.numel():
            continue
        largest = float(theirs.double().abs().max())
        difference = float((mine.double() - theirs.double()).abs().max())
        if not np.isfinite(largest) or not np.isfinite(difference):
            raise LawError(
                "an output is not finite, so nothing can be compared; take milder weights or inputs"
            )
        worst = max(worst, difference / max(largest, np.finfo(np.float64).tiny))
    return worst


def check_cut(
    model: nn.Module, example: Any, plan: Plan, *, tolerance: float = 1e-10, forecast: bool = True
) -> float:
    """Check that cutting equals not reading, in float64, and that the plan's forecast is what the cut network has.

    Args:
        model: The network that the plan was made for; it is left as it is.
        example: An input as the network takes it. Its values matter here: random ones see more than zeros.
        plan: A plan that only removes.
        tolerance: The largest difference of any output, as a share of the largest output.
        forecast: Whether to check parameters, buffers, bytes and MACs, too. MACs of operators without a rule are not
            forecast, so a network that has such can only be checked without.

    Returns:
        The difference that was found.

    Raises:
        LawError: A law does not hold.

    Example:
        >>> import secateur
        >>> net = nn.Sequential(nn.Linear(3, 4), nn.Sigmoid(), nn.Linear(4, 2))
        >>> channels = secateur.watch(net, torch.zeros(1, 3))
        >>> plan = secateur.plan(channels, secateur.score(net, channels, "l1"), remove=0.5)
        >>> check_cut(net, torch.randn(5, 3), plan) < 1e-10
        True
    """
    if forecast:
        check_forecast(apply(model, plan), example, plan)
    double, exact = copy.deepcopy(model).double(), with_tensors(example, _double)
    wanted = outputs_of(unread(double, plan), exact)
    found = outputs_of(apply(double, plan), exact)
    error = relative_error(found, wanted)
    if error > tolerance:
        raise LawError(
            f"cutting is not the same as not reading: outputs differ by {error:.3g} of the largest value"
            f" (at most {tolerance:.3g}); the plan was\n{plan}"
        )
    return error


@contextmanager
def _taken_apart() -> Generator[None]:
    """Inside, PyTorch takes operators apart that it would compute as one: those of oneDNN, and attention.

    oneDNN's own context manager warns on most machines.
    """
    before = torch._C._get_mkldnn_enabled(), mha.get_fastpath_enabled()  # pyright: ignore[reportPrivateUsage]
    torch._C._set_mkldnn_enabled(False)  # pyright: ignore[reportPrivateUsage]
    mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch._C._set_mkldnn_enabled(before[0])  # pyright: ignore[reportPrivateUsage]
        mha.set_fastpath_enabled(before[1])


@contextmanager
def _frozen(model: nn.Module) -> Generator[None]:
    """Inside, no parameter asks for gradients: PyTorch's counter cannot hook views of those that do when none are recorded."""
    asking = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in asking:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)


def _bilinear(a: Any, weight: Any, *_: Any, **__: Any) -> int:
    """What PyTorch's counter does not know: operations of a bilinear layer, two for each multiply-add."""
    return 2 * a[0] * math.prod(weight)


def macs_of(model: nn.Module, example: Any) -> float:
    """Multiply-adds for one example, as PyTorch's own counter finds them while the network runs.

    oneDNN and fused attention are off meanwhile: they compute LSTMs and attention in one operator each, in which the
    counter sees nothing.

    >>> macs_of(nn.Linear(3, 2), torch.zeros(4, 3))
    6.0
    """
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten._trilinear: _bilinear})
    with _taken_apart(), _frozen(model), counter:
        outputs_of(model, example)
    args, kwargs = as_call(example)
    batch = next(tensors_in([*args, kwargs])).shape[0]
    return counter.get_total_flops() / 2 / batch


def cost_of(model: nn.Module, example: Any) -> Cost:
    """What a network costs, counted on the network itself and while it runs."""
    parameters = sum(p.numel() for p in model.parameters())
    buffers = sum(b.numel() for b in model.buffers())
    size = sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))
    return Cost(parameters, buffers, round(macs_of(model, example)), size)


def check_forecast(cut: nn.Module, example: Any, plan: Plan) -> None:
    """Check that a cut network costs what its plan said.

    Raises:
        LawError: A figure differs.
    """
    found = cost_of(cut, example)
    if found != plan.after:
        raise LawError(f"the plan forecasts {plan.after!r}, the cut network has {found!r}")


def check_left_as_found(model: nn.Module, action: Callable[[], object]) -> None:
    """Check that something leaves a network and the random state as they were, whether it succeeds or raises.

    Modes, hooks, attributes, the values and identities of parameters, buffers and gradients, ``requires_grad``, and the
    random states of torch, numpy and Python are compared. What ``action`` raises is raised again if nothing changed.

    Raises:
        LawError: Something changed; it is named.

    Example:
        >>> net = nn.Linear(2, 2)
        >>> check_left_as_found(net, net.eval)
        Traceback (most recent call last):
        secateur.testing.laws.LawError: the mode of '' changed
    """
    before = _snapshot(model)
    try:
        action()
    finally:
        _compare(before, _snapshot(model))


def _snapshot(model: nn.Module) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, module in cast("Iterator[tuple[str, nn.Module]]", model.named_modules()):
        found[f"the mode of {name!r}"] = module.training
        for key, value in vars(module).items():
            if isinstance(value, dict):  # parameters, buffers, submodules and every kind of hook
                table = cast("dict[object, object]", value)
                found[f"{key} of {name!r}"] = [(entry, id(held)) for entry, held in table.items()]
            elif key != "training":
                found[f"the attribute {key} of {name!r}"] = id(value)
    for name, tensor in named_tensors(model).items():
        found[f"the value of {name!r}"] = tensor.detach().clone()
        found[f"requires_grad of {name!r}"] = tensor.requires_grad
        found[f"the gradient of {name!r}"] = None if tensor.grad is None else tensor.grad.clone()
        found[f"the identity of the gradient of {name!r}"] = id(tensor.grad)
    found["the random state of torch"] = torch.get_rng_state()
    found["the random state of numpy"] = torch.as_tensor(np.random.get_state()[1].astype(np.int64))  # type: ignore[union-attr, index]
    found["the random state of Python"] = random.getstate()
    return found


def _compare(before: dict[str, Any], after: dict[str, Any]) -> None:
    for what in before.keys() | after.keys():
        old, new = before.get(what), after.get(what)
        same = (
            torch.equal(old, new)
            if isinstance(old, Tensor) and isinstance(new, Tensor)
            else old is new or old == new
        )
        if not same:
            raise LawError(f"{what} changed")
