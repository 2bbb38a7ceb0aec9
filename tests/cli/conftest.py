"""A small trained network, and how to call the program in this process and in another."""

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from secateur.cli import main


class Said(NamedTuple):
    """What a command returned and wrote."""

    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """Results do not depend on how many processors there are, and the module path stays as it was."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("COLUMNS", "200")
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def interrupts_heard():
    """Ctrl-C reaches the processes that tests start, also where these run in a shell's background, which ignores it."""
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def secateur(capsys) -> Callable[..., Said]:
    """Run a command in this process."""

    def run(*arguments: object) -> Said:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return Said(code, *capsys.readouterr())

    return run


@pytest.fixture
def refused(secateur) -> Callable[..., str]:
    """Run a command that must be refused with one sentence, after what it began to do; the sentence."""

    def run(*arguments: object) -> str:
        said = secateur(*arguments)
        assert said.code == 2, said
        *begun, sentence = said.err.splitlines()
        assert all(line.endswith(" …") or line.startswith("note: ") for line in begun), said.err
        assert sentence.startswith("error: "), said.err
        return sentence

    return run


@pytest.fixture(scope="session")
def lines_of() -> Callable[[Path], list[dict]]:
    """The complete lines of a run's journal."""

    def read(folder: Path) -> list[dict]:
        file = folder / "journal.jsonl"
        text = file.read_text(encoding="utf-8") if file.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    return read


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> Path:
    """The folder of a digits-net that was trained by the program for four epochs."""
    folder = tmp_path_factory.mktemp("cli") / "base"
    arguments = ["train", "digits-net", "--data", "digits", "--out", folder, "--epochs", 4]
    assert main([str(argument) for argument in arguments]) == 0
    return folder


@pytest.fixture(scope="session")
def small(base) -> Path:
    """The folder of a reduction of it."""
    folder = base.parent / "small"
    arguments = [
        "reduce", base / "model.safetensors", "--data", "digits", "--max-drop", 5, "--out", folder,
        "--max-iterations", 3, "--epochs", 2,
    ]  # fmt: skip
    assert main([str(argument) for argument in arguments]) == 0
    return folder
