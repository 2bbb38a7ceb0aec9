"""What is shown while a command works."""

import io

import pytest
from rich.console import Console

from secateur import data, networks
from secateur.cli.progress import ReduceProgress, TrainProgress, doing
from secateur.evaluate import Drop
from secateur.methods import ReduceSettings, Step
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
