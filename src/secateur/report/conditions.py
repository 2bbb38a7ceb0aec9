"""What results were made with: versions, machine, commit."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from pydantic import JsonValue


def here() -> dict[str, JsonValue]:
    """The versions, the machine, its threads, and, where the library runs from a clone of its repository, the commit."""
    versions: dict[str, JsonValue] = {
        "secateur": metadata.version("secateur"),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
    found: dict[str, JsonValue] = {
        "versions": versions,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors",
        "threads": torch.get_num_threads(),
    }
    commit = _commit()
    return found | ({"commit": commit} if commit else {})


def _commit() -> str | None:
    """The commit of this library, where it runs from a clone of its repository and not from an installed copy."""
    file = Path(__file__)
    tracked = _git("ls-files", "--error-unmatch", file.name, folder=file.parent)
    return None if tracked is None else _git("rev-parse", "--short", "HEAD", folder=file.parent)


def _git(*arguments: str, folder: Path) -> str | None:
    """What git says; None where there is no git, no repository, or no answer."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
