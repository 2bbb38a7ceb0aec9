"""Examples are drawn by seed, in proportion or evenly."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.data.sampling import draw, held_out
from secateur.errors import SettingsError

labels = st.lists(st.integers(0, 5), min_size=1, max_size=60).map(np.array)
seeds = st.integers(0, 2**32 - 1)


@settings(deadline=None)
@given(labels, st.data(), seeds, st.booleans())
def test_draw_is_a_set_of_positions(targets, data, seed, balanced):
    """A draw holds the asked number of different positions in order, and the same seed draws the same."""
    count = data.draw(st.integers(1, len(targets)))

    chosen = draw(targets, count, seed=seed, balanced=balanced)

    assert len(chosen) == count
    assert (np.diff(chosen) > 0).all()
    assert 0 <= chosen[0] <= chosen[-1] < len(targets)
    assert np.array_equal(chosen, draw(targets, count, seed=seed, balanced=balanced))


@settings(deadline=None)
@given(labels, st.data(), seeds)
def test_proportional_draw_keeps_shares(targets, data, seed):
    """Every class is drawn within one example of its share, whatever the other classes."""
    count = data.draw(st.integers(1, len(targets)))
    sizes = np.bincount(targets, minlength=6)

    drawn = np.bincount(targets[draw(targets, count, seed=seed)], minlength=6)

    assert (drawn <= sizes).all()
    # Keys are (j + 1/2) / n: all classes are cut at one level, so two classes' shares differ by at most one each.
    present = sizes > 0
    low = ((drawn[present] - 0.5) / sizes[present]).max()
    high = ((drawn[present] + 0.5) / sizes[present]).min()
    assert low <= high + 1e-12


@settings(deadline=None)
@given(labels, st.data(), seeds)
def test_balanced_draw_is_even(targets, data, seed):
    """No class is drawn two more times than another one that has examples left."""
    count = data.draw(st.integers(1, len(targets)))
    sizes = np.bincount(targets, minlength=6)

    drawn = np.bincount(targets[draw(targets, count, seed=seed, balanced=True)], minlength=6)

    left = drawn < sizes
    assert not left.any() or drawn.max() - drawn[left].min() <= 1


def test_seeds_draw_differently():
    """Another seed draws other examples."""
    targets = np.repeat(np.arange(10), 20)

    assert not np.array_equal(draw(targets, 50, seed=0), draw(targets, 50, seed=1))


def test_huge_labels_cost_nothing():
    """Memory follows the number of examples, not the size of the labels."""
    assert draw(np.array([0, 10**15]), 1, seed=0).tolist() == [0]


@pytest.mark.parametrize("count", [0, -1, 4])
def test_impossible_draws(count):
    """A count that is not there is refused with what there is."""
    with pytest.raises(SettingsError, match=f"{count} examples cannot be taken from 3; ask for 1 to 3"):
        draw(np.zeros(3, np.int64), count, seed=0)


@pytest.mark.parametrize("asked", [0, 10, -1, 0.0, 1.0, 0.01, 7.0])
def test_impossible_validation(asked):
    """Validation that leaves one side without examples is refused."""
    with pytest.raises(SettingsError, match=f"validation={asked} of 10 training persons"):
        held_out(10, asked, default=1, what="training persons")
