"""LiteRT's own benchmark program, so that figures can be compared with others' that were made by it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from secateur.errors import StoreError

_NAME: Final = "litert-benchmark"


@dataclass(frozen=True, slots=True)
class ToolLatency:
    """What ``litert-benchmark`` says of a file, in milliseconds, rounded by it to hundredths.

    Attributes:
        mean: Of the timed passes: what papers give that were made with it.
        median: Of them.
        low: 5th percentile.
        high: 95th percentile.
        first: The first warm-up pass.
        opening: From the file to a network.
        runs: Timed passes.
        threads: Threads inside an operator.
    """

    mean: float
    median: float
    low: float
    high: float
    first: float
    opening: float
    runs: int
    threads: int


def litert_benchmark(path: Path, *, threads: int = 1, warmup: int = 1, runs: int = 50) -> ToolLatency | None:
    """Run LiteRT's own benchmark on a ``.tflite``.

    Args:
        path: The file.
        threads: Threads inside an operator.
        warmup: Passes that are not timed.
        runs: Timed passes.

    Returns:
        What it says; None where it is not installed (``pip install 'secateur[litert]'``).

    Raises:
        StoreError: It could not run the file.
    """
    beside = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    program = shutil.which(_NAME, path=beside)
    if program is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        options = {"model": path, "num_runs": runs, "warmup_runs": warmup, "num_threads": threads}
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        done = subprocess.run(
            [program, *words, "--result_json", str(result)], capture_output=True, text=True, check=False
        )
        if done.returncode or not result.is_file():
            last = next(
                (line for line in reversed(done.stderr.splitlines()) if line.strip()), "it said nothing"
            )
            raise StoreError(f"{_NAME} could not run {path}: {last.strip()}; see that it is a .tflite")
        found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    times = found["latency"]
    return ToolLatency(
        mean=times["avg_ms"],
        median=times["median_ms"],
        low=times["p5_ms"],
        high=times["p95_ms"],
        first=times["warmup_first_ms"],
        opening=times["init_ms"],
        runs=times["num_runs"],
        threads=found["num_threads"],
    )
