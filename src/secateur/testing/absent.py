"""Arithmetic in which channels can be absent: what nobody computes is not a number, and no statistic counts it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten

_STATISTICS = frozenset(
    {
        aten.mean, aten.var, aten.std, aten.var_mean, aten.std_mean, aten.amax, aten.amin, aten.linalg_vector_norm, aten.norm,
    }
)  # fmt: skip
_NORMS = frozenset({aten.native_layer_norm, aten.native_group_norm, aten.native_batch_norm})


_OF_ROWS = frozenset({aten._weight_norm_interface, aten._weight_norm})
_ATTENTION = frozenset(
    {aten._scaled_dot_product_flash_attention_for_cpu, aten._scaled_dot_product_flash_attention}
)


class Absent(TorchDispatchMode):
    """Inside, an element that is not a number is absent: sums over products and statistics run over the others.

    Elsewhere it stays what it is, so that it marks everything that is computed from an absent channel. This is how a network
    computes from which channels were taken, where norms or other statistics are taken over what is left.
    """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run one operator."""
        named = dict(kwargs or {})
        operator = func.overloadpacket
        if operator in _ATTENTION:
            return _attended(args, named)
        if operator in _PRODUCTS:
            args = _PRODUCTS[operator](args)
        elif operator in _STATISTICS:
            args = (_present(args[0], _dims(args, named, operator)), *args[1:])
        elif operator in _NORMS and torch.isnan(args[0]).any():
            return _normed(func, args, named)
        elif operator in _OF_ROWS and torch.isnan(args[0]).any():
            return _scaled(func, args, named)
        elif operator is aten.constant_pad_nd:
            return _padded(func(*args, **named), args[0], args[1])
        return func(*args, **named)


def _padded(out: Tensor, x: Tensor, amounts: Sequence[int]) -> Tensor:
    """What is absent all along the lengthened axes is absent where these are longer, too."""
    longer = [
        x.dim() - 1 - pair for pair in range(len(amounts) // 2) if any(amounts[2 * pair : 2 * pair + 2])
    ]
    return out.masked_fill(torch.isnan(x).all(longer, keepdim=True), torch.nan) if longer else out


# --- sums over products ----------------------------------------------------------------------------------------------


def _zero(x: Tensor, *dims: int) -> Tensor:
    """Absent elements as zeros, where not all along some axes are absent: what they would make is absent, too."""
    absent = torch.isnan(x)
    return torch.where(absent & ~torch.all(absent, dims, keepdim=True), 0.0, x) if absent.any() else x


def _product(first: int) -> Callable[[Sequence[Any]], tuple[Any, ...]]:
    """The arguments of a matrix product whose operands begin at a place."""

    def zeroed(args: Sequence[Any]) -> tuple[Any, ...]:
        a, b = args[first], args[first + 1]
        return (*args[:first], _zero(a, -1), _zero(b, -2 if b.dim() > 1 else -1), *args[first + 2 :])

    return zeroed


def _convolution(args: Sequence[Any]) -> tuple[Any, ...]:
    x, weight, transposed = args[0], args[1], args[6]
    own = 1 if transposed else 0
    within = [axis for axis in range(weight.dim()) if axis != own]
    return (torch.nan_to_num(x, nan=0.0), _zero(weight, *within), *args[2:])


_PRODUCTS: dict[Any, Callable[[Sequence[Any]], tuple[Any, ...]]] = {
    aten.mm: _product(0),
    aten.bmm: _product(0),
    aten.mv: _product(0),
    aten.dot: _product(0),
    aten.vdot: _product(0),
    aten.addmm: _product(1),
    aten.baddbmm: _product(1),
    aten.convolution: _convolution,
}


def _attended(args: Sequence[Any], named: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """``softmax(q k^T / root of width) v``: the width is what is present of it."""
    q, k, v = (_zero(x, -1) if place < 2 else x for place, x in enumerate(args[:3]))
    width = _places(args[0], [args[0].dim() - 1]).get(args[0].dim() - 1)
    count = args[0].shape[-1] if width is None else len(width)
    scale = named.get("scale")
    # grouped queries: each of k and v serves several heads
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    scores = (q @ k.transpose(-2, -1)) * (count**-0.5 if scale is None else scale)
    mask = named.get("attn_mask")
    if mask is not None:
        scores = scores + mask if mask.is_floating_point() else scores.masked_fill(~mask, -torch.inf)
    if next((arg for arg in args if arg is True), False):  # causal
        scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -torch.inf)
    return scores.softmax(-1) @ v, scores.logsumexp(-1)


# --- statistics ------------------------------------------------------------------------------------------------------


def _dims(args: Sequence[Any], named: Mapping[str, Any], operator: Any) -> list[int]:
    place = 2 if operator in (aten.linalg_vector_norm, aten.norm) else 1
    given = args[place] if len(args) > place else named.get("dim")
    count = args[0].dim()
    if given is None or isinstance(given, bool) or (not isinstance(given, int) and not given):
        return list(range(count))
    chosen = [given] if isinstance(given, int) else given
    return [dim % count for dim in chosen]


def _places(x: Tensor, dims: Sequence[int]) -> dict[int, Tensor]:
    """Along some axes, the positions at which not everything is absent; axes along which nothing is are left out."""
    absent = torch.isnan(x)
    found: dict[int, Tensor] = {}
    for dim in dims:
        others = [axis for axis in range(x.dim()) if axis != dim]
        gone = absent.all(others) if others else absent
        if gone.any() and not gone.all():
            found[dim] = torch.nonzero(~gone).flatten()
    return found


def _present(x: Tensor, dims: Sequence[int]) -> Tensor:
    """A tensor without what is absent along some axes."""
    for dim, kept in _places(x, dims).items():
        x = x.index_select(dim, kept)
    return x


def _scaled(func: Any, args: Sequence[Any], named: Mapping[str, Any]) -> Any:
    """A weight each of whose rows has the length that is asked for; what is absent adds nothing to a length, and stays absent."""
    v = args[0]
    out = func(torch.nan_to_num(v, nan=0.0), *args[1:], **named)
    if isinstance(out, Tensor):
        return out.masked_fill(torch.isnan(v), torch.nan)
    return (out[0].masked_fill(torch.isnan(v), torch.nan), *out[1:])


def _normed(func: Any, args: Sequence[Any], named: Mapping[str, Any]) -> Any:
    """A norm of what is present; the rest stays absent."""
    x, operator = args[0], func.overloadpacket
    first = x.dim() - len(args[1]) if operator is aten.native_layer_norm else 1
    if operator is aten.native_layer_norm:
        places = _places(x, range(first, x.dim()))
    elif operator is aten.native_group_norm:
        places = _places(x, [1]) if args[6] < args[4] else {}
    else:
        places = _places(x, [dim for dim in range(x.dim()) if dim != 1]) if args[5] else {}
    small = x
    for dim, kept in places.items():
        small = small.index_select(dim, kept)

    def of(parameter: Tensor | None) -> Tensor | None:
        if parameter is not None and operator is not aten.native_batch_norm:
            for dim, kept in places.items():
                parameter = parameter.index_select(dim - first, kept)
        return parameter

    if operator is aten.native_layer_norm:
        result = func(small, list(small.shape[first:]), of(args[2]), of(args[3]), args[4], **named)
    elif operator is aten.native_group_norm:
        result = func(small, of(args[1]), of(args[2]), args[3], small.shape[1], *args[5:], **named)
    else:
        result = func(small, *args[1:], **named)
    whole = torch.full_like(x, torch.nan)
    grid = [places.get(dim, torch.arange(size)) for dim, size in enumerate(x.shape)]
    whole[torch.meshgrid(*grid, indexing="ij")] = result[0]
    return (whole, *result[1:])
