"""The largest count within a bound."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from secateur.methods import largest_within


@given(most=st.integers(0, 2000), edge=st.integers(0, 2000))
def test_where_order_holds_the_edge_is_found_in_few_looks(most: int, edge: int) -> None:
    """Exactly, and each count is looked at once."""
    looks: list[int] = []

    def holds(count: int) -> bool:
        looks.append(count)
        return count <= edge

    found = largest_within(holds, most)
    assert found.count == min(edge, most)
    assert found.monotone
    assert len(looks) == len(set(looks)) <= most.bit_length() + 9
    assert all(1 <= count <= most for count in looks)


@given(st.lists(st.booleans(), min_size=1, max_size=60))
def test_what_is_found_holds_and_nothing_larger_that_was_looked_at(held: list[bool]) -> None:
    """In any order of those that hold and those that do not."""
    found = largest_within(lambda count: held[count - 1], len(held), checks=len(held))
    assert found.count == 0 or held[found.count - 1]
    assert not any(held[count - 1] for count in found.looked_at if count > found.count)
    # with as many checks as counts nothing above is overlooked but its neighbours
    assert found.monotone == all(held[count - 1] for count in found.looked_at if count < found.count)


def test_an_island_above_is_found_by_its_check() -> None:
    """Where the accuracy recovers at a larger cut, that one is the answer, and it says that it was not in order."""
    found = largest_within(lambda count: count <= 300 or 800 <= count <= 900, 1000)
    assert found.count == 900
    assert not found.monotone
