"""Does a run of hundreds of steps on large weights stay in constant memory?

Stores 300 snapshots of a network with VGG-16's weights (138 million numbers, 553 MB), in each of which one layer's
tensors changed, reopens some of them, and notes the peak of the resident memory on the way.

    python benchmarks/store.py [--snapshots 300] [--folder FOLDER]    # needs about 11 GB of disk, for a few minutes
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import torch

from secateur.store import RunFolder

CONVOLUTIONS = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
DENSE = ((4096, 25088), (4096, 4096), (1000, 4096))
RESULT = Path(__file__).parent / "results" / "store.json"


def vgg16_weights() -> dict[str, torch.Tensor]:
    """Random tensors with the names and shapes of VGG-16's 16 layers."""
    shapes = [(width, before, 3, 3) for before, width in zip((3, *CONVOLUTIONS), CONVOLUTIONS, strict=False)]
    generator = torch.Generator().manual_seed(0)
    tensors: dict[str, torch.Tensor] = {}
    for number, shape in enumerate([*shapes, *DENSE]):
        tensors[f"layer{number}.weight"] = torch.rand(shape, generator=generator)
        tensors[f"layer{number}.bias"] = torch.rand(shape[0], generator=generator)
    return tensors


def peak_mb() -> float:
    """The most memory that was ever resident, in MB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def store_many(path: Path, count: int) -> list[dict[str, object]]:
    """Store the snapshots, and note time, memory and disk after some of them."""
    rows: list[dict[str, object]] = []
    weights = vgg16_weights()
    layers = len(weights) // 2
    start, written = time.perf_counter(), 0
    print(
        f"{sum(t.numel() for t in weights.values()):,} numbers, {peak_mb():.0f} MB before the first snapshot"
    )
    with RunFolder.create(path, {"snapshots": count}, kind="benchmark") as run:
        for number in range(count):
            for kind in ("weight", "bias"):
                weights[f"layer{number % layers}.{kind}"].add_(1.0)
            name = f"step-{number}"
            run.put(name, weights, {"step": number}, parent=f"step-{number - 1}" if number else None)
            run.append({"step": number, "snapshot": name})
            written += (path / "snapshots" / f"{name}.safetensors").stat().st_size
            if number + 1 in (1, 2, 10, 50, 100, 150, 200, 250, count):
                seconds = time.perf_counter() - start
                row = {
                    "snapshots": number + 1,
                    "peak_rss_mb": peak_mb(),
                    "seconds": seconds,
                    "disk_mb": written / 1e6,
                }
                rows.append(row)
                print({key: round(value, 1) for key, value in row.items()}, flush=True)
    return rows


def reopen_some(path: Path, count: int) -> list[dict[str, object]]:
    """Reopen a few steps and check what is in them."""
    rows: list[dict[str, object]] = []
    start = time.perf_counter()
    run = RunFolder.open(path)
    opened = time.perf_counter() - start
    first = vgg16_weights()["layer0.bias"]
    for number in sorted({0, count // 2, count - 1}):
        start = time.perf_counter()
        tensors, document = run.get(f"step-{number}")
        seconds = time.perf_counter() - start
        turns = number // 16 + 1  # how often layer 0 had changed by then
        expected = first.clone()
        for _ in range(turns):
            expected.add_(1.0)
        same = torch.equal(tensors["layer0.bias"], expected) and document == {"step": number}
        rows.append({"reopened": number, "seconds": seconds, "open_seconds": opened, "equal": same})
        print(rows[-1])
    run.close()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--snapshots", type=int, default=300)
    parser.add_argument(
        "--folder", type=Path, help="where to put the run, for about 11 GB (default: a temporary one)"
    )
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    started, clock = datetime.now(UTC), time.perf_counter()
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    load = os.getloadavg()[0]
    folder = Path(tempfile.mkdtemp(prefix="secateur-store-", dir=options.folder))
    try:
        rows = store_many(folder / "run", options.snapshots) + reopen_some(folder / "run", options.snapshots)
    finally:
        shutil.rmtree(folder)
    result = {
        "name": "store",
        "conditions": {
            "commit": commit,
            "versions": {"python": platform.python_version(), "torch": torch.__version__},
            "machine": {"system": platform.system(), "processor": platform.machine(), "cpus": os.cpu_count()},
            "started": started.isoformat(timespec="seconds"),
            "seconds": time.perf_counter() - clock,
            "cpu_seconds": time.process_time(),
            "load_average_at_start": load,
            "command": f"python benchmarks/store.py --snapshots {options.snapshots}",
        },
        "rows": rows,
    }
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
