"""The grids on which int8 runtimes compute: where a number lies on one, and how a range makes one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from secateur.errors import SettingsError

LEVELS = 127
"""Weights are whole numbers from -127 to 127: symmetric, so that zero is among them and no kernel needs an offset."""

_SMALLEST = 1e-9
"""A range is at least so wide, so that no step is zero."""


@dataclass(frozen=True, slots=True)
class Range:
    r"""From where to where activations go, and the grid of 256 steps over it: :math:`r = S\,(q - Z)`, q from -128 to 127.

    The range is widened until zero is in it; the step is :math:`S = (\mathrm{high} - \mathrm{low}) / 255`, and
    :math:`Z = \mathrm{round}(-128 - \mathrm{low} / S)` is what stands for zero, exactly.

    Attributes:
        low: The smallest value.
        high: The greatest.

    Raises:
        SettingsError: The ends are not finite, or the smallest is above the greatest.

    Example:
        >>> grid = Range(-1.0, 4.1)
        >>> round(grid.step, 4), grid.zero
        (0.02, -78)
        >>> grid.round(torch.tensor([0.0, 0.011, 9.0]))
        tensor([0.0000, 0.0200, 4.1000])

    Source:
        Jacob et al. 2018, arXiv:1712.05877, equation 1 and section 3.1.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (np.isfinite(self.low) and np.isfinite(self.high) and self.low <= self.high):
            raise SettingsError(
                f"a range from {self.low} to {self.high} makes no grid; give two finite numbers, the smaller one first"
            )

    @property
    def step(self) -> float:
        """What lies between two neighbours, as the 32-bit number that files hold."""
        width = max(max(self.high, 0.0) - min(self.low, 0.0), _SMALLEST)
        return float(np.float32(width / 255))

    @property
    def zero(self) -> int:
        """The whole number that stands for zero."""
        return int(np.clip(np.rint(-128 - min(self.low, 0.0) / self.step), -128, 127))

    def round(self, x: Tensor) -> Tensor:
        """The nearest values on the grid; gradients pass where the value lies within the range.

        Args:
            x: Any shape.
        """
        wide = x if x.dtype in (torch.float32, torch.float64) else x.float()
        return torch.fake_quantize_per_tensor_affine(wide, self.step, self.zero, -128, 127).to(x.dtype)

    def integers(self, x: Tensor) -> Tensor:
        """The whole numbers that stand for values, int32.

        Args:
            x: Any shape.
        """
        return (self.round(x).double() / self.step).round().int() + self.zero


UNIT = Range(0.0, 255 / 256)
"""What a sigmoid or softmax gives: runtimes fix the step at 1/256."""

SIGNED_UNIT = Range(-1.0, 127 / 128)
"""What a tanh gives: runtimes fix the step at 1/128."""


def weight_steps(weight: Tensor) -> Tensor:
    r"""The step of each output channel's grid: :math:`\max |w| / 127`.

    Args:
        weight: ``[channels, ...]``.

    Returns:
        ``[channels]``, at least 1e-9 / 127.

    Example:
        >>> weight_steps(torch.tensor([[1.27, 0.3], [0.0, -2.54]]))
        tensor([0.0100, 0.0200])
    """
    return weight.detach().flatten(1).abs().amax(dim=1).clamp(min=_SMALLEST) / LEVELS


def round_weight(weight: Tensor, steps: Tensor | None = None) -> Tensor:
    """A weight on the grid of int8, a step for each output channel; gradients pass.

    Args:
        weight: ``[channels, ...]``.
        steps: ``[channels]``; by default those of the weight itself.

    Example:
        >>> round_weight(torch.tensor([[1.27, 0.304]]))
        tensor([[1.2700, 0.3000]])
    """
    return _round_rows(weight, weight_steps(weight) if steps is None else steps, LEVELS)


def round_bias(bias: Tensor, steps: Tensor) -> Tensor:
    """A bias on the grid of the 32-bit accumulator; gradients pass.

    Args:
        bias: ``[channels]``.
        steps: ``[channels]``: the input's step times the weight's.
    """
    return _round_rows(bias, steps.to(bias.dtype), 2**31 - 1)


def _round_rows(values: Tensor, steps: Tensor, most: int) -> Tensor:
    rows = steps.reshape(-1, *[1] * (values.dim() - 1))
    rounded = (values.detach() / rows).round().clamp(-most, most) * rows
    if not (torch.is_grad_enabled() and values.requires_grad):
        return rounded
    return values + (rounded - values.detach())  # as if nothing were rounded, for the gradient
