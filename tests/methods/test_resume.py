"""A reduction that is killed and resumed ends as one that never was."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("killed.py")
KILLS = 20


def _start(folder: Path) -> subprocess.Popen[bytes]:
    resume = ["resume"] if (folder / "journal.jsonl").exists() else []
    return subprocess.Popen([sys.executable, str(SCRIPT), str(folder), *resume])


def _steps(folder: Path) -> int:
    journal = folder / "journal.jsonl"
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


@pytest.mark.slow
def test_killed_twenty_times_it_ends_bit_equal(tmp_path: Path) -> None:
    """SIGKILL at twenty random moments, resumed each time: the same bytes as a run that was left alone."""
    left_alone, killed = tmp_path / "alone", tmp_path / "killed"
    assert _start(left_alone).wait() == 0

    moments = random.Random(0)
    kills = 0
    while True:
        process = _start(killed)
        before = _steps(killed)
        patience = time.monotonic() + 60
        while process.poll() is None and _steps(killed) == before and time.monotonic() < patience:
            time.sleep(0.005)  # let every life do at least a step, so that the run ends
        time.sleep(moments.uniform(0.0, 0.25))
        if kills < KILLS and process.poll() is None:
            process.kill()
            process.wait()
            kills += 1
            if (killed / "model.safetensors").exists():
                break
            continue
        assert process.wait() == 0
        break

    assert kills > 0
    assert (killed / "model.safetensors").read_bytes() == (left_alone / "model.safetensors").read_bytes()
