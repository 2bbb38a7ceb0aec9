"""A run folder can be reopened after any interruption."""

import json
import os
import signal
import socket
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.errors import RunError, SettingsError
from secateur.store import RunFolder


def names_in(folder):
    """The names of the files in a folder, sorted."""
    return sorted(file.name for file in folder.iterdir())


SETTINGS = {"max_drop": 0.5, "criterion": "taylor", "layers": ["a", "b"], "train": {"epochs": 5}}


def steps(run, first, count):
    """Do a few steps as a method would: snapshot, then journal."""
    for number in range(first, first + count):
        parent = f"s{number - 1}" if number else None
        run.put(
            f"s{number}",
            {"w": torch.full((4,), float(number)), "v": torch.zeros(9)},
            {"n": number},
            parent=parent,
        )
        run.append({"step": number, "snapshot": f"s{number}"})


def test_reopened_run_has_settings_and_steps(tmp_path):
    """What was asked and every step come back after reopening."""
    with RunFolder.create(tmp_path / "deep" / "run", SETTINGS, kind="reduce") as run:
        steps(run, 0, 3)

    with RunFolder.open(tmp_path / "deep" / "run", kind="reduce") as run:
        assert run.settings == SETTINGS
        assert [entry["step"] for entry in run.entries()] == [0, 1, 2]
        assert run.get("s1")[0]["w"].tolist() == [1.0] * 4


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_interrupted_at_any_byte(tmp_path_factory, data):
    """With the journal cut at any byte and a half-written file about, the run opens, is clean, and goes on."""
    path = tmp_path_factory.mktemp("run") / "run"
    with RunFolder.create(path, SETTINGS) as run:
        steps(run, 0, 4)
    journal = (path / "journal.jsonl").read_bytes()
    cut = data.draw(st.integers(0, len(journal)), label="cut")
    (path / "journal.jsonl").write_bytes(journal[:cut])
    half = (path / "snapshots" / "s3.safetensors").read_bytes()
    half = half[: data.draw(st.integers(0, len(half) - 1), label="half")]
    (path / "snapshots" / ".s4.safetensors.1234abcd.secateur-tmp").write_bytes(half)
    (path / ".run.toml.1234abcd.secateur-tmp").write_bytes(half)

    with RunFolder.open(path) as run:
        done = len(list(run.entries()))
        left = sorted(file.name for file in (path / "snapshots").iterdir())
        steps(run, done, 5 - done)
        last = run.get("s4")[0]["w"].tolist()

    assert done == journal[:cut].count(b"\n")
    # v was stored by s0, so s0 stays as long as any step does
    assert left == [f"s{number}.safetensors" for number in range(done)]
    assert last == [4.0] * 4
    assert names_in(path) == ["journal.jsonl", "lock", "run.toml", "snapshots"]


KILLED = """
import os, signal, sys, torch
from secateur.store import RunFolder
run = RunFolder.create(sys.argv[1], {})
run.put("s0", {"w": torch.zeros(3)}, {})
run.append({"snapshot": "s0"})
run.put("s1", {"w": torch.ones(3)}, {}, parent="s0")
print("ready", flush=True)
sys.stdin.read() if sys.argv[2] == "wait" else os.kill(os.getpid(), signal.SIGKILL)
"""


def start(path, how):
    command = [sys.executable, "-c", KILLED, str(path), how]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_live_lock_is_refused_and_a_dead_one_taken_over(tmp_path):
    """While a process has the run open it is refused with that process's number; once killed, the run opens."""
    process = start(tmp_path / "run", "wait")
    try:
        with pytest.raises(RunError, match=rf"in use by process {process.pid} on {socket.gethostname()}"):
            RunFolder.open(tmp_path / "run")
        watched = [dict(entry) for entry in RunFolder.open(tmp_path / "run", read_only=True).entries()]
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()

    assert watched == [{"snapshot": "s0"}]
    assert json.loads((tmp_path / "run" / "lock").read_text())["pid"] == process.pid
    with RunFolder.open(tmp_path / "run") as run:
        assert list(run.entries()) == [{"snapshot": "s0"}]
    assert not (tmp_path / "run" / "snapshots" / "s1.safetensors").exists()


def test_second_opening_in_one_process_is_refused(tmp_path):
    """The same process cannot open a run twice for writing; after closing, it can."""
    run = RunFolder.create(tmp_path / "run", {})

    with pytest.raises(RunError, match=f"in use by process {os.getpid()}"):
        RunFolder.open(tmp_path / "run")
    run.close()
    run.close()
    RunFolder.open(tmp_path / "run").close()


def test_lock_of_another_host_stands(tmp_path):
    """A lock that another machine wrote is refused with the way out, since its process cannot be asked."""
    RunFolder.create(tmp_path / "run", {}).close()
    (tmp_path / "run" / "lock").write_text('{"pid": 7, "host": "elsewhere"}')

    with pytest.raises(RunError, match=r"process 7 on another machine, elsewhere.*delete .*lock"):
        RunFolder.open(tmp_path / "run")

    assert (tmp_path / "run" / "lock").read_text() == '{"pid": 7, "host": "elsewhere"}'


@pytest.mark.parametrize("text", ["", "{", "[1]", "{}"])
def test_unreadable_lock_is_taken_over(tmp_path, text):
    """A lock file that says nothing and that nobody holds does not stand in the way."""
    RunFolder.create(tmp_path / "run", {}).close()
    (tmp_path / "run" / "lock").write_text(text)

    RunFolder.open(tmp_path / "run").close()

    assert (tmp_path / "run" / "lock").read_text() == ""


def test_existing_run_is_not_overwritten(tmp_path):
    """Creating over a run is refused with both ways on, and the run is as it was."""
    with RunFolder.create(tmp_path / "run", SETTINGS) as run:
        steps(run, 0, 1)
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}

    with pytest.raises(RunError, match=r"already holds a run.*--resume.*--out"):
        RunFolder.create(tmp_path / "run", {})

    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_foreign_folder_is_not_used(tmp_path):
    """A folder with other files in it is refused by name of one, and a file in its place is too."""
    (tmp_path / "thesis.tex").write_text("precious")

    with pytest.raises(RunError, match=r"is not empty and holds no run \(there is 'thesis.tex'\)"):
        RunFolder.create(tmp_path, {})
    with pytest.raises(OSError, match="cannot make the folder"):
        RunFolder.create(tmp_path / "thesis.tex", {})
    with pytest.raises(RunError, match="holds no run"):
        RunFolder.open(tmp_path)
    with pytest.raises(RunError, match="holds no run"):
        RunFolder.open(tmp_path / "thesis.tex")

    assert names_in(tmp_path) == ["thesis.tex"]


def test_creation_that_was_killed_can_be_repeated(tmp_path):
    """What a killed creation leaves (a lock, an unfinished file) does not stand in the way."""
    (tmp_path / "lock").write_text("")
    (tmp_path / ".run.toml.1234abcd.secateur-tmp").write_text("format")

    RunFolder.create(tmp_path, {}).close()

    assert (names_in(tmp_path)) == ["journal.jsonl", "lock", "run.toml"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("format = 2\n", "a run of format 2, and this version of Secateur works with 1"),
        ("format = 0\nkind = 'x'\n", "a run of format 0"),
        ("format = ", "run.toml is damaged"),
        ("format = 1\nkind = 3\n[settings]\n", "run.toml is damaged"),
        ("format = 1\nkind = 'reduce'\n", "run.toml is damaged"),
        ("\x00\x00", "run.toml is damaged"),
        ("format = 1\nkind = 'train'\n[settings]\n", "the kind 'train', not 'reduce'"),
    ],
)
def test_other_versions_and_damage_are_refused(tmp_path, text, message):
    """A run of another version or kind, or with damaged settings, is refused in one sentence and left alone."""
    RunFolder.create(tmp_path, {}).close()
    (tmp_path / "run.toml").write_text(text)

    with pytest.raises(RunError, match=message):
        RunFolder.open(tmp_path, kind="reduce")

    assert (tmp_path / "run.toml").read_text() == text


def test_settings_that_toml_cannot_hold_are_refused_first(tmp_path):
    """Settings with a null are refused before a folder is made."""
    with pytest.raises(SettingsError, match=r"setting settings\.limit is None"):
        RunFolder.create(tmp_path / "run", {"limit": None})

    assert not (tmp_path / "run").exists()


def test_snapshot_comes_before_its_line(tmp_path):
    """A line that names a snapshot which was not stored is refused."""
    with (
        RunFolder.create(tmp_path / "run", {}) as run,
        pytest.raises(RunError, match="names the snapshot 's0', which does not exist"),
    ):
        run.append({"snapshot": "s0"})


def test_missing_snapshot_is_an_error_on_opening(tmp_path):
    """A run whose journal names a snapshot that is gone says so, and deletes nothing."""
    with RunFolder.create(tmp_path / "run", {}) as run:
        steps(run, 0, 3)
    (tmp_path / "run" / "snapshots" / "s1.safetensors").unlink()
    before = names_in(tmp_path / "run" / "snapshots")

    with pytest.raises(RunError, match="no snapshot 's1'"):
        RunFolder.open(tmp_path / "run")

    assert (names_in(tmp_path / "run" / "snapshots")) == before


def test_closed_or_read_only_run_is_not_written(tmp_path):
    """After closing, and when opened for reading, steps are refused; reading goes on."""
    run = RunFolder.create(tmp_path / "run", {})
    steps(run, 0, 1)
    run.close()
    for reader in (run, RunFolder.open(tmp_path / "run", read_only=True)):
        with pytest.raises(RunError, match="closed or was opened for reading only"):
            reader.append({})
        with pytest.raises(RunError, match="closed or was opened for reading only"):
            reader.put("s1", {}, {})

        assert reader.get("s0")[1] == {"n": 0}
