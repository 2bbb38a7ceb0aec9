"""Files measured in processes of their own, in turns: time, memory, and the ratio to the first."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from secateur.errors import SettingsError, StoreError

QUANTILES: Final = (0.1, 0.5, 0.9)
_WORKER: Final = Path(__file__).with_name("_worker.py")
"""Run as a program, so that the process holds nothing but what opens its file."""

_ROUNDS: Final = 5
"""Turns that each file takes: what else runs on the machine then disturbs all files alike."""


@dataclass(frozen=True, slots=True)
class Runnable:
    """A file, and what makes a network of it.

    Attributes:
        path: The file.
        opener: ``package.module:function``, which is called with the path and returns a module.
        options: Its keyword arguments; JSON values.
        imports: Modules of the runtime, whose memory is not the file's.
        input_shape: Of one example; None where the module has it as ``input_shape``.
    """

    path: Path
    opener: str = "secateur.store:load"
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    imports: tuple[str, ...] = ()
    input_shape: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """What one file needs in a process of its own, with so many threads.

    Attributes:
        path: The file.
        threads: Threads inside an operator.
        wall: Milliseconds of a pass on the clock, by quantile.
        cpu: Milliseconds of a pass that processors worked, all threads together, by quantile; what else runs counts less.
        wall_ratio: The median over the turns of this file's median over the first file's; 1 for the first.
        cpu_ratio: The same of the processors' time.
        first: Milliseconds of the first pass.
        opening: Milliseconds from the file to a network.
        runs: Timed passes.
        warmup: Passes before them.
        empty: Bytes of memory that the process takes with its runtime and without the file.
        peak: The most bytes that it took.
        input_shape: Of the one example that was passed.
    """

    path: Path
    threads: int
    wall: Mapping[float, float]
    cpu: Mapping[float, float]
    wall_ratio: float
    cpu_ratio: float
    first: float
    opening: float
    runs: int
    warmup: int
    empty: int
    peak: int
    input_shape: tuple[int, ...]

    @property
    def memory(self) -> int:
        """Bytes that the file and its passes take: the peak without the empty process."""
        return max(self.peak - self.empty, 0)

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {
            "path": str(self.path),
            "threads": self.threads,
            "wall_ms": {str(q): value for q, value in self.wall.items()},
            "cpu_ms": {str(q): value for q, value in self.cpu.items()},
            "wall_ratio": self.wall_ratio,
            "cpu_ratio": self.cpu_ratio,
            "first_ms": self.first,
            "opening_ms": self.opening,
            "runs": self.runs,
            "warmup": self.warmup,
            "empty_bytes": self.empty,
            "peak_bytes": self.peak,
            "memory_bytes": self.memory,
            "input_shape": list(self.input_shape),
        }


def measure_processes(
    files: Sequence[Runnable],
    *,
    threads: Sequence[int] = (1,),
    warmup: int = 1,
    runs: int = 50,
    on_step: Callable[[str], None] | None = None,
) -> tuple[Measured, ...]:
    """Measure files side by side, each in a process of its own for each number of threads.

    Processes of equal threads live at the same time and work in turns, a fifth of the passes a turn, so that only one
    computes at any moment and what disturbs the machine disturbs all of them. Memory is that of a process that does nothing
    else: a new one reports no other program's peak, and the runtime's own share is stated beside it.

    Args:
        files: What to measure; ratios are to the first.
        threads: Numbers of threads inside an operator.
        warmup: Passes that are not timed, at least the first.
        runs: Timed passes of one example each.
        on_step: Told what begins.

    Returns:
        One measurement a file and number of threads, in the order of threads, then of files.

    Raises:
        SettingsError: A number is out of its range, or there is no file.
        StoreError: A file could not be opened or run in its process.

    Example:
        >>> import tempfile
        >>> from secateur import networks, save
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "net.safetensors"
        ...     save(networks.build("digits-net"), file)
        ...     found = measure_processes([Runnable(file, input_shape=(1, 8, 8))], runs=5)
        >>> found[0].threads, found[0].runs, found[0].cpu_ratio, found[0].memory < found[0].peak
        (1, 5, 1.0, True)
    """
    if warmup < 1 or runs < 1 or not threads or any(count < 1 for count in threads):
        raise SettingsError(
            f"warmup ({warmup}), runs ({runs}) and threads ({', '.join(map(str, threads)) or 'none'}) must be at least 1"
        )
    if not files:
        raise SettingsError("there is no file to measure; name at least one")
    tell = on_step or silent
    found: list[Measured] = []
    for count in threads:
        with _workers(files, threads=count, warmup=warmup, tell=tell) as workers:
            turns = _turns(workers, runs=runs, tell=tell)
        found += _gathered(workers, turns, threads=count, warmup=warmup)
    return tuple(found)


def silent(_: str) -> None:
    """Nobody listens."""


class _Worker:
    """A process for one file, which is started at once; all that can fail comes later, so that whoever holds it can end it."""

    def __init__(self, file: Runnable, *, threads: int, warmup: int) -> None:
        self.file = file
        self.about: dict[str, Any] = {}
        self._threads, self._warmup = threads, warmup
        self._said = tempfile.TemporaryFile(mode="w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - end() closes it
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(_WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            encoding="utf-8",
            env=os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": os.pathsep.join(sys.path)},
        )

    def ready(self) -> None:
        """Have the file opened, and wait until it is warm."""
        shape = self.file.input_shape
        self._ask(
            {
                "path": str(self.file.path),
                "opener": self.file.opener,
                "options": dict(self.file.options),
                "imports": list(self.file.imports),
                "input_shape": None if shape is None else list(shape),
                "threads": self._threads,
                "warmup": self._warmup,
            }
        )
        self.about = self._answer()

    def run(self, runs: int) -> dict[str, Any]:
        """Time so many passes."""
        self._ask({"runs": runs})
        answer = self._answer()
        self.about["peak"] = answer["peak"]
        return answer

    def end(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.communicate()
        self._said.close()

    def _ask(self, words: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(words) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._died() from None

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._died()
        answer = json.loads(line)
        if "error" in answer:
            told = answer["said"] or answer["error"]
            where = "" if str(self.file.path) in told else f"{self.file.path}: "
            raise StoreError(f"{where}{told}")
        return answer

    def _died(self) -> StoreError:
        code = self._process.wait()
        self._said.seek(0)
        lines = [line.strip() for line in self._said if line.strip()]
        return StoreError(
            f"the process that ran {self.file.path} ended with code {code}{f': {lines[-1]}' if lines else ''}; see that the file"
            " runs by itself"
        )


@contextmanager
def _workers(
    files: Sequence[Runnable], *, threads: int, warmup: int, tell: Callable[[str], None]
) -> Generator[list[_Worker]]:
    """A process for each file, all open and warm; none is left behind."""
    workers: list[_Worker] = []
    try:
        for file in files:
            tell(f"opening {file.path} ({threads} thread{'' if threads == 1 else 's'})")
            workers.append(_Worker(file, threads=threads, warmup=warmup))
            workers[-1].ready()
        yield workers
    finally:
        for worker in workers:
            worker.end()


def _turns(
    workers: Sequence[_Worker], *, runs: int, tell: Callable[[str], None]
) -> list[list[dict[str, Any]]]:
    """Passes in turns: one list of answers a worker."""
    turns: list[list[dict[str, Any]]] = [[] for _ in workers]
    rounds = min(_ROUNDS, runs)
    for number in range(rounds):
        share = runs * (number + 1) // rounds - runs * number // rounds
        tell(f"timing: turn {number + 1} of {rounds}")
        for worker, answers in zip(workers, turns, strict=True):
            answers.append(worker.run(share))
    return turns


def _gathered(
    workers: Sequence[_Worker], turns: Sequence[Sequence[dict[str, Any]]], *, threads: int, warmup: int
) -> list[Measured]:
    return [
        Measured(
            path=worker.file.path,
            threads=threads,
            wall=_quantiles(answers, "wall"),
            cpu=_quantiles(answers, "cpu"),
            wall_ratio=_ratio(answers, turns[0], "wall"),
            cpu_ratio=_ratio(answers, turns[0], "cpu"),
            first=1000 * worker.about["first"],
            opening=1000 * worker.about["opening"],
            runs=sum(len(answer["wall"]) for answer in answers),
            warmup=warmup,
            empty=worker.about["empty"],
            peak=worker.about["peak"],
            input_shape=tuple(worker.about["input_shape"]),
        )
        for worker, answers in zip(workers, turns, strict=True)
    ]


def _quantiles(answers: Sequence[Mapping[str, Any]], clock: str) -> dict[float, float]:
    times = np.concatenate([answer[clock] for answer in answers])
    return {q: float(value) for q, value in zip(QUANTILES, np.quantile(times, QUANTILES), strict=True)}


def _ratio(answers: Sequence[Mapping[str, Any]], first: Sequence[Mapping[str, Any]], clock: str) -> float:
    """The median over the turns of the ratio of medians."""
    pairs = zip(answers, first, strict=True)
    return float(np.median([np.median(a[clock]) / max(np.median(b[clock]), 1e-9) for a, b in pairs]))
