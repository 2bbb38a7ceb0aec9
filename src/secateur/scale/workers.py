"""Who carries out tasks that do not need each other: this process, or processes that Ray starts and watches over."""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, Protocol, Self, TypeVar, cast

import torch

from secateur._libraries import library
from secateur.errors import SettingsError

Task = TypeVar("Task")
Result = TypeVar("Result")
Value = TypeVar("Value")
Value_co = TypeVar("Value_co", covariant=True)

RETRIES = 3
"""How often a task is begun anew whose process was lost."""


class Shared(Protocol[Value_co]):
    """Something that many tasks need: it travels to each process once, and a task only says where it is."""

    def get(self) -> Value_co:
        """The value."""
        ...


class Workers(Protocol):
    """Carries out tasks, in any order."""

    def share(self, value: Value) -> Shared[Value]:
        """Make something known to all tasks to come. They must not change it."""
        ...

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

    def share(self, value: Value) -> Shared[Value]:
        """The value itself."""
        return _Held(value)

    def each(
        self, function: Callable[[Task], Result], tasks: Sequence[Task]
    ) -> Iterator[tuple[Task, Result]]:
        """Each task with its result."""
        for task in tasks:
            yield task, function(task)


class _Held(Generic[Value]):
    """A value of this process."""

    def __init__(self, value: Value) -> None:
        self._value = value

    def get(self) -> Value:
        return self._value


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
        self._ray = library(
            "ray",
            extra="ray",
            what="running several workers",
            instead="try one candidate or cell at a time, which needs no workers",
        )
        self.count, self.address = count, address
        self.threads = (
            max(1, torch.get_num_threads() // count) if address is None else torch.get_num_threads()
        )

    def __enter__(self) -> Self:
        try:
            with warnings.catch_warnings():
                # JAX, which converters bring, warns of every fork; these processes begin anew and do not use it
                warnings.filterwarnings("ignore", r"os\.fork\(\) was called", RuntimeWarning)
                self._started()
        except Exception as error:  # whatever Ray raises when it cannot start or reach what it is told
            raise SettingsError(
                f"Ray cannot be {'reached at ' + self.address if self.address else 'started'}: {type(error).__name__}: {error}"
            ) from error
        return self

    def _started(self) -> None:
        quiet = {"log_to_driver": False, "logging_level": "ERROR", "ignore_reinit_error": True}
        if self.address is not None:
            self._ray.init(address=self.address, **quiet)
            return
        # Ray's own processes are as nice as 15, so that whatever else runs here would starve them
        ours = {"worker_niceness": 0}
        self._ray.init(num_cpus=self.count, include_dashboard=False, _system_config=ours, **quiet)

    def __exit__(self, *_: object) -> None:
        self._ray.shutdown()

    def share(self, value: Value) -> Shared[Value]:
        """Store the value with Ray."""
        return _Stored(self._ray.put(value))

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


class _Stored(Generic[Value]):
    """A value that Ray stores; a process reads it once, and keeps it as long as it keeps others of the last few."""

    def __init__(self, reference: Any) -> None:
        self._reference, self._name = reference, uuid.uuid4().hex

    def get(self) -> Value:
        if self._name in _KNOWN:
            _KNOWN[self._name] = _KNOWN.pop(self._name)  # used last, so that what every task needs stays
        else:
            import ray  # noqa: PLC0415  # pyright: ignore[reportMissingTypeStubs]

            while len(_KNOWN) >= _KEPT:
                _KNOWN.pop(next(iter(_KNOWN)))
            _KNOWN[self._name] = cast("Any", ray).get(self._reference)
        return _KNOWN[self._name]


_KNOWN: dict[str, Any] = {}
"""What this process has read, by name."""

_KEPT = 4
"""How many values a process keeps."""


def _with_threads(function: Callable[[Any], Any], task: Any, threads: int) -> Any:
    """A task in a process of its own."""
    torch.set_num_threads(threads)
    return function(task)
