"""Few numbers among many zeros: how many zeros stand before each."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from secateur.errors import FileFormatError

Symbols = NDArray[np.int64]
Places = NDArray[np.uint16]
"""Symbols as readers hold them: there are no more than fit."""

CHUNK: Final = 1 << 16
"""How many symbols are looked at together where each takes more memory than it will have in the end."""


def to_runs(symbols: Symbols, bits: int) -> tuple[Symbols, Symbols]:
    r"""The symbols other than 0, and how many zeros stand before each.

    A run of more than :math:`2^b - 1` zeros is cut by filler zeros: a symbol 0 after so many. What follows the last symbol is left out.

    Args:
        symbols: In a row; 0 is what is frequent.
        bits: b, of a run's length.

    Example:
        >>> runs, values = to_runs(np.array([0, 0, 3, 0, 0, 0, 0, 0, 5, 0]), bits=2)
        >>> runs.tolist(), values.tolist()
        ([2, 3, 1], [3, 0, 5])

    Source:
        Han, Mao and Dally 2016, Deep Compression, arXiv:1510.00149, section 2 and figure 2.
    """
    longest = (1 << bits) - 1
    places = np.flatnonzero(symbols)
    runs = np.diff(places, prepend=-1) - 1
    fillers = runs // (longest + 1)  # a filler stands for itself, too
    ends = np.cumsum(fillers + 1) - 1
    lengths = np.full(int(fillers.sum()) + len(places), longest, dtype=np.int64)
    values = np.zeros(len(lengths), dtype=np.int64)
    lengths[ends] = runs - fillers * (longest + 1)
    values[ends] = symbols[places]
    return lengths, values


def from_runs(runs: Places, values: Places, count: int) -> Places:
    """So many symbols, from what `to_runs` made.

    Raises:
        FileFormatError: They are more.
    """
    symbols, last = np.zeros(count, dtype=np.uint16), -1
    for start in range(0, len(runs), CHUNK):
        places = last + np.cumsum(runs[start : start + CHUNK].astype(np.int64) + 1)
        last = int(places[-1])
        if last >= count:
            raise FileFormatError(
                "a coded tensor has more numbers than its shape; use another copy of the file"
            )
        symbols[places] = values[start : start + CHUNK]
    return symbols
