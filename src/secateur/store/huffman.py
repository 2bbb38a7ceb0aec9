"""Canonical Huffman codes, written and read many symbols at a time."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from secateur.errors import FileFormatError

Symbols = NDArray[np.int64]
Places = NDArray[np.uint16]

_SHORTEST, _LANES = 1024, 256


def lane_of(count: int) -> int:
    """How many symbols in a row are read one after the other; such lanes are read side by side.

    A lane costs the bits up to its last byte, and its length; more than some hundreds at a time gain nothing.

    Example:
        >>> lane_of(5000), lane_of(1_000_000)
        (1024, 3907)
    """
    return max(_SHORTEST, -(-count // _LANES))


_LONGEST: Final = 32
"""Bits of a code at most: with fewer than 3 million million symbols none is longer (Fibonacci)."""


def code_lengths(counts: Sequence[int]) -> list[int]:
    """How many bits each symbol's code has, for the shortest text; 0 for symbols that do not occur, or a lone one.

    Args:
        counts: How often each symbol occurs.

    Example:
        >>> code_lengths([5, 1, 1, 0, 3])
        [1, 3, 3, 0, 2]

    Source:
        Huffman 1952, Proc. IRE 40(9).
    """
    lengths = [0] * len(counts)
    heap = [(count, symbol, [symbol]) for symbol, count in enumerate(counts) if count]
    heapq.heapify(heap)
    while len(heap) > 1:
        first, second = heapq.heappop(heap), heapq.heappop(heap)
        members = first[2] + second[2]
        for symbol in members:
            lengths[symbol] += 1
        heapq.heappush(heap, (first[0] + second[0], min(first[1], second[1]), members))
    return lengths


class Code:
    """A canonical code: shorter codes first, of one length in the order of the symbols.

    Args:
        lengths: Bits of each symbol's code, as from `code_lengths`.

    Raises:
        FileFormatError: No code has these lengths.
    """

    def __init__(self, lengths: Sequence[int]) -> None:
        self.lengths = np.asarray(lengths, dtype=np.int64)
        if not len(self.lengths) or self.lengths.min() < 0 or self.lengths.max() > _LONGEST:
            raise FileFormatError("a code's lengths are from 0 to 32 bits; use another copy of the file")
        used = np.flatnonzero(self.lengths)
        order = used[np.lexsort((used, self.lengths[used]))]
        self.symbols = order
        self.codes = np.zeros(len(self.lengths), dtype=np.uint64)
        # Each code as the first of 32 bits, in the order of the codes: where the next one begins, this one ends.
        self.ends = (
            np.cumsum(1 << (_LONGEST - self.lengths[order])) if len(order) else np.zeros(0, dtype=np.int64)
        )
        if len(order) and self.ends[-1] != 1 << _LONGEST:
            raise FileFormatError("a code's lengths do not make a whole code; use another copy of the file")
        begins = self.ends - (1 << (_LONGEST - self.lengths[order]))
        self.codes[order] = (begins >> (_LONGEST - self.lengths[order])).astype(np.uint64)

    def encode(self, symbols: Symbols) -> tuple[bytes, list[int]]:
        """The bits of some symbols, and the bytes that each lane of them takes."""
        lane = lane_of(len(symbols))
        parts = [self._lane(symbols[start : start + lane]) for start in range(0, len(symbols), lane)]
        return b"".join(parts), [len(part) for part in parts]

    def _lane(self, symbols: Symbols) -> bytes:
        lengths = self.lengths[symbols]
        total = int(lengths.sum())
        owner = np.repeat(np.arange(len(symbols)), lengths)
        place = np.arange(total) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        shifts = (lengths[owner] - 1 - place).astype(np.uint64)
        bits = (self.codes[symbols][owner] >> shifts) & np.uint64(1)
        return np.packbits(bits.astype(np.uint8)).tobytes()

    def decode(self, data: bytes, lanes: Sequence[int], count: int) -> Places:
        """So many symbols, from what `encode` made.

        Raises:
            FileFormatError: The bits are fewer than the symbols need.
        """
        if not len(self.symbols) and count:
            raise FileFormatError("a coded tensor has symbols without codes; use another copy of the file")
        sizes, lane = np.asarray(lanes, dtype=np.int64), lane_of(count)
        if len(sizes) != -(-count // lane) or sizes.sum() != len(data) or (sizes < 0).any():
            raise FileFormatError(
                "a coded tensor's lanes do not fit its length; use another copy of the file"
            )
        padded = np.frombuffer(data + bytes(8), dtype=np.uint8).astype(np.uint64)
        at = 8 * (np.cumsum(sizes) - sizes)  # of each lane the next bit
        ends = 8 * np.cumsum(sizes)
        found = np.zeros((len(sizes), lane), dtype=np.uint16)
        left = np.minimum(lane, count - lane * np.arange(len(sizes)))
        for step in range(min(lane, count)):
            alive = left > step
            bit, byte = (at & 7).astype(np.uint64), at >> 3
            window = np.zeros(len(sizes), dtype=np.uint64)
            for offset in range(5):
                window = (window << np.uint64(8)) | padded[np.minimum(byte + offset, len(padded) - 1)]
            first = (window >> (np.uint64(8) - bit)) & np.uint64((1 << _LONGEST) - 1)
            place = np.searchsorted(self.ends, first.astype(np.int64), side="right")
            symbol = self.symbols[place]
            found[:, step] = symbol
            at = at + np.where(alive, self.lengths[symbol], 0)
        if (at > ends).any():
            raise FileFormatError(
                "a coded tensor ends in the middle of a symbol; use another copy of the file"
            )
        return found.ravel()[:count]  # all lanes but the last are full
