"""Two processes of Ray, of which one is killed in the midst of its work; and this process with as many threads as they have."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from secateur.scale import RayWorkers


@contextmanager
def two_workers() -> Iterator[RayWorkers]:
    """Two processes of one thread each; the tests are skipped without Ray."""
    pytest.importorskip("ray", reason="pip install 'secateur[ray]'")
    with RayWorkers(2) as workers:
        workers.threads = 1
        yield workers


@contextmanager
def one_thread() -> Iterator[None]:
    """As each of them computes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def kill_second(workers: RayWorkers, mark: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kill the process of each second task, until the mark says that it was done once."""
    each = workers.each

    def killing(function, tasks):
        wrapped = [(function, task, str(mark) if number == 1 else "") for number, task in enumerate(tasks)]
        return ((task, result) for (_, task, _), result in each(run_and_die, wrapped))

    monkeypatch.setattr(workers, "each", killing)


def run_and_die(wrapped):
    """Do a task; the first time that it is asked to, do it and die before anybody hears of it."""
    function, task, mark = wrapped
    result = function(task)
    if mark and not Path(mark).exists():
        Path(mark).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return result
