"""The commands. Each parses, calls public functions, prints, and returns a code."""

from secateur.cli.main import main

__all__ = ["main"]
