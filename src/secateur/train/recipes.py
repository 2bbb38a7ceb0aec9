"""How each known network is trained well on each known data set: good accuracy without a single option."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from secateur.errors import SettingsError
from secateur.train.settings import TrainSettings

_PLAIN: Final = TrainSettings(
    epochs=20, optimizer="adamw", lr=1e-3, weight_decay=0.01, schedule="cosine", warmup_epochs=1, clip=1.0
)
"""For everything without a recipe: steps whose size does not depend on the loss's scale, and no augmentation."""

_SGD: Final = TrainSettings(
    optimizer="sgd", nesterov=True, lr=0.05, weight_decay=5e-4, schedule="cosine", warmup_epochs=1
)

_MNIST: Final = _SGD.but(epochs=20, ema=0.99, augment="shift", shift=1, keep="last")
_DIGITS: Final = _SGD.but(epochs=30, batch_size=64)
_ACTIVITY: Final = _SGD.but(epochs=30, augment="signal", label_smoothing=0.1)
_CIFAR: Final = _SGD.but(epochs=40, lr=0.1, augment="flip-shift", shift=4, shift_fill="mean")

RECIPES: Final[Mapping[str, TrainSettings]] = MappingProxyType(
    {
        "mobile": TrainSettings(
            epochs=150,
            batch_size=64,
            optimizer="rmsprop",
            lr=1e-3,
            momentum=0.9,
            schedule="linear",
            early_stopping=50,
        ),
        "mobile-short": _PLAIN.but(
            epochs=30,
            batch_size=64,
            weight_decay=0.02,
            label_smoothing=0.1,
            ema=0.99,
            augment="flip-shift",
            shift=4,
            shift_fill="mean",
            channels_last=True,
            small_maps=True,
        ),
    }
)
"""Recipes by name, for photographs of 32x32 and networks made for telephones.

``mobile`` is that of a study of quantising and gradual pruning (Duisburg-Essen, 2021), but for RMSprop's constants, which are
PyTorch's (0.99 and 1e-8; Keras has 0.9 and 1e-7). ``mobile-short`` is for a fifth of the epochs.
It takes AdamW with clipped gradients because its steps do not depend on the loss's scale; it was not run to its end, nor shown to be better.
"""

_BY_DATA: Final[Mapping[str, TrainSettings]] = MappingProxyType(
    {"cifar10": _CIFAR, "digits": _DIGITS, "hapt": _ACTIVITY, "mnist": _MNIST, "uci-har": _ACTIVITY}
)
_MADE_FOR: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "alexnet": ("cifar10",),
        "digits-net": ("digits",),
        "lenet-caffe": ("mnist",),
        "lenet300-100": ("mnist",),
        "lenet32-64-1024": ("mnist",),
        "lenet5": ("mnist",),
        "mobilenet": ("cifar10",),
        "resnet": ("cifar10",),
        "resnet18": ("cifar10",),
        "resnet20": ("cifar10",),
        "resnet32": ("cifar10",),
        "resnet50": ("cifar10",),
        "resnet56": ("cifar10",),
        "uci-custom": ("hapt", "uci-har"),
        "vgg11": ("cifar10",),
        "vgg13": ("cifar10",),
        "vgg16": ("cifar10",),
        "vgg8": ("cifar10",),
    }
)


def recipe_for(network: str, data: str, *, optimizer: str | None = None) -> TrainSettings:
    """The settings to train a network with where nothing else is said.

    Args:
        network: A registered name, or any other name of a network.
        data: A registered name, with or without ``:COUNT``, or any other name of a data set.
        optimizer: The rule of the steps, if it is to be another than the recipe's; it brings its own learning rate.

    Returns:
        The recipe of that network on that data; for other pairs one that trains most networks safely, if not best.

    Raises:
        SettingsError: There is no such optimiser.

    Example:
        >>> recipe_for("lenet5", "mnist").augment, recipe_for("timm:resnet18", "mnist").optimizer
        ('shift', 'adamw')
        >>> recipe_for("lenet5", "mnist", optimizer="adam").lr
        0.001
    """
    base = data.partition(":")[0]
    return _with(_BY_DATA[base] if base in _MADE_FOR.get(network, ()) else _PLAIN, optimizer)


def recipe_named(name: str, *, optimizer: str | None = None) -> TrainSettings:
    """The settings of a recipe by its own name, whatever the network and the data are.

    Args:
        name: One of `RECIPES`.
        optimizer: As for :func:`recipe_for`.

    Returns:
        The recipe.

    Raises:
        SettingsError: There is no such recipe; all are listed. Or no such optimiser.

    Example:
        >>> recipe_named("mobile").epochs
        150
        >>> recipe_named("mobil")
        Traceback (most recent call last):
        ...
        secateur.errors.SettingsError: no recipe is named 'mobil'; there are mobile and mobile-short
    """
    if name not in RECIPES:
        raise SettingsError(f"no recipe is named {name!r}; there are {' and '.join(RECIPES)}")
    return _with(RECIPES[name], optimizer)


def _with(recipe: TrainSettings, optimizer: str | None) -> TrainSettings:
    """A recipe with another rule of the steps, which brings its own rate."""
    if optimizer is None or optimizer == recipe.optimizer:
        return recipe
    if optimizer == "sgd":
        return recipe.but(optimizer=optimizer, lr=_SGD.lr, nesterov=True, weight_decay=_SGD.weight_decay)
    return recipe.but(optimizer=optimizer, lr=_PLAIN.lr, nesterov=False)
