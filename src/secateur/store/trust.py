"""Which code a file may ask for, decided before any of it is imported."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from secateur.errors import StoreError, UntrustedImportError
from secateur.networks import Origin

ZOO = re.compile(r"(torchvision|timm):[A-Za-z0-9_.]+")
REGISTERED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
IMPORT_PATH = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*)")

MODULES = ("secateur.networks", "secateur.testing", "torchvision.models", "timm.models")
"""Modules whose network classes a file may name without being asked about.

Classes only: a function of theirs may import or fetch whatever its arguments say.
"""

WEIGHT_OPTIONS = frozenset(
    {
        "cache_dir",
        "checkpoint_path",
        "pretrained",
        "pretrained_cfg",
        "pretrained_cfg_overlay",
        "pretrained_strict",
        "weights",
        "weights_backbone",
    }
)
"""Options by which torchvision and timm fetch weights, some of them pickles; a file brings its own."""


def is_spec(spec: str) -> bool:
    """Whether a text names a network: registered, of a zoo, or by import path.

    >>> is_spec("lenet5"), is_spec("timm:resnet18.a1_in1k"), is_spec("timm:hf-hub:someone/net"), is_spec("a.b:c.d")
    (True, True, False, False)
    """
    return any(pattern.fullmatch(spec) for pattern in (ZOO, REGISTERED, IMPORT_PATH))


def check_origin(origin: Origin, *, path: Path, allow: Sequence[str]) -> None:
    """Refuse to build what a file asks for, unless its code is trusted.

    A registered name or a network of torchvision or timm passes, as long as it does not ask for weights from elsewhere.
    An import path passes if its module is one of `MODULES` or lies in a package of `allow`, and what it names was
    defined there. The module is imported only when its name has passed.

    Args:
        origin: What the file asks for.
        path: The file, for the message.
        allow: Packages or modules that the caller trusts in full.

    Raises:
        UntrustedImportError: The code is not trusted.
        StoreError: The code is trusted but cannot be imported.

    >>> check_origin(Origin("lenet5"), path=Path("a.safetensors"), allow=())
    >>> check_origin(Origin("os:system"), path=Path("a.safetensors"), allow=())
    Traceback (most recent call last):
    secateur.errors.UntrustedImportError: a.safetensors asks for code from 'os:system', and 'os' is not trusted; ...
    """
    spec = origin.spec
    if "spec" in origin.arguments:
        raise UntrustedImportError(
            f"{path} asks for {spec!r} with an argument named spec, which could name another network; build the network"
            " yourself and pass factory="
        )
    if ZOO.fullmatch(spec):
        asked = sorted(name for name in WEIGHT_OPTIONS & origin.arguments.keys() if origin.arguments[name])
        if asked:
            raise UntrustedImportError(
                f"{path} asks {spec} to fetch weights from elsewhere ({', '.join(asked)}), which may be pickles;"
                " if you trust it, build the network yourself and pass factory="
            )
        return
    if REGISTERED.fullmatch(spec):
        return
    parts = IMPORT_PATH.fullmatch(spec)
    if parts is None:
        raise UntrustedImportError(
            f"{path} asks for {spec!r}, which does not name a network; build the network yourself and pass factory="
        )
    module, name = parts.groups()
    allowed = (allow,) if isinstance(allow, str) else tuple(allow)
    if not within(module, (*MODULES, *allowed)):
        package = module.partition(".")[0]
        raise UntrustedImportError(
            f"{path} asks for code from {spec!r}, and {package!r} is not trusted; if you trust it, say"
            f" allow=({package!r},), or build the network yourself and pass factory="
        )
    _check_target(_imported(module, name, spec, path), spec, path=path, allowed=allowed)


def within(module: str, packages: Sequence[str]) -> bool:
    """Whether a module is one of some packages or lies in one."""
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def _imported(module: str, name: str, spec: str, path: Path) -> Any:
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise StoreError(
            f"{path} needs {spec!r}, which cannot be imported ({error}); install its package, or pass factory="
        ) from error


def _check_target(target: Any, spec: str, *, path: Path, allowed: Sequence[str]) -> None:
    """What a trusted module merely imported from elsewhere is not trusted with it."""
    home = str(getattr(target, "__module__", ""))
    is_network = inspect.isclass(target) and issubclass(target, nn.Module)
    if within(home, allowed) or (is_network and within(home, MODULES)):
        return
    raise UntrustedImportError(
        f"{path} asks for {spec!r}, which is not a network defined in a trusted module (it comes from"
        f" {home or 'nowhere'!r}); build the network yourself and pass factory="
    )
