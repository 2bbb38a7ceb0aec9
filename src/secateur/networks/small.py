"""Small convolutional networks with batch norm: for phone sensors, and for scikit-learn's digits."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from secateur.networks.checks import check_sizes

UCI_WINDOW = 128
"""Samples in a window of the activity data (2.56 s at 50 Hz)."""


def uci_custom(*, channels: int = 3, classes: int = 6) -> nn.Sequential:
    """The 1-D network of the activity study: 278,266 parameters, 279,086 numbers with the running averages.

    conv 6@5, 32@5, 32@5, pool 4, conv 120@9, 120@9, pool 4, dense 100, dense 100, out; batch norm before the ReLU
    of every convolution and of the first dense layer. The source counts four numbers a channel for a batch norm:
    scale, shift, running mean, running variance.

    Args:
        channels: Signals, one channel each; inputs are `[batch, channels, 128]`.
        classes: Outputs.

    Raises:
        ModelError: A size is below one.

    Example:
        >>> import torch
        >>> uci_custom()(torch.zeros(2, 3, 128)).shape
        torch.Size([2, 6])

    Source:
        The network "UCI Custom" of a study of scores for whole-network reduction (KIT, 2020). Its figure of the
        layers is lost: where the poolings stand between the convolutions is our reading, the counts fix the rest.
    """
    check_sizes(channels=channels, classes=classes)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    before, length = channels, UCI_WINDOW
    for number, (width, kernel) in enumerate(((6, 5), (32, 5), (32, 5), (120, 9), (120, 9)), start=1):
        layers[f"conv{number}"] = nn.Conv1d(before, width, kernel, padding=kernel // 2)
        layers[f"norm{number}"] = nn.BatchNorm1d(width)
        layers[f"act{number}"] = nn.ReLU()
        if number in {3, 5}:
            layers[f"pool{number}"] = nn.MaxPool1d(4)
            length //= 4
        before = width
    layers["flatten"] = nn.Flatten(1)
    layers["dense1"] = nn.Linear(before * length, 100)
    layers["norm6"] = nn.BatchNorm1d(100)
    layers["act6"] = nn.ReLU()
    layers["dense2"] = nn.Linear(100, 100)
    layers["act7"] = nn.ReLU()
    layers["out"] = nn.Linear(100, classes)
    return nn.Sequential(layers)


def digits_net(*, channels: int = 1, classes: int = 10) -> nn.Sequential:
    """A convolutional network for 8x8 images that trains in seconds: 40,618 parameters.

    conv 16@3x3, conv 32@3x3, pool 2, conv 64@3x3, pool 2, dense 64, out; every convolution is padded to keep the
    size and followed by batch norm and ReLU.

    Args:
        channels: Channels of the input; inputs are `[batch, channels, 8, 8]`.
        classes: Outputs.

    Raises:
        ModelError: A size is below one.

    Example:
        >>> import torch
        >>> digits_net()(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """
    check_sizes(channels=channels, classes=classes)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    before = channels
    for number, width in enumerate((16, 32, 64), start=1):
        layers[f"conv{number}"] = nn.Conv2d(before, width, 3, padding=1)
        layers[f"norm{number}"] = nn.BatchNorm2d(width)
        layers[f"act{number}"] = nn.ReLU()
        if number > 1:
            layers[f"pool{number}"] = nn.MaxPool2d(2)
        before = width
    layers["flatten"] = nn.Flatten(1)
    layers["dense1"] = nn.Linear(64 * 2 * 2, 64)
    layers["act4"] = nn.ReLU()
    layers["out"] = nn.Linear(64, classes)
    return nn.Sequential(layers)
