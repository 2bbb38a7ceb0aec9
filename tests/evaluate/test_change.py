"""Paired comparisons, against published values, exact sums and simulation."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import nn

from secateur.errors import DataError, SettingsError
from secateur.evaluate import class_changes, evaluate, paired_drop, paired_interval, wilson
from secateur.evaluate.change import upper_bound

RATES = (0, 0.0005, 0.002, 0.006, 0.02, 0.05, 0.12, 0.3)


def outcomes(both, lost, gained, neither):
    """Which examples are right before and after, with these counts."""
    counts = (both, lost, gained, neither)
    before = [flag for flag, n in zip((1, 1, 0, 0), counts, strict=True) for _ in range(n)]
    after = [flag for flag, n in zip((1, 0, 1, 0), counts, strict=True) for _ in range(n)]
    return torch.tensor(before, dtype=torch.bool), torch.tensor(after, dtype=torch.bool)


def coverage(p_lost, p_gained, n, confidence):
    """The exact probability that the bound holds: the trinomial distribution, summed."""
    z = stats.norm.ppf(confidence)
    most_lost, most_gained = (int(stats.binom.ppf(1 - 1e-9, n, p)) + 1 for p in (p_lost, p_gained))
    lost = np.arange(most_lost + 1)[:, None]
    gained = np.arange(most_gained + 1)[None, :]
    weight = stats.binom.pmf(lost, n, p_lost) * stats.binom.pmf(
        gained, np.maximum(n - lost, 0), p_gained / (1 - p_lost)
    )
    bound = np.vectorize(lambda b, c: upper_bound(int(b), int(c), n, z=z))(lost, gained)
    return float((weight * (bound >= p_lost - p_gained - 1e-12)).sum() / weight.sum())


@pytest.mark.parametrize("confidence", [0.8, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("n", [30, 300])
def test_bound_holds_as_often_as_it_says(n, confidence):
    """For every rate of lost and gained examples tried, the exact coverage is at least the confidence."""
    lowest = min(coverage(b, c, n, confidence) for b in RATES for c in RATES)

    assert lowest >= confidence


def test_bound_is_not_wasteful():
    """With plenty of disagreements the exact coverage is within a point of the confidence."""
    assert coverage(0.2, 0.1, 1000, 0.95) < 0.96


def test_bound_holds_in_simulation():
    """Drawn example by example, the bound holds in 95 % of 4000 draws, less 3 Monte-Carlo deviations (1 point)."""
    gen = torch.Generator().manual_seed(0)
    held, draws, n, p_lost, p_gained = 0, 4000, 500, 0.02, 0.012
    for _ in range(draws):
        u = torch.rand(n, generator=gen)
        before, after = u < 0.9, (u >= p_lost) & (u < 0.9 + p_gained)
        held += paired_drop(before, after).upper >= 100 * (p_lost - p_gained)

    assert held / draws >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / draws)


def test_drop_equals_the_mean_of_paired_differences():
    """Points and standard error are those of the differences before − after, computed directly."""
    before, after = outcomes(80, 9, 4, 7)
    d = (before.double() - after.double()).numpy()
    drop = paired_drop(before, after)

    assert drop.points == pytest.approx(100 * d.mean())
    assert drop.standard_error == pytest.approx(100 * d.std() / 10)
    assert (drop.lost, drop.gained, drop.count, drop.confidence) == (9, 4, 100, 0.95)
    assert drop.upper > drop.points + 1.645 * drop.standard_error


def test_no_disagreement_still_bounds_near_the_rule_of_three():
    """Without any disagreement the bound is between the exact 1 − 0.05^(1/n) and a tenth above it."""
    right = torch.ones(2000, dtype=torch.bool)
    exact = 100 * (1 - 0.05 ** (1 / 2000))

    assert exact <= paired_drop(right, right).upper <= 1.1 * exact


@pytest.mark.parametrize("lost", [0, 1, 3, 10, 40])
def test_one_sided_losses_equal_the_exact_binomial_bound(lost):
    """With losses only, the bound is the exact (Clopper-Pearson) one, at most 8 % above and 0.5 % below."""
    exact = stats.beta.ppf(0.95, lost + 1, 5000 - lost)

    assert 0.995 * exact <= upper_bound(lost, 0, 5000, z=1.6449) <= 1.08 * exact


@settings(deadline=None)
@given(counts=st.tuples(*[st.integers(0, 40)] * 4).filter(lambda c: sum(c) > 0), data=st.randoms())
def test_order_does_not_matter_and_more_confidence_is_wider(counts, data):
    """The drop depends on counts only; it lies below its bound; the bound grows with the confidence."""
    before, after = outcomes(*counts)
    order = list(range(len(before)))
    data.shuffle(order)
    drop = paired_drop(before, after)

    assert paired_drop(before[order], after[order]) == drop
    assert drop.points <= drop.upper <= 100
    assert paired_drop(before, after, confidence=0.6).upper <= drop.upper


@pytest.mark.parametrize(
    ("x", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_equals_published_values(x, n, low, high):
    """Wilson's interval equals Newcombe's printed examples and scipy's."""
    ends = wilson(x, n)
    peer = stats.binomtest(x, n).proportion_ci(0.95, method="wilson")

    assert [round(e, 4) for e in ends] == [low, high]
    assert ends == pytest.approx((peer.low, peer.high), abs=1e-12)


def test_paired_interval_equals_published_value():
    """Newcombe's method 10 for the table (36, 12, 2, 0) is 0.0569 to 0.3404 (for before − after)."""
    low, high = paired_interval(36, 12, 2, 0)

    assert (round(-high, 4), round(-low, 4)) == (0.0569, 0.3404)


@settings(deadline=None)
@given(st.tuples(*[st.integers(0, 60)] * 4).filter(lambda c: sum(c) > 0))
def test_paired_interval_turns_around_with_its_arguments(counts):
    """Exchanging before and after turns the interval's sign; it contains the change and stays within −1 … 1."""
    both, lost, gained, neither = counts
    low, high = paired_interval(both, lost, gained, neither)
    other = paired_interval(both, gained, lost, neither)

    assert other == pytest.approx((-high, -low), abs=1e-12)
    assert -1 - 1e-12 <= low <= (gained - lost) / sum(counts) <= high <= 1 + 1e-12


def test_paired_interval_covers():
    """Over 2000 draws of 60 examples the 95 % interval covers in at least 93.5 % (3 Monte-Carlo deviations)."""
    cells = np.random.default_rng(0).multinomial(60, [0.8, 0.1, 0.06, 0.04], size=2000)
    inside = 0
    for both, lost, gained, neither in cells.tolist():
        low, high = paired_interval(both, lost, gained, neither)
        inside += low <= -0.04 <= high

    assert inside / 2000 >= 0.935


def test_class_changes_add_up(toy):
    """Per-class figures are those of each evaluation, and their weighted sum is the change of the accuracy."""
    gen = torch.Generator().manual_seed(0)
    data = toy(torch.randn(300, 5, generator=gen), torch.randint(0, 3, (300,), generator=gen))
    first, second = nn.Linear(5, 4), nn.Linear(5, 4)
    before, after = evaluate(first, data), evaluate(second, data)
    changes = class_changes(before, after)

    assert [c.name for c in changes] == ["0", "1", "2"]
    assert [c.before for c in changes] == pytest.approx([c.accuracy for c in before.per_class[:3]])
    assert [c.after for c in changes] == pytest.approx([c.accuracy for c in after.per_class[:3]])
    total = sum(c.points * c.count for c in changes) / 300
    assert total == pytest.approx(after.accuracy - before.accuracy)
    assert total == pytest.approx(-paired_drop(before, after).points)
    assert all(c.low <= c.points <= c.high for c in changes)


def test_unpaired_comparisons_are_refused(toy):
    """Evaluations of different examples, and impossible confidences, are refused."""
    right = torch.ones(5, dtype=torch.bool)
    one = evaluate(nn.Identity(), toy(torch.eye(2), torch.tensor([0, 1])))
    other = evaluate(nn.Identity(), toy(torch.eye(2), torch.tensor([1, 0])))

    with pytest.raises(DataError, match="different labels"):
        paired_drop(one, other)
    with pytest.raises(DataError, match=r"\(5,\).*\(4,\)"):
        paired_drop(right, right[:4])
    with pytest.raises(DataError, match="no share"):
        wilson(3, 2)
    for confidence in (0.4, 1.0, float("nan")):
        with pytest.raises(SettingsError, match="confidence"):
            paired_drop(right, right, confidence=confidence)


def test_groups_widen_the_bound_by_the_cluster_robust_formula() -> None:
    """Examples of few persons: the error is that of persons, with Student's quantile, and never below that of examples."""
    generator = torch.Generator().manual_seed(0)
    groups = torch.arange(6).repeat_interleave(50)
    before = torch.rand(300, generator=generator) < 0.9
    after = before & ~((groups == 2) & (torch.rand(300, generator=generator) < 0.4))

    drop = paired_drop(before, after, groups=groups)

    d = before.double() - after.double()
    sums = torch.stack([(d[groups == g] - d.mean()).sum() for g in range(6)])
    error = float((6 / 5 * (sums**2).sum()).sqrt()) / 300
    assert math.isclose(drop.standard_error, 100 * error)
    assert math.isclose(drop.upper, 100 * (float(d.mean()) + 2.015048372669157 * error))
    assert drop.upper > paired_drop(before, after).upper


def test_independent_groups_of_one_change_little() -> None:
    """Where every example is its own group the cluster-robust error is the paired one, up to n/(n-1)."""
    before = torch.tensor([True] * 90 + [False] * 10)
    after = before.roll(3)

    alone, grouped = paired_drop(before, after), paired_drop(before, after, groups=torch.arange(100))

    assert math.isclose(grouped.standard_error, alone.standard_error * math.sqrt(100 / 99))


def test_one_group_alone_is_refused() -> None:
    """Of one person nothing can be said about others."""
    with pytest.raises(DataError, match="one group"):
        paired_drop(
            torch.ones(4, dtype=torch.bool), torch.ones(4, dtype=torch.bool), groups=torch.zeros(4).long()
        )


def judged(toy, right, targets):
    """The evaluation of a network of two classes that is right on these examples."""
    answers = torch.where(right, targets, 1 - targets)
    return evaluate(nn.Identity(), toy(nn.functional.one_hot(answers, 2).float(), targets))


def test_groups_widen_each_class_by_the_cluster_robust_formula(toy) -> None:
    """A class whose losses are one person's gets that person's interval; one without losses keeps its own."""
    targets, groups = torch.arange(300) % 2, torch.arange(6).repeat_interleave(50)
    right = torch.ones(300, dtype=torch.bool)
    before, after = judged(toy, right, targets), judged(toy, ~((groups == 2) & (targets == 1)), targets)

    alone, grouped = class_changes(before, after), class_changes(before, after, groups=groups)

    changes = torch.tensor(
        [0.0, 0.0, -1.0, 0.0, 0.0, 0.0], dtype=torch.float64
    )  # of six persons of 25 examples
    reach = (
        2.570581835636314 * float(changes.std()) / math.sqrt(6)
    )  # Student's quantile of 5 degrees of freedom
    assert grouped[0] == alone[0]
    assert grouped[1].low == pytest.approx(100 * (-1 / 6 - reach))
    assert grouped[1].high == pytest.approx(100 * (-1 / 6 + reach))
    assert grouped[1].low < alone[1].low < alone[1].high < grouped[1].high


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 10_000), persons=st.integers(1, 8))
def test_groups_never_narrow_a_class(toy, seed, persons) -> None:
    """Whoever the examples are from, an interval of groups holds that of independent examples, within -100 to 100."""
    gen = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, 2, (40,), generator=gen)
    groups = torch.randint(0, persons, (40,), generator=gen)
    before, after = (judged(toy, torch.rand(40, generator=gen) < 0.7, targets) for _ in range(2))

    for alone, grouped in zip(
        class_changes(before, after), class_changes(before, after, groups=groups), strict=True
    ):
        assert -100 - 1e-9 <= grouped.low <= alone.low
        assert alone.high <= grouped.high <= 100 + 1e-9
        assert (grouped.points, grouped.count) == (alone.points, alone.count)


def test_a_class_of_one_group_may_have_changed_by_anything(toy) -> None:
    """Of a class that only one person shows, nothing is known for others; groups of other examples are refused."""
    targets = torch.tensor([0, 0, 0, 1, 1, 1])
    right = torch.ones(6, dtype=torch.bool)
    found = judged(toy, right, targets)

    many, one = class_changes(found, found, groups=torch.tensor([0, 1, 2, 5, 5, 5]))

    assert (one.low, one.high) == (-100, 100)
    assert -100 < many.low < many.high < 100
    with pytest.raises(DataError, match="6 examples but groups"):
        class_changes(found, found, groups=torch.zeros(5).long())
