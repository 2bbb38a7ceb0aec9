"""What is shown while a command works."""

import io

import pytest
from rich.console import Console

from secateur import data, networks
from secateur.cli.progress import ReduceProgress, StudyProgress, TimeLeft, TrainProgress, doing
from secateur.evaluate import Drop
from secateur.methods import ReduceSettings, Step
from secateur.studies import CellResult, Study
from secateur.train import EpochRecord

DROP = Drop(0.3, 0.1, 0.45, 0.95, 3, 1, 360)


def shown(progress) -> str:
    """The block as a terminal shows it."""
    console = Console(file=io.StringIO(), width=120)
    console.print(progress.block())
    return console.file.getvalue()


def record(epoch: int) -> EpochRecord:
    return EpochRecord(epoch, 0.5, 0.2, 98.25, 0.1, seconds=1.5)


def step(*, accepted: bool) -> Step:
    return Step(
        1, 0, "cut", "conv2", 0.5, 32, 16, accepted, "because", 98.0, 0.3, 0.45, 0.1, 30_000, 500_000, 2, 3.0
    )


@pytest.fixture
def progress() -> ReduceProgress:
    return ReduceProgress(networks.build("digits-net"), data.load("digits"), ReduceSettings(max_drop=0.5))


def test_a_candidate_is_shown_with_its_bound_and_sizes(progress, capsys):
    """The block names iteration, layer, widths, the bar of its epochs, the accuracy and the bound."""
    progress.candidate(3, "conv2", 32, 16, 5)
    progress.batch(7, 85)
    progress.epoch(record(2), DROP)

    block = shown(progress)

    for words in (
        "iteration 3 of at most 200: conv2 32 → 16",
        "at most 5 epochs",
        "7/85",
        "98.25",
        "0.45",
        "0.5",
    ):
        assert words in block
    assert "40.6" in block


def test_what_was_accepted_counts(progress, capsys):
    """An accepted candidate changes the figures so far, a rejected one does not; each leaves a line."""
    progress.step(step(accepted=False))
    assert "0 of 1 candidates accepted; 40.6" in shown(progress)

    progress.step(step(accepted=True))

    assert "1 of 2 candidates accepted" in shown(progress)
    assert "÷ 1.35" in shown(progress)
    lines = capsys.readouterr().err.splitlines()
    assert ["rejected" in lines[0], "accepted" in lines[1]] == [True, True]
    assert "conv2 32 → 16" in lines[1]


def test_a_training_shows_epoch_accuracy_and_time_left(capsys):
    """Each epoch leaves a line; the bar counts all steps."""
    progress = TrainProgress(4, done=1)
    progress.batch(34, 68)
    progress.epoch(record(2))

    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "going on after epoch 1 of 4"
    assert lines[1].startswith("epoch 2 of 4: validation 98.25")
    assert lines[1].endswith("left")
    assert "epoch 3 of 4" in shown(progress)
    assert "34/68" in shown(progress)


def test_the_time_left_does_not_count_what_is_made_ready_once(monkeypatch, capsys):
    """The first step takes as long as all others of its epoch together, which later epochs do not pay again."""
    clock = [100.0]
    monkeypatch.setattr("secateur.cli.progress.time.perf_counter", lambda: clock[0])
    progress = TrainProgress(4)
    for epoch in (1, 2):
        for done in range(1, 11):
            clock[0] += 9.0 if (epoch, done) == (1, 1) else 1.0
            progress.batch(done, 10)
        progress.epoch(record(epoch))

    left = [line.rpartition("about ")[2] for line in capsys.readouterr().err.splitlines()]
    assert left == ["30.0\u202fs left", "20.0\u202fs left"]


@pytest.mark.parametrize("steps", [0, 1])
def test_the_time_left_of_epochs_of_one_step(monkeypatch, capsys, steps):
    """Where there are no other steps, or nobody tells of them, whole epochs are counted."""
    clock = [100.0]
    monkeypatch.setattr("secateur.cli.progress.time.perf_counter", lambda: clock[0])
    progress = TrainProgress(3)
    clock[0] += 4.0
    for _ in range(steps):
        progress.batch(1, 1)
    progress.epoch(record(1))

    assert "about 8.0\u202fs left" in capsys.readouterr().err


def test_what_begins_is_one_line_or_a_passing_one(monkeypatch, capsys):
    """Elsewhere than on a terminal a line is left; on one it goes when the step is done. Names do not steer either."""
    with doing("loading \x1b[31mmnist"):
        assert capsys.readouterr().err == "loading  [31mmnist …\n"

    monkeypatch.setenv("FORCE_COLOR", "1")
    with doing("loading mnist"):
        pass
    assert "\x1b[2K" in capsys.readouterr().err


def test_between_candidates_the_next_cuts_are_tried(progress):
    """Before the first candidate and after each the block says what goes on, not what went on."""
    assert "trying the next cuts" in shown(progress)
    progress.candidate(1, "conv2", 32, 16, 5)
    assert "trying the next cuts" not in shown(progress)

    progress.step(step(accepted=False))

    assert "trying the next cuts" in shown(progress)
    assert "conv2" not in shown(progress)


def retraining() -> Study:
    return Study(
        networks="digits-net", data="digits", seeds=[0, 1],
        experiment=[
            {"name": "q", "compare": "retrain", "criterion": "l1", "retrain": ["none", "network"], "iterations": [0, 100],
             "step": 0.1, "recompute": [1, 2], "scratch": False}
        ],
    )  # fmt: skip


def test_epochs_of_a_study_stay_in_the_block(capsys):
    """A training is a line when it begins and one when it has ended, so that the cells' lines stand together."""
    cell, *_ = cells = retraining().cells()
    progress = StudyProgress()
    progress.planned(cells, cells)
    progress.training(cell)
    for number in (1, 2, 3):
        progress.epoch(record(number))
        assert f"epoch {number} of {cell.training.epochs}, validation 98.25" in shown(progress)
    progress.started(cell)

    said = capsys.readouterr().err
    assert said.count("epoch 3 of") == 1
    assert "epoch 2 of" not in said


def test_a_cells_line_says_what_differs_within_the_study(capsys):
    """Whatever has several values is named."""
    cells = retraining().cells()
    progress = StudyProgress()
    progress.planned(cells, cells[1:])
    for cell in cells[1:]:
        progress.ended(CellResult(cell, (), "", {}, 2.0))

    said = capsys.readouterr().err
    assert "8 cells from 2 trained networks; 1 are done" in said
    for words in ("2 of 8  digits-net seed 0, l1, network, recompute 2", "for 100, recompute 1", "8 of 8"):
        assert words in said
    assert "step" not in said


def test_cells_that_retrain_are_expected_to_take_longer():
    """Before one was run by the examples that run through it; afterwards as long as it took, each kind by itself."""
    cells = sorted(
        (cell for cell in retraining().cells() if cell.settings.recompute == 1),
        key=lambda cell: cell.settings.iterations,
    )
    assert [cell.settings.iterations for cell in cells] == [0, 0, 100, 100]
    left = TimeLeft(cells)

    first = left.after(CellResult(cells[0], (), "", {}, 10.0))
    second = left.after(CellResult(cells[1], (), "", {}, 10.0))
    third = left.after(CellResult(cells[2], (), "", {}, 70.0))

    assert first > 3 * 10.0  # the mean over those that are done would say so
    assert second < first
    assert third > 0
    assert left.after(CellResult(cells[3], (), "", {}, 70.0)) == 0


def test_a_kind_that_was_run_takes_as_long_as_it_did(monkeypatch):
    """On one process and on two, where the same cells pass in half the time."""
    for at_a_time in (1, 2):
        clock = [1000.0]
        monkeypatch.setattr("secateur.cli.progress.time.perf_counter", lambda clock=clock: clock[0])
        cells = retraining().cells()
        left = TimeLeft(cells)
        seconds = {cell.key: 4.0 if cell.settings.iterations == 0 else 40.0 for cell in cells}
        for number, cell in enumerate(cells[:-1]):
            clock[0] += seconds[cell.key] / (1 if number == 0 else at_a_time)
            told = left.after(CellResult(cell, (), "", {}, seconds[cell.key]))
        assert told == pytest.approx(seconds[cells[-1].key] / at_a_time, rel=0.3)
