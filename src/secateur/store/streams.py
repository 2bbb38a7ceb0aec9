"""A row of symbols as bytes: coded by how often each occurs, with Huffman's code or by asymmetric numeral systems."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, TypeAlias, get_args

import numpy as np
from pydantic import Field

from secateur._libraries import library
from secateur.errors import FileFormatError, SettingsError, StoreError
from secateur.store.huffman import Code, code_lengths, lane_of
from secateur.store.records import Count, Strict
from secateur.store.runs import CHUNK, Places, Symbols, from_runs, to_runs

Coder: TypeAlias = Literal["huffman", "ans"]
"""How symbols become bits. ``huffman`` spends whole bits on each, ``ans`` what it is worth. Either may tell runs of zeros by their lengths: whole bits
for each zero would be far too many, and zeros that keep together need fewer runs."""

_RUN_BITS: Final = range(2, 11)


class StreamDocument(Strict):
    """How to read a stream.

    Attributes:
        coder: How symbols became bits.
        kinds: How many different symbols there may be; they are counted from 0.
        run_bits: Bits of a run's length, where runs of the symbol 0 are told by it.
        entries: Runs, where there are.
        sizes: Bytes of each part.
    """

    coder: Coder
    kinds: Annotated[int, Field(ge=1, le=1 << 16)]
    run_bits: Annotated[int, Field(ge=1, le=16)] | None
    entries: Count
    sizes: list[Count]


def pack(symbols: Symbols, kinds: int, coder: Coder) -> tuple[StreamDocument, bytes]:
    """Code symbols 0 to kinds - 1, of which 0 should be the most frequent.

    Raises:
        SettingsError: There is no such coder.
        StoreError: It needs a library that is not installed.

    Example:
        >>> document, data = pack(np.array([0, 0, 0, 0, 2, 0, 1, 0] * 100), 3, "huffman")
        >>> bool((unpack(document, data, 800)[:8] == [0, 0, 0, 0, 2, 0, 1, 0]).all())
        True
    """
    if coder not in get_args(Coder):
        raise SettingsError(f"coder={coder!r} must be one of {', '.join(get_args(Coder))}")
    run_bits = _best_run_bits(symbols, kinds, coder)
    packed = _ans_packed if coder == "ans" else _huffman_packed
    if run_bits is None:
        parts, entries = packed(symbols, kinds), 0
    else:
        runs, values = to_runs(symbols, run_bits)
        parts, entries = [*packed(values, kinds), *packed(runs, 1 << run_bits)], len(runs)
    sizes = [len(part) for part in parts]
    document = StreamDocument(coder=coder, kinds=kinds, run_bits=run_bits, entries=entries, sizes=sizes)
    return document, b"".join(parts)


def unpack(document: StreamDocument, data: bytes, count: int) -> Places:
    """So many symbols, from what `pack` made; not to be written to. They take two bytes each, and hardly more while they are read.

    Raises:
        FileFormatError: They do not fit each other.
        StoreError: It needs a library that is not installed.
    """
    if sum(document.sizes) != len(data):
        raise _foreign()
    parts = np.split(np.frombuffer(data, dtype=np.uint8), np.cumsum(document.sizes)[:-1])
    pieces = [part.tobytes() for part in parts]
    read, kinds = _ans_unpacked if document.coder == "ans" else _huffman_unpacked, document.kinds
    if document.run_bits is None:
        return read(pieces, kinds, count)
    half = len(pieces) // 2
    if document.entries > count or len(pieces) != 2 * half:
        raise _foreign()
    values = read(pieces[:half], kinds, document.entries)
    runs = read(pieces[half:], 1 << document.run_bits, document.entries)
    return from_runs(runs, values, count)


def _foreign() -> FileFormatError:
    return FileFormatError("a coded tensor's parts do not fit its description; use another copy of the file")


def _huffman_packed(symbols: Symbols, kinds: int) -> list[bytes]:
    """The lengths of the codes, of the lanes, and the bits."""
    code = Code(code_lengths(np.bincount(symbols, minlength=kinds).tolist()))
    alone = np.zeros(kinds, dtype=np.int64)
    if not len(code.symbols) and len(symbols):
        alone[symbols[0]] = 255  # the only symbol takes no bits
    lengths = (code.lengths + alone).astype(np.uint8).tobytes()
    if not len(code.symbols):
        return [lengths, b"", b""]
    data, lanes = code.encode(symbols)
    return [lengths, np.asarray(lanes, dtype="<u4").tobytes(), data]


def _huffman_unpacked(parts: list[bytes], kinds: int, count: int) -> Places:
    if len(parts) != 3 or len(parts[0]) != kinds or len(parts[1]) % 4:
        raise _foreign()
    lengths = np.frombuffer(parts[0], dtype=np.uint8).astype(np.int64)
    alone = np.flatnonzero(lengths == 255)
    if len(alone):
        return _alike(int(alone[0]), count)
    code = Code(lengths.tolist())
    return code.decode(parts[2], np.frombuffer(parts[1], dtype="<u4").astype(np.int64).tolist(), count)


def _best_run_bits(symbols: Symbols, kinds: int, coder: Coder) -> int | None:
    """How runs of zeros are told in the fewest bits, if at all."""
    size = _ans_size if coder == "ans" else _huffman_size
    sizes: dict[int | None, float] = {None: size(symbols, kinds)}
    for bits in _RUN_BITS:
        runs, values = to_runs(symbols, bits)
        sizes[bits] = size(values, kinds) + size(runs, 1 << bits)
    return min(sizes, key=lambda bits: (sizes[bits], bits or 0))


def _huffman_size(symbols: Symbols, kinds: int) -> float:
    """Bits that symbols take with their table."""
    counts = np.bincount(symbols, minlength=kinds)
    lanes = -(-len(symbols) // lane_of(len(symbols)))
    return float(counts @ np.asarray(code_lengths(counts.tolist()))) + 8 * kinds + 36 * lanes


def _ans_size(symbols: Symbols, kinds: int) -> float:
    """Bits that symbols take with their table: the entropy, and about as many as the counts have."""
    counts = np.bincount(symbols, minlength=kinds)
    share = counts[counts > 0] / max(len(symbols), 1)
    return float(-(share * np.log2(share)).sum()) * len(symbols) + 8 * len(_short(counts.tolist())) + 48


def _ans_packed(symbols: Symbols, kinds: int) -> list[bytes]:
    """How often each symbol occurs, and the coder's words."""
    counts = np.bincount(symbols, minlength=kinds)
    table = _short(counts.tolist())
    if int((counts > 0).sum()) <= 1:
        return [table, b""]
    stream = _constriction()
    coder = stream.stack.AnsCoder()
    coder.encode_reverse(_among_used(counts)[symbols].astype(np.int32), _model(stream, counts))
    return [table, np.asarray(coder.get_compressed(), dtype="<u4").tobytes()]


def _ans_unpacked(parts: list[bytes], kinds: int, count: int) -> Places:
    if len(parts) != 2 or len(parts[1]) % 4:
        raise _foreign()
    counts = np.asarray(_long(parts[0]), dtype=np.int64)
    if len(counts) != kinds or counts.sum() != count:
        raise _foreign()
    used = np.flatnonzero(counts)
    if len(used) <= 1:
        return _alike(int(used[0]) if len(used) else 0, count)
    stream = _constriction()
    words = np.frombuffer(parts[1], dtype="<u4").astype(np.uint32)
    try:
        coder = stream.stack.AnsCoder(words)
    except ValueError as error:
        raise _foreign() from error
    model, found = _model(stream, counts), np.empty(count, dtype=np.uint16)
    for start in range(0, count, CHUNK):
        part = found[start : start + CHUNK]
        part[:] = used[np.asarray(coder.decode(model, len(part)), dtype=np.int64)]
    return found


def _alike(symbol: int, count: int) -> Places:
    """One symbol so many times, in the memory of one."""
    return np.broadcast_to(np.uint16(symbol), (count,))


def _short(numbers: list[int]) -> bytes:
    """Whole numbers in seven bits a byte, the lowest first; the eighth says that more follow.

    >>> list(_short([5, 300])), _long(_short([5, 300]))
    ([5, 172, 2], [5, 300])
    """
    found = bytearray()
    for number in numbers:
        rest = number
        while rest > 127:
            found.append(rest & 127 | 128)
            rest >>= 7
        found.append(rest)
    return bytes(found)


def _long(data: bytes) -> list[int]:
    """What `_short` made."""
    numbers: list[int] = []
    number = shift = 0
    for byte in data:
        number |= (byte & 127) << shift
        shift += 7
        if shift > 56:
            raise _foreign()
        if byte < 128:
            numbers.append(number)
            number = shift = 0
    return numbers


def _among_used(counts: Symbols) -> Symbols:
    """The number of each symbol among those that occur."""
    return np.cumsum(counts > 0) - 1


def _model(stream: Any, counts: Symbols) -> Any:
    used = counts[counts > 0].astype(np.float64)
    return stream.model.Categorical(used / used.sum(), perfect=False)


def _constriction() -> Any:
    return library(
        "constriction",
        extra="compress",
        what="coding by asymmetric numeral systems",
        instead="have it written in Huffman's code, as deep-compression does",
        error=StoreError,
    ).stream
