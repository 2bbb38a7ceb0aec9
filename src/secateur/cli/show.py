"""What a command prints when it is done."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from secateur.cli.sources import allowance
from secateur.data import Splits
from secateur.evaluate import ClassAccuracy, Evaluation, paired_drop
from secateur.export import is_deployed
from secateur.methods.judge import bound_with_room
from secateur.methods.training import TrainResult
from secateur.networks import origin_of
from secateur.report import Arm, Change, ClassRow, Report, accuracy_of, evaluation, summary, text
from secateur.report.html import DOCUMENT, PAGE
from secateur.report.training_page import COLUMNS, lines_of, verdicts
from secateur.report.training_page import PAGE as TRAINING_PAGE

_DATA = ("data", "data_dir", "data_seed", "validation")
"""The options that say which examples a network learns from, decides by and is tested on."""


def console() -> Console:
    """Where results go."""
    return Console(highlight=False)


def trained(result: TrainResult, data: Splits, named: Mapping[str, Any]) -> None:
    """A trained network: what it reaches, where it is, and how to go on with the same data.

    Args:
        result: The training.
        data: What it learned from.
        named: How the command line named the data: the options that it gave, by name.
    """
    epochs = len(result.history)
    worst = result.test.worst_class
    figures = {} if worst is None else {"worst class": worst_class(worst)}
    figures |= {
        "accuracy on validation": text.percent(result.validation.accuracy),
        "parameters": text.integer(result.cost.parameters),
        "MACs per example": text.integer(result.cost.macs),
        **_cut_meanwhile(result),
        "epochs": f"{epochs}, kept the weights of epoch {result.best_epoch}",
        "time": text.duration(result.seconds),
    }
    out = console()
    out.print(
        evaluation(accuracy_of(result.test), title=f"Trained on {data.name}", split="test", figures=figures)
    )
    size = text.size(result.file.stat().st_size)
    out.print(f"\nThe network: {result.file} ({size})", soft_wrap=True)
    out.print(f"The report: {result.file.parent / TRAINING_PAGE}", soft_wrap=True)
    same = [word for key in _DATA if key in named for word in (f"--{key.replace('_', '-')}", str(named[key]))]
    small = f"{result.file.parent}-small"
    origin = origin_of(result.model)
    same += [] if origin is None else allowance(origin.spec, str(named["data"]))
    bound = f"{bound_with_room(len(data.validation)):g}"
    again = ["secateur", "reduce", str(result.file), *same, "--max-drop", bound, "--out", small]
    out.print(f"Make it smaller: {shlex.join(again)}", soft_wrap=True)


def trainings(arms: Sequence[Arm]) -> None:
    """Trainings beside the first of them."""
    grid = Table(title="Trainings", title_justify="left", title_style="bold", box=None)
    grid.add_column("")
    for heading in ("seeds", *COLUMNS):
        grid.add_column(heading, justify="right")
    for line in lines_of(arms):
        grid.add_row(Text(line.name), str(line.seeds), *line.cells)
    out = console()
    out.print(grid)
    for sentence in verdicts(arms):
        out.print(f"\n{sentence}", soft_wrap=True, markup=False)


def _cut_meanwhile(result: TrainResult) -> dict[str, str]:
    """What PruneTrain took, and what it spared."""
    found = result.prunetrain
    if found is None:
        return {}
    before, now = found.cost_before, result.cost
    gone = [name for one in found.reconfigurations for name in one.blocks]
    gated = sum(one.gated for one in found.reconfigurations)
    first, last = result.history[0].batch_size, result.history[-1].batch_size
    return {
        "parameters before": f"{text.integer(before.parameters)} (÷ {text.factor(before.parameters, now.parameters)})",
        "MACs per example before": f"{text.integer(before.macs)} (÷ {text.factor(before.macs, now.macs)})",
        "units gone": text.integer(sum(one.units for one in found.reconfigurations)),
        **({"blocks gone": ", ".join(gone)} if gone else {}),
        **({"convolutions gated": text.integer(gated)} if gated else {}),
        **({"examples of a step": f"{first}, at last {last}"} if last and first and last > first else {}),
        "MACs of training, forward": f"{text.short(found.macs)}, {text.share(found.macs / found.macs_uncut)} of {text.short(found.macs_uncut)} uncut",
    }


def reduced(report: Report, folder: Path | None) -> None:
    """A reduced network: the table, and where everything is."""
    out = console()
    out.print(summary(report))
    if folder is not None:
        out.print(f"\nThe report: {folder / PAGE} (for programs: {folder / DOCUMENT})", soft_wrap=True)
        out.print(f"The network: {folder / 'model.safetensors'}", soft_wrap=True)
        for file in report.files:
            if is_deployed(Path(file.name)):
                out.print(f"The file that is deployed: {folder / file.name}", soft_wrap=True)


def made(path: Path, *, there: bool) -> str:
    """A file that was written; whether one of that name was there before.

    >>> made(Path("m.onnx"), there=True)
    'm.onnx (in place of the one that was there)'
    """
    return f"{path} (in place of the one that was there)" if there else str(path)


def worst_class(worst: ClassAccuracy) -> str:
    """The class of which least is right, with how much.

    >>> worst_class(ClassAccuracy("cat", 8, 6))
    'cat: 75.00\u202f% of 8'
    """
    return f"{worst.name}: {text.percent(worst.accuracy or 0.0)} of {text.integer(worst.count)}"


def class_rows(found: Evaluation) -> list[ClassRow]:
    """Each class that has examples."""
    return [
        ClassRow(name=one.name, count=one.count, accuracy=one.accuracy)
        for one in found.per_class
        if one.accuracy is not None
    ]


def change_of(before: Evaluation, after: Evaluation, data: Splits, *, split: str) -> str:
    """What became of the accuracy, in one line, with the interval of 95 %.

    Args:
        before: The network as it was.
        after: The network as it is.
        data: Where its examples are from.
        split: On which of its parts both were measured.
    """
    # each limit at 97.5 %, both together at 95 %
    drop = paired_drop(before, after, confidence=0.975, groups=data.parts()[split].groups)
    change = Change.of_drop(drop.points, upper=drop.upper, confidence=drop.confidence)
    return (
        f"accuracy on {split}: {text.percent(before.accuracy)} → {text.percent(after.accuracy)}"
        f" ({text.points(change.points)} points, 95 % interval {text.points(change.low)} to {text.points(change.high)},"
        f" {text.integer(after.count)} examples)"
    )
