"""The command that reduces, and the report of what it did."""

import json
import re

import pytest

import secateur as library
from secateur import data
from secateur.evaluate import evaluate
from secateur.report import Report, read
from secateur.store import read_description


@pytest.fixture
def report(small) -> Report:
    return read(small)


def test_the_folder_holds_network_and_report(small, report):
    """After a reduction the folder holds the network, the page, its values, and what was asked and done."""
    names = {file.name for file in small.iterdir()}

    assert names >= {"model.safetensors", "report.html", "report.json", "journal.jsonl", "run.toml"}
    assert {file.name for file in report.files} == {"model.safetensors", "journal.jsonl", "run.toml"}
    assert len(report.iterations) == 3


def test_the_report_says_what_the_network_is(small, report):
    """Parameters and test accuracy in the report are those of the saved network, and the test split is named."""
    model = library.load(small / "model.safetensors")

    assert report.after.parameters == sum(p.numel() for p in model.parameters())
    assert report.after.parameters < report.before.parameters == 40_618
    assert report.after.test.accuracy == pytest.approx(evaluate(model, data.load("digits").test).accuracy)
    assert report.classes_split == "test"


def test_the_report_names_its_conditions_and_no_folder(base, small, report):
    """Versions, machine, threads, time and command are there; outside the command there is no path."""
    conditions = dict(report.conditions)

    assert conditions.keys() >= {"versions", "machine", "threads", "seconds", "command"}
    conditions.pop("command")
    rest = report.model_copy(update={"conditions": conditions}).to_json()
    assert str(base.parent) not in rest


def test_table_and_places_are_printed(secateur, base, tmp_path):
    """The command prints each candidate, then the table and where everything is."""
    out = tmp_path / "small"

    said = secateur(
        "reduce", base / "model.safetensors", "--data", "digits", "--max-drop", 5, "--out", out,
        "--max-iterations", 1, "--epochs", 1, "--layers", "dense*",
    )  # fmt: skip

    assert said.code == 0, said.err
    assert re.search(r"1  (accepted|rejected)  dense1 64 → 24: ", said.err)
    for words in (
        "digits-net on digits, reduced within 5 points",
        "parameters",
        "40,618",
        "bound of 5 points",
    ):
        assert words in said.out
    assert str(out / "report.html") in said.out
    assert str(out / "model.safetensors") in said.out


def test_options_arrive(secateur, base, tmp_path):
    """Each option reaches the settings that run.toml holds; retraining takes its batches as the training did."""
    out = tmp_path / "small"

    said = secateur(
        "reduce", base / "model.safetensors", "--data", "digits", "--max-drop", 5, "--out", out, "--beta", 2,
        "--gamma", 0, "--criterion", "l1", "--kinds", "Conv2d", "--kinds", "Linear", "--confidence", 0.9,
        "--max-iterations", 1, "--no-distil", "--compensate", "mean", "--rounds", 3, "--finish-epochs", 1,
        "--retrain-examples", 300, "--patience", 2, "--distil-weight", 0.25, "--first-share", 0.5, "--last-share", 0.1,
        "--guard", "on", "--retrain-scope", "block",
        "--epochs", 2, "--lr", 0.01, "--augment", "shift", "--shift", 1, "--seed", 4, "--validation", 0.3, "--data-seed", 2,
    )  # fmt: skip

    assert said.code == 0, said.err
    report = read(out)
    asked = report.method.settings
    assert (asked["beta"], asked["gamma"], asked["criterion"]) == (2, 0, "l1")
    assert asked["kinds"] == ["Conv2d", "Linear"]
    assert (asked["distil"], asked["compensate"], asked["rounds"]) == (False, "mean", 3)
    assert (asked["retrain_examples"], asked["patience"], asked["guard"]) == (300, 2, "on")
    assert (asked["first_share"], asked["last_share"], asked["retrain_scope"]) == (0.5, 0.1, "block")
    assert (asked["retrain"]["distil_weight"], asked["finish"]["distil_weight"]) == (0.25, 0.25)
    assert (asked["finish"]["epochs"], asked["retrain"]["epochs"], asked["retrain"]["lr"]) == (1, 2, 0.01)
    assert (asked["retrain"]["batch_size"], asked["retrain"]["augment"]) == (64, "shift")
    assert (report.bound.confidence, report.seed) == (0.9, 4)
    assert report.data.splits["validation"] == 431


def test_what_is_reduced_again_is_retrained_as_it_was_trained(secateur, base, small, tmp_path):
    """A reduced file says how its network was trained and reduced, so that a second reduction inherits the recipe."""
    out = tmp_path / "smaller"

    said = secateur(
        "reduce",
        small,
        "--data",
        "digits",
        "--max-drop",
        60,
        "--out",
        out,
        "--max-iterations",
        1,
        "--epochs",
        1,
    )

    assert said.code == 0, said.err
    trained, first, second = read_description(out / "model.safetensors").history
    assert [trained] == read_description(base / "model.safetensors").history
    assert [trained, first] == read_description(small / "model.safetensors").history
    assert (first["event"], second["event"]) == ("reduce", "reduce")
    retrain = second["options"]["retrain"]
    for name in ("augment", "batch_size", "shift", "shift_fill"):
        assert retrain[name] == trained["settings"][name]
    assert ", steps " in secateur("load", out).out


def test_an_option_that_was_switched_off_belongs_to_the_run(secateur, refused, base, tmp_path):
    """What --distil and --no-distil say wins over the method's default, and a resumed run holds on to it."""
    start = ("reduce", base, "--data", "digits", "--max-drop", 5, "--max-iterations", 1, "--epochs", 1)
    off, on = tmp_path / "off", tmp_path / "on"

    said = [
        secateur(*start, "--out", off, "--no-distil"),
        secateur(*start, "--out", on, "--as-printed", "--distil"),
        secateur("reduce", off, "--resume", "--no-distil"),
    ]

    assert [one.code for one in said] == [0, 0, 0], said
    assert (read(off).method.settings["distil"], read(on).method.settings["distil"]) == (False, True)
    assert "--distil" in refused("reduce", off, "--resume", "--distil")


def test_help_says_what_is_bounded(secateur):
    """The help of --max-drop tells that the bound is on a confidence limit, not on the loss as measured."""
    said = " ".join(secateur("reduce", "--help").out.split())

    assert "upper confidence limit" in said[said.index("--max-drop") : said.index("--out")]


def test_as_printed_switches_our_extensions_off(secateur, base, tmp_path):
    """The printed method neither distils nor compensates, and takes the drop as measured."""
    out = tmp_path / "small"

    said = secateur(
        "reduce", base, "--data", "digits", "--max-drop", 5, "--out", out, "--as-printed", "--max-iterations", 1,
        "--epochs", 1,
    )  # fmt: skip

    assert said.code == 0, said.err
    report = read(out)
    settings = report.method.settings
    assert (settings["distil"], settings["compensate"], settings["reference"]) == (False, "none", "best")
    assert report.bound.confidence is None


def test_a_finished_reduction_can_be_resumed_without_harm(secateur, small, lines_of):
    """Resuming what is finished tries nothing, and writes the same network and report again."""
    before = (small / "model.safetensors").read_bytes(), len(lines_of(small))
    (small / "report.html").unlink()

    said = secateur("reduce", small, "--resume")

    assert said.code == 0, said.err
    assert ((small / "model.safetensors").read_bytes(), len(lines_of(small))) == before
    assert (small / "report.html").is_file()


def test_another_bound_does_not_resume(refused, small):
    """A bound other than the run's own is refused."""
    assert "--max-drop" in refused("reduce", small, "--resume", "--max-drop", "2")


def test_report_is_rebuilt_from_its_values(secateur, small):
    """`secateur report` writes the page again, the same, and shows the table."""
    page = (small / "report.html").read_text(encoding="utf-8")
    (small / "report.html").unlink()

    said = secateur("report", small)

    assert said.code == 0, said.err
    assert (small / "report.html").read_text(encoding="utf-8") == page
    assert "reduced within 5 points" in said.out


def test_an_unfinished_run_says_how_to_go_on(secateur, small, tmp_path, lines_of):
    """Of a run without a report, `secateur report` shows the candidates so far and how to resume."""
    for name in ("run.toml", "journal.jsonl"):
        (tmp_path / name).write_bytes((small / name).read_bytes())

    said = secateur("report", tmp_path)

    assert said.code == 2
    assert f"secateur reduce {tmp_path} --resume" in said.err
    assert "40,618" not in said.out
    assert all(f"{entry['step']['parameters']:,}" in said.out for entry in lines_of(small) if "step" in entry)


def test_report_opens_the_page_when_asked(secateur, small, monkeypatch):
    """--open hands the page to the browser."""
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) or True)

    assert secateur("report", small, "--open").code == 0
    assert opened == [(small / "report.html").as_uri()]


def test_the_journal_agrees_with_the_report(small, report, lines_of):
    """Every candidate of the journal is in the report with its figures."""
    steps = [entry["step"] for entry in lines_of(small) if "step" in entry]

    assert [(one.parameters, one.accepted) for one in report.iterations] == [
        (step["parameters"], step["accepted"]) for step in steps
    ]
    assert json.loads(report.to_json())["iterations"][0]["reason"] == steps[0]["reason"]


def test_nothing_removed_is_an_error_with_the_reason(secateur, base, tmp_path):
    """A bound that no candidate holds ends with code 2 and the nearest candidate; report and network are written all the same."""
    out = tmp_path / "small"

    said = secateur(
        "reduce", base, "--data", "digits", "--max-drop", 0, "--out", out, "--criterion", "random",
        "--compensate", "none", "--max-iterations", 1, "--epochs", 1,
    )  # fmt: skip

    assert said.code == 2
    last = said.err.splitlines()[-1]
    assert last.startswith("error: ")
    assert "Nothing was removed: none of 1 candidates stayed within the bound (nearest: " in last
    assert "A wider bound" in last
    assert {"model.safetensors", "report.html"} <= {file.name for file in out.iterdir()}


def test_a_bound_that_is_too_narrow_is_said_at_once(secateur, base, tmp_path):
    """Before the first candidate stands what a bound below the sampling error asks of each, and in the report again."""
    out = tmp_path / "small"

    said = secateur(
        "reduce", base, "--data", "digits", "--max-drop", 0.5, "--out", out, "--max-iterations", 1, "--epochs", 1,
    )  # fmt: skip

    lines = said.err.splitlines()
    (note,) = (line for line in lines if line.startswith("note: "))
    assert "only if it gets at least 4 more of them right than before" in note
    assert lines.index(note) < next(at for at, line in enumerate(lines) if line.startswith("   1 "))
    assert note.removeprefix("note: ") in read(out).notes


def test_each_step_that_takes_time_is_said_as_it_starts(secateur, base, tmp_path):
    """Loading, reading, looking and writing leave a line each on the error stream, before the candidates and after."""
    said = secateur(
        "reduce", base, "--data", "digits", "--max-drop", 5, "--out", tmp_path / "small", "--max-iterations", 1,
        "--epochs", 1,
    )  # fmt: skip

    assert [line for line in said.err.splitlines() if line.endswith(" …")] == [
        "loading digits …",
        f"reading {base / 'model.safetensors'} …",
        "looking at the network …",
        "writing the report …",
    ]


def test_widths_follow_the_target_that_is_named(secateur, base, tmp_path):
    """With a target's grain every layer that was cut has a width that is a multiple of it; an unknown target is refused."""
    out = tmp_path / "small"
    model = base / "model.safetensors"
    common = ("reduce", model, "--data", "digits", "--max-drop", 60, "--epochs", 1, "--criterion", "l1")

    said = secateur(*common, "--out", out, "--max-iterations", 2, "--round-to", "xnnpack", "--minimum", 2)
    refused = secateur(*common, "--out", tmp_path / "other", "--round-to", "tpu")

    assert said.code == 0, said.err
    changed = [layer for layer in read(out).layers if layer.width_after < layer.width_before]
    assert changed
    assert all(layer.width_after % 16 == 0 for layer in changed)
    assert refused.code == 2
    assert "'tpu' is no export target" in refused.err
    assert not (tmp_path / "other").exists()
