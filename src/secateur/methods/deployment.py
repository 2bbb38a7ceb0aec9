"""Candidates that are judged as the files that will be deployed."""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

from torch import Tensor, nn

from secateur._options import did_you_mean
from secateur.data import Split
from secateur.errors import SettingsError

Aim = Literal["cost", "bytes", "latency"]

_TURNS: Final = 41
_SMALLER: Final = 0.98
"""A file counts as quicker from this ratio of times on: what is less may be chance."""


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """What a reduced network becomes: a candidate is accepted or rejected by the accuracy of that file.

    Attributes:
        target: The runtime; see `secateur.export.TARGETS`.
        mode: The number format; see `secateur.export.MODES`.
        observer: How ranges of activations are found; see `secateur.export.OBSERVERS`.
        calibration: Training examples on which they are found.
        aim: What cuts are chosen by and must bring: parameters and multiply-adds (``cost``); ``bytes`` of the file, which must get
            smaller with every cut; or its ``latency`` on this machine, which must get shorter. Latency is measured, so that
            two runs with the same seed may differ.

    Raises:
        SettingsError: The target does not offer that, or an option is out of its range.

    Example:
        >>> Deployment(mode="int8-only").target
        'litert'
        >>> Deployment(target="executorch", mode="float16")
        Traceback (most recent call last):
        ...
        secateur.errors.SettingsError: executorch does not offer mode='float16'; it offers float32, int8 (float16 is offered by litert, onnx)
    """

    target: str = "litert"
    mode: str = "int8"
    observer: str = "minmax"
    calibration: int = 100
    aim: Aim = "cost"

    def __post_init__(self) -> None:
        from secateur.export import check_offered  # noqa: PLC0415 - only a reduction for a file needs its room

        check_offered(self.target, self.mode, observer=self.observer)
        if self.calibration < 1:
            raise SettingsError(f"calibration={self.calibration}: ranges are found on one example at least")
        if self.aim not in get_args(Aim):
            raise SettingsError(f"no aim is named {self.aim!r}; {did_you_mean(self.aim, get_args(Aim))}")

    @property
    def file_name(self) -> str:
        """What the file is called in a run folder."""
        from secateur.export import suffix_of  # noqa: PLC0415

        return f"model-{self.mode}{suffix_of(self.target)}"


class Writer:
    """Makes the files of candidates, in memory; it goes to other processes as it is."""

    def __init__(self, train: Split, deployment: Deployment, *, seed: int) -> None:
        """Take the examples that ranges are found on."""
        self.deployment = deployment
        self.calibration: Tensor = train.take(min(deployment.calibration, len(train)), seed=seed).inputs

    def content_of(self, model: nn.Module) -> bytes:
        """The file of a network.

        Raises:
            ExportError: The target cannot take the network.
        """
        from secateur.export import export  # noqa: PLC0415

        asked = self.deployment
        with tempfile.TemporaryDirectory() as folder:
            made = export(
                model, self.calibration[:2], Path(folder) / asked.file_name, target=asked.target, mode=asked.mode,
                calibration=self.calibration, observer=asked.observer,
            )  # fmt: skip
            return made.path.read_bytes()

    def opened(self, content: bytes) -> nn.Module:
        """A file as a module, run with one thread."""
        from secateur.export import open_file  # noqa: PLC0415

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / self.deployment.file_name
            path.write_bytes(content)
            return open_file(path, threads=1, allow=["torch"])

    def time_ratio(self, content: bytes, other: bytes) -> float:
        """How much time a file takes for one example, in that of another; both are run in turns."""
        files = [self.opened(one) for one in (content, other)]
        example = self.calibration[:1]
        seconds: list[list[float]] = [[], []]
        for file in files:
            file(example)  # the first pass allocates
        for _ in range(_TURNS):
            for file, taken in zip(files, seconds, strict=True):
                started = time.process_time()
                file(example)
                taken.append(time.process_time() - started)
        return statistics.median(seconds[0]) / max(statistics.median(seconds[1]), 1e-9)

    def misses(self, content: bytes, before: bytes) -> str:
        """Why a candidate's file is not what is aimed at; empty where it is."""
        if self.deployment.aim == "bytes" and len(content) >= len(before):
            return f"its file has {len(content):,} bytes, no fewer than {len(before):,}"
        if self.deployment.aim == "latency":
            ratio = self.time_ratio(content, before)
            if ratio > _SMALLER:
                return f"its file takes {ratio:.2f} of the time, which is no less"
        return ""
