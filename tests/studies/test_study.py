"""Study files: what they say, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from secateur.errors import SettingsError
from secateur.methods import StepSettings
from secateur.studies import Matrix, Study, holds_matrix
from secateur.studies.cells import Cell
from secateur.train import TrainSettings

SMALL = {"networks": "digits-net", "data": "digits"}


def study(*experiments: dict, **options) -> Study:
    return Study(
        **{**SMALL, **options, "experiment": [{"name": str(n), **e} for n, e in enumerate(experiments)]}
    )


def test_every_combination_is_a_cell_for_each_seed() -> None:
    """Networks, data, seeds and all factors are multiplied; controls are added where criteria are compared."""
    cells = study(
        {"criterion": ["taylor", "activation"], "scope": ["conv2", "conv3"], "step": [4, 8]}, seeds=[0, 1]
    ).cells()

    assert len(cells) == 4 * 2 * 2 * 2
    assert {cell.settings.criterion for cell in cells} == {"taylor", "activation", "random", "l1"}
    assert len({cell.key for cell in cells}) == len(cells)


def test_a_cell_that_serves_two_questions_is_run_once() -> None:
    """It is known by what it does, not by who asks."""
    cells = study(
        {"criterion": ["taylor", "l1", "random"]},
        {"compare": "normalise", "criterion": ["taylor"], "normalise": ["none", "l2"]},
        seeds=[0],
    ).cells()

    assert len(cells) == 4
    shared = next(c for c in cells if c.settings.criterion == "taylor" and c.settings.normalise == "none")
    assert shared.experiments == ("0", "1")


def test_iterations_go_with_what_is_retrained() -> None:
    """Without retraining there is one cell, with it one for each number of iterations."""
    cells = study(
        {"retrain": ["none", "network"], "iterations": [0, 5, 9], "criterion": ["l1", "random"]}, seeds=[0]
    ).cells()

    found = sorted((c.settings.retrain, c.settings.iterations) for c in cells if c.settings.criterion == "l1")
    assert found == [("network", 5), ("network", 9), ("none", 0)]
    assert [cell.scratch for cell in cells] == [cell.settings.retrain == "network" for cell in cells]


@pytest.mark.parametrize(
    ("experiment", "words"),
    [
        ({"criterium": "l1"}, "no key of an experiment is named 'criterium'; did you mean 'criterion'"),
        ({"normalise": ["l3"]}, "experiment 1: key 'normalise' cannot be 'l3'"),
        ({"compare": "criteria"}, "compare='criteria' is no factor; did you mean 'criterion'"),
        ({"compare": "scope"}, "compares scope, of which it has a single value"),
        (
            {"retrain": "network"},
            "retrains 'network' for 0 iterations; say how many batches, such as iterations = 100",
        ),
        ({"iterations": 10}, "gives iterations, and retrains nothing"),
        ({"retrain": ["none", "layer"], "iterations": 10}, "add 0 to its iterations"),
        ({"until": 1.5}, "key 'until' cannot be 1.5"),
        ({"step": 1.5}, "experiment '0': step=1.5"),
        ({"step": 1.0}, "step = 1.0 is neither"),
        (
            {"compare": "retrain", "retrain": ["layer", "network"], "iterations": [5, 9]},
            "compares retrain with several values of iterations",
        ),
    ],
)
def test_what_is_wrong_with_an_experiment_is_said(experiment: dict, words: str) -> None:
    """In one sentence, with the nearest key that there is."""
    with pytest.raises(SettingsError, match=words):
        study(experiment)


def test_what_is_wrong_with_a_study_is_said() -> None:
    """Unknown keys, missing ones, two experiments of one name, training options that there are not."""
    with pytest.raises(SettingsError, match="no key of a study is named 'seed'; did you mean 'seeds'"):
        study({}, seed=[1])
    with pytest.raises(SettingsError, match="key 'networks' is missing"):
        Study(data="digits", experiment=[{"name": "1"}])
    with pytest.raises(SettingsError, match="two experiments are named 'a'"):
        study({"name": "a"}, {"name": "a"})
    with pytest.raises(
        SettingsError, match=r"key 'seeds' cannot be 3: .*seeds = \[3\] for that seed.*\[0, 1, 2\]"
    ):
        study({}, seeds=3)
    with pytest.raises(SettingsError, match="seeds names 0 more than once"):
        study({}, seeds=[1, 0, 0])
    with pytest.raises(SettingsError, match="did you mean 'epochs'"):
        study({}, train={"epoch": 3})
    for taught in ({"distil_weight": 0.3}, {"attention_layers": ["conv1"], "attention_weight": 1.0}):
        with pytest.raises(SettingsError, match="is about a teacher, and a study's networks have none"):
            study({}, retrain=taught)


def test_files_are_read_and_their_faults_named(tmp_path: Path) -> None:
    """The file's name is the study's unless it says another; TOML that is none is told with its place."""
    good, bad, single = (tmp_path / name for name in ("good.toml", "bad.toml", "single.toml"))
    text = 'networks = "digits-net"\ndata = "digits"\n{}\nname = "1"\ncriterion = "l1"\n'
    good.write_text(text.format("[[experiment]]"))
    bad.write_text("networks = ")
    single.write_text(text.format("[experiment]"))

    assert Study.read(good).name == "good"
    with pytest.raises(SettingsError, match=r"bad\.toml is not a study"):
        Study.read(bad)
    with pytest.raises(SettingsError, match=r"\[\[experiment\]\]"):
        Study.read(single)
    with pytest.raises(SettingsError, match="cannot be read"):
        Study.read(tmp_path / "none.toml")


@pytest.mark.parametrize(
    "file", sorted((Path(__file__).parents[2] / "studies").glob("*.toml")), ids=lambda f: f.stem
)
def test_committed_studies_are_studies(file: Path) -> None:
    """Each can be read, has cells, and compares something in every question; a matrix has treatments."""
    if holds_matrix(file):
        assert len(Matrix.read(file).cells()) > 1
        return
    found = Study.read(file)
    assert found.cells()
    assert all(list(found.cells_of(experiment)) for experiment in found.experiment)


def test_the_keys_of_cells_are_those_of_older_versions() -> None:
    """An option that is new and at its default does not change a cell's key, so that stored cells are found again."""
    training = TrainSettings(epochs=2)
    settings = StepSettings(criterion="l1", retrain="network", iterations=50)

    cell = Cell("lenet5", "mnist", 3, training, settings)

    assert (cell.key, cell.base_key) == ("l1-network-seed3-341a12db", "lenet5-mnist-seed3-5c6b3fe5")
