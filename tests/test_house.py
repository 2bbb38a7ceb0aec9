"""The repository as others find it: no machine's paths in it, and every measured figure with its conditions."""

import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RESULTS = sorted((ROOT / "benchmarks" / "results").glob("*.json"))
MACHINE_PATH = re.compile(r"(?<![\w.:/])/(?:home|root|work|opt|tmp|mnt|Users)/\w")
CONDITIONS = {"commit", "versions", "machine", "started", "seconds", "command"}


def tracked_files() -> list[Path]:
    """What the repository holds; where it was unpacked without git, what lies in its folders."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode == 0:
        return [ROOT / name for name in listed.stdout.split("\0") if name]
    folders = ("src", "tests", "docs", "benchmarks", ".ci")
    return [file for folder in folders for file in (ROOT / folder).rglob("*") if file.is_file()]


def text_of(file: Path) -> str:
    """A text file's text; nothing for tensors and pictures."""
    data = file.read_bytes() if file.is_file() else b""
    return "" if b"\0" in data or file.suffix == ".safetensors" else data.decode("utf-8")


def test_no_file_names_a_machine():
    """No file holds an absolute path of the machine on which it was written."""
    found = [
        f"{file.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for file in tracked_files()
        for number, line in enumerate(text_of(file).splitlines(), 1)
        if MACHINE_PATH.search(line)
    ]

    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("line", "named"),
    [("at {}/ann/x", True), ("'{}/ann'", True), ("src{}/x", False), ("https://a.org{}/x", False)],
)
def test_machine_paths_are_recognised(line, named):
    """The check above sees paths in quotes and lets relative paths and addresses pass."""
    home = "/" + "home"

    assert bool(MACHINE_PATH.search(line.format(home))) is named


def test_results_carry_their_conditions():
    """Every result says by which command, commit, versions and machine it was made, and has its rows."""
    for file in RESULTS:
        document = json.loads(file.read_text(encoding="utf-8"))

        assert document["name"] == file.stem
        assert set(document["conditions"]) >= CONDITIONS, f"{file.name} misses conditions"
        assert document["rows"], f"{file.name} has no rows"


def test_the_pins_meet_the_ranges():
    """constraints.txt pins every library that the project depends on, for running and for developing."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    optional = project["optional-dependencies"]
    wanted = [*project["dependencies"], *optional["dev"], *optional["docs"]]
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()

    pinned = {normal(line.partition("==")[0]) for line in pins if "==" in line}

    assert {normal(re.split(r"[\[<>=!~ ]", line)[0]) for line in wanted} <= pinned


def normal(name: str) -> str:
    """A distribution's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_version_is_told_once_and_the_same():
    """The citation names the version that is built."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]

    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
