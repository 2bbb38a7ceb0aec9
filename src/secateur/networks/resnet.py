"""Residual networks for small images, described by four numbers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from secateur.errors import ModelError
from secateur.networks.checks import check_sizes

EXPANSION = 4
"""Output width of a bottleneck block over its inner width."""


class Block(nn.Module):
    """Convolutions with batch norm around which the input is carried and added: `relu(body(x) + shortcut(x))`.

    Args:
        before: Channels of the input.
        widths: Channels after each convolution.
        kernels: Kernel size of each convolution.
        stride: Stride of the first convolution whose kernel is wider than 1.
    """

    def __init__(self, before: int, widths: Sequence[int], kernels: Sequence[int], *, stride: int) -> None:
        super().__init__()
        strided = kernels.index(3)
        body: OrderedDict[str, nn.Module] = OrderedDict()
        for at, ((read, write), kernel) in enumerate(
            zip(pairwise((before, *widths)), kernels, strict=True), start=1
        ):
            step = stride if at == strided + 1 else 1
            body[f"conv{at}"] = nn.Conv2d(read, write, kernel, stride=step, padding=kernel // 2, bias=False)
            body[f"norm{at}"] = nn.BatchNorm2d(write)
            if at < len(widths):
                body[f"act{at}"] = nn.ReLU()
        self.body = nn.Sequential(body)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != widths[-1]:
            self.shortcut = nn.Sequential(
                OrderedDict(
                    conv=nn.Conv2d(before, widths[-1], 1, stride=stride, bias=False),
                    norm=nn.BatchNorm2d(widths[-1]),
                )
            )
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map `[batch, before, h, w]` to `[batch, widths[-1], h / stride, w / stride]`."""
        return self.act(self.body(x) + self.shortcut(x))


class ResNet(nn.Module):
    """ResNet(s, [n], l, b): s stages of n blocks with l convolutions each, bottlenecks or not.

    A 3x3 convolution of `width` channels, then the stages; each stage after the first halves the map and doubles the
    width; at the end the mean over the map and one dense layer. A block has l 3x3 convolutions; a bottleneck block
    has a 1x1, l - 2 3x3 and a 1x1 convolution, the last one four times as wide. Where the shape changes the shortcut
    is a strided 1x1 convolution (the paper's option B), so that its channels can be cut like any others.
    With s = 3, l = 2 and no bottleneck the depth is 6n + 2.

    Args:
        stages: s, at least 1.
        blocks: n, for all stages or one for each.
        convolutions: l, at least 1; at least 3 with bottlenecks.
        bottleneck: b.
        width: Channels of the first stage.
        channels: Channels of the input; inputs are `[batch, channels, h, w]`, 32x32 for CIFAR-10.
        classes: Outputs.

    Raises:
        ModelError: A number is out of its range, or `blocks` does not have one number for each stage.

    Example:
        >>> net = ResNet(stages=3, blocks=3, convolutions=2, bottleneck=False)   # ResNet-20
        >>> sum(p.numel() for p in net.parameters())
        272474

    Source:
        He et al. 2015, arXiv:1512.03385, section 4.2; convolutions initialised as in arXiv:1502.01852.
    """

    def __init__(
        self,
        *,
        stages: int = 3,
        blocks: int | Sequence[int] = 3,
        convolutions: int = 2,
        bottleneck: bool = False,
        width: int = 16,
        channels: int = 3,
        classes: int = 10,
    ) -> None:
        super().__init__()
        counts = _blocks_per_stage(stages, blocks)
        least = 3 if bottleneck else 1
        if convolutions < least:
            raise ModelError(
                f"a block of {convolutions} convolutions is too short; it needs at least {least}"
            )
        check_sizes(width=width, channels=channels, classes=classes)
        kernels = (1, *[3] * (convolutions - 2), 1) if bottleneck else (3,) * convolutions
        self.stem = nn.Sequential(
            OrderedDict(
                conv=nn.Conv2d(channels, width, 3, padding=1, bias=False),
                norm=nn.BatchNorm2d(width),
                act=nn.ReLU(),
            )
        )
        before = width
        self.stages = nn.Sequential()
        for stage, count in enumerate(counts):
            inner = width * 2**stage
            after = inner * (EXPANSION if bottleneck else 1)
            row = nn.Sequential()
            for number in range(count):
                stride = 2 if stage > 0 and number == 0 else 1
                row.append(Block(before, (*[inner] * (convolutions - 1), after), kernels, stride=stride))
                before = after
            self.stages.append(row)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.out = nn.Linear(before, classes)
        self._initialise()

    def forward(self, x: Tensor) -> Tensor:
        """Map images `[batch, channels, h, w]` to logits `[batch, classes]`."""
        return self.out(self.pool(self.stages(self.stem(x))).flatten(1))

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def resnet20(*, channels: int = 3, classes: int = 10) -> ResNet:
    """ResNet(3, [3], 2, no bottleneck): 272,474 parameters.

    Args:
        channels: Channels of the input.
        classes: Outputs.
    """
    return ResNet(blocks=3, channels=channels, classes=classes)


def resnet32(*, channels: int = 3, classes: int = 10) -> ResNet:
    """ResNet(3, [5], 2, no bottleneck): 466,906 parameters.

    Args:
        channels: Channels of the input.
        classes: Outputs.
    """
    return ResNet(blocks=5, channels=channels, classes=classes)


def resnet56(*, channels: int = 3, classes: int = 10) -> ResNet:
    """ResNet(3, [9], 2, no bottleneck): 855,770 parameters.

    Args:
        channels: Channels of the input.
        classes: Outputs.
    """
    return ResNet(blocks=9, channels=channels, classes=classes)


def resnet18(*, channels: int = 3, classes: int = 10) -> ResNet:
    """ResNet(4, [2], 2, no bottleneck) from 64 channels on, ResNet-18 with a 3x3 stem: 11,173,962 parameters.

    Args:
        channels: Channels of the input.
        classes: Outputs.
    """
    return ResNet(blocks=2, stages=4, width=64, channels=channels, classes=classes)


def resnet50(*, channels: int = 3, classes: int = 10) -> ResNet:
    """ResNet(4, [3, 4, 6, 3], 3, bottleneck) from 64 channels on, ResNet-50 with a 3x3 stem: 23,520,842 parameters.

    Args:
        channels: Channels of the input.
        classes: Outputs.
    """
    return ResNet(
        blocks=(3, 4, 6, 3),
        stages=4,
        convolutions=3,
        bottleneck=True,
        width=64,
        channels=channels,
        classes=classes,
    )


def _blocks_per_stage(stages: int, blocks: int | Sequence[int]) -> tuple[int, ...]:
    counts = (blocks,) * stages if isinstance(blocks, int) else tuple(blocks)
    if stages < 1 or len(counts) != stages or min(counts) < 1:
        raise ModelError(
            f"{stages} stages with blocks={blocks!r} cannot be built; "
            "give one number of blocks for all stages or one for each, every one at least 1"
        )
    return counts
