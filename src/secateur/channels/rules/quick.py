"""What some operators give on meta tensors, without PyTorch's reference implementations, which take a millisecond each.

Only the plain case is quick: whatever is unusual, wrong shapes above all, goes the slow way, which checks it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch._prims_common import suggest_memory_format

Quick: TypeAlias = Callable[[Any, Any, Any], Any]
"""Takes an operator, its arguments and its keyword arguments; gives what came out."""


def _is_plain(tensor: Any) -> bool:
    return isinstance(tensor, torch.Tensor) and tensor.is_meta and tensor.is_floating_point()


def _made(x: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """A tensor in another's number format, without ``new_empty``, which is a reference implementation, too."""
    return torch.empty(shape, dtype=x.dtype, device=x.device)


def _like(x: torch.Tensor) -> torch.Tensor:
    """A tensor like another, axes in the same order."""
    return _made(x, x.shape) if x.is_contiguous() else torch.empty_like(x)


def alone(func: Any, args: Any, kwargs: Any) -> Any:
    """Each element by itself: the result is like the first argument, the others are numbers."""
    x = args[0]
    others = (*args[1:], *kwargs.values())
    plain = _is_plain(x) and not any(isinstance(other, (torch.Tensor, complex)) for other in others)
    return _like(x) if plain else func(*args, **kwargs)


def in_place(func: Any, args: Any, kwargs: Any) -> Any:
    """Each element by itself, written over the first argument: as quick as the quickest that does this."""
    return torch.relu_(args[0]) if _is_plain(args[0]) else func(*args, **kwargs)


def softmax(func: Any, args: Any, kwargs: Any) -> Any:
    """The result is like the first argument, unless another number format is asked for."""
    plain = _is_plain(args[0]) and len(args) == 2 and not kwargs
    return _like(args[0]) if plain else func(*args, **kwargs)


def pair(func: Any, args: Any, kwargs: Any) -> Any:
    """Two tensors, or a tensor and a number, element by element."""
    x, y = args[:2]
    if _is_plain(x) and len(args) == 2 and "out" not in kwargs:
        if isinstance(y, (int, float)):
            return _like(x)
        if _is_plain(y) and x.dtype == y.dtype:
            shape = _common(x.shape, y.shape)
            if shape == x.shape and 0 not in x.stride():
                return _like(x)  # the first operand's order of axes is the result's
            if shape is not None and x.is_contiguous() and y.is_contiguous():
                return _made(x, shape)
    return func(*args, **kwargs)


def _common(a: torch.Size, b: torch.Size) -> torch.Size | None:
    """The shape of two that are aligned from the right, where sizes of one are repeated; None if they do not fit."""
    if a == b:
        return a
    long, short = (a, b) if len(a) >= len(b) else (b, a)
    lead = len(long) - len(short)
    shape = list(long)
    for axis, size in enumerate(short, lead):
        if shape[axis] != size and size != 1:
            if shape[axis] != 1:
                return None
            shape[axis] = size
    return torch.Size(shape)


def layer_norm(func: Any, args: Any, kwargs: Any) -> Any:
    """The result, and the mean and deviation that it saves for the way back."""
    x, shape = args[0], tuple(args[1])
    given = [tensor for tensor in args[2:4] if tensor is not None]
    count = len(shape)
    if not all(_is_plain(each) and each.dtype == x.dtype for each in (x, *given)) or any(
        tuple(sizes) != shape for sizes in (x.shape[-count:], *(tensor.shape for tensor in given))
    ):
        return func(*args, **kwargs)
    saved = (*x.shape[:-count], *(1,) * count)
    return _made(x, x.shape), _made(x, saved), _made(x, saved)


def batch_norm(_func: Any, args: Any, _kwargs: Any) -> tuple[torch.Tensor, ...]:
    """The result, and the statistics that it saves for the way back."""
    x, training = args[0], bool(args[5])
    size = (x.shape[1] if training else 0,)
    return _like(x), _made(x, size), _made(x, size)


def convolution(func: Any, args: Any, kwargs: Any) -> Any:
    """Each axis of the picture has as many positions as the kernel fits in."""
    x, weight, bias, stride, padding, dilation, transposed, _, groups = args
    given = (x, weight) if bias is None else (x, weight, bias)
    plain = (
        all(_is_plain(tensor) and tensor.dtype == x.dtype and tensor.is_contiguous() for tensor in given)
        and not transposed
        and x.dim() == weight.dim()
        and x.shape[1] == weight.shape[1] * groups
        and weight.shape[0] % groups == 0
        and (bias is None or bias.shape == weight.shape[:1])
        and len(stride) == len(padding) == len(dilation) == x.dim() - 2
    )
    if plain:
        reach = [d * (kernel - 1) + 1 for d, kernel in zip(dilation, weight.shape[2:], strict=True)]
        free = [size + 2 * p - r for size, p, r in zip(x.shape[2:], padding, reach, strict=True)]
        if all(room >= 0 for room in free):
            sizes = [room // step + 1 for room, step in zip(free, stride, strict=True)]
            return _made(x, (x.shape[0], weight.shape[0], *sizes))
    return func(*args, **kwargs)


def cat(func: Any, args: Any, kwargs: Any) -> torch.Tensor:
    """One axis is as long as all parts together."""
    parts: list[torch.Tensor] = list(args[0])
    first = parts[0]
    dim = int(args[1] if len(args) > 1 else kwargs.get("dim", 0)) % max(first.dim(), 1)
    shape = list(first.shape)
    plain = all(
        part.dtype == first.dtype
        and part.is_contiguous()
        and part.dim() == len(shape) > 0
        and all(part.shape[axis] == size for axis, size in enumerate(shape) if axis != dim)
        for part in parts
    )
    if not plain:
        return func(*args, **kwargs)
    shape[dim] = sum(part.shape[dim] for part in parts)
    return _made(first, shape)


def addmm(func: Any, args: Any, kwargs: Any) -> Any:
    """``bias + a @ b``."""
    bias, a, b = args[:3]
    plain = (
        all(_is_plain(tensor) and tensor.dtype == a.dtype for tensor in (bias, a, b))
        and a.dim() == b.dim() == 2
        and a.shape[1] == b.shape[0]
        and bias.shape == b.shape[1:]
        and "out" not in kwargs
    )
    return _made(a, (a.shape[0], b.shape[1])) if plain else func(*args, **kwargs)


def upsample(func: Any, args: Any, kwargs: Any) -> Any:
    """Channel axes stay, the axes of the picture have the sizes that are asked for."""
    x, size = args[:2]
    if not _is_plain(x) or func._overloadname != "default" or kwargs:
        return func(*args, **kwargs)
    order = suggest_memory_format(x)
    return torch.empty((*x.shape[:2], *size), dtype=x.dtype, device=x.device, memory_format=order)


def along(place: int) -> Quick:
    """A reduction along the axes that the argument at a place names; the next one says whether they stay, of size one."""

    def reduced(func: Any, args: Any, kwargs: Any) -> Any:
        x = args[0]
        dims: Sequence[int] | None = args[place] if len(args) > place else None
        if not dims or kwargs or len(args) > place + 2 or not (_is_plain(x) and x.is_contiguous()):
            return func(*args, **kwargs)
        gone = {dim % x.dim() for dim in dims}
        keep = len(args) == place + 2 and bool(args[place + 1])
        sizes = [1 if axis in gone else size for axis, size in enumerate(x.shape) if keep or axis not in gone]
        return _made(x, sizes)

    return reduced


aten = torch.ops.aten
_ALONE = (
    aten.clamp, aten.clamp_max, aten.clamp_min, aten.elu, aten.gelu, aten.hardsigmoid, aten.hardswish, aten.hardtanh,
    aten.leaky_relu, aten.mish, aten.relu, aten.roll, aten.sigmoid, aten.silu, aten.tanh,
)  # fmt: skip
_IN_PLACE = (
    aten.elu_, aten.gelu_, aten.hardsigmoid_, aten.hardswish_, aten.hardtanh_, aten.leaky_relu_, aten.mish_, aten.silu_,
)  # fmt: skip
ON_META: dict[Any, Quick] = {
    **dict.fromkeys(_ALONE, alone),
    **dict.fromkeys(_IN_PLACE, in_place),
    **dict.fromkeys((aten.add, aten.sub, aten.mul, aten.div), pair),
    aten._safe_softmax: softmax,
    aten.native_layer_norm: layer_norm,
    aten.native_batch_norm: batch_norm,
    aten.convolution: convolution,
    aten.cat: cat,
    aten.addmm: addmm,
    aten.upsample_bilinear2d: upsample,
    aten.upsample_bicubic2d: upsample,
    aten.mean: along(1),
    aten.linalg_vector_norm: along(2),
}
