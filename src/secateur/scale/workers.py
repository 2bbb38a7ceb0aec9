"""Who carries out tasks that do not need each other: this process, or processes that Ray starts and watches over."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, Self, TypeVar

import torch

from secateur.errors import SettingsError

Task = TypeVar("Task")
Result = TypeVar("Result")

RETRIES = 3
"""How often a task is begun anew whose process was lost."""


class Workers(Protocol):
    """Carries out tasks, in any order."""

    def each(
        self, function: Callable[[Task], Result], tasks: Sequence[Task]
    ) -> Iterator[tuple[Task, Result]]:
        """Each task with its result, as they are done. What a function raises is raised here."""
        ...


class Here:
    """This process, one task after the other.

    Example:
        >>> list(Here().each(lambda number: number**2, [2, 3]))
        [(2, 4), (3, 9)]
    """

    def each(
        self, function: Callable[[Task], Result], tasks: Sequence[Task]
    ) -> Iterator[tuple[Task, Result]]:
        """Each task with its result."""
        for task in tasks:
            yield task, function(task)


class RayWorkers:
    """Processes of Ray (``pip install 'secateur[ray]'``), on this machine or on a cluster; a context manager.

    A task whose process is lost is begun anew elsewhere, so tasks must be ones that can be. Each process computes with its share
    of this process's threads.

    Args:
        count: Tasks at a time.
        address: A running cluster (``ray://head:10001``, ``auto``); None starts Ray on this machine, for as long as the context lasts.

    Raises:
        SettingsError: Ray is not installed, or cannot be reached; or the count is below 1.
    """

    def __init__(self, count: int, *, address: str | None = None) -> None:
        if count < 1:
            raise SettingsError(f"workers={count} must be at least 1")
        try:
            import ray  # noqa: PLC0415  # pyright: ignore[reportMissingTypeStubs]
        except ImportError as error:
            raise SettingsError(
                "several workers need Ray, which is not installed; pip install 'secateur[ray]', or leave --workers out"
            ) from error
        self._ray: Any = ray
        self.count, self.address = count, address
        self.threads = (
            max(1, torch.get_num_threads() // count) if address is None else torch.get_num_threads()
        )

    def __enter__(self) -> Self:
        quiet = {"log_to_driver": False, "logging_level": "ERROR", "ignore_reinit_error": True}
        try:
            if self.address is None:
                self._ray.init(num_cpus=self.count, include_dashboard=False, **quiet)
            else:
                self._ray.init(address=self.address, **quiet)
        except Exception as error:  # whatever Ray raises when it cannot start or reach what it is told
            raise SettingsError(
                f"Ray cannot be {'reached at ' + self.address if self.address else 'started'}: {type(error).__name__}: {error}"
            ) from error
        return self

    def __exit__(self, *_: object) -> None:
        self._ray.shutdown()

    def each(
        self, function: Callable[[Task], Result], tasks: Sequence[Task]
    ) -> Iterator[tuple[Task, Result]]:
        """Each task with its result, as they are done."""
        remote = self._ray.remote(_with_threads).options(num_cpus=1, max_retries=RETRIES)
        waiting = list(tasks)[::-1]
        running: dict[Any, Task] = {}
        while waiting or running:
            while waiting and len(running) < self.count:
                task = waiting.pop()
                running[remote.remote(function, task, self.threads)] = task
            (done, *_), _ = self._ray.wait(list(running))
            yield running.pop(done), self._ray.get(done)


def _with_threads(function: Callable[[Any], Any], task: Any, threads: int) -> Any:
    """A task in a process of its own."""
    torch.set_num_threads(threads)
    return function(task)
