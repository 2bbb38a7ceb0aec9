"""Checks that the networks share."""

from __future__ import annotations

from secateur.errors import ModelError


def check_sizes(**sizes: int) -> None:
    """Refuse a size below one.

    Args:
        sizes: Each size under the name by which the caller knows it.

    Raises:
        ModelError: A size is below one.

    Example:
        >>> check_sizes(classes=10)
    """
    for name, size in sizes.items():
        if size < 1:
            raise ModelError(f"{name} is {size}, but a network needs at least 1")
