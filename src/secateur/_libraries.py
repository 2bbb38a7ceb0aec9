"""Libraries that only some tasks need, loaded when they are."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import torch

from secateur.errors import SecateurError, SettingsError


def library(
    name: str,
    *,
    extra: str,
    what: str = "",
    instead: str = "",
    error: type[SecateurError] = SettingsError,
) -> Any:
    """A module of an optional library.

    Args:
        name: Its full name.
        extra: Which extra of this library brings it.
        what: What needs it.
        instead: What can be done without it.
        error: What is raised where it cannot be loaded.

    Raises:
        SecateurError: ``error``: it is not installed, or what is installed does not load; the message says what to install.

    Example:
        >>> library("json", extra="export").dumps([1])
        '[1]'
        >>> library("tflite_of_old", extra="litert", what="this target", instead="take another")
        Traceback (most recent call last):
        ...
        secateur.errors.SettingsError: this target needs tflite_of_old, which is not installed (No module named 'tflite_of_old');
        pip install 'secateur[litert]', or take another
    """
    package = name.partition(".")[0]
    needed = f"{what} needs {package}, which" if what else f"{package} is needed, and"
    otherwise = f", or {instead}" if instead else ""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as reason:
        raise error(
            f"{needed} is not installed ({reason}); pip install 'secateur[{extra}]'{otherwise}"
        ) from reason
    except (
        ImportError,
        RuntimeError,
    ) as reason:  # RuntimeError: builds of torch and of others that do not match
        raise error(
            f"{needed} is installed but broken ({reason}); reinstall it for torch {torch.__version__} with:"
            f" pip install --force-reinstall 'secateur[{extra}]'{otherwise}"
        ) from reason


def installed(name: str) -> bool:
    """Whether an optional library is there; it is not loaded.

    Example:
        >>> installed("json"), installed("tflite_of_old")
        (True, False)
    """
    return importlib.util.find_spec(name) is not None
