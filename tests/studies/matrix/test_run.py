"""A matrix is run: what it measures, what cells share, and that it goes on where it stopped."""

from __future__ import annotations

import csv
import math
import sys
from typing import Any

import pytest
import torch

from secateur import data
from secateur.errors import DataError, FileFormatError, ModelError, RunError
from secateur.evaluate import Measured, evaluate
from secateur.export import open_file
from secateur.report import render_matrix, savings_of
from secateur.store import load
from secateur.studies import Matrix, MatrixWatcher, measure, measurements_in, write_matrix_tables

CALM = {"lr": 1e-3, "lr_end": 1e-4}
MATRIX: dict[str, Any] = {
    "name": "A <small> one",
    "networks": "digits-net",
    "data": "digits",
    "target": "torch",
    "runs": 5,
    "train": {"epochs": 4},
    "pruning": {"epochs": 2, "training": CALM},
    "treatment": [
        {"name": "trained"},
        {"name": "sparse", "sparsity": 0.6},
        {"name": "sparse, coded", "sparsity": 0.6, "compress": "deep-compression", "coding": {"training": {"epochs": 1}}},
        {"name": "narrow", "sparsity": 0.5, "granularity": "units"},
    ],
    "source": "a book",
    "printed": {"digits-net": {"sparse": {"accuracy": 12.34}}},
}  # fmt: skip
TIMES = {"milliseconds", "cpu_milliseconds", "time_ratio", "memory", "own_memory"}


class Stopping(MatrixWatcher):
    """Stops as if Ctrl-C were pressed when so many epochs were trained."""

    def __init__(self, after: int) -> None:
        self.left = after

    def epoch(self, record):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    folder = tmp_path_factory.mktemp("matrix") / "run"
    return folder, measure(Matrix(**MATRIX), out=folder)


def test_what_is_measured_is_the_file(ran):
    """Each figure can be had again from the files that are kept; zeros, sizes and classes add up."""
    folder, results = ran
    digits = data.load("digits")
    assert [one.cell.treatment.name for one in results] == ["trained", "sparse", "sparse, coded", "narrow"]
    assert all(one.done for one in results), [one.reason for one in results]
    trained, sparse, coded, narrow = results
    for one in results:
        path = folder / "cells" / one.cell.key
        file = path / "model-float32.pt2"
        again = evaluate(open_file(file, allow=["torch"]), digits.test)
        assert again.accuracy == one.row["accuracy"]
        assert file.stat().st_size == one.row["bytes"]
        assert one.row["drop"] == pytest.approx(trained.row["accuracy"] - one.row["accuracy"])
        assert one.row["drop_lower"] <= one.row["drop"] <= one.row["drop_upper"]
        mean = sum(change["points"] for change in one.classes.values()) / 10
        assert math.isclose(mean, -one.row["drop"], abs_tol=1.5)
    assert trained.row["drop"] == 0
    assert trained.row["time_ratio"] == 1
    assert sparse.row["sparsity"] == pytest.approx(60, abs=0.1)
    assert sparse.row["parameters"] == trained.row["parameters"] > sparse.row["nonzero"]
    assert narrow.row["parameters"] < 0.6 * trained.row["parameters"]
    assert narrow.row["macs"] < trained.row["macs"]
    assert narrow.row["bytes"] < trained.row["bytes"]
    assert coded.row["coded"] < sparse.row["gzip"]
    kept = load(folder / "cells" / coded.cell.key / "model.secateur").eval()
    assert evaluate(kept, digits.test).accuracy == coded.row["accuracy"]


def test_treatments_of_the_same_pruning_share_it(ran):
    folder, results = ran
    assert len(list((folder / "cuts").iterdir())) == 2
    assert len(list((folder / "bases").iterdir())) == 1
    assert results[1].cell.cut_key == results[2].cell.cut_key


@pytest.fixture
def untimed(monkeypatch):
    """Files are not timed: their processes take longer than all else, and times are not compared."""
    module = sys.modules[measure.__module__]

    def timed(files, **options):
        quantiles = {0.5: 1.0}
        one = Measured(files[0].path, 1, quantiles, quantiles, 1.0, 1.0, 1.0, 1.0, 1, 1, 0, 0, (1, 8, 8))
        return (one,) * len(files)

    monkeypatch.setattr(module, "measure_processes", timed)


@pytest.mark.usefixtures("untimed")
@pytest.mark.parametrize("after", [2, 5, 7])
def test_one_that_was_stopped_ends_the_same(ran, tmp_path, after):
    """Inside the training, inside a pruning, inside the coding: what is measured afterwards is the same, times aside."""
    _, results = ran
    whole = results[: 3 if after == 7 else 2]
    matrix = Matrix(**{**MATRIX, "treatment": MATRIX["treatment"][: len(whole)]})
    with pytest.raises(KeyboardInterrupt):
        measure(matrix, out=tmp_path / "run", watcher=Stopping(after))
    again = measure(matrix, out=tmp_path / "run", resume=True)
    for one, other in zip(again, whole, strict=True):
        assert {key: v for key, v in one.row.items() if key not in TIMES} == {
            key: v for key, v in other.row.items() if key not in TIMES
        }
        assert one.classes == other.classes


def test_tables_and_page(ran, tmp_path):
    """A row a cell and a row a class; the page has what was printed elsewhere, and escapes what it is given."""
    folder, _ = ran
    matrix, results = measurements_in(folder)
    files = write_matrix_tables(matrix, results, tmp_path)
    with (tmp_path / "cells.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 4
    assert rows[1]["printed_accuracy"] == "12.34"
    assert rows[2]["coded"]
    assert not rows[1]["coded"]
    with (tmp_path / "classes.csv").open() as stream:
        assert len(list(csv.DictReader(stream))) == 4 * 10
    assert tmp_path / "cells.csv" in files
    page = render_matrix(matrix, results)
    assert "A &lt;small&gt; one" in page
    assert "(12.34)" in page
    assert "In brackets: a book." in page
    assert "4 of 4 cells done" in page
    assert any("the coded file is" in one for one in savings_of(matrix, results))
    assert page == render_matrix(matrix, results)


def test_a_cell_that_fails_stops_no_other(tmp_path, monkeypatch):
    """The reason is kept and shown; with resume it is tried again."""
    from secateur.studies import measure as function

    module = __import__(function.__module__, fromlist=["gradual"])
    real = module.gradual

    def broken(*args, **options):
        raise ModelError("no luck today")

    matrix = Matrix(**{**MATRIX, "train": {"epochs": 1}, "treatment": MATRIX["treatment"][:2]})
    monkeypatch.setattr(module, "gradual", broken)
    results = measure(matrix, out=tmp_path / "run")
    assert [one.done for one in results] == [True, False]
    assert results[1].reason == "no luck today"
    assert "sparse failed: no luck today" in render_matrix(matrix, results)
    monkeypatch.setattr(module, "gradual", real)
    assert all(one.done for one in measure(matrix, out=tmp_path / "run", resume=True))


@pytest.mark.usefixtures("untimed")
def test_nothing_is_compared_with_an_untreated_network_that_failed(tmp_path, monkeypatch):
    """Without its file there is nothing beside which to take times, and no saving to tell; with resume all is done."""
    module = sys.modules[measure.__module__]
    real, calls = module.export, []

    def broken_once(*args, **options):
        calls.append(args)
        if len(calls) == 1:
            raise FileFormatError("the file cannot be opened")
        return real(*args, **options)

    matrix = Matrix(**{**MATRIX, "train": {"epochs": 1}, "treatment": MATRIX["treatment"][:2]})
    monkeypatch.setattr(module, "export", broken_once)
    results = measure(matrix, out=tmp_path / "run")
    assert results[0].reason == "the file cannot be opened"  # the cell's fault, not the disk's
    assert "the untreated network's file" in results[1].reason
    assert savings_of(matrix, results) == ()
    again = measure(matrix, out=tmp_path / "run", resume=True)
    assert all(one.done for one in again), [one.reason for one in again]


def test_a_folder_of_another_matrix_is_refused(ran):
    folder, _ = ran
    with pytest.raises(RunError, match="another study"):
        measure(Matrix(**{**MATRIX, "runs": 6}), out=folder, resume=True)


def test_a_network_that_does_not_fit_is_named_before_anything_runs(tmp_path):
    with pytest.raises(DataError, match="network 'lenet5'"):
        measure(
            Matrix(**{**MATRIX, "networks": ["digits-net", "lenet5"], "printed": {}}), out=tmp_path / "run"
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("untimed")
@pytest.mark.parametrize("mode", ["int8", "qat"])
def test_int8_of_a_pruned_network_keeps_its_zeros(tmp_path, mode):
    """What is zero is zero in the int8 file's network, also where that was trained on."""
    pytest.importorskip("litert_torch", reason="pip install 'secateur[litert]'")
    torch.manual_seed(0)
    matrix = Matrix(
        **{
            **MATRIX, "target": "litert", "quantising": {"epochs": 1},
            "treatment": [{"name": "trained"}, {"name": "it", "sparsity": 0.6, "mode": mode}], "printed": {},
        }
    )  # fmt: skip
    trained, it = measure(matrix, out=tmp_path / "run")
    assert (trained.reason, it.reason) == ("", "")
    assert it.row["sparsity"] >= 59.9
    assert it.row["bytes"] < 0.5 * trained.row["bytes"]
    assert it.row["gzip"] < it.row["bytes"]
