"""The largest count within a bound, found with few looks."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import cast


@dataclass(frozen=True, slots=True)
class Bisection:
    """The largest count that was found to hold.

    Attributes:
        count: It holds, and the next one does not (nor does any beyond it that was looked at).
        looked_at: Every count that was looked at, and whether it held.
    """

    count: int
    looked_at: dict[int, bool]

    @property
    def monotone(self) -> bool:
        """Whether, of all that were looked at, none below it failed."""
        return all(held for count, held in self.looked_at.items() if count <= self.count)


def bisecting(most: int, *, checks: int = 8) -> Generator[int, bool, Bisection]:
    """The looks of `largest_within`, one after the other: yields a count, and is sent whether it holds."""
    known: dict[int, bool] = {}

    def look(count: int) -> Generator[int, bool, bool]:
        if count not in known:
            known[count] = yield count
        return known[count]

    low, high = 0, most + 1
    while True:
        if low < most and (yield from look(most)):
            low = most
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if (yield from look(middle)) else (low, middle)
        spread: set[int] = {low + round((most - low) * part / (checks + 1)) for part in range(1, checks + 1)}
        above: int = 0
        for count in sorted(spread, reverse=True):
            if count > low + 1 and (yield from look(count)):
                above = count
                break
        if not above:
            return Bisection(low, known)
        low = above
        high = min((count for count, held in known.items() if count > low and not held), default=most + 1)


def largest_within(holds: Callable[[int], bool], most: int, *, checks: int = 8) -> Bisection:
    """The largest count up to ``most`` that holds; nothing, 0, is taken to hold.

    Where larger counts never hold after a smaller one has failed, halving the interval finds it in about log2(most) looks. Accuracy
    seldom is so orderly: so the count that was found is verified by looks at others above it, spread evenly, and if one
    holds, the search goes on from there.

    Args:
        holds: Whether a count is within the bound; asked once a count.
        most: The largest count there is.
        checks: How many counts above are looked at, besides those that were.

    Example:
        >>> found = largest_within(lambda count: count <= 700, 1000)
        >>> found.count, found.monotone, len(found.looked_at)
        (700, True, 19)
    """
    if most < 1:
        return Bisection(0, {})
    search = bisecting(most, checks=checks)
    count = next(search)
    while True:
        try:
            count = search.send(holds(count))
        except StopIteration as end:
            return cast("Bisection", end.value)
