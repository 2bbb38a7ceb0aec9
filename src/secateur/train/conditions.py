"""The conditions a training run is under: batches, number format, randomness, and the checks of what was asked."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from secateur.errors import ModelError, NotFiniteError, SettingsError
from secateur.train.forward import Examples, dtype_of
from secateur.train.settings import TrainSettings


def batches(order: Tensor, size: int) -> list[Tensor]:
    """Cut an order of examples into batches; a last one of a single example joins the one before it.

    Example:
        >>> [len(rows) for rows in batches(torch.arange(9), 4)]
        [4, 5]
    """
    parts = [order[start : start + size] for start in range(0, len(order), size)]
    if size > 1 and len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


Precision = Literal["32-true", "64-true", "bf16-true", "16-true", "bf16-mixed", "16-mixed"]
"""Lightning's names for the number formats to compute in."""


def precision_of(model: nn.Module, settings: TrainSettings, device: torch.device) -> Precision:
    """Lightning's name for the number format to compute in."""
    own: dict[torch.dtype, Precision] = {
        torch.float64: "64-true",
        torch.bfloat16: "bf16-true",
        torch.float16: "16-true",
    }
    if dtype_of(model) in own:
        return own[dtype_of(model)]
    wanted = settings.precision
    if wanted == "auto" and device.type == "cuda":
        wanted = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "16"
    if wanted == "bf16":
        return "bf16-mixed"
    return "16-mixed" if wanted == "16" else "32-true"


def derived_seed(seed: int, epoch: int, purpose: int) -> int:
    """A seed for one purpose in one epoch."""
    return int(np.random.SeedSequence([seed, epoch, purpose]).generate_state(1, np.uint64)[0] >> np.uint64(1))


@contextmanager
def own_randomness(device: torch.device, seed: int) -> Generator[None]:
    """Seed what dropout draws from; the caller's random state comes back afterwards."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):  # pyright: ignore[reportUnknownMemberType]
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def check_options(
    validation: Examples | None,
    settings: TrainSettings,
    *,
    seed: int,
    device: torch.device,
    teachers: tuple[nn.Module | None, Tensor | None],
) -> None:
    """Raise SettingsError where options contradict each other."""
    if seed < 0:
        raise SettingsError(f"seed is {seed}; it cannot be negative, give 0 or more")
    if settings.early_stopping is not None and validation is None:
        raise SettingsError("early_stopping needs validation examples to judge by; give some or leave it out")
    if settings.precision == "16" and device.type != "cuda":
        raise SettingsError("precision '16' needs a GPU; choose '32', 'bf16' or 'auto' here")
    if all(one is not None for one in teachers):
        raise SettingsError("both teacher and teacher_answers are given; give one of them")


def check_owner(optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
    """Raise ModelError unless the optimiser trains this network's parameters."""
    own = {id(parameter) for parameter in model.parameters()}
    if any(id(p) not in own for group in optimizer.param_groups for p in group["params"]):
        raise ModelError(
            "the optimiser holds parameters of another network; make one over this network's parameters, "
            "or let its state follow the cut"
        )


def check_finite(losses: list[Tensor], *, epoch: int, first_step: int, lr: float) -> None:
    """Raise NotFiniteError naming the first step whose loss is not finite."""
    finite = torch.isfinite(torch.stack(losses))
    if not bool(finite.all()):
        step = first_step + int(torch.nonzero(~finite)[0])
        raise NotFiniteError(
            f"the loss is not finite in epoch {epoch}, step {step} (learning rate {lr:g}); "
            "lower the learning rate or set clip"
        )


@contextmanager
def channels_last(model: nn.Module) -> Generator[None]:
    """Hold the weights of 2-D convolutions with their channels last for a while; each gets its own layout back.

    Example:
        >>> net = nn.Conv2d(2, 3, 3)
        >>> with channels_last(net):
        ...     net.weight.stride()
        (18, 1, 6, 2)
        >>> net.weight.is_contiguous()
        True
    """
    before = [(weight, weight.shape, weight.stride()) for weight in model.parameters() if weight.dim() == 4]
    for weight, _, _ in before:
        weight.data = weight.data.to(memory_format=torch.channels_last)
    try:
        yield
    finally:
        for weight, shape, strides in before:
            if weight.stride() != strides:
                weight.data = _like(shape, strides, weight.data).copy_(weight.data)


def _like(shape: torch.Size, strides: tuple[int, ...], data: Tensor) -> Tensor:
    """Room for values in a layout that was that of another shape, if the tensor has been cut meanwhile."""
    if data.shape == shape:
        return torch.empty_strided(shape, strides, dtype=data.dtype, device=data.device)
    order = sorted(range(data.dim()), key=lambda axis: -strides[axis])
    return torch.empty_permuted(data.shape, order, dtype=data.dtype, device=data.device)
