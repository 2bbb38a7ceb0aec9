"""Running a network over examples without leaving a trace on it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

from secateur.errors import DataError, ModelError, SettingsError


class Examples(Protocol):
    """Inputs and their labels, in memory: what ``secateur.data.Split`` is."""

    @property
    def inputs(self) -> Tensor:
        """``[n, ...]``, normalised."""
        ...

    @property
    def targets(self) -> Tensor:
        """``[n]``, int64, from 0 to classes − 1."""
        ...

    def __len__(self) -> int:
        """Number of examples."""
        ...


@contextmanager
def mode(model: nn.Module, *, training: bool) -> Generator[None]:
    """Put a network in train or eval mode; every module gets its own mode back afterwards, also after an error.

    Args:
        model: The network.
        training: True for train mode.

    Example:
        >>> net = nn.Dropout()
        >>> with mode(net, training=False):
        ...     print(net.training)
        False
        >>> net.training
        True
    """
    before = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, was in before:
            module.training = was


def device_of(model: nn.Module) -> torch.device:
    """Where the network's first parameter (or buffer) is; the processor if it has none.

    Example:
        >>> device_of(nn.Linear(1, 1))
        device(type='cpu')
    """
    first = next(model.parameters(), None)
    first = next(model.buffers(), None) if first is None else first
    return torch.device("cpu") if first is None else first.device


def dtype_of(model: nn.Module) -> torch.dtype:
    """The number format of the network's first floating-point parameter; float32 if it has none.

    Example:
        >>> dtype_of(nn.Linear(1, 1).double())
        torch.float64
    """
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)


def logits(
    model: nn.Module, inputs: Tensor, *, batch_size: int = 512, device: torch.device | str | None = None
) -> Tensor:
    """The network's outputs in eval mode, without gradients.

    Args:
        model: Maps ``[n, ...]`` to ``[n, classes]``. Left in the mode it was in.
        inputs: ``[n, ...]``; turned into the network's number format.
        batch_size: Examples a pass.
        device: Where to compute; the network must be there. By default where the network is.

    Returns:
        ``[n, classes]``, on that device.

    Raises:
        DataError: The network does not take inputs of that shape, or gives something other than one row of numbers
            an example.

    Example:
        >>> logits(nn.Linear(3, 2), torch.zeros(5, 3), batch_size=2).shape
        torch.Size([5, 2])
    """
    where = device_of(model) if device is None else torch.device(device)
    dtype = dtype_of(model)
    rows: list[Tensor] = []
    with mode(model, training=False), torch.no_grad():
        for start in range(0, len(inputs), batch_size):
            ready = inputs[start : start + batch_size].to(where, dtype)
            # Shapes cannot change from one batch to the next, so that only the first is guarded.
            rows.append(_first_outputs(model, ready) if not rows else model(ready))
    if not rows:
        raise DataError("there are no examples to run the network on; give at least one")
    return torch.cat(rows)


def _first_outputs(model: nn.Module, batch: Tensor) -> Tensor:
    """The outputs of one batch, or a sentence about why there are none."""
    try:
        outputs = model(batch)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"the network does not take inputs of shape {tuple(batch.shape)} (the batch first): {reason}; "
            "give it the data it was built for"
        ) from error
    if not isinstance(outputs, Tensor) or outputs.ndim != 2 or len(outputs) != len(batch):
        got = (
            f"shape {tuple(outputs.shape)}" if isinstance(outputs, Tensor) else f"a {type(outputs).__name__}"
        )
        raise DataError(
            f"for inputs of shape {tuple(batch.shape)} the network gave {got}; a classifier gives one tensor "
            f"[{len(batch)}, classes]"
        )
    return outputs


def check_examples(**arguments: object) -> None:
    """Refuse what holds no inputs and targets, such as all splits of a data set where one is wanted.

    Args:
        arguments: By name what was given.

    Raises:
        SettingsError: One is something else.

    Example:
        >>> check_examples(train=3)
        Traceback (most recent call last):
        ...
        secateur.errors.SettingsError: train is of class int, and one split with inputs and targets is wanted; give data.train
    """
    for name, value in arguments.items():
        if not all(hasattr(value, part) for part in ("inputs", "targets", "__len__")):
            part = name if name in ("train", "validation", "test") else "train"
            raise SettingsError(
                f"{name} is of class {type(value).__name__}, and one split with inputs and targets is wanted; give data.{part}"
            )


def check_fit(model: nn.Module, examples: Examples, *, device: torch.device | str | None = None) -> int:
    """Check that a network and examples belong together, by one example in eval mode.

    Args:
        model: The network.
        examples: Inputs and labels.
        device: Where to compute.

    Returns:
        The number of classes that the network tells apart.

    Raises:
        DataError: Inputs do not fit, lengths differ, or a label lies outside the network's classes.
        ModelError: A parameter is not finite.
        SettingsError: These are no examples.

    Example:
        >>> from types import SimpleNamespace
        >>> class Two(SimpleNamespace):
        ...     def __len__(self): return len(self.targets)
        >>> check_fit(nn.Linear(3, 2), Two(inputs=torch.zeros(4, 3), targets=torch.tensor([0, 1, 1, 0])))
        2
    """
    check_examples(split=examples)
    inputs, targets = examples.inputs, examples.targets
    if targets.ndim != 1 or len(inputs) != len(targets) or targets.is_floating_point():
        raise DataError(
            f"inputs of shape {tuple(inputs.shape)} need one whole-number label each, but the targets are "
            f"{targets.dtype} of shape {tuple(targets.shape)}"
        )
    if not len(targets):
        raise DataError("there are no examples: the inputs and targets are empty; give at least one")
    for name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise ModelError(
                f"the network's {name} holds numbers that are not finite; load or train it again"
            )
    classes = logits(model, inputs[:1], device=device).shape[1]
    low, high = int(targets.min()), int(targets.max())
    if low < 0 or high >= classes:
        raise DataError(
            f"labels go from {low} to {high}, but the network's output of shape [n, {classes}] knows 0 to "
            f"{classes - 1}; give a network with at least {high + 1} outputs or other labels"
        )
    return classes


def check_split(model: nn.Module, examples: Examples, split: str, *, device: torch.device) -> int:
    """As :func:`check_fit`; complaints say which split they are about.

    Raises:
        DataError: As for :func:`check_fit`.
        ModelError: As for :func:`check_fit`.
    """
    try:
        return check_fit(model, examples, device=device)
    except DataError as error:
        raise DataError(f"the {split} split: {error}") from error
