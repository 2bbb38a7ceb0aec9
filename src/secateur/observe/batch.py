"""One batch through a network, with a sentence where the network does not take it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from secateur.channels.nested import ForwardFn, run, tensors_in
from secateur.errors import DataError, SecateurError


def run_batch(model: nn.Module, inputs: Any, forward_fn: ForwardFn | None = None) -> Any:
    """Run a network on a batch's inputs: as its arguments, or as its user says.

    Raises:
        DataError: The network does not take inputs of that shape.

    Example:
        >>> run_batch(nn.Flatten(), torch.zeros(2, 3, 4)).shape
        torch.Size([2, 12])
        >>> run_batch(nn.Linear(3, 2), torch.zeros(1, 4))
        Traceback (most recent call last):
        ...
        secateur.errors.DataError: the network does not take inputs of shape (1, 4) (the batch first): mat1 and mat2 shapes cannot be multiplied (1x4 and 3x2); give it the data it was built for
    """
    if forward_fn is not None:  # its own errors say more
        return forward_fn(model, inputs)
    try:
        return run(model, inputs)
    except (SecateurError, torch.OutOfMemoryError):
        raise
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        shapes = " and ".join(str(tuple(tensor.shape)) for tensor in tensors_in(inputs))
        raise DataError(
            f"the network does not take inputs of shape {shapes} (the batch first): {reason}; give it the data it was built for"
        ) from error
