"""Results of benchmarks as JSON with their conditions: ``benchmarks/results/<name>.json``."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PACKAGES = (
    "secateur",
    "torch",
    "numpy",
    "scipy",
    "lightning-fabric",
    "torchvision",
    "timm",
    "transformers",
    "torch-pruning",
)


def _commit() -> str:
    """The commit that ran, marked where what ran differed from it (results do not run)."""
    commit = _git("describe", "--always", "--exclude=*", "--abbrev=12")
    changed = _git(
        "status", "--porcelain", "--untracked-files=no", "--", ".", f":!{RESULTS.relative_to(ROOT)}"
    )
    return (commit + ("-dirty" if changed else "")) or "unknown"


def _git(*words: str) -> str:
    run = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    return run.stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.processor(),
    )


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


class Results:
    """The rows of one benchmark. Rows that are there already are kept, so that a benchmark can go on where it stopped."""

    def __init__(self, name: str, *, keys: Sequence[str] = (), fresh: bool = False) -> None:
        """``keys`` identify a row: a new one with the same values replaces the old one."""
        self.name, self.keys = name, tuple(keys)
        self.path = RESULTS / f"{name}.json"
        self.started, self.clock = datetime.now(UTC), time.monotonic()
        self.document: dict[str, Any] = {"name": name, "conditions": {}, "rows": []}
        if self.path.exists() and not fresh:
            self.document = json.loads(self.path.read_text())

    @property
    def rows(self) -> list[dict[str, Any]]:
        """All rows so far."""
        return self.document["rows"]

    def has(self, **wanted: Any) -> bool:
        """Whether a row with these values is there."""
        return any(all(row.get(key) == value for key, value in wanted.items()) for row in self.rows)

    def add(self, row: Mapping[str, Any]) -> None:
        """Add a row and write the file, atomically; another process may be adding to it, too."""
        RESULTS.mkdir(parents=True, exist_ok=True)
        with (RESULTS / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self.keys and self.path.exists():
                self.document = json.loads(self.path.read_text())
            if self.keys:
                self.document["rows"] = [
                    r for r in self.rows if any(r.get(k) != row.get(k) for k in self.keys)
                ]
            self.document["rows"].append({"commit": _commit(), **row})
            self.document["rows"].sort(key=lambda r: [str(r.get(key)) for key in self.keys])
            self.write()

    def write(self, **more: Any) -> None:
        """Write the file with its conditions; seconds add up over the calls that made it."""
        spent = time.monotonic() - self.clock
        self.clock = time.monotonic()
        before = self.document["conditions"].get("seconds", 0.0)
        self.document["conditions"] = {
            "commit": _commit(),
            "versions": _versions(),
            "machine": f"{_processor()}, {os.cpu_count()} cores, {platform.system()}",
            "started": self.document["conditions"].get("started", self.started.isoformat(timespec="seconds")),
            "seconds": round(before + spent, 1),
            "command": " ".join(["python", *sys.argv]),
            **more,
        }
        RESULTS.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps(self.document, indent=1, sort_keys=True) + "\n")
        temporary.replace(self.path)
