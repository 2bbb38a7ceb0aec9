"""Random networks, built by Hypothesis from the constructs that convolutional and dense networks use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from secateur.channels import Channels, Group
from secateur.plan import Plan, change_of, plan_for
from secateur.testing import randomise

_CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_BATCH = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_INSTANCE = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
_POOLS = {
    1: (nn.MaxPool1d, nn.AvgPool1d),
    2: (nn.MaxPool2d, nn.AvgPool2d),
    3: (nn.MaxPool3d, nn.AvgPool3d),
}
_UPSAMPLING = {1: "linear", 2: "bilinear", 3: "trilinear"}
_SIZE = {1: 8, 2: 4, 3: 4}


class Residual(nn.Module):
    """What goes in plus what a branch makes of it."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


class Concat(nn.Module):
    """Branches side by side, the input among them or not, or nested."""

    def __init__(self, a: nn.Module, b: nn.Module, *, kind: str) -> None:
        super().__init__()
        self.a, self.b, self.kind = a, b, kind

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x), self.b(x)
        if self.kind == "nested":
            return torch.cat([x, torch.cat([a, b], 1), a], 1)
        if self.kind == "of itself":
            return torch.cat([a, b, a], 1)
        return torch.cat([a, x, b], 1)

    def width(self, channels: int, a: int, b: int) -> int:
        return {"nested": channels + 2 * a + b, "of itself": 2 * a + b}.get(self.kind, channels + a + b)


class Gate(nn.Module):
    """One branch times the sigmoid of another (a gated product; squeeze and excitation where that one pools)."""

    def __init__(self, value: nn.Module, gate: nn.Module) -> None:
        super().__init__()
        self.value, self.gate = value, gate

    def forward(self, x: Tensor) -> Tensor:
        return self.value(x) * self.gate(x).sigmoid()


class Twice(nn.Module):
    """The same layers applied twice."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(self.inner(x).tanh())


class Flatten(nn.Module):
    """To one axis of features, channels first or last."""

    def __init__(self, *, channels_last: bool) -> None:
        super().__init__()
        self.channels_last = channels_last

    def forward(self, x: Tensor) -> Tensor:
        return (x.movedim(1, -1) if self.channels_last else x).flatten(1)


@dataclass
class _Builder:
    """Layers so far, and the channels and spatial size of what they give."""

    draw: Any
    dims: int
    channels: int
    size: int
    across_channels: bool

    def pick(self, *values: Any) -> Any:
        return self.draw(st.sampled_from(values))

    def convolution(self, outside: int | None = None, *, inside: int | None = None) -> tuple[nn.Module, int]:
        inside = inside or self.channels
        groups = self.pick(*(g for g in (1, 2, 3) if inside % g == 0 and (outside or g) % g == 0))
        outside = outside or groups * self.pick(2, 3, 4)
        kernel = self.pick(1, 3)
        make = _CONV[self.dims]
        bias = self.draw(st.booleans())
        return make(inside, outside, kernel, padding=kernel // 2, groups=groups, bias=bias), outside

    def block(self, kind: str) -> nn.Module:
        return getattr(self, f"_{kind}")()

    def _plain(self) -> nn.Module:
        layer, self.channels = self.convolution()
        return layer

    def _depthwise(self) -> nn.Module:
        inside, self.channels = self.channels, self.channels * self.pick(1, 2)
        return _CONV[self.dims](inside, self.channels, 3, padding=1, groups=inside)

    def _transposed(self) -> nn.Module:
        inside = self.channels
        groups = self.pick(*(g for g in (1, 2) if inside % g == 0), inside)
        self.channels = inside if groups == inside else groups * self.pick(2, 3)
        return _TRANSPOSED[self.dims](inside, self.channels, 3, padding=1, groups=groups)

    def _residual(self) -> nn.Module:
        first, middle = self.convolution()
        second, _ = self.convolution(self.channels, inside=middle)
        return Residual(nn.Sequential(first, self._activation(middle), second))

    def _concat(self) -> nn.Module:
        (a, a_width), (b, b_width) = self.convolution(), self.convolution()
        joined = Concat(a, b, kind=self.pick("side by side", "nested", "of itself"))
        self.channels = joined.width(self.channels, a_width, b_width)
        return joined

    def _gate(self) -> nn.Module:
        value, width = self.convolution()
        gate, _ = self.convolution(width)
        self.channels = width
        return Gate(value, gate)

    def _excitation(self) -> nn.Module:
        pool = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}[self.dims](1)
        make = _CONV[self.dims]
        squeeze, expand = make(self.channels, 3, 1), make(3, self.channels, 1)
        return Gate(nn.Identity(), nn.Sequential(pool, squeeze, nn.ReLU(), expand))

    def _twice(self) -> nn.Module:
        return Twice(self.convolution(self.channels)[0])

    def _activation(self, width: int | None = None) -> nn.Module:
        made = self.pick(nn.ReLU, nn.Sigmoid, nn.GELU, nn.Hardswish, nn.PReLU, nn.Softplus)
        return nn.PReLU(width or self.channels) if made is nn.PReLU else made()

    def _norm(self) -> nn.Module:
        width = self.channels
        kinds = ["batch", "one channel a group", "instance", "instance with statistics"]
        kind = self.pick(*kinds, *(["group"] if self.across_channels else []))
        if kind == "batch":
            return _BATCH[self.dims](width, affine=self.draw(st.booleans()))
        if kind == "one channel a group":
            return nn.GroupNorm(width, width)
        if kind == "group":
            return nn.GroupNorm(self.pick(*(g for g in (1, 2, 3) if width % g == 0)), width)
        return _INSTANCE[self.dims](width, affine=True, track_running_stats=kind != "instance")

    def _pool(self) -> nn.Module:
        if self.size < 4:
            return nn.Dropout(0.5)
        self.size //= 2
        return self.pick(*_POOLS[self.dims])(2)

    def _upsample(self) -> nn.Module:
        if self.size > 4:
            return nn.Dropout(0.3)
        self.size *= 2
        return nn.Upsample(scale_factor=2, mode=self.pick("nearest", _UPSAMPLING[self.dims]))

    def head(self) -> list[nn.Module]:
        features = self.channels * self.size**self.dims
        layers: list[nn.Module] = [Flatten(channels_last=self.draw(st.booleans())), nn.Linear(features, 6)]
        if self.across_channels:
            layers.append(nn.LayerNorm(6))
        elif self.draw(st.booleans()):
            layers.append(nn.BatchNorm1d(6))
        return [*layers, nn.Tanh(), nn.Linear(6, 3)]


_KINDS = (
    "plain", "depthwise", "transposed", "residual", "concat", "gate", "excitation", "twice", "activation", "norm", "pool",
    "upsample",
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A random network and an input."""

    model: nn.Module
    x: Tensor

    def __repr__(self) -> str:
        return f"Case({self.model}, {tuple(self.x.shape)})"


@st.composite
def networks(draw: Any, *, across_channels: bool = False) -> Case:
    """Random convolutional networks with a dense head, in float64, every number random.

    Args:
        draw: Given by Hypothesis.
        across_channels: Whether norms take statistics over channels, so that cutting truly changes what stays.
    """
    dims = draw(st.sampled_from([1, 2, 2, 3]))
    builder = _Builder(draw, dims, channels=3, size=_SIZE[dims], across_channels=across_channels)
    layers = [builder.block("plain"), builder.block("norm")]
    layers += [
        builder.block(kind) for kind in draw(st.lists(st.sampled_from(_KINDS), min_size=1, max_size=5))
    ]
    model = nn.Sequential(*layers, *builder.head()).double()
    seed = draw(st.integers(0, 2**16))
    x = torch.randn(
        2, 3, *[_SIZE[dims]] * dims, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    return Case(randomise(model, seed).eval(), x)


def random_kept(group: Group, *, ratio: float, rng: np.random.Generator) -> np.ndarray:
    """Some units of a group, at least one: about a share of ``1 - ratio`` of them."""
    count = max(1, round(group.width * (1 - ratio)))
    return np.sort(rng.choice(group.width, count, replace=False))


def random_plan(channels: Channels, *, ratio: float, seed: int) -> Plan:
    """A plan that keeps random units."""
    rng = np.random.default_rng(seed)
    return plan_for(channels, [change_of(g, random_kept(g, ratio=ratio, rng=rng)) for g in channels.groups])


def nets_and_plans(**options: Any) -> st.SearchStrategy[tuple[Case, float, int]]:
    """A random network, a share that goes, and a seed for which."""
    return st.tuples(networks(**options), st.sampled_from([0.1, 0.3, 0.5, 0.75, 0.9]), st.integers(0, 2**16))


class Skip(nn.Module):
    """A branch around which the input is carried, in the ways in which people write it."""

    def __init__(self, kind: str, branch: nn.Module, other: nn.Module) -> None:
        super().__init__()
        self.kind, self.branch, self.other = kind, branch, other

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        if self.kind == "in place":
            x += self.branch(x)
            return x
        if self.kind == "two branches":
            x = x + self.branch(x)
            return x + self.other(x)
        if self.kind == "gated":
            return x + self.branch(x) * self.other(x.mean((2, 3), keepdim=True)).sigmoid()
        if self.kind == "rectified":
            return (x + self.branch(x)).relu()
        if self.kind == "projected":
            return self.other(x) + self.branch(x)
        return x + gain * self.branch(x)


class Skips(nn.Module):
    """A stem, blocks of which some are called with a second argument, and a head."""

    def __init__(self, stem: nn.Module, blocks: list[Skip], head: nn.Module) -> None:
        super().__init__()
        self.stem, self.blocks, self.head = stem, nn.ModuleList(blocks), head
        self.kinds = [block.kind for block in blocks]

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for kind, block in zip(self.kinds, self.blocks, strict=True):
            x = block(x, gain=0.5) if kind == "with an argument" else block(x)
        return self.head(x.mean((2, 3)))


SKIPS = ("plain", "in place", "two branches", "gated", "rectified", "projected", "with an argument")


@st.composite
def residual_networks(draw: Any) -> tuple[Case, tuple[str, ...]]:
    """Random residual networks in float64, every number random, and the names of their blocks."""
    width = draw(st.sampled_from([4, 6]))
    rectified = draw(st.booleans())
    stem = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.ReLU() if rectified else nn.Identity())
    blocks: list[Skip] = []
    expected: list[str] = []
    for number, kind in enumerate(draw(st.lists(st.sampled_from(SKIPS), min_size=1, max_size=5))):
        made = [_branch(draw, width) for _ in range(2)]
        blocks.append(Skip(kind, *made))
        if kind != "projected" and (kind != "rectified" or rectified):
            expected.append(f"blocks.{number}")
        rectified = kind == "rectified"
    model = Skips(stem, blocks, nn.Linear(width, 3)).double()
    seed = draw(st.integers(0, 2**16))
    x = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Case(randomise(model, seed).eval(), x), tuple(expected)


def _branch(draw: Any, width: int) -> nn.Module:
    inner, bias = draw(st.sampled_from([3, 5])), draw(st.booleans())
    first = draw(st.sampled_from([nn.BatchNorm2d(width), nn.GroupNorm(width, width), nn.Identity()]))
    middle = draw(
        st.sampled_from([nn.ReLU(), nn.GELU(), nn.Sequential(nn.BatchNorm2d(inner), nn.Hardswish())])
    )
    last = nn.BatchNorm2d(width) if draw(st.booleans()) else nn.Identity()
    return nn.Sequential(
        first,
        nn.Conv2d(width, inner, 3, padding=1, bias=bias),
        middle,
        nn.Conv2d(inner, width, 1, bias=bias),
        last,
    )
