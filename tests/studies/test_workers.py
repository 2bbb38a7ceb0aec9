"""Studies whose cells are run by several processes."""

from __future__ import annotations

import pytest
from tests.killing import kill_second, one_thread, two_workers

from secateur.studies import compare


@pytest.fixture(scope="module")
def two():
    with two_workers() as workers:
        yield workers


def test_a_study_on_two_workers_of_which_one_is_killed_has_the_same_result(
    small, two, tmp_path, monkeypatch
) -> None:
    """Bit by bit that of one process, and no cell is missing."""
    with one_thread():
        alone = compare(small(), out=tmp_path / "alone")
    killed = tmp_path / "killed"
    kill_second(two, killed, monkeypatch)
    shared = compare(small(), out=tmp_path / "shared", workers=two)

    assert killed.exists()
    assert [one.cell.key for one in shared] == [one.cell.key for one in alone]
    for mine, theirs in zip(shared, alone, strict=True):
        assert (mine.points, mine.reason, mine.figures) == (theirs.points, theirs.reason, theirs.figures)


def test_a_network_that_cannot_be_trained_fails_its_cells_alone(small, two, tmp_path) -> None:
    """The reason is theirs; the other seed's cells are done."""
    only = [{"name": "criteria", "criterion": ["l1", "random"], "step": 0.3}]
    study = small(experiment=only, train={"epochs": 1, "lr": 1e30})
    found = compare(study, out=tmp_path / "run", workers=two)
    assert len(found) == 4
    assert all("finite" in one.reason for one in found)
