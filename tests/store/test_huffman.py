"""Huffman codes and runs of zeros: what is written is read, in as few bits as there can be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from secateur.errors import FileFormatError
from secateur.store.huffman import Code, code_lengths
from secateur.store.runs import from_runs, to_runs

SYMBOLS = st.builds(
    lambda seed, n, k, skew: np.minimum(
        np.random.default_rng(seed).geometric(skew, n) - 1, k - 1
    ).astype(np.int64),
    st.integers(0, 10_000), st.integers(0, 9000), st.integers(1, 300), st.floats(0.01, 0.99),
)  # fmt: skip


@settings(deadline=None, max_examples=30)
@given(SYMBOLS)
def test_what_is_coded_is_read(symbols: np.ndarray) -> None:
    """Any symbols come back, across lanes, and the text is less than a bit a symbol above the entropy."""
    counts = np.bincount(symbols, minlength=1)
    assume((counts > 0).sum() != 1)  # a lone symbol needs no bits, and no code says which it is
    code = Code(code_lengths(counts.tolist()))

    data, lanes = code.encode(symbols)

    assert np.array_equal(code.decode(data, lanes, len(symbols)), symbols)
    share = counts[counts > 0] / max(len(symbols), 1)
    entropy = float(-(share * np.log2(share)).sum())
    bits = float((code.lengths * counts).sum())
    assert bits <= (entropy + 1) * len(symbols) + 1e-6
    assert bits >= entropy * len(symbols) - 1e-6
    assert 8 * len(data) <= bits + 8 * len(lanes)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=40))
def test_no_code_is_another_ones_beginning(counts: list[int]) -> None:
    """The lengths make a whole code, and frequent symbols have no longer codes than rare ones."""
    lengths = code_lengths(counts)

    used = [length for length in lengths if length]
    assert not used or sum(2.0**-length for length in used) == 1
    for i, j in ((i, j) for i in range(len(counts)) for j in range(len(counts))):
        assert not counts[i] > counts[j] > 0 or lengths[i] <= lengths[j]


def test_damage_is_refused() -> None:
    """Lengths that are no code, lanes that do not fit, bits that end too soon."""
    for lengths in ([1, 1, 1], [1, 2], [40, 1], []):
        with pytest.raises(FileFormatError):
            Code(lengths)
    code = Code([1, 2, 2])
    data, lanes = code.encode(np.array([1, 2, 1, 2, 0] * 8))
    with pytest.raises(FileFormatError, match="lanes"):
        code.decode(data[:-1], lanes, 40)
    with pytest.raises(FileFormatError, match="in the middle"):
        code.decode(data[:2], [2], 40)


@given(SYMBOLS, st.integers(0, 8))
def test_runs_give_the_symbols_back(symbols: np.ndarray, bits: int) -> None:
    """No run is longer than its bits allow, and fillers are zeros."""
    runs, values = to_runs(symbols, bits)

    assert np.array_equal(from_runs(runs, values, len(symbols)), symbols)
    assert not len(runs) or runs.max() < 1 << bits
    assert np.array_equal(values[values != 0], symbols[symbols != 0])


def test_runs_beyond_the_shape_are_refused() -> None:
    """A damaged run would write outside."""
    with pytest.raises(FileFormatError, match="more numbers than its shape"):
        from_runs(np.array([3]), np.array([1]), 3)
