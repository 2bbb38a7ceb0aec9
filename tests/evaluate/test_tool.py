"""LiteRT's own benchmark, run as a program."""

import sys
from pathlib import Path

import pytest

from secateur.errors import StoreError
from secateur.evaluate import litert_benchmark

PROGRAM = """#!{python}
import json, sys
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
if given["--model"].endswith("bad.tflite"):
    sys.exit("no such graph")
times = {{"avg_ms": 0.5, "median_ms": 0.4, "p5_ms": 0.3, "p95_ms": 0.9, "warmup_first_ms": 2.0, "init_ms": 7.0,
         "num_runs": int(given["--num_runs"])}}
with open(given["--result_json"], "w") as stream:
    json.dump({{"num_threads": int(given["--num_threads"]), "latency": times}}, stream)
"""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A program of that name beside Python, which says the same of every file but a bad one."""
    program = tmp_path / "litert-benchmark"
    program.write_text(PROGRAM.format(python=sys.executable))
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))


def test_what_it_says_is_taken_over(installed):
    """Options reach the program, and each figure has its place."""
    found = litert_benchmark(Path("net.tflite"), threads=2, runs=7)

    assert (found.mean, found.median, found.low, found.high) == (0.5, 0.4, 0.3, 0.9)
    assert (found.first, found.opening, found.runs, found.threads) == (2.0, 7.0, 7, 2)


def test_a_file_that_it_cannot_run_is_told(installed):
    """What the program says last is told."""
    with pytest.raises(StoreError, match=r"bad\.tflite: no such graph"):
        litert_benchmark(Path("bad.tflite"))


def test_where_it_is_not_installed_there_is_nothing(tmp_path, monkeypatch):
    """Without the program there is no figure, and no error."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))

    assert litert_benchmark(Path("net.tflite")) is None
