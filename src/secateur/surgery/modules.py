"""What stands in a layer's place: modules whose product is near to it, with its window, strides, padding and bias."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn

from secateur.observe.layers import CONVOLUTIONS, LAYERS
from secateur.plan.decompose import Kind

Layer: TypeAlias = "nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d"


class Shift(nn.Conv2d):
    """Moves each channel by one position of a window: a depthwise convolution with a fixed kernel that holds a single one.

    Its kernel is a buffer, so that no optimiser trains it; channels can be cut from it as from any depthwise convolution.

    Example:
        >>> shift = Shift(1, 3, padding=1)
        >>> _ = shift.weight.copy_(torch.eye(9)[3].reshape(1, 1, 3, 3))
        >>> shift(torch.arange(9.0).reshape(1, 1, 3, 3))[0, 0]
        tensor([[0., 0., 1.],
                [0., 3., 4.],
                [0., 6., 7.]])

    Source:
        Wu et al. 2018, arXiv:1711.08141.
    """

    def __init__(self, channels: int, kernel_size: int | tuple[int, int], **options: Any) -> None:
        """Make a shift that moves nothing; options are those of a convolution."""
        super().__init__(channels, channels, kernel_size, groups=channels, bias=False, **options)  # pyright: ignore[reportUnknownMemberType]
        kernel = torch.zeros_like(self.weight)
        kernel[:, :, kernel.shape[2] // 2, kernel.shape[3] // 2] = 1.0
        del self.weight
        self.register_buffer("weight", kernel)


class Fire(nn.Module):
    """Squeezes to few channels, from which some outputs are read by 1x1, the others by a window.

    Attributes:
        squeeze: 1x1 to the squeezed channels.
        expand1: 1x1 to the first outputs.
        expand: The window, to the other outputs.

    Source:
        Iandola et al. 2016, arXiv:1602.07360, there with a ReLU behind each convolution.
    """

    def __init__(self, squeeze: nn.Module, expand1: nn.Module, expand: nn.Module) -> None:
        """Put the three convolutions together."""
        super().__init__()
        self.squeeze, self.expand1, self.expand = squeeze, expand1, expand

    def forward(self, x: Tensor) -> Tensor:
        """Squeeze, expand both ways, and concatenate."""
        squeezed = self.squeeze(x)
        return torch.cat([self.expand1(squeezed), self.expand(squeezed)], dim=1)


def stand_in(
    layer: Layer, kind: Kind, sizes: Sequence[int] = (), *, parts: Sequence[str] | None = None
) -> nn.Module:
    """What takes a layer's place, with weights that are not set yet; in its mode, format and place.

    Args:
        layer: The layer.
        kind: Of what kind.
        sizes: As for `secateur.plan.Factors`; of none given each is one.
        parts: Which parts a Tucker-2 has; by default what its sizes ask for.

    Example:
        >>> stand_in(nn.Linear(6, 4), "svd", (2,))
        Sequential(
          (first): Linear(in_features=6, out_features=2, bias=False)
          (last): Linear(in_features=2, out_features=4, bias=True)
        )
    """
    made = _MAKERS[kind](layer, sizes, parts).to_empty(device=layer.weight.device)  # without drawing weights
    for parameter in made.parameters():
        parameter.requires_grad_(layer.weight.requires_grad)
    for part in biased(made, kind):
        if part.bias is not None:
            part.bias.requires_grad_(cast("Tensor", layer.bias).requires_grad)
    if layer.weight.dim() == 4 and not layer.weight.is_contiguous():
        made = cast("Any", made).to(memory_format=torch.channels_last)
    return made.train(layer.training)


def fits(layer: object, kind: Kind) -> bool:
    """Whether a module is a layer that a kind can stand for.

    >>> fits(nn.Linear(2, 2), "svd"), fits(nn.Linear(2, 2), "shift")
    (True, False)
    """
    if kind in ("fire", "shift"):
        return type(layer) is nn.Conv2d
    return type(layer) in (LAYERS if kind == "svd" else CONVOLUTIONS)


def parts_of(module: nn.Module, kind: Kind) -> dict[str, Any]:
    """The layers in what stands for another one, by name.

    >>> list(parts_of(stand_in(nn.Conv2d(4, 4, 3), "tucker", (2, 4)), "tucker"))
    ['first', 'core']
    """
    names = (
        ("squeeze", "expand1", "expand") if kind == "fire" else [name for name, _ in module.named_children()]
    )
    return {name: getattr(module, name) for name in names}


@torch.no_grad()
def fill(module: nn.Module, kind: Kind, parts: Mapping[str, Tensor], bias: Tensor | None) -> None:
    """Give what stands for a layer its weights: parts as `secateur.plan.decompose` has them, and the bias of the last."""
    for name, part in parts_of(module, kind).items():
        part.weight.copy_(parts[name].reshape(part.weight.shape))
    if bias is not None:
        start = 0
        for part in biased(module, kind):
            part.bias.copy_(bias[start : start + len(part.bias)])
            start += len(part.bias)


def biased(module: nn.Module, kind: Kind) -> list[Any]:
    """The parts that write the outputs, in their order."""
    parts = list(parts_of(module, kind).values())
    return parts[1:] if kind == "fire" else parts[-1:]


def _dense(layer: Layer, inputs: int, outputs: int, *, bias: bool = False, **options: Any) -> nn.Module:
    """A layer of the same class without a window."""
    place: dict[str, Any] = {"device": "meta", "dtype": layer.weight.dtype}
    if isinstance(layer, nn.Linear):
        return nn.Linear(inputs, outputs, bias=bias, **place)
    return type(layer)(inputs, outputs, 1, bias=bias, **options, **place)  # pyright: ignore[reportUnknownVariableType, reportArgumentType]


def _window(layer: Layer, inputs: int, outputs: int, *, bias: bool = False, **options: Any) -> nn.Module:
    """A convolution with the window of another one."""
    place: dict[str, Any] = {"device": "meta", "dtype": layer.weight.dtype}
    return type(layer)(inputs, outputs, bias=bias, **_geometry(layer), **options, **place)


def _geometry(layer: Any) -> dict[str, Any]:
    names = ("kernel_size", "stride", "padding", "dilation", "padding_mode")
    return {name: getattr(layer, name) for name in names}


def _has_bias(layer: Layer) -> bool:
    return cast("Tensor | None", layer.bias) is not None


def _svd(layer: Layer, sizes: Sequence[int], _parts: Sequence[str] | None) -> nn.Module:
    outputs, inputs = layer.weight.shape[:2]
    (rank,) = sizes or (1,)
    geometry = {} if isinstance(layer, nn.Linear) else _geometry(layer)
    geometry.pop("kernel_size", None)
    first = _dense(layer, inputs, rank, **geometry)
    return nn.Sequential(OrderedDict(first=first, last=_dense(layer, rank, outputs, bias=_has_bias(layer))))


def _tucker(layer: Layer, sizes: Sequence[int], parts: Sequence[str] | None) -> nn.Module:
    outputs, inputs = layer.weight.shape[:2]
    r, s = sizes or (1, 1)
    first, last = (r < inputs, s < outputs) if parts is None else ("first" in parts, "last" in parts)
    bias = _has_bias(layer)
    made: OrderedDict[str, nn.Module] = OrderedDict()
    if first:
        made["first"] = _dense(layer, inputs, r)
    made["core"] = _window(layer, r if first else inputs, s if last else outputs, bias=bias and not last)
    if last:
        made["last"] = _dense(layer, s, outputs, bias=bias)
    return nn.Sequential(made)


def _separable(layer: Layer, _sizes: Sequence[int], _parts: Sequence[str] | None) -> nn.Module:
    outputs, inputs = layer.weight.shape[:2]
    depthwise = _window(layer, inputs, inputs, groups=inputs)
    pointwise = _dense(layer, inputs, outputs, bias=_has_bias(layer))
    return nn.Sequential(OrderedDict(depthwise=depthwise, pointwise=pointwise))


def _shift(layer: Layer, _sizes: Sequence[int], _parts: Sequence[str] | None) -> nn.Module:
    outputs, inputs = layer.weight.shape[:2]
    shift = Shift(inputs, **_geometry(layer), device="meta", dtype=layer.weight.dtype)
    pointwise = _dense(layer, inputs, outputs, bias=_has_bias(layer))
    return nn.Sequential(OrderedDict(shift=shift, pointwise=pointwise))


def _fire(layer: Layer, sizes: Sequence[int], _parts: Sequence[str] | None) -> nn.Module:
    outputs, inputs = layer.weight.shape[:2]
    (squeeze,), bias, half = sizes or (1,), _has_bias(layer), outputs // 2
    stride = _geometry(layer)["stride"]
    return Fire(
        _dense(layer, inputs, squeeze),
        _dense(layer, squeeze, half, bias=bias, stride=stride),
        _window(layer, squeeze, outputs - half, bias=bias),
    )


_MAKERS: Mapping[Kind, Callable[[Layer, Sequence[int], Sequence[str] | None], nn.Module]] = {
    "svd": _svd,
    "tucker": _tucker,
    "depthwise-separable": _separable,
    "fire": _fire,
    "shift": _shift,
}
