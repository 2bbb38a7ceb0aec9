"""How large a network is in memory, and how large its file is, packed and not."""

from __future__ import annotations

import gzip
import lzma
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from torch import nn

from secateur._libraries import installed, library
from secateur.errors import StoreError


@dataclass(frozen=True, slots=True)
class Size:
    """Numbers and bytes that a network holds; tensors that are shared count once.

    Attributes:
        parameters: Numbers in parameters.
        trainable: Of these, numbers that need a gradient.
        buffers: Numbers in buffers (running means and the like).
        bytes: Bytes of both together, as held in memory.
    """

    parameters: int
    trainable: int
    buffers: int
    bytes: int


@dataclass(frozen=True, slots=True)
class FileSize:
    """Bytes of a file, as it is and packed by tools that everybody has.

    Attributes:
        raw: As it is.
        gzip: By ``gzip -9``, the figure that is usually published.
        xz: By ``xz -9e``.
        zstd: By ``zstd -19``; None where the library ``zstandard`` is not installed.
    """

    raw: int
    gzip: int
    xz: int
    zstd: int | None


def measure_size(model: nn.Module) -> Size:
    """Count a network's numbers and bytes. Multiply-adds are ``secateur.cost``'s.

    Args:
        model: The network.

    Returns:
        Its size.

    Example:
        >>> measure_size(nn.BatchNorm1d(3))
        Size(parameters=6, trainable=6, buffers=7, bytes=56)
    """
    parameters, buffers = list(model.parameters()), list(model.buffers())
    return Size(
        parameters=sum(p.numel() for p in parameters),
        trainable=sum(p.numel() for p in parameters if p.requires_grad),
        buffers=sum(b.numel() for b in buffers),
        bytes=sum(t.numel() * t.element_size() for t in [*parameters, *buffers]),
    )


def measure_file(path: str | PathLike[str]) -> FileSize:
    """How large a file is, and how large it is when it is packed for sending.

    Zeros and repeated values in weights change nothing of a file's size, but much of what is left when it is packed.

    Args:
        path: Any file.

    Returns:
        Its sizes in bytes.

    Raises:
        StoreError: It cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     _ = file.write(bytes(10_000)); file.flush()
        ...     found = measure_file(file.name)
        >>> found.raw, found.gzip < 100
        (10000, True)
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise StoreError(f"{path} cannot be read ({error.strerror or error}); check the path") from error
    return FileSize(
        raw=len(content),
        gzip=len(gzip.compress(content, 9, mtime=0)),
        xz=len(lzma.compress(content, preset=9 | lzma.PRESET_EXTREME)),
        zstd=_zstd(content),
    )


def _zstd(content: bytes) -> int | None:
    if not installed("zstandard"):
        return None
    zstandard = library("zstandard", extra="compress")
    return len(zstandard.ZstdCompressor(level=19).compress(content))
