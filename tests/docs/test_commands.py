"""The command lines that the documentation shows are ones that the program understands."""

import importlib
import re
import shlex
from pathlib import Path

import pytest
import typer

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "Makefile", *sorted((ROOT / "docs").rglob("*.md"))]
COMMAND = re.compile(r"^[ \t]*(?:\$\(BIN\)/)?secateur +(?P<arguments>[^#\n]*)", re.MULTILINE)
SHELL = re.compile(r"^ *```sh\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


def commands_in(page: Path) -> list[str]:
    """The arguments of every call of the program on a page."""
    text = page.read_text(encoding="utf-8")
    shown = text if page.name == "Makefile" else "\n".join(SHELL.findall(text))
    return [found["arguments"].strip() for found in COMMAND.finditer(shown)]


SHOWN = sorted({line for page in PAGES for line in commands_in(page)})


def parse(line: str) -> None:
    """Read a command line without doing what it says."""
    name, *arguments = shlex.split(line)
    program = typer.main.get_command(importlib.import_module("secateur.cli.main").app)
    if name not in program.commands:
        raise LookupError(f"no command {name!r}")
    program.commands[name].make_context(name, arguments)


@pytest.mark.parametrize("line", SHOWN)
def test_a_shown_command_is_understood(line):
    """Each command that README, docs and Makefile show exists, with these arguments and options."""
    try:
        parse(line)
    except Exception as error:
        pytest.fail(f"secateur {line}: {error}")


@pytest.mark.parametrize(
    "line", ["shrink model", "reduce model --max-dorp 1", "reduce model --max-drop much"]
)
def test_a_wrong_command_is_noticed(line):
    """A command, option or value that the program does not know is not understood."""
    with pytest.raises(Exception, match=r"no command|No such option|valid number"):
        parse(line)


def test_the_main_commands_are_shown():
    """The documentation shows how to train, reduce, watch, evaluate and report."""
    assert {line.split()[0] for line in SHOWN} >= {"train", "reduce", "watch", "evaluate"}
