"""The program ``secateur``: its commands, and what it says when something is wrong."""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Annotated, Any, cast

import typer

from secateur.cli.bench import bench
from secateur.cli.compare import compare
from secateur.cli.compress import compress
from secateur.cli.data import data
from secateur.cli.evaluate import evaluate
from secateur.cli.export import export
from secateur.cli.load import load
from secateur.cli.prune import prune
from secateur.cli.quantise import quantise
from secateur.cli.reduce import reduce
from secateur.cli.report import report
from secateur.cli.train import train
from secateur.cli.watch import watch
from secateur.errors import ExportError, NothingToCutError, SecateurError, SettingsError

BAD_INPUT = 2
INTERRUPTED = 130

_Misuse = cast("type[Exception]", typer.BadParameter.__mro__[2])
"""What is wrong with a command line; typer has it from click, or from its own copy of click."""

app = typer.Typer(
    name="secateur",
    help="Cut trained networks down to what they need, within an accuracy bound that you set.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"secateur {metadata.version('secateur')}")
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version and end.")
    ] = False,
) -> None:
    """Cut trained networks down to what they need, within an accuracy bound that you set."""


def _told(command: Callable[..., None]) -> Callable[..., None]:
    """The same command, of which Ctrl-C is told: some versions of typer would end without a word."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except KeyboardInterrupt:
            raise typer.Abort from None

    return run


for _command, _in_short in (
    (train, "Train a network on data."),
    (reduce, "Cut a trained network within a bound on its accuracy."),
    (prune, "Prune a trained network gradually, to an exact share."),
    (compress, "Compress a network into one coded file."),
    (compare, "Compare strategies for reduction, with statistics."),
    (watch, "Show what belongs together, and what stays and why."),
    (evaluate, "Measure a saved network, or compare two."),
    (export, "Write a network for another runtime."),
    (quantise, "Write a network in narrower numbers, and score the file."),
    (bench, "Time files side by side, or widths of layers."),
    (report, "Show a reduction's report, and write it again."),
    (load, "Say what a saved network is."),
    (data, "List the data sets, or look at one."),
):
    app.command(short_help=_in_short)(_told(cast("Callable[..., None]", _command)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: What follows the program's name; by default what it was called with.

    Returns:
        0 if all went well, 2 for bad input, 130 after Ctrl-C.

    Example:
        >>> main(["watch", "lenet55"])
        2
    """
    # Networks and data of one's own are found where one stands, as with `python -m`.
    if "" not in sys.path and os.getcwd() not in sys.path:  # noqa: PTH109
        sys.path.insert(0, os.getcwd())  # noqa: PTH109
    run = cast("Any", app)
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = run(words or ["--help"], standalone_mode=False)
    except _Misuse as error:
        message: str = cast("Any", error).format_message()
        return _say(
            f"{message.rstrip('.')}; `secateur --help` and `secateur COMMAND --help` say what there is"
        )
    except (SettingsError, NothingToCutError, ExportError) as error:
        return _say(_as_options(str(error), next(iter(words), "")))
    except SecateurError as error:
        return _say(str(error))
    except (KeyboardInterrupt, typer.Abort):
        typer.echo("interrupted", err=True)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone; Python must not try to flush into nothing at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code if isinstance(code, int) else 0


def _as_options(message: str, command: str = "") -> str:
    """A message about settings with their names as a command line has them: ``max_drop`` is ``--max-drop`` there.

    Names are known by what stands around them (quoted after "option", a value behind them) or by an underscore inside, so
    that words such as "keep", and paths, are left alone. Of a command only its own options are meant: in a study's file there are others.

    >>> _as_options("option 'lr' cannot be 0; last_share (0.7) is above first_share (0.64) in a/max_drop/b, keep it")
    '--lr cannot be 0; --last-share (0.7) is above --first-share (0.64) in a/max_drop/b, keep it'
    """
    commands: dict[str, Any] = cast("Any", typer.main.get_command(app)).commands
    flags = {
        parameter.name: max(parameter.opts, key=len)
        for name, known in commands.items()
        if command in (name, "") or command not in commands
        for parameter in known.params
        if parameter.opts[0].startswith("-")
    }
    alone, inside = r"(?<![\w./\\-])", r"(?![\w./\\-])"
    name, long = (
        f"(?P<name>{'|'.join(words) or '(?!)'})" for words in (flags, [word for word in flags if "_" in word])
    )
    for pattern, after in (
        (rf"(?:training )?option '{name}'", ""),
        (rf"{alone}{name}=True", ""),
        (rf"{alone}{name}=(?=[-\d'])", " "),
        (rf"{alone}{name}(?= \(-?\d)", ""),
        (rf"{alone}{long}{inside}", ""),
    ):
        message = re.sub(pattern, lambda found, after=after: flags[found["name"]] + after, message)
    return message


def _say(message: str) -> int:
    """One sentence on the error stream, without characters that steer a terminal."""
    line = " ".join(message.split())
    typer.echo("error: " + "".join(c if c.isprintable() else "?" for c in line), err=True)
    return BAD_INPUT
