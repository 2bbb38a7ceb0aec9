"""Libraries that only some targets need, loaded when they are."""

from __future__ import annotations

import importlib
from typing import Any

from secateur.errors import SettingsError
from secateur.export.quiet import silenced


def library(name: str, *, extra: str) -> Any:
    """A module of an optional library.

    Args:
        name: Its full name.
        extra: Which extra of this library brings it.

    Raises:
        SettingsError: It is not installed.

    Example:
        >>> library("tflite_of_old", extra="litert")
        Traceback (most recent call last):
        ...
        secateur.errors.SettingsError: tflite_of_old is needed and cannot be imported (No module named 'tflite_of_old');
        pip install 'secateur[litert]'
    """
    try:
        with silenced():
            return importlib.import_module(name)
    except ImportError as error:
        raise SettingsError(
            f"{name.partition('.')[0]} is needed and cannot be imported ({error}); pip install 'secateur[{extra}]'"
        ) from error
