"""Networks for large photographs on small images: the first steps down in resolution are left out."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, cast

import torch
from torch import Tensor, nn

from secateur.errors import ModelError

STEMS: Final[Mapping[str, int]] = MappingProxyType({"cifar": 2})
"""By name: how many steps down in resolution a stem leaves out. ``cifar``: images of 32x32 end as 4x4, not as 1x1."""

_LOOKED_AT: Final = 224
"""Pixels a side of the image by which the steps are found; no network of the zoos takes less for granted."""

_WINDOWS: Final = (
    nn.Conv1d, nn.Conv2d, nn.Conv3d,
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d,
    nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d,
)  # fmt: skip


def check_stem(stem: object) -> None:
    """Refuse a stem that there is not.

    Raises:
        ModelError: No stem has that name.

    Example:
        >>> check_stem("cifar")
    """
    if stem not in STEMS:
        raise ModelError(f"no stem is named {stem!r}; there is {', '.join(STEMS)}")


def use_stem(model: nn.Module, stem: str) -> None:
    """Set the strides of a network's first steps down in resolution to 1, in place.

    A step is everything that halves the map at the same height: a strided convolution, or a pooling, and what runs beside
    it (the shortcut of a residual block). Steps are found by watching one forward pass on an image of 224x224, without
    values. No weight changes its shape, so that the network has the parameters it had.

    Args:
        model: The network.
        stem: Which stem: ``cifar`` leaves out two steps.

    Raises:
        ModelError: No stem has that name, the network takes no such image, or has fewer steps.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.MaxPool2d(3, 2), nn.Conv2d(8, 8, 3, stride=2))
        >>> use_stem(net, "cifar")
        >>> net[0].stride, net[1].stride, net[2].stride
        ((1, 1), 1, (2, 2))

    Source:
        He et al. 2015, arXiv:1512.03385, section 4.2, have a 3x3 convolution of stride 1 in place of the stem of ImageNet;
        here kernels keep their size, so that weights do.
    """
    check_stem(stem)
    steps = _steps(model)
    if len(steps) < STEMS[stem]:
        raise ModelError(
            f"stem={stem!r} leaves out {STEMS[stem]} steps down in resolution, and the network has {len(steps)}; build it without"
        )
    for side in sorted(steps, reverse=True)[: STEMS[stem]]:
        for name in steps[side]:
            module = cast("Any", model.get_submodule(name))
            module.stride = 1 if isinstance(module.stride, int) else (1,) * len(module.stride)


def _steps(model: nn.Module) -> dict[int, list[str]]:
    """The modules that halve the map, by the height that they read."""
    trial = copy.deepcopy(model).to("meta").eval()
    steps: dict[int, list[str]] = {}

    def watched(name: str) -> Any:
        def hook(module: nn.Module, given: tuple[Tensor, ...], _: object) -> None:
            stride = cast("Any", module).stride
            if (stride if isinstance(stride, int) else stride[0]) == 2:
                steps.setdefault(given[0].shape[2], []).append(name)

        return hook

    channels = 0
    for name, module in cast("Any", trial).named_modules():
        if isinstance(module, _WINDOWS):
            module.register_forward_hook(watched(name))
            channels = channels or getattr(module, "in_channels", 0)
    try:
        with torch.no_grad():
            trial(torch.empty(1, channels or 3, _LOOKED_AT, _LOOKED_AT, device="meta"))
    except Exception as error:  # somebody's forward
        raise ModelError(
            f"a stem is for networks of images, and this one does not take {channels or 3}x{_LOOKED_AT}x{_LOOKED_AT}"
            f" ({type(error).__name__}: {str(error).partition(chr(10))[0]}); build it without"
        ) from error
    return steps
