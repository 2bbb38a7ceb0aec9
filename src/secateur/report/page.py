"""What the pages share: templates that escape, files of the package, a digest for the script, and writing whole or not at all."""

from __future__ import annotations

import base64
import hashlib
import os
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from secateur.errors import StoreError
from secateur.report import text

if TYPE_CHECKING:
    from collections.abc import Callable

    from jinja2 import Environment

_FILTERS: Final = (
    text.integer,
    text.short,
    text.size,
    text.percent,
    text.points,
    text.interval,
    text.duration,
    text.share,
    text.setting,
)
"""What the templates write numbers with."""


def digest_of(script: str) -> str:
    """By which a page's content policy knows its own script."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def replace(file: Path, content: str) -> Path:
    """Write a file through a temporary one beside it, so that a reader sees the old or the new, never a part."""
    temporary: Path | None = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", dir=file.parent, prefix=f".{file.name}.", encoding="utf-8", newline="\n", delete=False
        ) as stream:
            temporary = Path(stream.name)
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(0o644)
        temporary.replace(file)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise StoreError(
            f"{file} could not be written ({error.strerror or error}); free some space or choose another folder"
        ) from error
    return file


def resource(name: str) -> str:
    """A file that the package carries for the page."""
    return files("secateur.report").joinpath("templates", name).read_text(encoding="utf-8")


def environment() -> Environment:
    """Templates that escape everything and refuse unknown names."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined  # noqa: PLC0415 - only needed to render

    environment = Environment(
        autoescape=True,
        loader=FunctionLoader(resource),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = cast("dict[str, Callable[..., str]]", environment.filters)  # pyright: ignore[reportUnknownMemberType]
    filters |= {function.__name__: function for function in _FILTERS}
    names = cast("dict[str, Callable[..., str]]", environment.globals)  # pyright: ignore[reportUnknownMemberType]
    names |= {"factor": text.factor, "points_between": _points_between}
    return environment


def _points_between(low: float, high: float) -> str:
    """Two limits of a change."""
    return f"{text.points(low)} to {text.points(high)}"
