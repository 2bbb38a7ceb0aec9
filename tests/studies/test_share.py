"""Studies of how much can go within a bound."""

from __future__ import annotations

from pathlib import Path

import pytest

from secateur.errors import SettingsError
from secateur.report.study import render_study
from secateur.studies import SHARE, Study, cells_of, compare, results_in, share_within, verdicts

WEIGHTS = {
    "name": "weights", "criterion": ["magnitude", "random"], "granularity": "weight", "scope": ["conv2", "out"],
    "measure": "share", "search": "bisection", "max_drop": 5.0, "recompute": 0, "step": 0.01, "until": 0.99,
    "printed": {"conv2": {"magnitude": 47.25}},
}  # fmt: skip
UNITS = {
    "name": "units", "criterion": ["l1"], "scope": "conv3", "measure": "share", "max_drop": 5.0, "step": 4, "until": 0.95,
}  # fmt: skip


def study(*experiments, **changes) -> Study:
    options = {
        "networks": "digits-net",
        "data": "digits",
        "seeds": [0, 1],
        "train": {"epochs": 3},
        "judge_examples": 100,
    }
    return Study(**{**options, **changes}, experiment=list(experiments))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("share") / "run"
    compare(study(WEIGHTS, UNITS), out=path)
    return path


def test_the_answer_is_in_points_of_what_can_go(folder: Path) -> None:
    """The share of each cell is the largest within the bound; magnitudes leave more room than chance."""
    found, results = results_in(folder)
    answers = {one.experiment: one for one in verdicts(found, results) if not one.within}

    assert {one.what for one in answers.values()} == {SHARE}
    own = {
        (r.cell.seed, r.cell.settings.scope, r.cell.settings.criterion): r.points
        for r in results
        if "weights" in r.cell.experiments
    }
    gaps = [
        share_within(points, 5.0) - share_within(own[seed, scope, "random"], 5.0)
        for (seed, scope, criterion), points in own.items()
        if criterion == "magnitude"
    ]
    assert answers["weights"].points == pytest.approx(sum(gaps) / len(gaps))
    assert answers["weights"].points > 0


def test_a_cell_ends_at_the_bound_or_looks_for_it(folder: Path) -> None:
    """Steps stop as soon as it is broken; a bisection takes few looks, in order of what they cut."""
    _, results = results_in(folder)
    for result in results:
        first, accuracies = result.points[0].accuracy, [point.accuracy for point in result.points]
        assert [point.removed for point in result.points] == sorted(point.removed for point in result.points)
        if "units" in result.cell.experiments:
            assert all(first - one <= 5.0 + 1e-9 for one in accuracies[:-1])
        else:
            assert len(result.points) < 35
        assert result.figures["kept_parameters"] == min(
            point.parameters for point in result.points if first - point.accuracy <= 5.0 + 1e-9
        )


def test_tables_and_page_say_the_share_and_what_was_printed(folder: Path) -> None:
    """A column of the cells' table, and a table on the page."""
    found, results = results_in(folder)
    for row, result in zip(cells_of(results), results, strict=True):
        assert row["share_within"] == pytest.approx(share_within(result.points, 5.0), abs=1e-4)
    page = render_study(found, results)
    assert "(47.2)" in page or "(47.3)" in page
    assert "% that can go within 5 points" in page


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"max_drop": None}, "within which bound"),
        ({"measure": "accuracy"}, 'measure = "share"'),
        ({"recompute": 1}, "recompute=0"),
        ({"printed": {"conv9": {"magnitude": 1.0}}}, "printed values of 'conv9'"),
        ({"printed": {"conv2": {"magnitudes": 1.0}}}, "for 'magnitudes'"),
        ({"search": "halving"}, "'search'"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(changes, said) -> None:
    """With the experiment's name and what to do."""
    with pytest.raises(SettingsError, match=said):
        study({**WEIGHTS, **changes})


def test_where_there_is_no_block_the_study_says_that_the_network_was_retrained(tmp_path: Path) -> None:
    """On the page and in the table, and after it is read again."""
    asked = study(
        {"name": "b", "criterion": ["l1"], "retrain": ["block"], "iterations": [2], "step": 0.4, "until": 0.8, "scratch": False},
        seeds=[0],
        train={"epochs": 1},
    )  # fmt: skip
    compare(asked, out=tmp_path / "run")
    found, results = results_in(tmp_path / "run")
    said = next(note for result in results for note in result.notes)
    assert said.startswith("the whole network was retrained: there is no block around")
    assert said in render_study(found, results).replace("&#39;", "'")
    assert {row["notes"] for row in cells_of(results)} >= {said}
