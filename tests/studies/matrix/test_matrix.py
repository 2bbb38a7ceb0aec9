"""What a matrix may ask for, and what is refused before anything runs."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from secateur.errors import SettingsError
from secateur.studies import Matrix, holds_matrix

PLAIN: dict[str, Any] = {
    "networks": "digits-net",
    "data": "digits",
    "treatment": [{"name": "trained"}, {"name": "half", "sparsity": 0.5}],
}


def matrix(**changes: Any) -> Matrix:
    return Matrix(**{**copy.deepcopy(PLAIN), **changes})


def with_treatment(**options: Any) -> Matrix:
    return matrix(treatment=[{"name": "trained"}, {"name": "it", **options}])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"netwroks": "x"}, "did you mean 'networks'?"),
        ({"treatment": [{"name": "trained", "spasity": 0.5}]}, "did you mean 'sparsity'?"),
        ({"treatment": [{"name": "half", "sparsity": 0.5}]}, "the first treatment is what all others"),
        ({"treatment": [{"name": "a"}, {"name": "a"}]}, "'a' more than once"),
        ({"treatment": [{"name": "a"}, {"name": "b", "sparsity": 50}]}, "treatment 2: key 'sparsity' cannot be 50"),
        ({"seeds": 3}, "say seeds = [3]"),
        ({"target": "tflite"}, "no target is named 'tflite'"),
        ({"train": {"epoch": 3}}, "did you mean 'epochs'?"),
        ({"train": {"recipe": "mobil"}}, "no recipe is named 'mobil'"),
        ({"train": {"networks": {"digitsnet": {"epochs": 3}}}}, "did you mean 'digits-net'?"),
        ({"pruning": {"shedule": "cubic"}}, "did you mean 'schedule'?"),
        ({"pruning": {"networks": {"digits-nut": {"epochs": 3}}}}, "did you mean 'digits-net'?"),
        ({"pruning": {"sparsity": 0.9}}, "pruning: sparsity does not stand here; give it as a treatment's sparsity"),
        ({"coding": {"method": "entropy"}}, "coding: method does not stand here"),
        ({"reduction": {"max_drop": 1.0}}, "reduction: max_drop does not stand here"),
        ({"pruning": {"training": 5}}, "pruning: training is 5, and a table is wanted"),
        ({"train": {"networks": ["digits-net"]}}, "train: networks is ['digits-net'], and a table is wanted"),
        ({"train": {"networks": {"digits-net": 5}}}, "has 5 for 'digits-net', and a table is wanted"),
        ({"printed": {"digits-net": {"third": {"accuracy": 1.0}}}}, "no treatment here"),
        ({"printed": {"digits-net": {"half": {"acuracy": 1.0}}}}, "did you mean 'accuracy'?"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence(changes, said):
    with pytest.raises(SettingsError) as refused:
        matrix(**changes)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mode": "int4"}, "no mode is named 'int4'"),
        ({"sparsity": 0.5, "max_drop": 1.0}, "take one"),
        ({"pruning": {"epochs": 3}}, "without sparsity"),
        ({"coding": {"bits": 3}}, "without compress"),
        ({"granularity": "units"}, "granularity is of pruning"),
        ({"prepare": True}, "prepare is for int8"),
        ({"mode": "qat", "compress": "entropy"}, "take one of the two"),
        ({"sparsity": 0.9, "pruning": {"epochs": 2, "every": 3}}, "the last cut is after"),
    ],
)
def test_what_does_not_go_together_names_its_treatment(options, said):
    with pytest.raises(SettingsError, match="treatment 'it'") as refused:
        with_treatment(**options)
    assert said in str(refused.value)


def test_ranges_go_into_files_for_litert_alone():
    with pytest.raises(SettingsError, match="only files for litert"):
        matrix(target="onnx", treatment=[{"name": "a"}, {"name": "b", "mode": "int8", "prepare": True}])


def test_cells_share_what_they_can():
    """Treatments of the same pruning share the pruned network, and all of a network and seed the trained one."""
    pruned = {"sparsity": 0.9, "pruning": {"epochs": 4}}
    made = matrix(
        treatment=[{"name": "trained"}, {"name": "p", **pruned}, {"name": "p8", "mode": "int8", **pruned}, {"name": "q", "sparsity": 0.8}],
        seeds=[0, 1],
    )  # fmt: skip
    cells = made.cells()
    assert len(cells) == len({cell.key for cell in cells}) == 8
    assert len({cell.base_key for cell in cells}) == 2
    first = [cell for cell in cells if cell.seed == 0]
    assert first[1].cut_key == first[2].cut_key != first[3].cut_key
    assert first[0].pruning is None
    assert first[1].pruning.seed == 0


def test_tables_of_options_are_merged():
    """A treatment's own options come over the matrix's, training by training option."""
    made = matrix(
        pruning={"scope": "global", "training": {"lr": 1e-3, "lr_end": 1e-4}},
        train={"epochs": 3, "networks": {"digits-net": {"epochs": 5}}},
        treatment=[
            {"name": "trained"},
            {
                "name": "half", "sparsity": 0.5,
                "pruning": {"scope": "layer", "training": {"batch_size": 32}, "networks": {"digits-net": {"epochs": 9}}},
            },
            {"name": "small", "max_drop": 2.0, "mode": "int8", "reduction": {"rounds": 1, "retrain": {"epochs": 2}}},
            {"name": "coded", "compress": "deep-compression", "coding": {"training": {"epochs": 1}}},
            {"name": "aware", "mode": "qat"},
        ],
        quantising={"epochs": 2},
    )  # fmt: skip
    _, half, small, coded, aware = made.cells()
    assert half.pruning is not None
    assert (half.pruning.scope, half.pruning.training.lr, half.pruning.training.batch_size) == (
        "layer",
        1e-3,
        32,
    )
    assert half.pruning.epochs == 9
    assert small.reduction is not None
    assert (small.reduction.rounds, small.reduction.retrain.epochs, small.reduction.deploy) == (
        1,
        2,
        small.deployment,
    )
    assert coded.coding is not None
    assert coded.coding.training is not None
    assert coded.coding.training.epochs == 1
    assert aware.aware is not None
    assert (aware.aware.epochs, aware.training.epochs, aware.deployment.mode) == (2, 5, "int8")
    assert aware.aware.lr == aware.training.lr / 50


def test_training_in_int8_ends_as_far_below_its_rate_as_the_networks_own():
    made = matrix(
        train={"lr": 1e-3, "lr_end": 1e-4, "schedule": "linear", "nesterov": False},
        treatment=[{"name": "trained"}, {"name": "aware", "mode": "qat"}],
    )
    aware = made.cells()[1].aware
    assert aware is not None
    assert aware.lr_end == pytest.approx(1e-4 / 50)


def test_a_file_says_which_kind_of_study_it_is(tmp_path):
    file = tmp_path / "study.toml"
    file.write_text('networks = "digits-net"\ndata = "digits"\n[[treatment]]\nname = "trained"\n')
    assert holds_matrix(file)
    assert Matrix.read(file).name == "study"
    file.write_text('[[treatment]]\nname = "a"\n[[experiment]]\nname = "b"\n')
    with pytest.raises(SettingsError, match="two files"):
        holds_matrix(file)
    file.write_text('[treatment]\nname = "a"\n')
    with pytest.raises(SettingsError, match="two pairs of brackets"):
        holds_matrix(file)
    with pytest.raises(SettingsError, match="cannot be read"):
        holds_matrix(tmp_path / "none.toml")
