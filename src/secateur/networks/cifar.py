"""VGG, AlexNet and MobileNet in their forms for images of 32x32, as the public code of PruneTrain and its like trains them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from types import MappingProxyType
from typing import Final

from torch import Tensor, nn

from secateur.errors import ModelError
from secateur.networks.checks import check_sizes

_VGG: Final = MappingProxyType(
    {
        8: ((64,), (128,), (256,), (512,), (512,)),
        11: ((64,), (128,), (256, 256), (512, 512), (512, 512)),
        13: ((64, 64), (128, 128), (256, 256), (512, 512), (512, 512)),
        16: ((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3),
    }
)
"""Widths of the convolutions between one halving of the map and the next, by depth (of which three layers were dense)."""


class VGG(nn.Module):
    """3x3 convolutions with batch norm, the map halved between stages, and one dense layer.

    At 32x32 the last of five stages ends in a single position. The three dense layers of the original are one, as is usual at this size; the
    names still count them.

    Args:
        stages: Widths of the convolutions of each stage.
        channels: Channels of the input; inputs are `[batch, channels, h, w]`, 32x32 for CIFAR-10.
        classes: Outputs.

    Raises:
        ModelError: A number is out of its range, or there is no stage.

    Example:
        >>> sum(p.numel() for p in VGG(((8,), (16, 16)), classes=10).parameters())
        3922

    Source:
        Simonyan and Zisserman 2015, arXiv:1409.1556; batch norm as in Ioffe and Szegedy 2015, arXiv:1502.03167.
    """

    def __init__(self, stages: Sequence[Sequence[int]], *, channels: int = 3, classes: int = 10) -> None:
        super().__init__()
        if not stages or not all(stages):
            raise ModelError(
                "a VGG needs at least one stage, and each at least one convolution; give their widths"
            )
        check_sizes(width=min(width for row in stages for width in row), channels=channels, classes=classes)
        self.stages = nn.Sequential()
        before = channels
        for widths in stages:
            row = nn.Sequential()
            for width in widths:
                row.append(_normed(before, width, 3, padding=1))
                before = width
            row.append(nn.MaxPool2d(2))
            self.stages.append(row)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.out = nn.Linear(before, classes)
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map images `[batch, channels, h, w]` to logits `[batch, classes]`."""
        return self.out(self.pool(self.stages(x)).flatten(1))


def vgg8(*, channels: int = 3, classes: int = 10) -> VGG:
    """Five convolutions of 64 to 512 channels: 3,917,386 parameters.

    Args:
        channels: Channels of the input.
        classes: Outputs.
    """
    return VGG(_VGG[8], channels=channels, classes=classes)


def vgg11(*, channels: int = 3, classes: int = 10) -> VGG:
    """Eight convolutions (the source's A): 9,228,362 parameters.

    Args:
        channels: Channels of the input.
        classes: Outputs.
    """
    return VGG(_VGG[11], channels=channels, classes=classes)


def vgg13(*, channels: int = 3, classes: int = 10) -> VGG:
    """Ten convolutions (the source's B): 9,413,066 parameters.

    Args:
        channels: Channels of the input.
        classes: Outputs.
    """
    return VGG(_VGG[13], channels=channels, classes=classes)


def vgg16(*, channels: int = 3, classes: int = 10) -> VGG:
    """Thirteen convolutions (the source's D): 14,724,042 parameters.

    Args:
        channels: Channels of the input.
        classes: Outputs.
    """
    return VGG(_VGG[16], channels=channels, classes=classes)


class AlexNet(nn.Module):
    """AlexNet for images of 32x32: five convolutions without norms and one dense layer, 2,472,266 parameters.

    The first convolution keeps its kernel of 11 and its stride of 4, and sees a border of 5, so that maps of 8x8 are left, which are halved three times.

    Args:
        channels: Channels of the input; inputs are `[batch, channels, h, w]`, 32x32 for CIFAR-10.
        classes: Outputs.

    Example:
        >>> sum(p.numel() for p in AlexNet().parameters())
        2472266

    Source:
        Krizhevsky 2014, arXiv:1404.5997, with the dense layers of the original left out but for the last.
    """

    def __init__(self, *, channels: int = 3, classes: int = 10) -> None:
        super().__init__()
        check_sizes(channels=channels, classes=classes)
        self.conv1 = nn.Conv2d(channels, 64, 11, stride=4, padding=5)
        self.conv2 = nn.Conv2d(64, 192, 5, padding=2)
        self.conv3 = nn.Conv2d(192, 384, 3, padding=1)
        self.conv4 = nn.Conv2d(384, 256, 3, padding=1)
        self.conv5 = nn.Conv2d(256, 256, 3, padding=1)
        self.act = nn.ReLU()
        self.halve = nn.MaxPool2d(2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.out = nn.Linear(256, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images `[batch, channels, h, w]` to logits `[batch, classes]`."""
        x = self.halve(self.act(self.conv1(x)))
        x = self.halve(self.act(self.conv2(x)))
        x = self.act(self.conv4(self.act(self.conv3(x))))
        x = self.halve(self.act(self.conv5(x)))
        return self.out(self.pool(x).flatten(1))


_MOBILE: Final = (
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *(((512, 1),) * 5), (1024, 2), (1024, 1),
)  # fmt: skip
"""Outputs and stride of each depthwise-separable block."""


class MobileNet(nn.Module):
    """MobileNet (the first) for images of 32x32: thirteen depthwise-separable blocks, 3,217,226 parameters.

    The first convolution has stride 1, so that the last blocks work on maps of 2x2.

    Args:
        width: By what all widths are multiplied.
        channels: Channels of the input; inputs are `[batch, channels, h, w]`, 32x32 for CIFAR-10.
        classes: Outputs.

    Raises:
        ModelError: A number is out of its range.

    Example:
        >>> sum(p.numel() for p in MobileNet().parameters())
        3217226

    Source:
        Howard et al. 2017, arXiv:1704.04861.
    """

    def __init__(self, *, width: float = 1.0, channels: int = 3, classes: int = 10) -> None:
        super().__init__()
        if not width > 0:
            raise ModelError(f"width is {width}; it multiplies all widths, give more than 0")
        check_sizes(channels=channels, classes=classes)
        before = max(round(32 * width), 1)
        self.stem = _normed(channels, before, 3, padding=1)
        self.blocks = nn.Sequential()
        for outputs, stride in _MOBILE:
            after = max(round(outputs * width), 1)
            depth = _normed(before, before, 3, padding=1, stride=stride, groups=before)
            self.blocks.append(nn.Sequential(OrderedDict(depth=depth, point=_normed(before, after, 1))))
            before = after
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.out = nn.Linear(before, classes)
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map images `[batch, channels, h, w]` to logits `[batch, classes]`."""
        return self.out(self.pool(self.blocks(self.stem(x))).flatten(1))


def _normed(
    inputs: int, outputs: int, kernel: int, *, padding: int = 0, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """A convolution with its batch norm and ReLU."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=padding, groups=groups, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, norm=nn.BatchNorm2d(outputs), act=nn.ReLU()))


def _initialise(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
