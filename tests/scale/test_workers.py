"""Tasks on several processes."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from secateur.errors import SettingsError
from secateur.scale import Here, RayWorkers

pytest.importorskip("ray", reason="pip install 'secateur[ray]'")


@pytest.fixture(scope="module")
def two():
    with RayWorkers(2) as workers:
        yield workers


def square(number: int) -> int:
    return number**2


def once_killed(task: tuple[str, int]) -> int:
    """Dies in its first try, as a process that somebody kills or that runs out of memory."""
    folder, number = task
    mark = Path(folder) / str(number)
    if number == 1 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def wrong(number: int) -> int:
    raise ValueError(f"task {number}")


def test_every_task_has_its_result(two) -> None:
    """In this process and in others, whatever the order."""
    for workers in (Here(), two):
        assert dict(workers.each(square, [3, 1, 2])) == {3: 9, 1: 1, 2: 4}


def test_a_task_whose_process_is_killed_is_begun_anew(two, tmp_path) -> None:
    """The result is there all the same."""
    tasks = [(str(tmp_path), number) for number in range(4)]
    assert sorted(result for _, result in two.each(once_killed, tasks)) == [0, 1, 2, 3]
    assert (tmp_path / "1").exists()


def test_what_a_task_raises_is_raised(two) -> None:
    """With its words."""
    with pytest.raises(Exception, match="task 5"):
        list(two.each(wrong, [5]))


def test_what_cannot_be_is_refused() -> None:
    """No worker at all, and a cluster that is not there."""
    with pytest.raises(SettingsError, match="workers=0"):
        RayWorkers(0)


def test_what_every_task_reads_stays_in_a_process(two) -> None:
    """However many other values come and go."""
    common = two.share(list(range(3)))
    first = common.get()
    for number in range(8):
        assert two.share(number).get() == number
        assert common.get() is first
