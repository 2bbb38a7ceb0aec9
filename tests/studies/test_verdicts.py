"""What a study answers."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from secateur.methods import Point
from secateur.report.study import render_study
from secateur.studies import KEPT, SHARE_OF_PARAMETERS, CellResult, Comparison, Study, area, verdicts
from secateur.studies.table import FIGURES


def curve(*accuracies: float) -> tuple[Point, ...]:
    """Points at equal shares from none to nine tenths of the units."""
    shares = np.linspace(0, 0.9, len(accuracies))
    return tuple(
        Point(step, 0, float(share), 100, 100, accuracy, 0.0, 0)
        for step, (share, accuracy) in enumerate(zip(shares, accuracies, strict=True))
    )


def results(study: Study, height: Mapping[tuple[str, int], float]) -> list[CellResult]:
    return [
        CellResult(cell, curve(*[height[cell.settings.criterion, cell.seed]] * 4)) for cell in study.cells()
    ]


def made(seeds: int, **options) -> Study:
    return Study(
        networks="digits-net", data="digits", seeds=list(range(seeds)),
        experiment=[
            {"name": "q", "criterion": ["l1", "random"], "scope": ["conv2", "conv3"], "until": 0.9, **options}
        ],
    )  # fmt: skip


def overall(study: Study, found: list[CellResult]) -> list[Comparison]:
    """The answers over all settings."""
    return [one for one in verdicts(study, found) if not one.within]


def test_the_area_is_the_mean_height() -> None:
    """Of a straight line the middle; a curve that ended early stays as it ended."""
    assert area(curve(100.0, 10.0), 0.9) == pytest.approx(55.0)
    assert area(curve(100.0, 10.0)[:1], 0.9) == 100.0
    assert area(curve(90.0, 90.0, 30.0), 0.45) == pytest.approx(90.0)


def test_a_difference_is_that_of_students_t() -> None:
    """Paired over seeds, after the mean over layers; the interval and p are scipy's."""
    study = made(4)
    height = {("l1", s): 90.0 + s for s in range(4)} | {("random", s): 60.0 - 2 * s for s in range(4)}

    (found,) = overall(study, results(study, height))

    differences = [height["l1", s] - height["random", s] for s in range(4)]
    wanted = ttest_1samp(differences, 0.0)
    interval = wanted.confidence_interval(0.95)
    assert found.points == pytest.approx(np.mean(differences))
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.p == pytest.approx(wanted.pvalue)
    assert (found.seeds, found.settings, found.found) == (4, 2, True)
    assert str(found).startswith("l1 is better than random: 34.50 points")


def test_no_difference_is_said_where_there_is_none() -> None:
    """An interval that holds zero."""
    study = made(3)
    height = {("l1", s): 90.0 for s in range(3)} | {("random", s): 89.0 + s for s in range(3)}

    (found,) = overall(study, results(study, height))

    assert not found.found
    assert str(found).startswith("no difference found between l1 and random: +0.00 points")


def test_a_single_seed_says_nothing_about_others() -> None:
    """There is no interval, and that is said."""
    study = made(1)
    (found,) = overall(study, results(study, {("l1", 0): 90.0, ("random", 0): 50.0}))
    assert math.isnan(found.p)
    assert not found.found
    assert "single seed" in str(found)


def test_many_comparisons_are_taken_together() -> None:
    """Holm: of three values with one clear difference, what is found is not each p below 0.05 by itself."""
    study = Study(
        networks="digits-net", data="digits", seeds=[0, 1, 2],
        experiment=[{"name": "q", "criterion": ["l1", "random", "l2"]}],
    )  # fmt: skip
    height = {("l1", 0): 90.0, ("l1", 1): 91.0, ("l1", 2): 92.0}
    height |= {("random", s): height["l1", s] - (20.0, 21.0, 22.5)[s] for s in range(3)}
    height |= {("l2", s): height["l1", s] - (1.0, 1.5, 2.1)[s] for s in range(3)}

    found = {(one.first, one.second): one for one in verdicts(study, results(study, height))}

    assert all(one.p < 0.05 for one in found.values())
    ordered = sorted(found.values(), key=lambda one: one.p)
    wanted = []
    for rank, one in enumerate(ordered):
        if one.p > 0.05 / (3 - rank):
            break
        wanted.append(one)
    assert [one for one in ordered if one.found] == wanted
    for one in found.values():
        assert ("may be better" in str(one)) is not one.found


def test_failed_cells_are_left_out_of_their_pair() -> None:
    """The other seeds still count."""
    study = made(3)
    height = {
        (c, s): 90.0 - 10 * (c == "random") + 0.1 * s * (c == "l1")
        for c in ("l1", "random")
        for s in range(3)
    }
    found = [
        CellResult(one.cell, one.points, "it failed")
        if one.cell.seed == 2 and one.cell.settings.criterion == "l1"
        else one
        for one in results(study, height)
    ]
    (answer,) = overall(study, found)
    assert answer.seeds == 2


def test_each_setting_has_an_answer_of_its_own() -> None:
    """What is better with one normalisation may be worse with another; the answer over both comes first."""
    study = made(3, scope="network", normalise=["none", "l2"])
    better = {"none": 10.0, "l2": -4.0}
    found = [
        CellResult(
            cell,
            curve(*[70.0 + 0.1 * cell.seed * (cell.settings.criterion == "l1") + sign] * 4),
        )
        for cell in study.cells()
        for sign in [better[cell.settings.normalise] * (cell.settings.criterion == "l1")]
    ]

    together, none, l2 = verdicts(study, found)

    assert (together.within, none.within, l2.within) == ("", "normalise none", "normalise l2")
    assert together.points == pytest.approx((none.points + l2.points) / 2)
    assert (together.settings, none.settings, none.seeds) == (2, 1, 3)
    assert str(none).startswith("normalise none: l1 is better than random: 10.10 points")
    assert str(l2).startswith("normalise l2: random is better than l1: 3.90 points")


def test_many_settings_are_answered_together_only() -> None:
    """Seven combinations would be a list that nobody reads; six are told one by one."""
    for steps, answers in ((3, 7), (4, 1)):
        study = made(2, step=list(range(1, steps + 1)))
        height = {(c, s): 50.0 + s * (c == "l1") for c in ("l1", "random") for s in (0, 1)}
        assert len(verdicts(study, results(study, height))) == answers


@pytest.mark.parametrize(
    ("options", "pair"),
    [
        ({"compare": "recompute", "recompute": [1, 3]}, ("recompute 1", "recompute 3")),
        ({"compare": "normalise", "normalise": ["none", "l2"]}, ("normalise none", "normalise l2")),
        ({"compare": "scope"}, ("conv2", "conv3")),
    ],
)
def test_values_say_of_what_they_are(options, pair) -> None:
    """A number, or "none", has the factor's name before it; criteria and layers need none."""
    study = made(1, **{"criterion": "l1", **options})
    first, *_ = verdicts(study, results(study, {("l1", 0): 90.0}))
    assert (first.first, first.second) == pair


def test_units_and_weights_compare_by_the_parameters_that_can_go() -> None:
    """A tenth of the units can be more parameters than half of the weights."""
    study = made(
        2, compare="granularity", granularity=["unit", "weight"], criterion="l1", measure="share", max_drop=1.0, recompute=0
    )  # fmt: skip
    first = Point(0, 0, 0.0, 100, 100, 90.0, 0.0, 0)
    went = {"unit": (0.1, 30), "weight": (0.5, 60)}  # the share of what goes, and the parameters left

    def points(granularity: str) -> tuple[Point, ...]:
        share, left = went[granularity]
        return first, Point(1, 1, share, left, 50, 89.5, 0.0, 0), Point(2, 2, 0.9, 10, 10, 10.0, 0.0, 0)

    figures = {name: 50.0 for name in FIGURES if not name.startswith("scratch")}
    cells = [CellResult(cell, points(cell.settings.granularity), figures=figures) for cell in study.cells()]
    (found,) = overall(study, cells)
    assert found.what == SHARE_OF_PARAMETERS
    assert found.points == pytest.approx(70.0 - 40.0)
    page = render_study(study, cells)
    assert "% of the parameters that can go within 1 point" in page
    assert ">70.0" in page
    assert ">40.0" in page


def test_seeds_that_are_all_alike_make_nothing_certain() -> None:
    """A figure that is too coarse to differ between seeds has no interval; equal figures are no difference."""
    study = made(2)
    (coarse,) = overall(
        study,
        results(study, {(c, s): 90.0 - 5.0 * (c == "random") for c in ("l1", "random") for s in (0, 1)}),
    )
    assert not coarse.found
    assert str(coarse) == "l1 and random: +5.00 points in each of 2 seeds, too alike to say how sure that is"
    (same,) = overall(study, results(study, {(c, s): 90.0 for c in ("l1", "random") for s in (0, 1)}))
    assert str(same).startswith("no difference found between l1 and random: +0.00 points")


def test_fewer_looks_are_no_better_curve() -> None:
    """Steps of two sizes through the same networks do not differ: they are compared where both looked."""
    study = made(2, criterion="l1", compare="step", step=[20, 40], until=0.9)
    accuracies = {0: 99.0, 20: 60.0, 40: 20.0, 60: 15.0, 80: 10.0}
    found = [
        CellResult(
            cell,
            tuple(
                Point(n, n, n / 88, 100 - n, 100 - n, accuracies[n] + cell.seed, 0.0, 0)
                for n in range(0, 81, int(cell.settings.step))
            ),
        )
        for cell in study.cells()
    ]
    (answer,) = overall(study, found)
    assert answer.points == pytest.approx(0.0)


def test_the_unreduced_network_is_compared_with_none_from_scratch() -> None:
    """Where nothing could go within the bound there is no small architecture."""
    study = made(2, scope="network", retrain="network", iterations=5)
    figures = {
        "base_parameters": 9.0,
        "kept_parameters": 9.0,
        "kept_test_accuracy": 99.0,
        "scratch_test_accuracy": 98.0,
    }
    found = [CellResult(cell, curve(90.0 + cell.seed, 80.0), figures=figures) for cell in study.cells()]
    assert all(one.what != KEPT for one in verdicts(study, found))
