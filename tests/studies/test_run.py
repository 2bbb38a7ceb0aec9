"""Running a study: folders, going on, failing, tables."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from secateur import data
from secateur.errors import DataError, MissingDataError, RunError, SettingsError, UnknownNetworkError
from secateur.evaluate import evaluate
from secateur.store import load, read_description
from secateur.studies import Study, Watcher, cells_of, check, compare, results_in, verdicts, write_tables
from secateur.studies import run as run_file


def plain(results) -> list:
    """All but the time."""
    return [(one.cell.key, one.points, one.reason, dict(one.figures)) for one in results]


@pytest.fixture(scope="module")
def study(small) -> Study:
    return small()


@pytest.fixture(scope="module")
def folder(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("study") / "run"
    compare(study, out=path)
    return path


def test_every_cell_has_its_curve_figures_and_network(study: Study, folder: Path) -> None:
    """Figures are those of the network in the cell's folder; the control from scratch is there where it was asked for."""
    again, results = results_in(folder)

    assert again == study
    assert [one.cell.key for one in results] == [cell.key for cell in study.cells()]
    splits = data.load("digits")
    for one in results:
        model = load(folder / "cells" / one.cell.key / "model.safetensors")
        assert sum(p.numel() for p in model.parameters()) == one.figures["kept_parameters"]
        assert evaluate(model, splits.test).accuracy == one.figures["kept_test_accuracy"]
        smaller = one.figures["kept_parameters"] < one.figures["base_parameters"]
        assert ("scratch_test_accuracy" in one.figures) == (
            one.cell.settings.retrain == "network" and smaller
        )
        assert one.points[0].parameters == one.figures["base_parameters"] == 40_618


def test_a_killed_study_that_goes_on_has_the_same_table(study: Study, folder: Path, tmp_path: Path) -> None:
    """Killed within a cell and within the training of a network; nothing that is done is done again."""

    class Killed(Watcher):
        def __init__(self, points: int, epochs: int) -> None:
            self.points, self.epochs, self.started_cells = points, epochs, 0

        def point(self, point) -> None:
            self.points -= 1
            if self.points == 0:
                raise KeyboardInterrupt

        def epoch(self, record) -> None:
            self.epochs -= 1
            if self.epochs == 0:
                raise KeyboardInterrupt

        def started(self, cell) -> None:
            self.started_cells += 1

    path = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        compare(study, out=path, watcher=Killed(99, 2))
    with pytest.raises(KeyboardInterrupt):
        compare(study, out=path, resume=True, watcher=Killed(7, 99))
    last = Killed(999, 999)
    found = compare(study, out=path, resume=True, watcher=last)

    assert last.started_cells == len(found) - 1
    assert plain(found) == plain(results_in(folder)[1])


def test_a_cell_that_fails_stops_no_other_and_is_tried_again(
    study: Study, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its reason is kept; going on runs it alone."""
    stepwise = run_file.stepwise

    def failing(model, splits, settings, **options):
        if settings.criterion == "random":
            raise ZeroDivisionError("somebody's criterion")
        return stepwise(model, splits, settings, **options)

    path = tmp_path / "run"
    monkeypatch.setattr(run_file, "stepwise", failing)
    found = compare(study, out=path)
    assert {one.reason for one in found if one.cell.settings.criterion == "random"} == {
        "ZeroDivisionError: somebody's criterion"
    }
    assert all(one.done for one in found if one.cell.settings.criterion == "l1")
    monkeypatch.undo()
    again = compare(study, out=path, resume=True)
    assert plain(again) == plain(results_in(folder)[1])


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        (
            {"scope": "conv9"},
            SettingsError,
            "experiment 'q': scope='conv9' is no layer of 'digits-net'.*conv1",
        ),
        ({"criterion": ["l1", "tayler"]}, SettingsError, "experiment 'q': no criterion is named 'tayler'"),
        (
            {"criterion": ["l1", "similarity"], "recompute": 0},
            SettingsError,
            "experiment 'q': criterion 'similarity'.*recompute = 1",
        ),
        (
            {"networks": ["digits-net", "lenet5"]},
            DataError,
            "network 'lenet5' on data 'digits': the network does",
        ),
        ({"networks": "lenet6"}, UnknownNetworkError, "network 'lenet6': no network is named"),
        ({"data": "digitz"}, DataError, "data set 'digitz': no data set is named"),
        ({"data": "mnist"}, MissingDataError, "data set 'mnist': "),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(small, tmp_path: Path, options, error, words) -> None:
    """By a check and by a run alike; what is wrong is named, and no folder is left."""
    parts = {key: options.pop(key) for key in ("networks", "data") if key in options}
    wrong = small(**parts, experiment=[{"name": "q", "criterion": "l1", **options}])
    with pytest.raises(error, match=words):
        check(wrong, data_dir=tmp_path)
    with pytest.raises(error, match=words):
        compare(wrong, out=tmp_path / "run", data_dir=tmp_path)
    assert not (tmp_path / "run").exists()


def test_a_folder_of_another_study_is_refused(small, study: Study, folder: Path, tmp_path: Path) -> None:
    """It stays as it is."""
    other = small(seeds=[5])
    with pytest.raises(RunError, match="another study"):
        compare(other, out=folder, resume=True)
    with pytest.raises(RunError, match="already holds a run"):
        compare(study, out=folder)
    with pytest.raises(RunError, match="holds no run"):
        results_in(tmp_path)


def test_tables_are_tidy(folder: Path, tmp_path: Path) -> None:
    """A row a point and a row a cell, in both formats."""
    pq = pytest.importorskip("pyarrow.parquet", reason="pip install 'secateur[study]'")
    study, results = results_in(folder)
    files = {file.name: file for file in write_tables(study, results, tmp_path)}

    assert set(files) == {
        f"{name}.{kind}" for name in ("points", "cells", "answers") for kind in ("csv", "parquet")
    }
    with files["points.csv"].open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert (
        len(rows)
        == sum(len(one.points) for one in results)
        == pq.read_table(files["points.parquet"]).num_rows
    )
    cells = pq.read_table(files["cells.parquet"]).to_pylist()
    assert json.dumps(cells) == json.dumps(list(cells_of(results)))
    assert {row["criterion"] for row in rows} == {"l1", "random"}
    answers = pq.read_table(files["answers.parquet"]).to_pylist()
    assert [row["answer"] for row in answers] == [str(one) for one in verdicts(study, results)]


def test_tables_have_four_decimals(folder: Path, tmp_path: Path) -> None:
    """Enough for every difference that means something; what is counted stays whole."""
    study, results = results_in(folder)
    write_tables(study, results, tmp_path)

    for name in ("points.csv", "cells.csv"):
        with (tmp_path / name).open(encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        for row in rows:
            for key, value in row.items():
                if "accuracy" in key or key in ("loss", "share"):
                    assert len(value.partition(".")[2]) <= 4
                elif key.endswith(("parameters", "macs")):
                    assert "." not in value


@pytest.mark.parametrize("network", ["digits-net", "secateur.networks.small:digits_net"])
def test_outputs_are_those_of_the_data(small, tmp_path, network) -> None:
    """A study's network has an output for each class of its data, whatever it has by itself, also when the run goes on."""
    two = tmp_path / "two"
    two.mkdir()
    for part in ("train", "test"):
        x = np.random.default_rng(0).normal(size=(60, 1, 8, 8)).astype("float32")
        np.savez(two / f"{part}.npz", x=x, y=np.arange(60) % 2)
    study = small(
        networks=network, data=str(two), seeds=[0], train={"epochs": 1}, judge_examples=None,
        experiment=[{"name": "q", "criterion": ["l1", "random"], "step": 0.5, "until": 0.5}],
    )  # fmt: skip

    compare(study, out=tmp_path / "run")
    compare(study, out=tmp_path / "run", resume=True)

    kept = [file for file in (tmp_path / "run").rglob("*.safetensors") if file.name == "model.safetensors"]
    assert len(kept) == 3
    assert {read_description(file).origin.arguments["classes"] for file in kept} == {2}
