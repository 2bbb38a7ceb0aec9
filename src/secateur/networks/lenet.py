"""The LeNets: small networks for 28x28 grey images, on which reduction methods are compared."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from secateur.errors import ModelError
from secateur.networks.checks import check_sizes

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh}


def lenet300_100(*, features: int = 784, classes: int = 10, activation: str = "tanh") -> nn.Sequential:
    """Two hidden dense layers of 300 and 100 units: 266,200 weights, 266,610 parameters with the biases.

    Images are flattened first, so that it takes `[batch, 1, 28, 28]` and, where input pixels have been removed,
    `[batch, features]` alike.

    Args:
        features: Numbers in one example; 784 pixels of MNIST.
        classes: Outputs.
        activation: `"tanh"` as in the source, or `"relu"`.

    Raises:
        ModelError: A size is below one, or the activation is unknown.

    Example:
        >>> import torch
        >>> lenet300_100()(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])

    Source:
        LeCun et al. 1998, "Gradient-based learning applied to document recognition", LeNet-300-100.
    """
    check_sizes(features=features, classes=classes)
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten(1))
    _add_dense(layers, features, (300, 100), classes, activation)
    return nn.Sequential(layers)


def lenet5(
    *, channels: int = 1, classes: int = 10, size: int = 28, activation: str = "relu"
) -> nn.Sequential:
    """LeNet-5 with fully connected channel maps and max-pooling: 61,706 parameters.

    conv 6@5x5 (padded to keep the size), pool 2, conv 16@5x5, pool 2, dense 120, dense 84, out.

    Args:
        channels: Channels of the input.
        classes: Outputs.
        size: Height and width of the input in pixels, at least 12.
        activation: `"relu"` or `"tanh"`.

    Raises:
        ModelError: A size is too small, or the activation is unknown.

    Example:
        >>> sum(p.numel() for p in lenet5().parameters())
        61706

    Source:
        LeCun et al. 1998. There the second convolution reads chosen maps only and pooling is an average with
        trained factors; here every map is read, as in all later reduction studies.
    """
    return _conv_lenet(
        widths=(6, 16), padding=(2, 0), dense=(120, 84),
        channels=channels, classes=classes, size=size, activation=activation,
    )  # fmt: skip


def lenet_caffe(
    *,
    channels: int = 1,
    classes: int = 10,
    size: int = 28,
    activation: str = "relu",
    convolutional: bool = False,
) -> nn.Sequential:
    """LeNet-5 as the Caffe library ships it: 431,080 parameters.

    conv 20@5x5, pool 2, conv 50@5x5, pool 2, dense 500, out; no padding.

    Args:
        channels: Channels of the input.
        classes: Outputs.
        size: Height and width of the input in pixels, at least 16.
        activation: `"relu"` or `"tanh"`.
        convolutional: Write the first dense layer as a convolution over the whole map: the same function with the same
            weights, of which kinds of convolutions know more (`secateur.plan_replacements`).

    Raises:
        ModelError: A size is too small, or the activation is unknown.

    Example:
        >>> sum(p.numel() for p in lenet_caffe().parameters())
        431080

    Source:
        Jia et al. 2014, arXiv:1408.5093, example `lenet`.
    """
    return _conv_lenet(
        widths=(20, 50), padding=(0, 0), dense=(500,),
        channels=channels, classes=classes, size=size, activation=activation,
        convolutional=convolutional,
    )  # fmt: skip


def lenet32_64_1024(
    *,
    channels: int = 1,
    classes: int = 10,
    size: int = 28,
    activation: str = "relu",
    convolutional: bool = False,
) -> nn.Sequential:
    """A wide LeNet: 3,273,504 weights, 3,274,634 parameters with the biases.

    conv 32@5x5, pool 2, conv 64@5x5, pool 2, dense 1024, out; both convolutions are padded to keep the size.

    Args:
        channels: Channels of the input.
        classes: Outputs.
        size: Height and width of the input in pixels, at least 4.
        activation: `"relu"` or `"tanh"`.
        convolutional: Write the first dense layer as a convolution over the whole map: the same function with the same
            weights, of which kinds of convolutions know more (`secateur.plan_replacements`).

    Raises:
        ModelError: A size is too small, or the activation is unknown.

    Example:
        >>> sum(p.numel() for p in lenet32_64_1024().parameters() if p.ndim > 1)
        3273504

    Source:
        The TensorFlow tutorial "Deep MNIST for experts" (2016), without its dropout.
    """
    return _conv_lenet(
        widths=(32, 64), padding=(2, 2), dense=(1024,),
        channels=channels, classes=classes, size=size, activation=activation,
        convolutional=convolutional,
    )  # fmt: skip


def _conv_lenet(
    *,
    widths: tuple[int, int],
    padding: tuple[int, int],
    dense: Sequence[int],
    channels: int,
    classes: int,
    size: int,
    activation: str,
    convolutional: bool = False,
) -> nn.Sequential:
    """Two 5x5 convolutions, each with an activation and 2x2 max-pooling, then dense layers."""
    check_sizes(channels=channels, classes=classes, size=size)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    before, side = channels, size
    for number, (width, pad) in enumerate(zip(widths, padding, strict=True), start=1):
        layers[f"conv{number}"] = nn.Conv2d(before, width, 5, padding=pad)
        layers[f"act{number}"] = _activation(activation)
        layers[f"pool{number}"] = nn.MaxPool2d(2)
        before, side = width, (side + 2 * pad - 4) // 2
    if side < 1:
        raise ModelError(
            f"an input of {size}x{size} pixels leaves nothing after two convolutions and poolings; "
            "give a larger size"
        )
    features = before * side * side
    if convolutional:
        layers["dense1"] = nn.Conv2d(before, dense[0], side)
        layers["act3"] = _activation(activation)
        features, dense = dense[0], dense[1:]
    layers["flatten"] = nn.Flatten(1)
    _add_dense(layers, features, dense, classes, activation)
    return nn.Sequential(layers)


def _add_dense(
    layers: OrderedDict[str, nn.Module], features: int, widths: Sequence[int], classes: int, activation: str
) -> None:
    """Append `dense1`, its activation, ..., `out`."""
    first = sum(name.startswith("act") for name in layers) + 1
    before = sum(name.startswith("dense") for name in layers)
    for number, width in enumerate(widths):
        layers[f"dense{before + number + 1}"] = nn.Linear(features, width)
        layers[f"act{first + number}"] = _activation(activation)
        features = width
    layers["out"] = nn.Linear(features, classes)


def _activation(name: str) -> nn.Module:
    if name not in ACTIVATIONS:
        raise ModelError(f"no activation is named {name!r}; choose one of: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]()
