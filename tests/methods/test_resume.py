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
    resume = ["resume"] if (folder / "run.toml").exists() else []
    return subprocess.Popen([sys.executable, str(SCRIPT), str(folder), *resume])


def _steps(folder: Path) -> int:
    journal = folder / "journal.jsonl"
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


@pytest.mark.slow
def test_killed_twenty_times_it_ends_bit_equal(tmp_path: Path) -> None:
    """SIGKILL at twenty random moments, resumed each time: the same bytes as a run that was left alone."""
    left_alone, killed = tmp_path / "alone", tmp_path / "killed"
    assert _start(left_alone).wait() == 0

    wanted = (left_alone / "model.safetensors").read_bytes()
    moments, kills, ended = random.Random(0), 0, 0
    while kills < KILLS:
        process = _start(killed)
        before, patience = _steps(killed), time.monotonic() + 60
        if kills % 2:  # every other life does at least a step; the others end anywhere, in the imports too
            while process.poll() is None and _steps(killed) == before and time.monotonic() < patience:
                time.sleep(0.005)
            time.sleep(moments.uniform(0.0, 0.2))
        else:
            time.sleep(moments.uniform(0.0, 4.0))
        if process.poll() is None:
            process.kill()
            process.wait()
            kills += 1
            continue
        assert (
            process.returncode == 0
        )  # a fast machine was done before the next kill: compare, and begin anew
        assert (killed / "model.safetensors").read_bytes() == wanted
        ended += 1
        assert ended < 10, "runs end faster than they can be killed; give them more to do"
        killed = tmp_path / f"killed-{ended}"
    assert _start(killed).wait() == 0

    assert (killed / "model.safetensors").read_bytes() == wanted
