"""The bound: what is compared with it, and what guards it."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from secateur.data import Split, Splits
from secateur.evaluate import paired_drop
from secateur.methods import ReduceSettings
from secateur.methods.judge import Judge, bound_with_room, least_bound, too_narrow


class Right(nn.Module):
    """Answers class 0 where the first feature is positive, else class 1."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x[:, 0], -x[:, 0]], dim=1) * self.scale


class WrongFrom(Right):
    """As `Right`, but wrong where the second feature is at least a limit."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit = limit

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * torch.where(x[:, 1] < self.limit, 1.0, -1.0)[:, None]


def split(count: int, groups: Tensor | None = None) -> Split:
    x = torch.randn(count, 2, generator=torch.Generator().manual_seed(count))
    x[:, 1] = torch.arange(count) / count
    return Split(x, (x[:, 0] <= 0).long(), groups)


DATA = Splits("toy", split(400), split(200), split(300), ("a", "b"))
SETTINGS = ReduceSettings(max_drop=5.0)


def test_with_a_confidence_the_upper_limit_counts_and_without_it_the_drop() -> None:
    """4 points measured are 4 points, and more at 95 %."""
    candidate = WrongFrom(0.96)
    certain, measured = Judge(Right(), DATA, SETTINGS), Judge(Right(), DATA, SETTINGS.but(confidence=0.0))

    verdict = certain.look(candidate)

    assert math.isclose(verdict.drop.points, 4.0)
    assert verdict.accuracy == 96.0
    assert certain.limit(verdict, best=100.0) == verdict.drop.upper > 5.0
    assert not certain.within(verdict, best=100.0)
    assert measured.within(measured.look(candidate), best=100.0)


def test_counted_from_the_best_the_bound_moves_with_it() -> None:
    """As printed the drop is counted from the best accuracy so far."""
    judge = Judge(Right(), DATA, SETTINGS.but(confidence=0.0, reference="best"))
    verdict = judge.look(WrongFrom(0.96))

    assert judge.within(verdict, best=100.0)
    assert judge.within(verdict, best=101.0)
    assert not judge.within(verdict, best=101.5)
    assert math.isclose(judge.limit(verdict, best=101.5), 5.5)


def test_training_examples_guard_where_validation_comes_in_groups() -> None:
    """A candidate that validation likes and training examples do not is refused; without groups only validation counts."""
    persons = torch.arange(200) // 20
    turned = Split(DATA.train.inputs, 1 - DATA.train.targets)  # what the candidate is bad at
    grouped = replace(DATA, train=turned, validation=split(200, persons))
    candidate, reference = Right(), WrongFrom(-1.0)  # the reference is right on the turned examples only

    guarded = Judge(reference, grouped, SETTINGS)
    verdict = guarded.look(candidate)

    assert verdict.drop.points == -100.0
    assert verdict.guard == 100.0
    assert not guarded.within(verdict, best=100.0)
    assert Judge(reference, grouped, SETTINGS.but(guard="off")).within(
        verdict=replace(verdict, guard=None), best=0.0
    )
    assert Judge(reference, replace(DATA, train=turned), SETTINGS).look(candidate).guard is None
    assert (
        Judge(reference, replace(DATA, train=turned), SETTINGS.but(guard="on")).look(candidate).guard == 100.0
    )


def test_groups_widen_the_limit() -> None:
    """The limit is the one of persons where examples come from persons."""
    persons = torch.arange(200) // 20
    grouped = replace(DATA, validation=split(200, persons))
    judge = Judge(Right(), grouped, SETTINGS.but(guard="off"))
    verdict = judge.look(WrongFrom(0.96))

    right = torch.ones(200, dtype=torch.bool)
    wrong = right.clone()
    wrong[192:] = False
    assert math.isclose(verdict.drop.upper, paired_drop(right, wrong, groups=persons).upper)
    assert verdict.drop.upper > paired_drop(right, wrong).upper


@given(
    examples=st.integers(5, 3000), bound=st.floats(0.0, 20.0), confidence=st.sampled_from([0.0, 0.8, 0.95])
)
@settings(deadline=None)
def test_a_bound_is_too_narrow_where_nothing_unchanged_holds_it(
    examples: int, bound: float, confidence: float
) -> None:
    """What is said of a narrow bound is so: it takes that many more right answers, and one fewer does not do."""

    def upper(gained: int) -> float:
        after = torch.ones(examples, dtype=torch.bool)
        before = after.clone()
        before[:gained] = False
        return paired_drop(before, after, confidence=confidence or 0.95).upper

    said = too_narrow(examples, ReduceSettings(max_drop=bound, confidence=confidence))

    assert (said is None) == (confidence == 0 or upper(0) <= bound + 1e-9)
    if said is not None:
        found = re.search(r"at least (\d+) more", said)
        needed = int(found[1]) if found else examples + 1
        assert upper(needed - 1) > bound
        assert found is None or upper(needed) <= bound + 1e-9


def test_the_bound_that_is_suggested_can_be_held() -> None:
    """The sampling error takes at most half of the bound that is suggested, and more than half of the next smaller."""
    assert [bound_with_room(examples) for examples in (10_000, 700, 360, 250, 150)] == [0.5, 1, 2, 3, 5]
    assert least_bound(360, confidence=0.95) <= 2 / 2 < 2 * least_bound(360, confidence=0.95)
    assert bound_with_room(3) == 5
