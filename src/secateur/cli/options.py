"""Options that several commands share, and how values are read from text."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

from secateur.errors import SettingsError
from secateur.scale import RayWorkers


def grain(text: str) -> int | str:
    """A number of positions, or the name of an export target.

    >>> grain("16"), grain("xnnpack")
    (16, 'xnnpack')
    """
    try:
        return int(text)
    except ValueError:
        return text


def number(text: str) -> int | float:
    """A count where the text is a whole number, else a share.

    >>> number("500"), number("0.1")
    (500, 0.1)
    """
    try:
        return int(text)
    except ValueError:
        pass
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise typer.BadParameter(f"{text!r} is not a number; give a count (500) or a share (0.1)")
    return value


def shape(text: str) -> tuple[int, ...]:
    """The shape of one example.

    >>> shape("3,224,224")
    (3, 224, 224)
    """
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise SettingsError(
            f"--input-shape {text!r} is no shape; give one example's sizes without the batch, such as 3,224,224"
        )
    return tuple(int(part) for part in parts)


def arguments(pairs: Sequence[str]) -> dict[str, Any]:
    """Arguments of a network from ``key=value``; values are JSON, or else text.

    >>> arguments(["classes=26", "activation=tanh"])
    {'classes': 26, 'activation': 'tanh'}
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            raise SettingsError(f"--arg {pair!r} names no argument; write --arg classes=26")
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = value
    return found


def given(**options: Any) -> dict[str, Any]:
    """The options that were given: not None, not empty, no flag that stayed off.

    >>> given(epochs=None, lr=0.1, layers=[], resume=False)
    {'lr': 0.1}
    """
    return {
        name: value
        for name, value in options.items()
        if value is not None and value is not False and value not in ([], ())
    }


def started(count: int | None, address: str | None) -> AbstractContextManager[RayWorkers | None]:
    """Workers for as long as the context lasts; None is this process."""
    if count is None:
        if address is not None:
            raise SettingsError("--ray-address needs --workers, the number that run at a time")
        return nullcontext()
    return RayWorkers(count, address=address)


def _option(help: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=help, show_default=False, **more)


Network: TypeAlias = Annotated[
    str | None,
    typer.Argument(
        help="A registered name, timm:NAME, torchvision:NAME, package.module:factory, a saved file, or a run folder.",
        show_default=False,
    ),
]
DataName: TypeAlias = Annotated[
    str | None, _option("A data set's name, a folder of .npz files, or package.module:factory.", "--data")
]
DataDir: TypeAlias = Annotated[
    Path | None, _option("The folder of data sets (default: the environment variable SECATEUR_DATA).")
]
Shift: TypeAlias = Annotated[int | None, _option("Pixels by which images are moved at most.")]
DataSeed: TypeAlias = Annotated[int | None, _option("Draws the validation examples (default 0).")]
Validation: TypeAlias = Annotated[
    float | None, _option("Validation examples: a count, or a share.", parser=number, metavar="N")
]
Out: TypeAlias = Annotated[Path | None, _option("A new or empty folder for the run.")]
Resume: TypeAlias = Annotated[
    bool, _option("Go on with the interrupted run in the folder; nothing else need be said.", "--resume")
]
Allow: TypeAlias = Annotated[
    list[str] | None, _option("Trust a package whose code a file asks for; may be repeated.")
]
Args: TypeAlias = Annotated[
    list[str] | None, _option("An argument of the network, key=value; may be repeated.", "--arg")
]
Stem: TypeAlias = Annotated[
    str | None, _option("cifar: leave out the first two steps down in resolution, for images of 32x32.")
]
Epochs: TypeAlias = Annotated[int | None, _option("Passes over the training examples.")]
Rate: TypeAlias = Annotated[float | None, _option("Learning rate at its height.", "--lr")]
BatchSize: TypeAlias = Annotated[int | None, _option("Examples a step.")]
Augment: TypeAlias = Annotated[
    str | None, _option("Random changes to training examples: none, shift, flip-shift, affine, signal.")
]
RoundTo: TypeAlias = Annotated[
    str | None,
    _option(
        "Widths that stay are multiples of it: a number, or what the network is meant for (xnnpack).",
        parser=grain,
        metavar="N|TARGET",
    ),
]
Minimum: TypeAlias = Annotated[int | None, _option("Units that stay in each layer at least.")]
Attention: TypeAlias = Annotated[
    str | None, _option("What of attention may go: whole heads (the default), or their width.")
]
Workers: TypeAlias = Annotated[
    int | None, _option("How many run at a time, on Ray; without it one after the other.", min=1)
]
RayAddress: TypeAlias = Annotated[
    str | None, _option("A Ray cluster, such as ray://head:10001; by default this machine.")
]
Seed: TypeAlias = Annotated[int | None, _option("What every random choice follows from (default 0).")]
