"""One coded file: named tensors as few bits as their values need, and one canonical JSON document."""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, JsonValue, ValidationError, model_validator
from torch import Tensor

from secateur._files import write_atomic
from secateur.errors import FileFormatError, StoreError
from secateur.store.documents import canonical_json
from secateur.store.records import Count, Strict, first_problem
from secateur.store.streams import CHUNK, Coder, StreamDocument, pack, unpack
from secateur.store.tensor_file import DTYPES, LONGEST_HEADER, Entry, as_bytes, dtype_name

MAGIC: Final = b"SECATEUR"
FORMAT: Final = 1
"""The version of coded files that this library writes and reads."""

SUFFIX: Final = ".secateur"

_HEAD: Final = len(MAGIC) + 4 + 8
_CHECKSUM: Final = 32
_KINDS: Final = 4096
"""Different numbers that a tensor may have to be told by their places in a table."""
_HALF: Final = 2
"""Bytes of a number in half precision."""
_EXPANSION: Final = 1 << 14
"""How many times its size a file may unpack to: what claims more was made to fill memory."""

Numbers: TypeAlias = NDArray[Any]


_How: TypeAlias = Literal["raw", "zlib", "half", "levels", "sparse"]


class _TensorDocument(Strict):
    """Where a tensor is and how it is read.

    Attributes:
        name: Its name.
        dtype: Its number type.
        shape: Its shape.
        how: ``raw`` bytes; the same by ``zlib``; ``half``: float32 numbers that half precision holds exactly; ``levels``: a table of numbers and a stream of places in it; ``sparse``: a stream
            that says which numbers are zero, and the others.
        kinds: Numbers in the table, or that are not zero.
        stream: How the stream is read.
        sizes: Bytes of the table, or of the numbers that are not zero, or of all; and of the stream.
    """

    name: str
    dtype: str
    shape: list[Count]
    how: _How
    kinds: Count
    stream: StreamDocument | None
    sizes: Annotated[list[Count], Field(min_length=2, max_length=2)]

    @property
    def count(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)

    @model_validator(mode="after")
    def _of_one_tensor(self) -> Self:
        """What is told adds up to the tensor, so that nothing is made room for that the tensor does not have."""
        if self.dtype not in DTYPES:
            return self  # another version's
        size = DTYPES[self.dtype].itemsize
        coded = self.how in ("levels", "sparse")
        if coded and size == 1:  # a place would take more memory than the number
            raise ValueError(f"{self.name!r} has numbers of one byte, which are never told by places")
        if not (self._coded_adds_up(size) if coded else self._plain_adds_up(size)):
            raise ValueError(
                f"what it says of {self.name!r} does not add up to {self.count:,} numbers of {size} bytes"
            )
        return self

    def _plain_adds_up(self, size: int) -> bool:
        if self.how == "half":
            whole = DTYPES[self.dtype] == torch.float32 and self.sizes[0] == self.count * _HALF
        else:
            whole = self.how == "zlib" or self.sizes[0] == self.count * size
        return whole and self.stream is None and not self.kinds and not self.sizes[1]

    def _coded_adds_up(self, size: int) -> bool:
        stream = self.stream
        if stream is None or sum(stream.sizes) != self.sizes[1] or self.kinds > self.count:
            return False
        if stream.entries > (0 if stream.run_bits is None else self.count):
            return False
        if self.how == "sparse":
            return stream.kinds == 2
        return stream.kinds == self.kinds and self.sizes[0] == self.kinds * size


class _Header(Strict):
    document: JsonValue
    tensors: list[_TensorDocument]


@dataclass(frozen=True)
class CodedFile:
    """A coded file whose checksum is right; its tensors are decoded when asked for."""

    path: Path
    document: Any
    entries: Mapping[str, Entry]
    tensors: Mapping[str, tuple[_TensorDocument, bytes]]

    def read(self, names: Iterable[str] | None = None) -> dict[str, Tensor]:
        """Decode some tensors (default: all).

        Raises:
            FileFormatError: A tensor is not in the file, or its description is not of it.
            StoreError: A library that the coder needs is not installed.
        """
        result: dict[str, Tensor] = {}
        for name in self.tensors if names is None else names:
            if name not in self.tensors:
                raise FileFormatError(
                    f"{self.path} is damaged: it should hold {name!r} and does not; use another copy"
                )
            try:
                result[name] = _decoded(*self.tensors[name])
            except FileFormatError as error:
                raise FileFormatError(f"{self.path} is damaged: {name!r}: {error}") from error
        return result


def is_coded(path: Path) -> bool:
    """Whether a file begins as coded ones do; one that cannot be read does not."""
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def coded(tensors: Mapping[str, Tensor], document: object, *, coder: Coder) -> bytes:
    """Tensors and a document as one coded file; the same values give the same bytes.

    Raises:
        ModelError: A tensor has a dtype that files cannot hold.
        StoreError: A library that the coder needs is not installed, or the document is too long.
    """
    entries: list[_TensorDocument] = []
    payload: list[bytes] = []
    for name in sorted(tensors):
        entry, parts = _encoded(name, tensors[name], coder)
        entries.append(entry)
        payload += parts
    text = canonical_json(
        {"document": document, "tensors": [entry.model_dump() for entry in entries]}, what="the document"
    ).encode()
    if len(text) > LONGEST_HEADER:
        raise StoreError(
            f"the description of the tensors has {len(text):,} bytes, and a file holds {LONGEST_HEADER:,}; shorten the history"
        )
    header = zlib.compress(text, 9)
    head = MAGIC + FORMAT.to_bytes(4, "little") + len(header).to_bytes(8, "little")
    whole = b"".join([head, header, *payload])
    return whole + hashlib.blake2b(whole, digest_size=_CHECKSUM).digest()


def write_coded(path: Path, tensors: Mapping[str, Tensor], document: object, *, coder: Coder) -> None:
    """Write `coded` tensors, atomically.

    Raises:
        ModelError: A tensor has a dtype that files cannot hold.
        StoreError: The file cannot be written, or a library is missing.
    """
    whole = coded(tensors, document, coder=coder)
    write_atomic(path, [whole], size=len(whole))


def read_coded(path: Path) -> CodedFile:
    """Check a coded file and read its header.

    Raises:
        FileFormatError: It is damaged, of a newer version, or claims to be far larger than it can be.
        StoreError: It cannot be read at all.
    """
    try:
        whole = path.read_bytes()
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror or error}; check the path") from error
    version = int.from_bytes(whole[len(MAGIC) : len(MAGIC) + 4], "little")
    content, checksum = whole[:-_CHECKSUM], whole[-_CHECKSUM:]
    if len(whole) < _HEAD + _CHECKSUM or hashlib.blake2b(content, digest_size=_CHECKSUM).digest() != checksum:
        raise FileFormatError(
            f"{path} is damaged: its content is not what was saved (the checksum differs); use another copy"
        )
    if version != FORMAT:
        raise FileFormatError(
            f"{path} is a coded file of format {version}, and this version of Secateur reads {FORMAT}; upgrade Secateur"
        )
    length = int.from_bytes(content[len(MAGIC) + 4 : _HEAD], "little")
    limit = _EXPANSION * len(whole)
    header = _header(path, content[_HEAD : _HEAD + length])
    entries: dict[str, Entry] = {}
    parts: dict[str, tuple[_TensorDocument, bytes]] = {}
    start, total = _HEAD + length, 0
    for entry in header.tensors:
        if entry.dtype not in DTYPES:
            raise FileFormatError(
                f"{path}: {entry.name!r} has the number type {entry.dtype}, which this version cannot read; upgrade Secateur"
            )
        entries[entry.name] = Entry(DTYPES[entry.dtype], tuple(entry.shape), start)
        parts[entry.name] = (entry, content[start : start + sum(entry.sizes)])
        start += sum(entry.sizes)
        total += entry.count * DTYPES[entry.dtype].itemsize
    if start != len(content) or total > limit or len(parts) < len(header.tensors):
        raise FileFormatError(
            f"{path} is damaged: its {len(whole):,} bytes do not hold the tensors that it tells of; use another copy"
        )
    return CodedFile(path, header.document, entries, parts)


def _header(path: Path, packed: bytes) -> _Header:
    try:
        text = zlib.decompressobj().decompress(packed, LONGEST_HEADER + 1)
        if len(text) > LONGEST_HEADER:
            raise FileFormatError(
                f"{path} is damaged: its description has more than {LONGEST_HEADER:,} bytes; use another copy"
            )
        return _Header.model_validate(json.loads(text))
    except ValidationError as error:
        raise FileFormatError(
            f"{path} is damaged: its description is not one ({first_problem(error)}); use another copy"
        ) from error
    except (zlib.error, ValueError, RecursionError) as error:
        raise FileFormatError(f"{path} is damaged (its description is not JSON); use another copy") from error


def _bits(tensor: Tensor) -> Numbers:
    """The numbers of a tensor as whole numbers, bit by bit, so that 0 and -0 stay apart."""
    return np.frombuffer(as_bytes(tensor), dtype=f"<u{min(tensor.element_size(), 8)}")


def _encoded(name: str, tensor: Tensor, coder: Coder) -> tuple[_TensorDocument, list[bytes]]:
    """A tensor in the way that takes the fewest bytes, of those that unpack to no more than readers accept."""
    raw = as_bytes(tensor).tobytes()
    zipped = zlib.compress(raw, 9)
    ways: list[tuple[_How, int, StreamDocument | None, bytes, bytes]] = [
        ("raw", 0, None, raw, b""),
        ("zlib", 0, None, zipped, b""),
    ]
    if tensor.dtype == torch.float32:
        half = tensor.half()
        if np.array_equal(_bits(half.float()), _bits(tensor)):
            ways.append(("half", 0, None, as_bytes(half).tobytes(), b""))
    if tensor.numel() > 1 and tensor.element_size() > 1:
        bits = _bits(tensor)
        kinds, places, counts = np.unique(bits, return_inverse=True, return_counts=True)
        if len(kinds) <= min(_KINDS, tensor.numel() // 2):
            order = np.lexsort((kinds, -counts))  # the most frequent first
            rank = np.empty_like(order)
            rank[order] = np.arange(len(order))
            stream, data = pack(rank[places.ravel()].astype(np.int64), len(kinds), coder)
            ways.append(("levels", len(kinds), stream, kinds[order].tobytes(), data))
        if 0 < int((bits == 0).sum()) < len(bits):
            stream, data = pack((bits != 0).astype(np.int64), 2, coder)
            numbers = bits[bits != 0]
            ways.append(("sparse", len(numbers), stream, zlib.compress(numbers.tobytes(), 9), data))
    how, number, stream, table, data = min(
        (way for way in ways if tensor.nbytes <= _EXPANSION * (len(way[3]) + len(way[4]))),  # as readers ask
        key=lambda way: len(way[3]) + len(way[4]),
    )
    entry = _TensorDocument(
        name=name,
        dtype=dtype_name(name, tensor),
        shape=list(tensor.shape),
        how=how,
        kinds=number,
        stream=stream,
        sizes=[len(table), len(data)],
    )
    return entry, [table, data]


def _decoded(entry: _TensorDocument, data: bytes) -> Tensor:
    dtype, count = DTYPES[entry.dtype], entry.count
    table, coded_symbols = data[: entry.sizes[0]], data[entry.sizes[0] :]
    whole = np.dtype(f"<u{min(dtype.itemsize, 8)}")
    bits: Numbers
    if entry.how == "raw":
        bits = np.frombuffer(bytearray(table), dtype=np.uint8)
    elif entry.how == "zlib":
        bits = np.frombuffer(bytearray(_unzipped(table, count * dtype.itemsize)), dtype=np.uint8)
    elif entry.how == "half":
        bits = np.frombuffer(table, dtype="<f2").astype("<f4").view(whole)
    elif entry.stream is None:
        raise FileFormatError("it is coded, and does not say how; use another copy")
    elif entry.how == "levels":
        kinds = np.frombuffer(table, dtype=whole)
        places = unpack(entry.stream, coded_symbols, count)
        bits = np.empty(count, dtype=whole)
        for start in range(0, count, CHUNK):  # NumPy makes 8 bytes of every place that it looks up
            bits[start : start + CHUNK] = kinds[places[start : start + CHUNK]]
    else:
        there = unpack(entry.stream, coded_symbols, count) != 0
        numbers = np.frombuffer(_unzipped(table, entry.kinds * dtype.itemsize), dtype=whole)
        if int(there.sum()) != len(numbers):
            raise FileFormatError("it has more or fewer numbers than it says; use another copy")
        bits = np.zeros(count, dtype=whole)
        bits[there] = numbers
    if bits.nbytes != count * dtype.itemsize:
        raise FileFormatError("it has more or fewer numbers than its shape; use another copy")
    try:
        if not count:
            return torch.empty(entry.shape, dtype=dtype, device="cpu")
        return torch.as_tensor(bits.view(np.uint8)).view(dtype).view(entry.shape)
    except (RuntimeError, TypeError, OverflowError) as error:  # its numbers bound all but empty shapes
        raise FileFormatError(f"it has the shape {entry.shape}; use another copy") from error


def _unzipped(data: bytes, size: int) -> bytes:
    """So many bytes, and no more than that, whatever the packed ones claim."""
    try:
        reader = zlib.decompressobj()
        found = reader.decompress(data, size + 1)
    except zlib.error as error:
        raise FileFormatError("its packed numbers are damaged; use another copy") from error
    if len(found) != size or not reader.eof or reader.unused_data:
        raise FileFormatError("its packed numbers are more or fewer than it says; use another copy")
    return found
