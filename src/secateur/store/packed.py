"""How small general packers make a file."""

from __future__ import annotations

import gzip
import importlib
import importlib.util
import lzma
from os import PathLike
from pathlib import Path
from typing import Any

from secateur.errors import StoreError


def packed_sizes(path: str | PathLike[str]) -> dict[str, int]:
    """The bytes of a file as it is and as general packers leave it: gzip -9, xz -9e and, where it is installed, zstd -19.

    Args:
        path: The file; it is only read.

    Raises:
        StoreError: It cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = (Path(folder) / "zeros").write_bytes(bytes(1000))
        ...     sizes = packed_sizes(Path(folder) / "zeros")
        >>> sizes["raw"], sizes["gzip"], sizes["xz"] < 100
        (1000, 29, True)
    """
    source = Path(path)
    try:
        data = source.read_bytes()
    except OSError as error:
        raise StoreError(f"cannot read {source}: {error.strerror or error}; check the path") from error
    sizes = {"raw": len(data), "gzip": len(gzip.compress(data, compresslevel=9, mtime=0))}
    if importlib.util.find_spec("zstandard") is not None:
        zstandard: Any = importlib.import_module("zstandard")
        sizes["zstd"] = len(zstandard.ZstdCompressor(level=19).compress(data))
    return sizes | {"xz": len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))}
