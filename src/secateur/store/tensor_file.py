"""One safetensors file: named tensors and one canonical JSON document in its header."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from secateur._files import write_atomic
from secateur.errors import FileFormatError, ModelError, StoreError
from secateur.store.documents import canonical_json

KEY = "secateur"
"""The metadata key that holds the document."""

DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
DTYPE_NAMES: Mapping[torch.dtype, str] = {dtype: name for name, dtype in DTYPES.items()}

LONGEST_HEADER = 100_000_000
"""Bytes that a header may have: what the safetensors library accepts."""

_CHUNK = 1 << 24


@dataclass(frozen=True, slots=True)
class Entry:
    """Where one tensor lies in a file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int


@dataclass(frozen=True)
class TensorFile:
    """The header of a file that has been checked; its tensors are read when asked for."""

    path: Path
    document: Any
    entries: Mapping[str, Entry]

    def read(self, names: Iterable[str] | None = None) -> dict[str, Tensor]:
        """Read some tensors (default: all), contiguous and in memory of their own.

        Raises:
            FileFormatError: A tensor is not in the file, or the file has become shorter.
        """
        result: dict[str, Tensor] = {}
        try:
            with self.path.open("rb") as file:
                for name in self.entries if names is None else names:
                    result[name] = self._tensor(file, name)
        except StoreError:
            raise
        except OSError as error:
            raise StoreError(f"cannot read {self.path}: {error.strerror or error}; check the disk") from error
        return result

    def _tensor(self, file: BinaryIO, name: str) -> Tensor:
        if name not in self.entries:
            raise FileFormatError(
                f"{self.path} is damaged: it should hold {name!r} and does not; use another copy"
            )
        entry = self.entries[name]
        try:
            tensor = torch.empty(entry.shape, dtype=entry.dtype, device="cpu")
        except (
            RuntimeError,
            TypeError,
            OverflowError,
        ) as error:  # the file's size bounds all but empty shapes
            raise FileFormatError(
                f"{self.path} is damaged: {name!r} has the shape {list(entry.shape)}; use another copy"
            ) from error
        file.seek(entry.start)
        if cast("Any", file).readinto(as_bytes(tensor)) != tensor.nbytes:
            raise FileFormatError(f"{self.path} is damaged: it ends inside {name!r}; use another copy")
        return tensor


def as_bytes(tensor: Tensor) -> memoryview:
    """The bytes of a tensor in row order; shared with it if it is contiguous and on the CPU."""
    if tensor.numel() == 0:
        return memoryview(bytearray())
    plain = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
    # A single number counts as contiguous whatever its stride, but only stride 1 can be seen as bytes.
    array: Any = plain.as_strided((plain.numel(),), (1,)).view(torch.uint8).numpy()
    return memoryview(array)


def fingerprints(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """A hash of dtype, shape and content for each tensor: equal hashes mean equal tensors.

    BLAKE2b over the BLAKE2b hashes of 16 MiB chunks, so that a large tensor keeps several cores busy. Every byte is
    read on every call: version counters and data pointers miss writes through ``.data`` and NumPy.

    >>> prints = fingerprints({"a": torch.zeros(2), "b": torch.zeros(2), "c": torch.zeros(1, 2)})
    >>> prints["a"] == prints["b"], prints["a"] == prints["c"]
    (True, False)
    """
    result: dict[str, str] = {}
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for name, tensor in tensors.items():
            data = as_bytes(tensor)
            chunks = (data[start : start + _CHUNK] for start in range(0, len(data), _CHUNK))
            head = f"{dtype_name(name, tensor)} {list(tensor.shape)} "
            whole = b"".join(pool.map(_hash, chunks))
            result[name] = hashlib.blake2b(head.encode() + whole, digest_size=20).hexdigest()
    return result


def _hash(chunk: memoryview) -> bytes:
    return hashlib.blake2b(chunk, digest_size=32).digest()


def dtype_name(name: str, tensor: Tensor) -> str:
    """How files name a tensor's number type."""
    if tensor.dtype not in DTYPE_NAMES:
        raise ModelError(
            f"{name} has dtype {tensor.dtype}, which files cannot hold; convert it, to float32 say"
        )
    return DTYPE_NAMES[tensor.dtype]


def write_tensors(path: Path, tensors: Mapping[str, Tensor], document: object) -> None:
    """Write tensors and a document as one safetensors file, atomically; the same values give the same bytes.

    Raises:
        ModelError: A tensor has a dtype that files cannot hold.
        StoreError: The file cannot be written.
    """
    # Wide items first, so that every tensor is aligned in a memory map (as the safetensors library does).
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, object] = {"__metadata__": {KEY: canonical_json(document, what="the document")}}
    end = 0
    for name in order:
        start, end = end, end + tensors[name].nbytes
        header[name] = {
            "dtype": dtype_name(name, tensors[name]),
            "shape": list(tensors[name].shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)

    def chunks() -> Iterator[bytes | memoryview]:
        yield len(text).to_bytes(8, "little") + text
        for name in order:
            yield as_bytes(tensors[name])

    write_atomic(path, chunks(), size=8 + len(text) + end)


def read_header(path: Path) -> TensorFile:
    """Check a file from outside and read its header.

    Raises:
        FileFormatError: It is a pickle, foreign or damaged.
        StoreError: It cannot be read at all.
    """
    try:
        with path.open("rb") as file:
            length = _header_length(path, file.read(16), path.stat().st_size)
            file.seek(8)
            text = file.read(length)
        with safe_open(str(path), framework="pt"):  # the library checks offsets, sizes and shapes
            pass
        header: dict[str, Any] = json.loads(text)
    except SafetensorError as error:
        raise FileFormatError(
            f"{path} is damaged ({error}); use another copy, or save the model again"
        ) from error
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{path} is damaged (its header is not JSON); use another copy") from error
    except OSError as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(f"cannot read {path}: {error.strerror or error}; check the path") from error
    metadata: Mapping[str, str] = header.get("__metadata__", {})
    if KEY not in metadata:
        raise FileFormatError(
            f"{path} is a safetensors file that Secateur did not write: it does not say which network it belongs to;"
            " build the network in Python, load the tensors into it, and save it with secateur.save"
        )
    try:
        document = json.loads(metadata[KEY])
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{path} is damaged (its description is not JSON); use another copy") from error
    return TensorFile(path, document, _entries(path, header, 8 + length))


def _entries(path: Path, header: Mapping[str, Any], base: int) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    for name, item in header.items():
        if name == "__metadata__":
            continue
        if item["dtype"] not in DTYPES:
            raise FileFormatError(
                f"{path}: {name!r} has the number type {item['dtype']}, which this version cannot read; upgrade Secateur"
            )
        entries[name] = Entry(DTYPES[item["dtype"]], tuple(item["shape"]), base + item["data_offsets"][0])
    return entries


def _header_length(path: Path, head: bytes, size: int) -> int:
    """The length of the header, once the first bytes say that this is a safetensors file."""
    length = int.from_bytes(head[:8], "little")
    if head[8:9] == b"{" and 2 <= length <= min(size - 8, LONGEST_HEADER):
        return length  # asked first: a header of 640 bytes begins 80 02, as pickles do
    kind = None
    if head[:4] == b"PK\x03\x04":
        kind = "a zip archive, which is how torch.save writes pickles"
    elif head[:1] == b"\x80" and len(head) > 1 and head[1] <= 5:
        kind = "a pickle"
    if kind is not None or path.suffix in (".pt", ".pth", ".pkl", ".ckpt"):
        raise FileFormatError(
            f"{path} is {kind or 'named like a pickle'}; reading pickles runs whatever code they hold, so Secateur"
            " never does. Load it in Python, where you trust it, and save the model with secateur.save"
        )
    if head[8:9] == b"{":
        raise FileFormatError(
            f"{path} is damaged: its header claims {length:,} bytes, the file has {size:,}; use another copy"
        )
    raise FileFormatError(f"{path} is not a safetensors file, or its beginning is damaged; use another copy")
