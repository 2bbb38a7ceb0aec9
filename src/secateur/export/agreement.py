"""How far the outputs of a file are from those of the network that it was made of."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.errors import DataError
from secateur.quantise import sqnr


@dataclass(frozen=True, slots=True)
class Agreement:
    """Two sets of outputs for the same inputs.

    Attributes:
        deviation: The largest difference, relative to the largest output: max |y − y'| / max |y|.
        sqnr: Signal to quantisation noise, 10·log₁₀(Σ y² / Σ (y − y')²), in decibels; infinite where they are equal.
        agreement: Percent of examples with the same highest output.
        count: Examples.
    """

    deviation: float
    sqnr: float
    agreement: float
    count: int


def compare(wanted: Tensor, found: Tensor) -> Agreement:
    """Compare the outputs ``[n, classes]`` of a network and of what was made of it.

    Args:
        wanted: The network's.
        found: The other's.

    Returns:
        Deviation, signal-to-noise ratio and agreement.

    Raises:
        DataError: The shapes differ, or there is no output.

    Example:
        >>> compare(torch.tensor([[3.0, 4.0]]), torch.tensor([[3.0, 4.5]]))
        Agreement(deviation=0.125, sqnr=20.0, agreement=100.0, count=1)
    """
    if wanted.shape != found.shape or not wanted.numel():
        raise DataError(
            f"outputs of shape {tuple(wanted.shape)} cannot be compared with those of shape {tuple(found.shape)}; run both "
            "on the same examples, at least one"
        )
    before, after = wanted.double(), found.double()
    largest = float(before.abs().max())
    gap = float((before - after).abs().max())
    same = before.flatten(1).argmax(dim=1) == after.flatten(1).argmax(dim=1)
    return Agreement(
        deviation=gap / largest if largest else (math.inf if gap else 0.0),
        sqnr=sqnr(before, after),
        agreement=100.0 * float(torch.mean(same.double())),
        count=len(before),
    )
