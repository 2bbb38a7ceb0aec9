"""One way to build any network by name."""

from __future__ import annotations

import difflib
import inspect
import pkgutil
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from types import MappingProxyType, ModuleType

import torch
from torch import nn

from secateur._libraries import library
from secateur.errors import ModelError, SecateurError, UnknownNetworkError
from secateur.networks import cifar, lenet, resnet, small
from secateur.networks.origin import JSON, Origin, set_origin
from secateur.networks.stem import check_stem, use_stem


@dataclass(frozen=True, slots=True)
class Architecture:
    """A registered network: what builds it, and the shape of one example."""

    factory: Callable[..., nn.Module]
    input_shape: tuple[int, ...]


ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType(
    {
        "alexnet": Architecture(cifar.AlexNet, (3, 32, 32)),
        "digits-net": Architecture(small.digits_net, (1, 8, 8)),
        "lenet-caffe": Architecture(lenet.lenet_caffe, (1, 28, 28)),
        "lenet300-100": Architecture(lenet.lenet300_100, (1, 28, 28)),
        "lenet32-64-1024": Architecture(lenet.lenet32_64_1024, (1, 28, 28)),
        "lenet5": Architecture(lenet.lenet5, (1, 28, 28)),
        "mobilenet": Architecture(cifar.MobileNet, (3, 32, 32)),
        "resnet": Architecture(resnet.ResNet, (3, 32, 32)),
        "resnet18": Architecture(resnet.resnet18, (3, 32, 32)),
        "resnet20": Architecture(resnet.resnet20, (3, 32, 32)),
        "resnet32": Architecture(resnet.resnet32, (3, 32, 32)),
        "resnet50": Architecture(resnet.resnet50, (3, 32, 32)),
        "resnet56": Architecture(resnet.resnet56, (3, 32, 32)),
        "uci-custom": Architecture(small.uci_custom, (3, small.UCI_WINDOW)),
        "vgg8": Architecture(cifar.vgg8, (3, 32, 32)),
        "vgg11": Architecture(cifar.vgg11, (3, 32, 32)),
        "vgg13": Architecture(cifar.vgg13, (3, 32, 32)),
        "vgg16": Architecture(cifar.vgg16, (3, 32, 32)),
    }
)
"""The networks that this library defines, by name."""

ZOO_CLASSES = 1000
"""Outputs of the networks of torchvision and timm where nothing is said: the classes of ImageNet."""


def names() -> tuple[str, ...]:
    """The names of the registered networks, sorted.

    Example:
        >>> "lenet5" in names()
        True
    """
    return tuple(sorted(ARCHITECTURES))


def build(spec: str, *, seed: int | None = None, stem: JSON = None, **arguments: JSON) -> nn.Module:
    """Build a network by name, freshly initialised, and record on it how to build it again.

    Args:
        spec: A registered name (see `names`), `torchvision:NAME`, `timm:NAME`, or `package.module:factory` for your
            own code, which is imported and called.
        seed: Makes the initialisation the same every time and leaves PyTorch's global random state as it was. None
            draws from the global random state. Only what PyTorch's CPU generator draws is covered.
        stem: `cifar` leaves out the first two steps down in resolution, by strides of 1, so that a network made for large
            photographs keeps 4x4 positions of an image of 32x32; its parameters are the same. None builds it as it is. A
            factory of yours that takes an argument of that name is given it.
        arguments: Keyword arguments of the network (`classes=26`, `num_classes=10`, ...); JSON values only.

    Returns:
        The network, in training mode, on the CPU; `origin_of` reads its record.

    Raises:
        UnknownNetworkError: No network has that name; the nearest names are listed.
        ModelError: An argument does not fit, a library is missing, or your factory failed.

    Example:
        >>> net = build("lenet5", seed=0, classes=26)
        >>> net.out
        Linear(in_features=84, out_features=26, bias=True)
    """
    if stem is not None and "stem" in _parameters(spec):
        arguments, stem = {**arguments, "stem": stem}, None
    if stem is not None:
        check_stem(stem)
    origin = Origin(spec, dict(arguments) if stem is None else {"stem": stem, **arguments})
    with nullcontext() if seed is None else _seeded(seed):
        model = _construct(spec, arguments)
    if stem is not None:
        use_stem(model, str(stem))
    set_origin(model, origin)
    return model


def classes_argument(spec: str, *, classes: int) -> Mapping[str, int]:
    """The argument with which `build` gives a network so many outputs; empty where it has as many, or it is not known.

    Args:
        spec: As for `build`.
        classes: Outputs that are wanted.

    Raises:
        UnknownNetworkError: No network has that name.
        ModelError: Importing the network's module failed.

    Example:
        >>> classes_argument("timm:mobilenetv2_100", classes=10), classes_argument("lenet5", classes=10)
        ({'num_classes': 10}, {})
    """
    if spec.startswith(("timm:", "torchvision:")):
        return {} if classes == ZOO_CLASSES else {"num_classes": classes}
    known = _parameters(spec)
    named = [name for name in ("classes", "num_classes") if name in known]
    return {} if not named or known[named[0]].default == classes else {named[0]: classes}


def _parameters(spec: str) -> Mapping[str, inspect.Parameter]:
    """What the factory of a registered network, or one of the user's, takes."""
    if spec.startswith(("timm:", "torchvision:")):
        return {}
    factory = _user_factory(spec) if ":" in spec else _registered(spec).factory
    try:
        return inspect.signature(factory).parameters
    except (TypeError, ValueError):  # some built-in callables have none
        return {}


def input_shape_of(spec: str) -> tuple[int, ...] | None:
    """The shape of one example that a network of that name takes, or None where it is not known.

    Args:
        spec: As for `build`.

    Raises:
        UnknownNetworkError: No network has that name.
        ModelError: The library that has the network is missing.

    Example:
        >>> input_shape_of("uci-custom")
        (3, 128)
    """
    kind, _, name = spec.rpartition(":")
    if kind == "torchvision":
        # Detectors take lists of images and video networks whole clips, so no one shape fits them.
        family = _torchvision_builder(name).__module__.removeprefix("torchvision.models.")
        return None if family.startswith(("detection", "video", "optical_flow")) else (3, 224, 224)
    if kind == "timm":
        configuration = _timm_with(name).get_pretrained_cfg(name)
        return tuple(configuration.input_size) if configuration is not None else None
    return None if kind else _registered(spec).input_shape


@contextmanager
def _seeded(seed: int) -> Generator[None]:
    """Seed PyTorch's CPU generator, and put its state back afterwards, also after an error."""
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(state)


def _construct(spec: str, arguments: Mapping[str, JSON]) -> nn.Module:
    kind, _, name = spec.rpartition(":")
    if not kind:
        factory = _registered(spec).factory
        _check_arguments(spec, factory, arguments)
        return factory(**arguments)
    if kind == "torchvision":
        return _torchvision(spec, name, arguments)
    if kind == "timm":
        library = _timm_with(name)
        return _called(spec, lambda: library.create_model(name, **{"pretrained": False, **arguments}))
    factory = _user_factory(spec)
    return _called(spec, lambda: factory(**arguments))


def _registered(spec: str) -> Architecture:
    if spec not in ARCHITECTURES:
        raise UnknownNetworkError(
            f"no network is named {spec!r}; {_nearest(spec, ARCHITECTURES)}; others are named torchvision:NAME, "
            "timm:NAME or package.module:factory"
        )
    return ARCHITECTURES[spec]


def _check_arguments(spec: str, factory: Callable[..., nn.Module], arguments: Mapping[str, JSON]) -> None:
    known = inspect.signature(factory).parameters
    for name in arguments:
        if name not in known:
            raise ModelError(f"{spec} takes no argument {name!r}; it takes {', '.join(known)}")


def _torchvision(spec: str, name: str, arguments: Mapping[str, JSON]) -> nn.Module:
    builder = _torchvision_builder(name)
    wanted: dict[str, JSON] = {"weights": None}
    if "weights_backbone" in inspect.signature(builder).parameters:
        wanted["weights_backbone"] = None  # its default would download a trained backbone
    if name in {"googlenet", "inception_v3"}:
        wanted["init_weights"] = True  # unset, both warn that this default may change
    return _called(spec, lambda: builder(**{**wanted, **arguments}))


def _torchvision_builder(name: str) -> Callable[..., nn.Module]:
    models = library("torchvision.models", extra="vision", error=ModelError)
    known = models.list_models()
    if name not in known:
        raise UnknownNetworkError(f"torchvision has no network {name!r}; {_nearest(name, known)}")
    return models.get_model_builder(name)


def _timm_with(name: str) -> ModuleType:
    timm = library("timm", extra="vision", error=ModelError)
    if not timm.is_model(name):
        raise UnknownNetworkError(f"timm has no network {name!r}; {_nearest(name, timm.list_models())}")
    return timm


def _user_factory(spec: str) -> Callable[..., object]:
    try:
        factory = pkgutil.resolve_name(spec)
    except (ImportError, AttributeError, ValueError) as error:
        raise UnknownNetworkError(
            f"the network {spec!r} cannot be imported ({error}); write it as package.module:factory and see that the "
            "package is installed or its folder is on PYTHONPATH"
        ) from error
    except Exception as error:
        raise ModelError(f"importing {spec!r} failed with {type(error).__name__}: {error}") from error
    if not callable(factory):
        raise ModelError(
            f"{spec!r} is a {type(factory).__name__}, not something that can be called for a network"
        )
    return factory


def _called(spec: str, factory: Callable[[], object]) -> nn.Module:
    """Call a factory that is not ours, and check what comes back."""
    try:
        model = factory()
    except SecateurError:
        raise
    except Exception as error:
        raise ModelError(
            f"building {spec!r} failed with {type(error).__name__}: {error}; check the arguments it takes"
        ) from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"{spec!r} returned a {type(model).__name__}; a torch.nn.Module is wanted")
    return model


def _nearest(name: str, known: Iterable[str]) -> str:
    every = sorted(known)
    near = difflib.get_close_matches(name, every, n=5, cutoff=0.5)
    if near:
        return f"the nearest are: {', '.join(near)}"
    return f"known are: {', '.join(every[:12])}" + (f" and {len(every) - 12} more" if len(every) > 12 else "")
