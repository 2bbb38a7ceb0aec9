"""Whatever a model does, the coverage benchmark gets a row of it."""

import argparse
import importlib.util
import json
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import nn

import secateur

ROOT = Path(__file__).parents[2]
ROW_KEYS = {
    "status",
    "reason",
    "removable_share",
    "watch_s",
    "plan_s",
    "apply_s",
    "law_error",
    "forecast_equal",
    "params_before",
    "params_after",
}


@pytest.fixture(scope="module")
def beside():
    """What scripts see when they are run: their neighbours, here behind all libraries."""
    folder = str(ROOT / "benchmarks")
    sys.path.append(folder)
    yield
    sys.path.remove(folder)


@pytest.fixture(scope="module")
def coverage(beside):
    """The script; a library has the same name."""
    spec = importlib.util.spec_from_file_location("coverage_script", ROOT / "benchmarks" / "coverage.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def cell(beside):
    return importlib.import_module("_coverage_cell")


@pytest.fixture(scope="module")
def models(beside):
    return importlib.import_module("_coverage_models")


def options(**changed):
    names = {"family": None, "models": None, "limit": None, "arm": ["ours", "theirs"], "again": "none"}
    return argparse.Namespace(**{**names, **changed})


def run_cell(cell, entry, tmp_path):
    cell.main([entry.line, "secateur", str(tmp_path / "row.json")])
    return json.loads((tmp_path / "row.json").read_text(encoding="utf-8"))


def test_the_list_is_whole(models):
    """The list names every model that it promises, each once, with a size and an input."""
    pytest.importorskip("torchvision", exc_type=(ImportError, RuntimeError))
    timm = pytest.importorskip("timm", exc_type=(ImportError, RuntimeError))
    zoo = importlib.import_module("torchvision.models")

    entries = models.listed()
    specs = {entry.spec for entry in entries}
    families = Counter(entry.family.partition(".")[0] for entry in entries)

    assert len(specs) == len(entries)
    assert specs >= {
        f"torchvision:{name}"
        for module in (zoo, zoo.segmentation, zoo.video)
        for name in zoo.list_models(module=module)
    }
    assert {entry.family for entry in entries} >= {f"timm.{module}" for module in timm.list_modules()}
    assert families["timm"] >= 150
    assert {f"detector:{name}" for name in zoo.list_models(module=zoo.detection)} <= specs
    assert set(models.HUGGING_FACE) <= specs
    assert {"hf:bert-tiny", "hf:gpt2"} <= specs
    assert all(entry.parameters > 0 and entry.shape for entry in entries)


def test_a_line_is_an_entry(models):
    """What an entry writes into the list is read as the same entry."""
    entry = models.Entry("timm:vgg11", "timm.vgg", (3, 224, 224), 132863336)

    assert models.Entry.of(entry.line) == entry


def test_a_model_that_is_cut_gets_every_figure(cell, models, tmp_path):
    """A network that can be cut has a row with all figures, and each law was held."""
    row = run_cell(cell, models.Entry("lenet5", "own", (1, 28, 28), 61706), tmp_path)

    assert row.keys() >= ROW_KEYS
    assert row["status"] == "ok", row["reason"]
    assert row["law_error"] < 1e-9
    assert row["params_after"] < row["params_before"] == 61706
    assert row["forecast_equal"]
    assert row["file_equal"]
    assert row["turns"] == 3


def test_a_wrong_cut_is_told(cell, models, tmp_path, monkeypatch):
    """A cut that drops other channels than planned breaks the law, and the row says so."""
    cut = secateur.apply

    def wrong(model, plan, **how):
        small = cut(model, plan, **how)
        with torch.no_grad():
            next(m for m in small.modules() if isinstance(m, nn.Conv2d)).weight.neg_()
        return small

    monkeypatch.setattr(secateur, "apply", wrong)
    row = run_cell(cell, models.Entry("lenet5", "own", (1, 28, 28), 61706), tmp_path)

    assert row["status"] == "law broken"
    assert row["reason"].startswith("law 1")
    assert row["law_error"] > 1e-9


def test_attention_is_counted(cell):
    """A network's own attention counts with all its products, though PyTorch fuses them in eval mode."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    tokens, width, hidden = 5, 8, 16

    counted = cell.counted(layer, torch.randn(1, tokens, width))

    assert counted.macs == tokens * (4 * width**2 + 2 * width * hidden) + 2 * tokens**2 * width


def test_what_cannot_be_cut_says_why(cell, models, tmp_path):
    """A network without removable channels is a row with its reason."""
    row = run_cell(cell, models.Entry("torch.nn:Identity", "own", (4,), 0), tmp_path)

    assert row["status"] == "nothing to cut"
    assert "no group of channels is free" in row["reason"]


@pytest.mark.parametrize(
    ("spec", "limit", "told"),
    [
        ("torch.nn:Nothing", 120, "raises build: UnknownNetworkError: the network 'torch.nn:Nothing' cannot"),
        ("os:abort", 120, "raises build: the process was ended by SIGABRT"),
        ("lenet5", 0.01, "time start: took longer than 0.01 s"),
    ],
)
def test_a_process_that_fails_is_a_row(coverage, models, spec, limit, told):
    """An error, a crash and a hang become rows that say in which stage they came."""
    row = coverage.row_of(models.Entry(spec, "own", (1, 28, 28), 0), "secateur", limit=limit)

    assert f"{row['status']} {row['reason']}".startswith(told)
    assert "stage" not in row


def test_memory_has_a_limit(coverage, models):
    """A model that takes more memory than it may is a row, and the machine is left alone."""
    entry = models.Entry("torchvision:vgg11", "own", (3, 224, 224), 0)
    pytest.importorskip("torchvision", exc_type=(ImportError, RuntimeError))

    row = coverage.row_of(entry, "secateur", limit=120, memory=600_000_000)

    assert row["status"] == "raises"
    assert "allocate" in row["reason"] or "memory" in row["reason"].lower()


def test_rows_that_are_there_are_not_run_again(coverage, models):
    """Cells with a row are left out, unless they are asked for again; a limit counts models that are left."""
    entries = [models.Entry(f"timm:{name}", "timm.x", (1,), 1) for name in ("one", "two", "three")]
    rows = [
        {"model": "timm:one", "arm": "ours", "status": "ok"},
        {"model": "timm:one", "arm": "theirs", "status": "ok"},
        {"model": "timm:two", "arm": "ours", "status": "raises"},
    ]

    def cells(**changed):
        found = coverage.cells_of(entries, rows, options(**changed))
        return [(entry.spec.removeprefix("timm:"), arm) for entry, arm in found]

    assert cells() == [("two", "theirs"), ("three", "ours"), ("three", "theirs")]
    assert cells(limit=1) == [("two", "theirs")]
    assert cells(again="failed", arm=["ours"]) == [("two", "ours"), ("three", "ours")]
    assert cells(again="all", arm=["ours"], models=["t*"]) == [("two", "ours"), ("three", "ours")]
    assert cells(family=["hf"]) == []


def test_rows_name_no_folder_of_the_machine(coverage, tmp_path):
    """File names stay, the folders before them do not; addresses are left as they are."""
    folder = "/" + "home/ann/lib"
    file = tmp_path / "errors.txt"
    file.write_text(f'in "{folder}/net.py", see https://a.org/b/c', encoding="utf-8")

    assert coverage.without_folders(file) == 'in "net.py", see https://a.org/b/c'
