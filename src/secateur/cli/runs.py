"""Run folders as the commands use them: what is written down at the start, and read when a run goes on."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import typer
from torch import nn

from secateur.cli.sources import Source, again, open_data
from secateur.data import Splits
from secateur.errors import RunError, SettingsError, StoreError
from secateur.methods import KIND, PRUNE, steps_in
from secateur.methods.training import KIND as TRAIN
from secateur.networks import Origin, build
from secateur.store import RunFolder

T = TypeVar("T")

_NOT_ASKED = frozenset({"allow", "out", "ray_address", "resume", "workers"})
"""Options that are not about what the run does."""

IN_PYTHON = {KIND: "secateur.reduce", PRUNE: "secateur.methods.gradual", TRAIN: "secateur.methods.train"}
"""By kind of run: what begins one in Python."""


@dataclass(frozen=True)
class Stored:
    """What a run folder says about its run.

    Attributes:
        folder: Where it is.
        origin: How its network is built.
        about: What the command wrote down.
        entries: The lines of its journal.
        settings: Everything in its ``run.toml``.
    """

    folder: Path
    origin: Origin
    about: Mapping[str, Any]
    entries: tuple[Mapping[str, Any], ...]
    settings: Mapping[str, Any]

    def build(self) -> nn.Module:
        """A network of the run's architecture; its weights do not matter."""
        arguments: dict[str, Any] = dict(self.origin.arguments)
        return build(self.origin.spec, **arguments)

    def data(self) -> Splits:
        """The data of the run, split as they were."""
        about = self.about
        return open_data(
            about["data"],
            data_dir=about.get("data_dir"),
            seed=about.get("data_seed", 0),
            validation=about.get("validation"),
        )


def about(source: Source, *, named: str, data: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    """What ``run.toml`` must hold so that the run can go on from its folder alone.

    Args:
        source: The network.
        named: What the command line called it.
        data: What the command line called the data.
        asked: The options that were given.
    """
    found: dict[str, Any] = {
        "network": named,
        "spec": source.origin.spec,
        "arguments": json.dumps(dict(source.origin.arguments)),  # JSON knows null, TOML does not
        "data": str(Path(data).resolve()) if Path(data).exists() else data,
        "command": shlex.join(["secateur", *sys.argv[1:]]),
        "asked": plain(asked),
    }
    if "data_dir" in asked:
        found["data_dir"] = str(Path(asked["data_dir"]).resolve())
    return found | {key: asked[key] for key in ("data_seed", "validation") if key in asked}


def plain(asked: Mapping[str, Any]) -> dict[str, Any]:
    """What is asked of a run, as TOML has it.

    >>> plain({"data_dir": Path("sets"), "epochs": 3, "resume": True})
    {'data_dir': 'sets', 'epochs': 3}
    """
    said = {key: value for key, value in asked.items() if key not in _NOT_ASKED}
    return {key: str(value) if isinstance(value, Path) else value for key, value in said.items()}


def stored_run(folder: Path, *, kind: str, asked: Mapping[str, Any]) -> Stored:
    """Read a run that is to go on, and refuse options that differ from those it was started with.

    Raises:
        RunError: There is no such run, it was not started by the command line, or it was started otherwise.
    """
    with RunFolder.open(folder, kind=kind, read_only=True) as run:
        settings, entries = run.settings, tuple(run.entries())
    found: Any = settings.get("about", {})
    try:
        origin = Origin(found["spec"], json.loads(found["arguments"]))
        first, _ = found["asked"], found["data"]
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"{folder} was not started by `secateur {kind}`, so it does not say which network and data it is about;"
            f" go on with it from Python, with resume=True for {IN_PYTHON[kind]}"
        ) from error
    for key, value in plain(asked).items():
        if first.get(key) != value:
            name = "the network" if key == "network" else f"--{key.replace('_', '-')}"
            before = f"with {first[key]}" if key in first else "without it"
            raise RunError(
                f"{folder} cannot go on with {value} for {name}: it was started {before}; leave the option out, or start"
                " another run in another folder"
            )
    return Stored(folder, origin, found, entries, settings)


@contextmanager
def kept(folder: Path, *, kind: str) -> Generator[None]:
    """Turn Ctrl-C into a sentence about what is kept and how to go on, and the code 130.

    Args:
        folder: The run folder.
        kind: The command that goes on with it.
    """
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(_farewell(folder, kind=kind), err=True)
        raise typer.Exit(130) from None


@contextmanager
def finished(file: Path) -> Generator[None]:
    """Turn Ctrl-C after a run's end into a sentence about where its network is, and the code 130."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"interrupted: the run has ended, and its network is {file}", err=True)
        raise typer.Exit(130) from None


def _farewell(folder: Path, *, kind: str) -> str:
    try:
        with RunFolder.open(folder, kind=kind, read_only=True) as run:
            entries = list(run.entries())
    except StoreError:
        entries = []  # stopped before, or while, the folder was made
    if not entries:
        return f"interrupted: nothing was stored yet; remove {folder} if it is there, and start again"
    count = len(steps_in(entries)) + sum("epoch" in entry for entry in entries)
    what = ("candidate" if kind == "reduce" else "epoch") + ("" if count == 1 else "s")
    return f"interrupted: {count} {what} kept in {folder}; go on with: {again(folder, kind=kind)}"


def folder_of(
    first: str | None, out: Path | None, asked: Mapping[str, Any]
) -> tuple[Path, Mapping[str, Any]]:
    """The folder of the run that is to go on, and what else was said: its command may be repeated, or the folder named.

    Raises:
        SettingsError: No folder is named.
    """
    if out is not None:
        return out, {key: value for key, value in asked.items() if key not in _NOT_ASKED}
    if first is None:
        raise SettingsError("--resume needs the run's folder; name it first")
    return Path(first), {key: value for key, value in asked.items() if key not in {*_NOT_ASKED, "network"}}


def required(asked: Mapping[str, Any], *, what: str) -> tuple[str, str, Path]:
    """The network, data and folder of a new run.

    Raises:
        SettingsError: One of them is missing.
        RunError: The folder is a file.
    """
    if "network" not in asked:
        raise SettingsError(f"name {what} first")
    if "data" not in asked:
        raise SettingsError("--data is missing; name a data set (`secateur data` lists those that are known)")
    if "out" not in asked:
        raise SettingsError("--out is missing; name a new folder for the run")
    if asked["out"].is_file():
        raise RunError(f"{asked['out']} is a file; name a new folder with --out")
    return asked["network"], asked["data"], asked["out"]


def study_asked(
    study: Path,
    out: Path | None,
    *,
    resume: bool,
    stored: Callable[[Path], tuple[T, Any]],
    read: Callable[[Path], T],
) -> tuple[Path, T]:
    """The folder of a study, and what is asked, which on resuming the folder knows.

    Raises:
        SettingsError: No folder is named.
    """
    if resume and out is None:
        return study, stored(study)[0]
    if out is None:
        raise SettingsError("--out is missing; name a new folder for the study")
    return out, read(study)


def study_farewell(folder: Path, stored: Callable[[Path], tuple[Any, Sequence[Any]]]) -> str:
    """What is kept of a study that was interrupted, and how it goes on."""
    try:
        _, results = stored(folder)
    except StoreError:
        return f"interrupted: nothing was stored yet; remove {folder} if it is there, and start again"
    done = sum(result.done for result in results)
    return f"interrupted: {done} cells kept in {folder}; go on with: {again(folder, kind='compare')}"
