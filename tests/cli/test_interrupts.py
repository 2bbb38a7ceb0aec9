"""Runs that are stopped in the middle: Ctrl-C, a kill, a full disk; and that go on as if nothing had been."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import psutil
import pytest

import secateur_program

SECONDS = 60
PROGRAM = "import sys; sys.argv[0] = 'secateur'; from secateur_program import main; sys.exit(main())"
WHILE_LOADING = """
import os, signal, sys

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "torch.nn":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of another process need Linux")


def start(*arguments: object, folder: Path) -> subprocess.Popen:
    """Start a command in another process with one thread."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *(str(argument) for argument in arguments)],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def lines_of(folder: Path) -> list[dict]:
    """The complete lines of a run's journal."""
    file = folder / "journal.jsonl"
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def wait_for(count: int, run: subprocess.Popen, folder: Path) -> None:
    """Wait until a run has written so many lines."""
    end = time.monotonic() + SECONDS
    while len(lines_of(folder)) < count:
        assert run.poll() is None, run.communicate()
        assert time.monotonic() < end, f"only {lines_of(folder)} after {SECONDS} s"
        time.sleep(0.005)


def finished(run: subprocess.Popen) -> tuple[int, str]:
    _, err = run.communicate(timeout=SECONDS)
    return run.returncode, err


def last_sentence(err: str) -> str:
    return err.strip().splitlines()[-1]


def without_times(entries: list[dict]) -> list[dict]:
    """Journal lines without what differs from run to run."""
    for entry in entries:
        for part in ("step", "epoch"):
            entry.get(part, {}).pop("seconds", None)
    return entries


def stopped(folder: Path, count: int, how: str, run: subprocess.Popen) -> str:
    """Let a run write so many lines, stop it that way, and check that nothing is half written; what it said last."""
    wait_for(count, run, folder)
    if how == "full disk":
        resource.prlimit(run.pid, resource.RLIMIT_FSIZE, (1024, 1024))
    else:
        run.send_signal(signal.SIGINT if how == "Ctrl-C" else signal.SIGKILL)
    code, err = finished(run)
    assert code == {"Ctrl-C": 130, "kill": -signal.SIGKILL, "full disk": 2}[how], err
    assert "Traceback" not in err
    if how != "kill":
        assert list(folder.rglob(".*-tmp")) == []
        assert (folder / "journal.jsonl").read_bytes().endswith(b"\n")
    return last_sentence(err) if err.strip() else ""


@pytest.mark.slow
def test_a_stopped_reduction_ends_like_an_unbroken_one(base, tmp_path):
    """Ctrl-C says how to go on and gives 130, a full disk gives one sentence and 2; the end is the same to the bit."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    command = (
        "reduce", base / "model.safetensors", "--data", "digits", "--max-drop", 3, "--as-printed", "--epochs", 2,
        "--max-iterations", 8, "--out",
    )  # fmt: skip
    unbroken = start(*command, whole, folder=tmp_path)

    said = stopped(broken, 2, "Ctrl-C", start(*command, broken, folder=tmp_path))
    assert "kept in" in said
    assert said.endswith(f"secateur reduce {broken} --resume")

    stopped(broken, 4, "kill", start("reduce", broken, "--resume", folder=tmp_path))
    said = stopped(broken, 6, "full disk", start("reduce", broken, "--resume", folder=tmp_path))
    assert said.startswith("error: cannot write")
    assert "--resume" in said

    code, err = finished(start("reduce", broken, "--resume", folder=tmp_path))
    assert code == 0, err
    assert "going on after" in err
    assert finished(unbroken)[0] == 0
    assert without_times(lines_of(broken)) == without_times(lines_of(whole))
    assert (broken / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert (broken / "report.html").is_file()


@pytest.mark.slow
def test_a_stopped_training_ends_like_an_unbroken_one(tmp_path):
    """The same for training: after Ctrl-C, a kill and a full disk the weights are those of an unbroken run."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    command = ("train", "digits-net", "--data", "digits", "--epochs", 12, "--ema", 0.9, "--out")
    unbroken = start(*command, whole, folder=tmp_path)

    said = stopped(broken, 3, "Ctrl-C", start(*command, broken, folder=tmp_path))
    assert said.endswith(f"secateur train {broken} --resume")

    stopped(broken, 6, "kill", start("train", broken, "--resume", folder=tmp_path))
    said = stopped(broken, 9, "full disk", start("train", broken, "--resume", folder=tmp_path))
    assert said.startswith("error: cannot write")

    code, err = finished(start("train", broken, "--resume", folder=tmp_path))
    assert code == 0, err
    assert finished(unbroken)[0] == 0
    assert without_times(lines_of(broken)) == without_times(lines_of(whole))
    assert (broken / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert len(list((broken / "states").iterdir())) == 1


def test_a_stopped_pruning_ends_like_an_unbroken_one(base, tmp_path):
    """Stopped by Ctrl-C, killed and resumed, gradual pruning ends in the same file; each stop says how to go on."""
    network = base / "model.safetensors"
    asked = (
        "prune",
        network,
        "--data",
        "digits",
        "--sparsity",
        "0.8",
        "--epochs",
        "8",
        "--lr",
        "1e-3",
        "--out",
    )
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    code, err = finished(start(*asked, whole, folder=tmp_path))
    assert code == 0, err

    said = stopped(broken, 3, "Ctrl-C", start(*asked, broken, folder=tmp_path))
    again = ("prune", broken, "--resume")
    stopped(broken, 6, "kill", start(*again, folder=tmp_path))
    code, err = finished(start(*again, folder=tmp_path))

    assert code == 0, err
    assert said.endswith(f"secateur prune {broken} --resume")
    assert without_times(lines_of(broken)) == without_times(lines_of(whole))
    for name in ("model.safetensors", "masks.safetensors"):
        assert (broken / name).read_bytes() == (whole / name).read_bytes()


def test_ctrl_c_before_anything_is_stored(monkeypatch, secateur, base, tmp_path):
    """An interrupt while the network is still being looked at says that nothing is kept."""

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("secateur.cli.reduce.reduce_in", interrupt)

    said = secateur("reduce", base, "--data", "digits", "--max-drop", 1, "--out", tmp_path / "out")

    assert said.code == 130
    assert "nothing was stored" in said.err


def test_ctrl_c_after_a_pruning_has_ended(monkeypatch, secateur, base, tmp_path):
    """While sizes are compared the network is written already: the answer says where it is."""

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("secateur.cli.prune.measure_file", interrupt)
    out = tmp_path / "out"

    said = secateur(
        "prune", base, "--data", "digits", "--sparsity", 0.5, "--epochs", 3, "--lr", "1e-3", "--out", out
    )  # fmt: skip

    assert said.code == 130, said
    assert last_sentence(said.err).endswith(f"its network is {out / 'model.safetensors'}")
    assert (out / "model.safetensors").is_file()


def test_ctrl_c_anywhere_else(monkeypatch, secateur):
    """An interrupt of a command that keeps nothing gives 130 without a traceback."""

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("secateur.cli.watch.open_network", interrupt)

    assert secateur("watch", "lenet5").code == 130


def test_ctrl_c_while_pytorch_is_loading(tmp_path):
    """An interrupt in the middle of the imports is one line and 130, too, unless Ctrl-C was switched off."""
    ignoring = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN);"
    arguments = ["--version"]

    interrupted, ignored = (
        subprocess.run(
            [sys.executable, "-c", before + WHILE_LOADING + PROGRAM, *arguments],
            cwd=tmp_path, capture_output=True, text=True, timeout=SECONDS, check=False,
        )
        for before in ("", ignoring)
    )  # fmt: skip

    assert (interrupted.returncode, interrupted.stdout, interrupted.stderr) == (130, "", "interrupted\n")
    assert (ignored.returncode, ignored.stderr) == (0, "")


@pytest.mark.parametrize("program", ["-m secateur", "-msecateur"])
def test_ctrl_c_while_python_loads_the_module(program, tmp_path):
    """`python -m secateur` ends as the command does; a program that only imports the package keeps its own way."""
    (tmp_path / "sitecustomize.py").write_text(WHILE_LOADING, encoding="utf-8")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])

    interrupted, imported = (
        subprocess.run(
            [sys.executable, *words], cwd=tmp_path, env=os.environ | {"PYTHONPATH": path},
            capture_output=True, text=True, timeout=SECONDS, check=False,
        )
        for words in ([*program.split(), "--version"], ["-c", "import secateur"])
    )  # fmt: skip

    assert (interrupted.returncode, interrupted.stdout, interrupted.stderr) == (130, "", "interrupted\n")
    assert "KeyboardInterrupt" in imported.stderr


def test_ctrl_c_in_a_command_that_was_started_as_a_module(monkeypatch):
    """Once the command runs, it is the command that hears of Ctrl-C, and says how to go on."""
    monkeypatch.setattr(sys, "argv", ["-m", "--version"])
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "secateur", "--version"])
    before = signal.getsignal(signal.SIGINT)
    heard = []
    monkeypatch.setattr("secateur.cli.main", lambda: heard.append(signal.getsignal(signal.SIGINT)) or 0)
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        secateur_program.listen_if_run()
        assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
        assert secateur_program.main() == 0
    finally:
        signal.signal(signal.SIGINT, before)

    assert heard == [signal.default_int_handler]


def test_ctrl_c_after_the_command_is_one_line_too(monkeypatch, capsys):
    """Where the command itself lets an interrupt through, the program still ends with one line and 130."""

    def interrupt() -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("secateur.cli.main", interrupt)

    assert secateur_program.main() == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_the_program_starts_with_what_loads_quickly():
    """The installed command begins with a module that does not load PyTorch before it is ready for Ctrl-C."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    look = "import sys, secateur_program; print({'torch', 'secateur'} & set(sys.modules))"

    said = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)

    assert project["project"]["scripts"]["secateur"] == "secateur_program:main"
    assert said.stdout == "set()\n"


def test_a_measurement_leaves_no_process_behind(base):
    """Ctrl-C in the middle of the timing ends the program with one sentence and 130, and the processes of the files with it."""
    run = start("bench", base / "model.safetensors", "--runs", 10_000_000, folder=base)
    assert run.stderr is not None
    while "turn 1" not in (line := run.stderr.readline()):
        assert line, run.poll()
    workers = psutil.Process(run.pid).children(recursive=True)

    run.send_signal(signal.SIGINT)

    code, err = finished(run)
    assert (code, last_sentence(err)) == (130, "interrupted")
    assert workers
    assert not psutil.wait_procs(workers, timeout=SECONDS)[1]
