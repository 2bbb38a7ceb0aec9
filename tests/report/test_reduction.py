"""The report of a reduction says what its result says."""

import subprocess
from dataclasses import replace

import pytest
import torch

import secateur
from secateur import data, networks, train
from secateur.errors import SettingsError
from secateur.evaluate import class_changes
from secateur.methods import Silent
from secateur.report import Report, read, report_of, write_report


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", limit=400)


@pytest.fixture(scope="module")
def net(digits):
    model = networks.build("digits-net", seed=0)
    train.fit(model, digits.train, None, train.TrainSettings(epochs=5, lr=0.05, batch_size=32))
    return model


@pytest.fixture(scope="module")
def result(net, digits):
    settings = train.TrainSettings(epochs=1, lr=0.01)
    return secateur.reduce(
        net, digits, max_drop=6.0, max_iterations=3, rounds=1, finish=settings, retrain=settings, seed=7
    )


@pytest.fixture(scope="module")
def report(result, digits, net) -> Report:
    return report_of(
        result, data=digits, unreduced=net, command="secateur reduce net --data digits", notes=["Mine."]
    )


def test_before_and_after_are_the_result_s(report, result):
    """Parameters, MACs and accuracies on both splits are those of the result."""
    for figures, cost, validation, test in (
        (report.before, result.cost_before, result.evaluation_before, result.test_before),
        (report.after, result.cost_after, result.evaluation_after, result.test_after),
    ):
        assert (figures.parameters, figures.macs) == (cost.parameters, cost.macs)
        assert (figures.validation.accuracy, figures.test.accuracy) == (validation.accuracy, test.accuracy)
        assert figures.test.top_k == {3: test.top_k[3], 5: test.top_k[5]}


def test_sizes_are_those_of_saved_files(report, result, net, tmp_path):
    """With the unreduced network at hand, bytes are what saving writes; without it, what the tensors take."""
    secateur.save(net, tmp_path / "net.safetensors")
    secateur.save(result.model, tmp_path / "small.safetensors")

    assert report.before.bytes == (tmp_path / "net.safetensors").stat().st_size
    assert report.after.bytes == (tmp_path / "small.safetensors").stat().st_size


def test_sizes_without_the_unreduced_network(result, digits):
    """Without the unreduced network both sizes are those of the tensors, so that they can be compared."""
    report = report_of(result, data=digits)

    assert (report.before.bytes, report.after.bytes) == (result.cost_before.bytes, result.cost_after.bytes)


def test_the_bound_is_judged_on_both_splits(report, result):
    """The bound is the one that was asked, its statement follows from the result's drops."""
    assert report.bound.max_drop == 6.0
    assert report.bound.held_on_validation == (result.validation_drop.upper <= 6.0)
    assert report.bound.held_on_test == result.held
    assert report.test_change.points == pytest.approx(-result.test_drop.points)
    assert report.bound.reference == result.evaluation_before.accuracy


def test_every_candidate_is_there(report, result):
    """Each step of the history is an iteration, finishing trainings too, which cut no group."""
    assert [one.iteration for one in report.iterations] == [step.iteration for step in result.history]
    for one, step in zip(report.iterations, result.history, strict=True):
        assert one.removed == step.width_before - step.width_after
        assert (one.accepted, one.reason, one.drop_upper) == (step.accepted, step.reason, step.upper)
        assert one.group == (step.group or "all layers")
    assert "finish" in {step.kind for step in result.history}


def test_layers_and_classes_are_the_result_s(report, result):
    """Widths of each group, and the change of each class on the test split."""
    assert [(one.name, one.width_after) for one in report.layers] == [
        (layer.name, layer.width_after) for layer in result.layers
    ]
    changes = class_changes(result.test_before, result.test_after)
    assert [(one.name, one.change, one.low) for one in report.classes] == [
        (change.name, change.points, change.low) for change in changes
    ]
    assert report.classes_split == "test"


def test_classes_of_examples_in_groups_have_wider_intervals(report, result, digits):
    """Where the test examples are of a few persons, each class's interval is that of persons."""
    groups = torch.arange(len(digits.test)) % 3
    splits = replace(digits, test=replace(digits.test, groups=groups))

    found = report_of(result, data=splits).classes

    changes = class_changes(result.test_before, result.test_after, groups=groups)
    assert [(one.low, one.high) for one in found] == [(change.low, change.high) for change in changes]
    assert [one.high for one in found] != [one.high for one in report.classes]


def test_what_is_fixed_is_said(report, result):
    """Every axis that stays is there with its reason."""
    assert [(one.tensor, one.axis, one.reason) for one in report.fixed] == [
        (one.tensor, one.axis, one.reason) for one in result.channels.fixed
    ]
    assert report.fixed


def test_conditions_say_what_the_numbers_depend_on(report, result):
    """Versions, machine, threads, seed, time and command are there, and the caller's notes."""
    conditions = report.conditions
    assert conditions["versions"].keys() == {"secateur", "torch", "numpy", "python"}
    assert conditions["threads"] >= 1
    assert conditions["command"] == "secateur reduce net --data digits"
    assert conditions["seconds"] == pytest.approx(result.seconds, abs=0.06)
    assert report.seed == 7
    assert "Mine." in report.notes


def test_the_commit_is_left_out_where_there_is_no_git(result, digits, monkeypatch):
    """Without git, or outside a clone, the report says nothing of a commit."""

    def missing(*_: object, **__: object) -> None:
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", missing)

    assert "commit" not in report_of(result, data=digits).conditions


def test_a_report_is_written_and_read_back(result, digits, tmp_path):
    """The written values are read back as the same report, and the page is there."""
    report = write_report(result, tmp_path, data=digits, network="net")

    assert read(tmp_path) == report
    assert (tmp_path / "report.html").is_file()
    assert report.title == "net on digits, reduced within 6 points"


def test_a_report_needs_a_folder(result, digits):
    """A reduction that was kept nowhere needs a folder for its report."""
    with pytest.raises(SettingsError, match="name one"):
        write_report(result, data=digits)


def test_a_run_s_report_goes_into_its_folder(net, digits, tmp_path):
    """A reduction with a folder has its report there, with the files that the folder holds."""
    kept = secateur.reduce(
        net, digits, max_drop=6.0, max_iterations=1, out=tmp_path / "run", listener=Silent()
    )

    report = write_report(kept, data=digits)

    assert read(tmp_path / "run") == report
    sizes = {file.name: file.bytes for file in report.files}
    assert sizes["model.safetensors"] == (tmp_path / "run" / "model.safetensors").stat().st_size


def test_a_reduction_that_removed_nothing_is_unchanged(net, digits):
    """The report of a network that no candidate replaced says that it is unchanged, without limits of what it lost."""
    result = secateur.reduce(
        net, digits, max_drop=0.0, criterion="random", compensate="none", max_iterations=1, rounds=1,
        retrain=train.TrainSettings(epochs=1, lr=1e-6),
    )  # fmt: skip

    report = report_of(result, data=digits)

    assert not result.removed
    assert report.unchanged
    assert (report.test_change.low, report.validation_change.low) == (0.0, 0.0)
    assert report.bound.statement.startswith("The network is unchanged")
