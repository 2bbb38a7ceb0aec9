"""The command that compares strategies."""

from __future__ import annotations

import pytest

from secateur.studies import run as run_file

STUDY = """
networks = "digits-net"
data = "digits"
seeds = [0, 1]
judge_examples = 100

[train]
epochs = 2

[[experiment]]
name = "criteria"
question = "Which is <best>?"
criterion = ["l1", "random"]
scope = ["network", "conv2"]
step = 0.3
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "study.toml"
    path.write_text(STUDY, encoding="utf-8")
    return path


def test_a_study_ends_in_answers_tables_and_a_page(secateur, file, tmp_path):
    """The command says what it did and where it is; the page shows the question, its answer and a panel a layer."""
    said = secateur("compare", file, "--out", tmp_path / "run")

    assert said.code == 0, said.err
    assert "8 cells from 2 trained networks; 0 are done" in said.err
    assert "8 of 8  digits-net seed 1, random, conv2: " in said.err
    assert "criteria: Which is <best>?" in said.out
    assert "l1 and random" in said.out or "better than" in said.out
    assert "8 of 8 cells done. Page: " in said.out
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    for words in ("Which is &lt;best&gt;?", "scope conv2", "scope network", "default-src &#39;none&#39;"):
        assert words in page or words.replace("&#39;", "'") in page
    assert page.count("<figure>") == 2 * 3
    assert "http" not in page.replace("http-equiv", "")


def test_the_cells_can_be_listed_first(secateur, file, tmp_path):
    """Nothing is run, and nothing is written."""
    said = secateur("compare", file, "--plan")

    assert (said.code, said.err) == (0, "")
    assert "8 cells  criteria" in said.out
    assert "8 cells in all, from 2 trained networks" in said.out
    assert list(tmp_path.iterdir()) == [file]


def test_an_interrupted_study_goes_on_from_its_folder(secateur, file, tmp_path, monkeypatch):
    """Ctrl-C keeps what is done, says how to go on, and the command that it names does."""
    out, stepwise, ran = tmp_path / "run", run_file.stepwise, []

    def interrupted(*arguments, **options):
        ran.append(1)
        if len(ran) == 4:
            raise KeyboardInterrupt
        return stepwise(*arguments, **options)

    monkeypatch.setattr(run_file, "stepwise", interrupted)
    said = secateur("compare", file, "--out", out)
    assert said.code == 130
    assert f"interrupted: 3 cells kept in {out}; go on with: secateur compare {out} --resume" in said.err
    report = secateur("compare", out, "--report")
    assert "3 of 8 cells done" in report.out
    said = secateur("compare", out, "--resume")
    assert said.code == 0, said.err
    assert "8 cells from 2 trained networks; 3 are done" in said.err
    assert len(ran) == 4 + 5


def test_failed_cells_are_told_at_the_end(secateur, file, tmp_path, monkeypatch):
    """The others are done, the code is 2, and the sentence says how to try again."""
    stepwise = run_file.stepwise

    def failing(model, data, settings, **options):
        if settings.criterion == "random":
            raise ZeroDivisionError("somebody's")
        return stepwise(model, data, settings, **options)

    monkeypatch.setattr(run_file, "stepwise", failing)
    said = secateur("compare", file, "--out", tmp_path / "run")

    assert said.code == 2
    assert "4 cells failed" in said.err
    assert "ZeroDivisionError: somebody's" in said.err.splitlines()[-1]
    assert "4 of 8 cells done" in said.out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            ("criterion =", "criterium ="),
            "no key of an experiment is named 'criterium'; did you mean 'criterion'?",
        ),
        (('"conv2"]', '"conv22"]'), "experiment 'criteria': scope='conv22' is no layer of 'digits-net'"),
        (("epochs", "epoch"), "did you mean 'epochs'?"),
        (('"digits"', '"digit"'), "digit"),
        (('"digits-net"', '["digits-net", "lenet5"]'), "network 'lenet5' on data 'digits': "),
        (("step = 0.3", "step = 2.5"), "experiment 'criteria': step=2.5"),
        (("seeds = [0, 1]", "seeds = 2"), "seeds = [2]"),
        (("[[experiment]]", "[[experiments]]"), "did you mean 'experiment'?"),
    ],
)
def test_mistakes_in_the_file_are_told_in_a_sentence(refused, file, tmp_path, change, words):
    """Before anything runs, with the file's name, also when the cells are only listed; no folder is left."""
    file.write_text(STUDY.replace(*change), encoding="utf-8")
    for how in (("--out", tmp_path / "run"), ("--plan",)):
        said = refused("compare", file, *how)
        assert words in said
        assert f"{file}: " in said
    assert not (tmp_path / "run").exists()


def test_what_is_missing_is_named(refused, file, tmp_path):
    """The file, the folder, a study in the folder."""
    assert "name a study" in refused("compare")
    assert "--out is missing" in refused("compare", file)
    assert "cannot be read" in refused("compare", tmp_path / "none.toml", "--out", tmp_path / "run")
    assert "holds no run" in refused("compare", tmp_path, "--resume")
