"""Studies whose cells are run by several processes."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch

from secateur.scale import RayWorkers
from secateur.studies import compare

pytest.importorskip("ray", reason="pip install 'secateur[ray]'")


@pytest.fixture(scope="module")
def two():
    with RayWorkers(2) as workers:
        workers.threads = 1
        yield workers


def test_a_study_on_two_workers_of_which_one_is_killed_has_the_same_result(
    small, two, tmp_path, monkeypatch
) -> None:
    """Bit by bit that of one process, and no cell is missing."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone = compare(small(), out=tmp_path / "alone")
    finally:
        torch.set_num_threads(before)
    each, killed = two.each, tmp_path / "killed"

    def killing(function, tasks):
        """Kill the process of the second cell, in its midst."""
        wrapped = [(function, task, str(killed) if number == 1 else "") for number, task in enumerate(tasks)]
        return ((task, result) for (_, task, _), result in each(run_and_die, wrapped))

    monkeypatch.setattr(two, "each", killing)
    shared = compare(small(), out=tmp_path / "shared", workers=two)

    assert killed.exists()
    assert [one.cell.key for one in shared] == [one.cell.key for one in alone]
    for mine, theirs in zip(shared, alone, strict=True):
        assert (mine.points, mine.reason, mine.figures) == (theirs.points, theirs.reason, theirs.figures)


def run_and_die(wrapped):
    """Do a task; the first time that it is asked to, do it and die before anybody hears of it."""
    function, task, mark = wrapped
    result = function(task)
    if mark and not Path(mark).exists():
        Path(mark).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return result


def test_a_network_that_cannot_be_trained_fails_its_cells_alone(small, two, tmp_path) -> None:
    """The reason is theirs; the other seed's cells are done."""
    only = [{"name": "criteria", "criterion": ["l1", "random"], "step": 0.3}]
    study = small(experiment=only, train={"epochs": 1, "lr": 1e30})
    found = compare(study, out=tmp_path / "run", workers=two)
    assert len(found) == 4
    assert all("finite" in one.reason for one in found)
