"""Depthwise convolutions on tiny maps as sums of products, which a processor differentiates many times faster."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

_POSITIONS: Final = 4
"""Of a map at most: on 4x4 the usual kernels are quick already."""


class SmallMaps(TorchFunctionMode):
    r"""While it is entered, depthwise convolutions on maps of up to four positions are computed position by position.

    :math:`y_{no} = \sum_i x_{ni} w_{k(i, o)}`, for each channel, over the positions i of the map, each output position o and
    the place k of the kernel that joins them: elementwise operations on ``[n, channels]``. Networks made for photographs of
    224x224 end in such maps at 32x32, where oneDNN's kernels spend a large part of a training step on the weights' gradient.
    Everything else is computed as ever, and the same numbers come out but for the order of additions.

    Example:
        >>> layer, maps = torch.nn.Conv2d(8, 8, 3, padding=1, groups=8), torch.randn(5, 8, 2, 2)
        >>> with SmallMaps():
        ...     quick = layer(maps)
        >>> bool(torch.allclose(quick, layer(maps), atol=1e-6))
        True
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Compute a call otherwise if it is such a convolution."""
        if func is not F.conv2d:
            return func(*args, **(kwargs or {}))
        call = _Call(*args, **(kwargs or {}))
        return call.by_position() if call.suits() else func(*args, **(kwargs or {}))


class _Call:
    """One call of ``conv2d``."""

    def __init__(  # noqa: PLR0917 - conv2d may be called so
        self,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: int | Sequence[int] = 1,
        padding: int | str | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
    ) -> None:
        self.input, self.weight, self.bias, self.groups = input, weight, bias, groups
        self.stride, self.dilation = _pair(stride), _pair(dilation)
        self.padding = None if isinstance(padding, str) else _pair(padding)

    def suits(self) -> bool:
        """Whether it is a depthwise convolution of a tiny map, on a processor."""
        maps, weight = self.input, self.weight
        return (
            maps.dim() == 4
            and maps.shape[2] * maps.shape[3] <= _POSITIONS
            and self.groups == maps.shape[1] == weight.shape[0]
            and self.padding is not None
            and maps.device.type == "cpu"
            and not torch.is_autocast_enabled("cpu")
            and all(self.joined()[1])  # a position that sees only padding has nothing to add up
        )

    def joined(self) -> tuple[tuple[int, int], tuple[tuple[tuple[int, int], ...], ...]]:
        """As `_joined`."""
        if self.padding is None:
            raise AssertionError("suits() was not asked")
        size, kernel = tuple(self.input.shape[2:]), tuple(self.weight.shape[2:])
        return _joined(size, kernel, self.stride, self.padding, self.dilation)

    def by_position(self) -> Tensor:
        """The convolution, position by position."""
        count, channels = self.input.shape[:2]
        outside, joined = self.joined()
        maps = self.input.permute(2, 3, 0, 1).reshape(-1, count, channels).unbind()
        places = self.weight.reshape(channels, -1).t().unbind()
        found: list[Tensor] = []
        for (first, at), *rest in joined:
            total = maps[first] * places[at]
            for position, place in rest:
                total = torch.addcmul(total, maps[position], places[place])
            found.append(total if self.bias is None else total + self.bias)
        made = torch.stack(found).view(*outside, count, channels).permute(2, 3, 0, 1)
        last = not self.input.is_contiguous() and self.input.is_contiguous(memory_format=torch.channels_last)
        return made.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    return value[0], value[-1]


@lru_cache(maxsize=256)
def _joined(
    size: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> tuple[tuple[int, int], tuple[tuple[tuple[int, int], ...], ...]]:
    """The size of the output, and for each of its positions those of the map that it sees, each with its place in the kernel."""
    high, wide = (
        (size[axis] + 2 * padding[axis] - dilation[axis] * (kernel[axis] - 1) - 1) // stride[axis] + 1
        for axis in (0, 1)
    )
    joined: list[tuple[tuple[int, int], ...]] = []
    for up in range(high):
        for on in range(wide):
            pairs: list[tuple[int, int]] = []
            for row in range(kernel[0]):
                for column in range(kernel[1]):
                    y = up * stride[0] - padding[0] + row * dilation[0]
                    x = on * stride[1] - padding[1] + column * dilation[1]
                    if 0 <= y < size[0] and 0 <= x < size[1]:
                        pairs.append((y * size[1] + x, row * kernel[1] + column))
            joined.append(tuple(pairs))
    return (high, wide), tuple(joined)
