"""Tiny networks, one for each construct that a channel analysis must face, with the groups that are in them.

Shape letters: b examples, c channels, h and w height and width, n tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Wiring: TypeAlias = Callable[[Any, Any], Any]
"""From a network, whose layers are its attributes, and its input to its output."""


class Wired(nn.Module):
    """Layers and how they are wired, in one line each.

    Example:
        >>> net = Wired(lambda m, x: m.head(m.body(x).relu()), body=nn.Linear(3, 4), head=nn.Linear(4, 2))
        >>> net(torch.zeros(1, 3)).shape
        torch.Size([1, 2])
    """

    def __init__(self, wiring: Wiring, **layers: nn.Module | nn.Parameter | Tensor) -> None:
        """``wiring`` takes the network and its input; tensors among the layers become buffers."""
        super().__init__()
        self.wiring = wiring
        for name, layer in layers.items():
            if isinstance(layer, nn.Module):
                self.add_module(name, layer)
            elif isinstance(layer, nn.Parameter):
                self.register_parameter(name, layer)
            else:
                self.register_buffer(name, layer)

    def forward(self, x: Any) -> Any:
        """Whatever the wiring says."""
        return self.wiring(self, x)


@dataclass(frozen=True, slots=True)
class Construct:
    """A network that shows one construct.

    Attributes:
        build: Makes it.
        shape: The shape of an example input.
        widths: The groups that can be cut, by name, and their widths. What is not named stays whole.
        counted: Whether every multiply-add is counted (no operator is without a rule).
    """

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    widths: Mapping[str, int] = field(default_factory=dict[str, int])
    counted: bool = True

    def example(self, seed: int = 0) -> Tensor:
        """A random input."""
        return torch.randn(self.shape, generator=torch.Generator().manual_seed(seed))


_IMAGE = (2, 3, 8, 8)


def _conv(inside: int, outside: int, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inside, outside, 3, padding=options.pop("padding", 1), **options)


def _pooled(x_bchw: Tensor) -> Tensor:
    return x_bchw.mean((2, 3))


def _head(width: int) -> nn.Linear:
    return nn.Linear(width, 5)


def _residual() -> nn.Module:
    return Wired(
        lambda m, x: m.head(_pooled((y := m.stem(x).relu()) + m.second(m.first(y).relu()))),
        stem=_conv(3, 8), first=_conv(8, 6), second=_conv(6, 8), head=_head(8),
    )  # fmt: skip


def _concat() -> nn.Module:
    return Wired(
        lambda m, x: m.head(_pooled(m.both(torch.cat([m.a(x).relu(), m.b(x).sigmoid()], 1)).relu())),
        a=_conv(3, 4), b=_conv(3, 6), both=_conv(10, 8), head=_head(8),
    )  # fmt: skip


def _nested_concat() -> nn.Module:
    def wiring(m: Any, x: Tensor) -> Tensor:
        inner = torch.cat([m.a(x), m.b(x)], 1)
        return m.head(_pooled(torch.cat([m.c(inner.relu()), inner], 1).sigmoid()))

    return Wired(wiring, a=_conv(3, 4), b=_conv(3, 6), c=_conv(10, 8), head=_head(18))


def _concat_of_itself() -> nn.Module:
    return Wired(
        lambda m, x: m.head(_pooled(torch.cat([y := m.a(x).relu(), y], 1))), a=_conv(3, 6), head=_head(12)
    )


def _unet() -> nn.Module:
    def wiring(m: Any, x: Tensor) -> Tensor:
        top = m.down(x).relu()
        low = m.low(F.max_pool2d(top, 2)).relu()
        up = F.interpolate(low, scale_factor=2, mode="nearest")
        return m.out(m.merge(torch.cat([up, top], 1)).relu())

    return Wired(wiring, down=_conv(3, 6), low=_conv(6, 8), merge=_conv(14, 6), out=nn.Conv2d(6, 2, 1))


def _flatten(*, last: bool) -> nn.Module:
    def wiring(m: Any, x: Tensor) -> Tensor:
        y = m.conv(x).sigmoid()
        return m.head(m.hidden((y.permute(0, 2, 3, 1) if last else y).flatten(1)).relu())

    return Wired(wiring, conv=_conv(3, 6, stride=2), hidden=nn.Linear(6 * 16, 8), head=_head(8))


def _gated() -> nn.Module:
    return Wired(
        lambda m, x: m.head(_pooled(m.value(x) * m.gate(x).sigmoid())),
        value=_conv(3, 6), gate=_conv(3, 6), head=_head(6),
    )  # fmt: skip


def _used_twice() -> nn.Module:
    return Wired(
        lambda m, x: m.head(_pooled(m.shared(m.shared(m.stem(x).relu()).relu()))),
        stem=_conv(3, 6), shared=_conv(6, 6), head=_head(6),
    )  # fmt: skip


def _squeeze_excite() -> nn.Module:
    def wiring(m: Any, x: Tensor) -> Tensor:
        y = m.conv(x).relu()
        gate = m.expand(m.squeeze(F.adaptive_avg_pool2d(y, 1)).relu()).sigmoid()
        return m.head(_pooled(y * gate))

    return Wired(
        wiring, conv=_conv(3, 8), squeeze=nn.Conv2d(8, 4, 1), expand=nn.Conv2d(4, 8, 1), head=_head(8)
    )


def _sequence(*layers: nn.Module, width: int) -> nn.Module:
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), _head(width))


def _one_dimensional() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(3, 6, 5), nn.BatchNorm1d(6), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(6, 8, 3), nn.ReLU(),
        nn.Flatten(), nn.Linear(8 * 4, 6), nn.BatchNorm1d(6), nn.Tanh(), _head(6),
    )  # fmt: skip


def _three_dimensional() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(2, 6, 3, padding=1), nn.BatchNorm3d(6), nn.ReLU(), nn.MaxPool3d(2), nn.Conv3d(6, 4, 1),
        nn.ReLU(), nn.Flatten(), _head(4 * 8),
    )  # fmt: skip


def _zero_padded_shortcut() -> nn.Module:
    return Wired(
        lambda m, x: m.head(_pooled(m.wide(y := m.stem(x).relu()) + F.pad(y, (0, 0, 0, 0, 0, 4)))),
        stem=_conv(3, 4), wide=_conv(4, 8), head=_head(8),
    )  # fmt: skip


def _two_after_chunk() -> nn.Module:
    def wiring(m: Any, x: Tensor) -> Tensor:
        a, b = m.stem(x).relu().chunk(2, 1)
        return m.head(_pooled(torch.cat([m.a(a), m.b(b)], 1).relu()))

    return Wired(wiring, stem=_conv(3, 8), a=_conv(4, 4), b=_conv(4, 6), head=_head(10))


def _c2f() -> nn.Module:
    def wiring(m: Any, x: Tensor) -> Tensor:
        parts = list(m.stem(x).sigmoid().chunk(2, 1))
        parts.append(m.inner(parts[-1]).relu())
        return m.head(_pooled(m.out(torch.cat(parts, 1)).relu()))

    return Wired(wiring, stem=_conv(3, 8), inner=_conv(4, 4), out=_conv(12, 6), head=_head(6))


def _stem_and(change: Callable[[Any], Any], *, width: int, after: int) -> Callable[[], nn.Module]:
    """A convolution, something between, a convolution that reads what is left."""
    return lambda: Wired(
        lambda m, x: m.head(_pooled(m.second(change(m.stem(x).relu())).relu())),
        stem=_conv(3, width), second=_conv(after, 6), head=_head(6),
    )  # fmt: skip


def _between(*layers: Callable[[], nn.Module], width: int = 8, after: int = 8) -> Callable[[], nn.Module]:
    """A convolution, layers between, a convolution that reads what is left."""
    return lambda: _sequence(
        _conv(3, width), *(layer() for layer in layers), nn.Sigmoid(), _conv(after, 6), nn.ReLU(), width=6
    )


CONSTRUCTS: dict[str, Construct] = {
    "residual add": Construct(_residual, _IMAGE, {"stem": 8, "first": 6}),
    "concat": Construct(_concat, _IMAGE, {"a": 4, "b": 6, "both": 8}),
    "nested concat": Construct(_nested_concat, _IMAGE, {"a": 4, "b": 6, "c": 8}),
    "concat of a tensor with itself": Construct(_concat_of_itself, _IMAGE, {"a": 6}),
    "U-Net skip": Construct(_unet, _IMAGE, {"down": 6, "low": 8, "merge": 6}),
    "flatten NCHW": Construct(lambda: _flatten(last=False), _IMAGE, {"conv": 6, "hidden": 8}),
    "flatten NHWC": Construct(lambda: _flatten(last=True), _IMAGE, {"conv": 6, "hidden": 8}),
    "grouped convolution": Construct(_between(lambda: _conv(8, 12, groups=4), after=12), _IMAGE, {"0": 2, "1": 3, "3": 6}),
    "gated product": Construct(_gated, _IMAGE, {"value": 6}),
    "convolution used twice": Construct(_used_twice, _IMAGE, {"stem": 6}),
    "PReLU": Construct(_between(lambda: nn.PReLU(8)), _IMAGE, {"0": 8, "3": 6}),
    "GroupNorm": Construct(_between(lambda: nn.GroupNorm(2, 8)), _IMAGE, {"0": 4, "3": 6}),
    "GroupNorm of one channel a group": Construct(_between(lambda: nn.GroupNorm(8, 8)), _IMAGE, {"0": 8, "3": 6}),
    "GroupNorm without parameters": Construct(_between(lambda: nn.GroupNorm(8, 8, affine=False)), _IMAGE, {"0": 8, "3": 6}),
    "LayerNorm": Construct(
        lambda: nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.GELU(), _head(8)), (4, 6), {"0": 8}
    ),
    "LayerNorm without parameters": Construct(
        lambda: nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8, elementwise_affine=False), nn.GELU(), _head(8)), (4, 6), {"0": 8}
    ),
    "InstanceNorm": Construct(_between(lambda: nn.InstanceNorm2d(8, affine=True)), _IMAGE, {"0": 8, "3": 6}),
    "InstanceNorm with running statistics": Construct(
        _between(lambda: nn.InstanceNorm2d(8, affine=True, track_running_stats=True)), _IMAGE, {"0": 8, "3": 6}
    ),
    "BatchNorm": Construct(_between(lambda: nn.BatchNorm2d(8)), _IMAGE, {"0": 8, "3": 6}),
    "BatchNorm without parameters": Construct(_between(lambda: nn.BatchNorm2d(8, affine=False)), _IMAGE, {"0": 8, "3": 6}),
    "Conv1d": Construct(_one_dimensional, (2, 3, 16), {"0": 6, "4": 8, "7": 6}),
    "Conv3d": Construct(_three_dimensional, (2, 2, 4, 4, 4), {"0": 6, "4": 4}),
    "bf16 model": Construct(lambda: _residual().to(torch.bfloat16), _IMAGE, {"stem": 8, "first": 6}),
    "dilated and strided convolution": Construct(
        _between(lambda: _conv(8, 8, stride=2), lambda: _conv(8, 8, dilation=2, padding=2)), _IMAGE,
        {"0": 8, "1": 8, "2": 8, "4": 6},
    ),
    "squeeze and excitation": Construct(_squeeze_excite, _IMAGE, {"conv": 8, "squeeze": 4}),
    "depthwise convolution": Construct(_between(lambda: _conv(8, 8, groups=8)), _IMAGE, {"0": 8, "3": 6}),
    "depthwise multiplier 2": Construct(_between(lambda: _conv(8, 16, groups=8), after=16), _IMAGE, {"0": 8, "3": 6}),
    "transposed convolution": Construct(
        _between(lambda: nn.ConvTranspose2d(8, 6, 2, stride=2), after=6), _IMAGE, {"0": 8, "1": 6, "3": 6}
    ),
    "grouped transposed convolution": Construct(
        _between(lambda: nn.ConvTranspose2d(8, 12, 2, stride=2, groups=4), after=12), _IMAGE, {"0": 2, "1": 3, "3": 6}
    ),
    "depthwise transposed convolution": Construct(
        _between(lambda: nn.ConvTranspose2d(8, 8, 2, stride=2, groups=8)), _IMAGE, {"0": 8, "3": 6}
    ),
    "grouped convolution 16 to 4": Construct(
        _between(lambda: _conv(16, 4, groups=4), width=16, after=4), _IMAGE, {"0": 4, "3": 6}
    ),
    "dropout and pooling": Construct(
        _between(lambda: nn.Dropout2d(0.5), lambda: nn.MaxPool2d(2), lambda: nn.Dropout(0.5), lambda: nn.AvgPool2d(2)),
        _IMAGE, {"0": 8, "6": 6},
    ),
    "upsampling": Construct(
        _between(lambda: nn.Upsample(scale_factor=2, mode="bilinear"), lambda: nn.ReflectionPad2d(1)), _IMAGE,
        {"0": 8, "4": 6},
    ),
    "zero-padded shortcut": Construct(_zero_padded_shortcut, _IMAGE, {"stem": 4}),
    "chunk, two convolutions, concat": Construct(_two_after_chunk, _IMAGE, {"stem": 4, "a": 4, "b": 6}),
    "YOLOv8's C2f": Construct(_c2f, _IMAGE, {"stem": 4, "inner": 4, "out": 6}),
    "chunk multiplied together": Construct(
        _stem_and(lambda y: torch.mul(*y.chunk(2, 1)), width=8, after=4), _IMAGE, {"stem": 4, "second": 6}
    ),
    "glu": Construct(_stem_and(lambda y: F.glu(y, 1), width=8, after=4), _IMAGE, {"stem": 4, "second": 6}),
    "flip": Construct(_stem_and(lambda y: y.flip(1), width=8, after=8), _IMAGE, {"stem": 8, "second": 6}),
    "repeat": Construct(_stem_and(lambda y: y.repeat(1, 2, 1, 1), width=6, after=12), _IMAGE, {"stem": 6, "second": 6}),
    "1-channel map": Construct(
        lambda: Wired(
            lambda m, x: m.head(_pooled((m.wide(x) + m.narrow(x)).relu())), wide=_conv(3, 6), narrow=_conv(3, 1), head=_head(6)
        ),
        _IMAGE, {"wide": 6},
    ),
    "grouped convolution fed by a concat": Construct(
        lambda: Wired(
            lambda m, x: m.head(_pooled(m.grouped(torch.cat([m.a(x), m.b(x)], 1).relu()).relu())),
            a=_conv(3, 4), b=_conv(3, 4), grouped=_conv(8, 6, groups=2), head=_head(6),
        ),
        _IMAGE, {"a": 4, "grouped": 3},
    ),
}  # fmt: skip
"""Constructs by name whose channels can be cut, with the widths that hand and head find."""
