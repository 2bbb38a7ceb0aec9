"""Schedules of pruning."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.errors import SettingsError
from secateur.plan import Schedule, ScheduleKind

KINDS = st.sampled_from(["cubic", "linear", "one-shot"])


@given(
    KINDS,
    st.tuples(st.floats(0, 0.5), st.floats(0.5, 0.99)),
    st.integers(0, 5),
    st.integers(1, 6),
    st.integers(1, 6),
)
def test_it_begins_at_the_initial_share_ends_at_the_final_one_and_never_falls(
    kind: ScheduleKind, shares: tuple[float, float], begin: int, every: int, steps: int
) -> None:
    """Before the first cut nothing is gone; at the last one the final share is, exactly; the share never falls."""
    initial, final = shares
    schedule = Schedule(final, kind, initial, begin, every, steps)

    gone = [schedule.at(epoch) for epoch in range(begin + every * steps + 3)]

    assert gone[:begin] == [0.0] * begin
    assert gone[begin] == (final if kind == "one-shot" else initial)
    assert schedule.at(schedule.end) == gone[-1] == final
    assert all(earlier <= later for earlier, later in itertools.pairwise(gone))


@given(KINDS, st.integers(0, 3), st.integers(1, 6), st.integers(1, 6))
def test_cuts_are_where_the_share_grows(kind: ScheduleKind, begin: int, every: int, steps: int) -> None:
    """Between two cuts the share is that of the earlier one."""
    schedule = Schedule(0.9, kind, 0.0, begin, every, steps)
    cuts = dict(schedule.cuts())

    for epoch in range(1, schedule.end + 1):
        grown = schedule.at(epoch) > schedule.at(epoch - 1)
        assert grown == (epoch in cuts)
        assert not grown or cuts[epoch] == schedule.at(epoch)


@pytest.mark.parametrize(
    ("final", "every", "steps", "printed"),
    [
        (0.3, 1, 2, (0.2625, 0.3)),
        (0.6, 2, 3, (0.4222, 0.5778, 0.6)),
        (0.9, 6, 4, (0.5203, 0.7875, 0.8859, 0.9)),
    ],
)
def test_the_cubic_law_is_that_of_the_paper(
    final: float, every: int, steps: int, printed: tuple[float, ...]
) -> None:
    """The shares are those of equation 1, worked out by hand."""
    shares = [share for _, share in Schedule(final, every=every, steps=steps).cuts()]

    assert shares == pytest.approx(printed, abs=5e-5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"final": 1.0}, "less than 1"),
        ({"final": 0.5, "initial": 0.6}, "must grow"),
        ({"final": 0.5, "every": 0}, "every=0"),
        ({"final": 0.5, "steps": 0}, "steps=0"),
        ({"final": 0.5, "begin": -1}, "begin=-1"),
        ({"final": 0.5, "kind": "square"}, "'square' does not exist"),
    ],
)
def test_what_cannot_be_is_refused(options: dict, said: str) -> None:
    """A schedule that falls, or has no steps, is refused by name."""
    with pytest.raises(SettingsError, match=said):
        Schedule(**options)
