"""Libraries that convert, loaded when they are needed, and in silence."""

from __future__ import annotations

from typing import Any

from secateur import _libraries
from secateur.export.quiet import silenced


def library(name: str, *, extra: str) -> Any:
    """A module of a library that only some targets need.

    Args:
        name: Its full name.
        extra: Which extra of this library brings it.

    Raises:
        SettingsError: It is not installed, or does not load.
    """
    with silenced():
        return _libraries.library(name, extra=extra)
