"""Studies whose cells cut units, kernels or single weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from secateur.errors import RunError, SettingsError
from secateur.evaluate import evaluate
from secateur.methods import Point
from secateur.report.study import render_study
from secateur.store import load, load_masks
from secateur.studies import CellResult, Study, Watcher, check, compare, points_of, results_in, verdicts
from secateur.surgery import mask

ROOT = Path(__file__).parents[2]
STUDY = {
    "networks": "digits-net", "data": "digits", "seeds": [0], "train": {"epochs": 1}, "judge_examples": 100,
    "experiment": [
        {
            "name": "granularity", "compare": "granularity", "granularity": ["unit", "kernel", "weight"], "criterion": "l1",
            "retrain": "network", "iterations": 2, "step": 0.45,
        },
        {"name": "weights", "granularity": "weight", "criterion": "magnitude", "step": 0.45, "scope": "conv2"},
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("study") / "run"
    compare(Study(**STUDY), out=path)
    return path


def test_cells_of_units_have_the_names_that_they_had() -> None:
    """What was run before there were other granularities is found again."""
    first = Study.read(ROOT / "studies" / "small.toml").cells()[0]

    assert first.key == "taylor-network-seed0-5c5a6488"
    assert first.base_key == "digits-net-digits-seed0-49c29f3e"


def test_cells_of_each_granularity_are_cells_of_their_own() -> None:
    """They share the unreduced network."""
    cells = Study(**STUDY).cells()

    assert len({cell.key for cell in cells}) == len(cells) == 3 + 2
    assert len({cell.base_key for cell in cells}) == 1


def test_a_study_that_was_begun_before_goes_on(tmp_path: Path) -> None:
    """The file of one that knows of units alone says nothing of granularity, and it is the same study all the same."""
    study = Study(
        networks="digits-net", data="digits", seeds=[0], train={"epochs": 1},
        experiment=[{"name": "q", "criterion": "l1", "step": 0.5, "until": 0.5}],
    )  # fmt: skip
    compare(study, out=tmp_path / "run")
    file = tmp_path / "run" / "run.toml"
    text = file.read_text()
    assert 'granularity = ["unit"], ' in text
    file.write_text(text.replace('granularity = ["unit"], ', ""))

    class Nothing(Watcher):
        def started(self, cell) -> None:
            raise AssertionError(f"{cell.key} is run again")

    assert all(result.done for result in compare(study, out=tmp_path / "run", resume=True, watcher=Nothing()))
    other = Study(**{**study.model_dump(), "seeds": [1]})
    with pytest.raises(RunError, match="another study"):
        compare(other, out=tmp_path / "run", resume=True)


def test_every_cell_has_its_curve_network_and_masks(folder: Path) -> None:
    """A masked network is kept with its masks, its figures count what they leave, and so are those from scratch."""
    study, results = results_in(folder)
    data = check(study)["digits"]

    assert all(result.done for result in results), [result.reason for result in results]
    for result in results:
        cell = folder / "cells" / result.cell.key
        model, figures = load(cell / "model.safetensors"), result.figures
        assert evaluate(model, data.test).accuracy == figures["kept_test_accuracy"]
        assert ("scratch_test_accuracy" in figures) == ("granularity" in result.cell.experiments)
        assert result.points[0].parameters == figures["base_parameters"]
        if result.cell.settings.granularity == "unit":
            assert not (cell / "masks.safetensors").exists()
            continue
        masks = load_masks(cell / "masks.safetensors")
        masked = mask(model, masks)
        assert all((masked.get_parameter(n) == p).all() for n, p in model.named_parameters())
        assert figures["kept_parameters"] == figures["base_parameters"] - (masks.total - masks.left)
    rows = list(points_of(results))
    assert {row["granularity"] for row in rows} == {"unit", "kernel", "weight"}


def test_the_page_says_what_went(folder: Path) -> None:
    """Curves are drawn along units, kernels or weights, whichever a panel shows."""
    page = render_study(*results_in(folder))

    assert "Accuracy, % by units or kernels or weights removed, %" in page
    assert "Accuracy, % by weights removed, %" in page
    assert "Mean accuracy over the curves along parameters removed, granularity by granularity" in page


def test_granularities_are_compared_along_parameters() -> None:
    """Half of the units are not half of the weights: curves that agree at equal sizes are found equal."""
    study = Study(
        networks="digits-net", data="digits", seeds=[0, 1, 2],
        experiment=[{"name": "q", "compare": "granularity", "granularity": ["unit", "weight"], "criterion": "random"}],
    )  # fmt: skip
    results = []
    for cell in study.cells():
        gone = np.linspace(0, 0.9, 10)
        left = (1 - gone) ** 2 if cell.settings.granularity == "unit" else 1 - gone
        points = [
            Point(i, 0, float(share), round(10_000 * size), 9, 100 * float(size), 0.0, 0)
            for i, (share, size) in enumerate(zip(gone, left, strict=True))
        ]
        results.append(CellResult(cell, tuple(points)))

    (found,) = verdicts(study, results)

    assert found.what == "mean accuracy over the curve, by parameters removed"
    assert found.points == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(
    ("experiment", "words"),
    [
        ({"granularity": "weight", "criterion": "activation"}, "experiment 'q'.*scores whole units"),
        (
            {"granularity": ["unit", "weight"], "criterion": "magnitude", "compare": "granularity"},
            "not units",
        ),
        ({"granularity": "weights"}, "granularity"),
    ],
)
def test_what_a_criterion_cannot_score_is_refused(experiment: dict, words: str) -> None:
    """When the study is read, with the reason."""
    with pytest.raises(SettingsError, match=words):
        Study(networks="digits-net", data="digits", experiment=[{"name": "q", **experiment}])


def test_an_unknown_criterion_or_layer_is_refused_before_anything_runs(tmp_path: Path) -> None:
    """Layers are those whose weights take part: the output layer is one, a norm is not."""
    for change, words in (
        ({"criterion": ["best"]}, "does not exist for single weights"),
        ({"scope": "norm2"}, "norm2.*out"),
    ):
        study = Study(
            networks="digits-net", data="digits",
            experiment=[{"name": "q", "granularity": "weight", "criterion": "taylor", **change}],
        )  # fmt: skip
        with pytest.raises(SettingsError, match=words):
            compare(study, out=tmp_path / "run")
        assert not (tmp_path / "run").exists()


def test_magnitude_needs_no_second_name_as_a_control() -> None:
    """Where magnitude is compared, random alone is added; of units and without it, both controls."""
    levels = [experiment.levels()["criterion"] for experiment in Study(**STUDY).experiment]
    assert levels == [("l1",), ("magnitude", "random")]
    assert json.loads(json.dumps(levels[1])) == ["magnitude", "random"]
