"""The tables in README and docs say what the result files say."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONDITIONS = {
    "commit": "0123456789abcdef",
    "versions": {"torch": "9.9"},
    "machine": "two cores",
    "started": "2030-01-02T03:04:05",
    "seconds": 120.0,
    "command": "python benchmarks/toy.py",
}


@pytest.fixture(scope="module")
def tables():
    spec = importlib.util.spec_from_file_location("tables", ROOT / "benchmarks" / "tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def reduction(seed, **changed):
    row = {"network": "net", "data": "toy", "method": "ours", "seed": seed, "params_before": 1000}
    row |= {
        "params_after": 100,
        "macs_before": 400,
        "macs_after": 200,
        "error_before": 1.0,
        "error_after": 1.2,
    }
    return row | changed


@pytest.fixture
def house(tables, tmp_path):
    """A small repository: the pages with a marked place each, and one result file."""
    results = tmp_path / "benchmarks" / "results"
    results.mkdir(parents=True)
    rows = [reduction(0), reduction(1, error_after=1.4), reduction(0, method="other", max_drop=0.1)]
    document = {"name": "toy", "conditions": CONDITIONS, "rows": rows}
    (results / "toy.json").write_text(json.dumps(document), encoding="utf-8")
    (tmp_path / "docs").mkdir()
    page = "before\n<!-- results:toy method=ours -->\nold\n<!-- /results -->\nafter\n"
    for name in tables.PAGES:
        (tmp_path / name).write_text(page, encoding="utf-8")
    return tmp_path


def test_the_pages_are_up_to_date(tables, capsys):
    """README and docs hold exactly the tables that the committed results make."""
    assert tables.main(["--check"]) == 0, capsys.readouterr().err


def test_a_changed_figure_is_noticed(tables, house, capsys):
    """A page is out of date until it is rewritten, and again once somebody edits a figure."""
    page = house / "README.md"

    assert tables.main(["--check"], house) == 1
    assert "README.md, docs/results.md" in capsys.readouterr().err
    assert tables.main([], house) == 0
    assert tables.main(["--check"], house) == 0
    page.write_text(page.read_text(encoding="utf-8").replace("1.30", "1.10"), encoding="utf-8")
    assert tables.main(["--check"], house) == 1


def test_a_line_tells_seeds_mean_and_spread(tables, house):
    """A line gathers its seeds; its figures are mean ± standard deviation, with the conditions below."""
    tables.main([], house)

    text = (house / "README.md").read_text(encoding="utf-8")

    assert (
        "| net | toy | ours | 0, 1 | 1.00 ± 0.00 | 1.30 ± 0.14 | 100 ± 0 | 10.0 ± 0.0 | 2.0 ± 0.0 |" in text
    )
    assert (
        "two cores; torch 9.9; `python benchmarks/toy.py` at commit 0123456789, 2030-01-02, 2 minutes" in text
    )
    assert text.startswith("before\n")
    assert text.endswith("<!-- /results -->\nafter\n")
    assert "old" not in text


def test_ways_to_make_a_network_smaller_stand_by_size(tables):
    """A line gathers the seeds of a way: accuracy as it was made and after retraining; the largest network comes first."""
    row = {"network": "net", "data": "toy", "method": "cut", "seed": 0, "parameters": 100, "macs": 1000,
           "accuracy_at_once": 80.0, "accuracy_retrained": 90.0}  # fmt: skip
    rows = [row, row | {"seed": 1, "accuracy_at_once": 82.0}, row | {"method": "rank", "parameters": 200}]

    heads, lines = tables.kind_of(rows)(rows)

    assert heads[-2:] == ["accuracy at once, %", "after retraining, %"]
    assert lines == [
        ["net", "toy", "rank", "0", "200", "1,000", "80.00", "90.00"],
        ["net", "toy", "cut", "0, 1", "100 ± 0", "1,000 ± 0", "81.00 ± 1.41", "90.00 ± 0.00"],
    ]


def test_a_place_without_results_stays_empty(tables, house):
    """While there is no result file a page shows no figure."""
    shutil.rmtree(house / "benchmarks" / "results")

    tables.main([], house)

    assert (house / "README.md").read_text(encoding="utf-8") == (
        "before\n<!-- results:toy method=ours -->\n<!-- /results -->\nafter\n"
    )


def test_a_mark_that_fits_no_row_is_an_error(tables, house):
    """A place that asks for rows that are not there does not silently stay empty."""
    (house / "README.md").write_text(
        "<!-- results:toy method=none -->\n<!-- /results -->\n", encoding="utf-8"
    )

    with pytest.raises(SystemExit, match="toy has no rows with"):
        tables.main([], house)


def test_bounds_are_counted(tables):
    """Where runs had a bound, the line says in how many it held on test data."""
    runs = [reduction(seed, max_drop=0.5, error_after=after) for seed, after in enumerate((1.5, 1.6, 1.0))]

    heads, lines = tables.reductions(runs)

    assert heads[-1] == "bound held on test data"
    assert lines[0][-1] == "2 of 3"
    on_the_bound = reduction(
        0, max_drop=0.9, error_before=2.2, error_after=3.1
    )  # 0.9000000000000004 in binary
    assert tables.reductions([on_the_bound])[1][0][-1] == "1 of 1"


@pytest.mark.parametrize(
    ("row", "head"),
    [
        (
            {"model": "resnet", "status": "cut", "watch_s": 0.1, "reason": None},
            ["model", "status", "watch, s"],
        ),
        (
            {"model": "resnet", "arm": "ours", "turns": 5, "ratio": 0.5},
            ["model", "with", "share of the other's time", "median of"],
        ),
        ({"arm": "fast", "seed": 0, "seconds": 1.5}, ["arm", "runs", "seconds"]),
    ],
)
def test_rows_choose_their_table(tables, row, head):
    """Rows about models and rows of timings get tables of their own."""
    ((heads, lines),) = tables.tables_of([row, row])

    assert list(heads) == head
    assert all(len(line) == len(heads) for line in lines)


def test_rows_of_no_kind_are_shown_as_they_are(tables):
    """Rows of a new kind get a plain table for each set of keys, so that no measured figure is hidden."""
    rows = [{"peak_mb": 1.234, "note": "a|b"}, {"load_s": 2}, {"peak_mb": 3, "note": None}]

    assert list(tables.tables_of(rows)) == [
        (["peak, MB", "note"], [["1.23", "a\\|b"], ["3", ""]]),
        (["load, s"], [["2"]]),
    ]


@pytest.mark.parametrize(
    ("value", "shown"), [(1234, "1,234"), (1234.5, "1,234"), (12.34, "12.3"), (1.234, "1.23"), (2.0, "2")]
)
def test_numbers_keep_the_digits_that_matter(tables, value, shown):
    """Counts are whole, other numbers have three or four digits."""
    assert tables.number(value) == shown


def models():
    """Two models, one of which ours does not cut."""
    ours = {"arm": "secateur", "family": "timm.vgg", "status": "ok", "removable_share": 1.0, "seconds": 0.5}
    ours |= {
        "law_error": 1e-12,
        "params_before": 100,
        "params_after": 30,
        "memory_ratio": 1.5,
        "model_mb": 600,
    }
    left = [{"reason": "is read twice", "axes": 1, "parameters": 4000}]
    failed = {**ours, "status": "raises", "reason": "apply: a|b", "removable_share": 0.5, "left": left}
    theirs = {"arm": "torch-pruning", "family": "timm.vgg", "status": "ok", "seconds": 2.0}
    return [
        {"model": "a", **ours},
        {"model": "a", **theirs},
        {"model": "b", **failed, "seconds": 4.0},
        {"model": "b", **theirs},
    ]


def test_a_family_is_summed_up(tables):
    """Times are compared on models that both cut; the worst is the worst of all."""
    heads, lines = tables.families(models())

    shown = dict(zip(heads[:4], lines[0][:4], strict=True))
    assert shown == {
        "models": "timm",
        "number": "2",
        "cut, and every law held": "1 of 2 (50.0 %)",
        "by Torch-Pruning": "2 of 2 (100.0 %)",
    }
    assert lines[0][4:] == ["75.0", "50.0", "1.0e-12", "2.250", "4.00", "0.25", "0.25", "1.50"]
    assert [line[0] for line in lines] == ["timm", "all"]
    assert all(len(line) == len(heads) for line in lines)


def test_what_was_not_cut_is_listed(tables):
    """Each model that ours does not cut has a line with the reason; a model that it cuts has none."""
    assert tables.exceptions(models())[1] == [["b", "raises", "apply: a\\|b"]]


def test_models_stand_beside_the_peer(tables):
    """A model has one line, which ends in what was left whole and why."""
    heads, lines = tables.side_by_side(models())

    assert [line[0] for line in lines] == ["a", "b"]
    assert lines[0][-4:] == ["ok", "2", "0.25", ""]
    assert lines[1][-4:] == ["ok", "2", "", "4,000: is read twice"]
    assert all(len(line) == len(heads) for line in lines)


def test_a_page_asks_for_a_table(tables):
    """A mark may name the table; the other words choose rows."""
    document = {"name": "coverage", "conditions": CONDITIONS, "rows": models()}

    text = tables.markdown(document, {"table": "exceptions", "model": "b"})

    assert text.startswith("\n| model | status | reason |\n| --- | --- | --- |\n| b | raises |")


def test_times_of_retraining_stand_beside_those_of_the_network(tables):
    """Seed by seed, and their median; an arm that a seed has no network for is shown without."""
    common = {"network": "a", "data": "d", "params_before": 40, "params_after": 10, "macs_before": 8, "macs_after": 4,
              "validation_error_after": 1.0, "error_before": 1.0, "error_after": 2.0, "candidates": 4, "accepted": 2}  # fmt: skip
    rows = [
        {**common, "arm": arm, "seed": seed, "cpu_seconds": seconds}
        for arm, seed, seconds in (
            ("block", 0, 1.0), ("block", 1, 6.0), ("block", 2, 3.0), ("network", 0, 2.0), ("network", 1, 3.0),
        )
    ]  # fmt: skip

    heads, lines = tables.retraining(rows)

    shown = [dict(zip(heads, line, strict=True)) for line in lines]
    assert [line["retrained"] for line in shown] == ["block", "network"]
    assert [line["share of the network's: median"] for line in shown] == ["1.25", "1.00"]
    assert (shown[0]["processor time, s: median"], shown[0]["seconds a candidate"]) == ("3", "0.75")
    assert (shown[0]["parameters ÷"], shown[0]["MACs ÷"]) == ("4.0 ± 0.0", "2.0 ± 0.0")


def test_single_weights_have_a_column_a_share_and_a_line_a_number_left(tables):
    """Rows of both kinds may share a file; each table takes its own, and gathers the seeds."""
    common = {"network": "net", "data": "toy", "method": "ours"}
    rows = [
        {
            **common,
            "seed": seed,
            "removed": share,
            "accuracy_before": 99.0,
            "accuracy": 98.0 - 10 * share + seed,
        }
        for seed in (0, 1)
        for share in (0.5, 0.9)
    ]
    rows += [
        {**common, "seed": 0, "weights_left": 1000, "weights_before": 9000, "weights_not_zero": 990, "epochs": 15,
         "validation_error_before": 1.0, "validation_error_after": 2.0, "test_error_after": None}
    ]  # fmt: skip

    heads, lines = tables.shares(rows)
    assert heads[-2:] == ["without 50 %", "without 90 %"]
    assert lines == [["net", "toy", "ours", "0, 1", "99.00 ± 0.00", "93.50 ± 0.71", "89.50 ± 0.71"]]

    heads, lines = tables.sparse(rows)
    assert heads[-2:] == ["validation error before, %", "after, %"]
    assert lines == [["net", "toy", "ours", "15", "0", "1,000", "9.1", "1.00", "2.00"]]
