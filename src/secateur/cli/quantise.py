"""``secateur quantise``: a network in narrower numbers, scored as the file that is deployed."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from secateur.cli import options as o
from secateur.cli import show
from secateur.cli.export import File, Target, named_for, opened
from secateur.cli.narrow import blamed, check, layers_named, narrowed
from secateur.cli.progress import doing
from secateur.cli.sources import data_options, open_data, trusted
from secateur.errors import ExportError, SettingsError
from secateur.evaluate import (
    ClassChange,
    Drop,
    Evaluation,
    class_changes,
    evaluate,
    fell_most,
    measure_file,
    paired_drop,
)
from secateur.export import Exported, open_file
from secateur.export import export as export_to
from secateur.report import Change, text
from secateur.store import write_atomic

_EXAMPLE = 4
_TIE = 1e-9
"""Points by which a drop at the bound may seem to be beyond it."""


def quantise(
    *,
    network: o.Network = None,
    data: o.DataName = None,
    target: Target = "litert",
    mode: Annotated[
        str, typer.Option(help="int8, int8-only, dynamic, float16, float32, or qat: trained, then int8.")
    ] = "int8",
    observer: Annotated[
        str, typer.Option(help="How ranges of activations are found: minmax, histogram or ema.")
    ] = "minmax",
    calibration: Annotated[
        int, typer.Option(help="Training examples that ranges are found on.", min=1)
    ] = 100,
    keep_float: Annotated[
        list[str] | None,
        typer.Option(
            help="A layer that stays float, or a regular expression of several; may be repeated.",
            show_default=False,
        ),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Points of accuracy on validation that may be lost; else nothing is written.",
            show_default=False,
        ),
    ] = None,
    prepare: Annotated[
        bool,
        typer.Option(
            "--prepare",
            help="Equalise layers and correct biases first; with --max-drop leave few layers float, if they restore it.",
        ),
    ] = False,
    blame: Annotated[bool, typer.Option("--blame", help="Say which layers lose most by rounding.")] = False,
    epochs: o.Epochs = None,
    lr: o.Rate = None,
    out: File = None,
    data_dir: o.DataDir = None,
    data_seed: o.DataSeed = None,
    validation: o.Validation = None,
    seed: o.Seed = None,
    allow: o.Allow = None,
) -> None:
    """Write a network in narrower numbers, and score the file on validation data beside the network."""
    asked = o.given(**locals())
    if data is None:
        raise SettingsError(
            "--data is missing; ranges are found on training examples and the file is scored on others"
        )
    source = opened(network, target, arg=None, allow=trusted(allow, data))
    wanted = named_for(source, str(target), out, mode=f"-{mode}")
    kept = layers_named(source.model, keep_float or ())
    check(
        source, wanted,
        target=str(target), mode=mode, observer=observer, keep_float=kept, prepared=prepare, blaming=blame,
        asked=asked,
    )  # fmt: skip
    splits = open_data(data, **data_options(asked))
    examples = splits.train.take(calibration, seed=asked.get("seed", 0)).inputs
    ready = narrowed(
        source, splits, examples,
        mode=mode, observer=observer, keep_float=kept, max_drop=max_drop, prepared=prepare, asked=asked,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder) / wanted.name
        with doing(f"quantising {source.file or network}"):
            made = export_to(
                ready.model, splits.train.inputs[:_EXAMPLE], trial,
                target=str(target), mode=ready.mode, calibration=examples, observer=observer,
                keep_float=ready.keep_float, ranges=ready.ranges, held_out=splits.validation.inputs,
            )  # fmt: skip
        with doing("scoring the network and the file on validation data"):
            before = evaluate(source.model, splits.validation, classes=splits.classes)
            after = evaluate(open_file(trial, allow=["torch"]), splits.validation, classes=splits.classes)
        drop = paired_drop(before, after, confidence=0.975, groups=splits.validation.groups)
        if max_drop is not None and drop.points > max_drop + _TIE:
            raise ExportError(
                f"the file loses {drop.points:.2f} points of accuracy on {drop.count:,} validation examples, and --max-drop allows"
                f" {max_drop:g}; nothing was written. {_advice(mode, observer, prepared=prepare)}"
            )
        content = trial.read_bytes()
    there = wanted.exists()
    write_atomic(wanted, [content], size=len(content))
    console = show.console()
    console.print(Text(f"{network} in {mode} for {target}", style="bold"), soft_wrap=True)
    console.print(_table(before, after, drop, made, packed=measure_file(wanted).gzip))
    for line in ready.notes:
        console.print(Text(line), soft_wrap=True)
    if blame:
        with doing("rounding one layer at a time"):
            guilty = blamed(ready, examples, splits, observer=observer)
        console.print(guilty)
    if made.float_operators:
        console.print(Text(f"Stays float: {', '.join(made.float_operators)}"), soft_wrap=True)
    if made.ranges_not_found:
        lost = ", ".join(made.ranges_not_found)
        console.print(
            Text(f"Not found in the file, and ranged by calibration examples: {lost}"), soft_wrap=True
        )
    console.print(f"\nThe file: {show.made(wanted, there=there)}", soft_wrap=True)


def _advice(mode: str, observer: str, *, prepared: bool) -> str:
    other = "histogram" if observer == "minmax" else "minmax"
    if mode == "qat":
        return "Try more --epochs, or another --lr"
    if prepared:
        return "Try --mode qat, which trains it with its numbers rounded"
    if mode in ("int8", "int8-only"):
        return f"Try --observer {other}, more --calibration examples, --prepare, or --keep-float LAYER"
    return "Try --mode float16"


def _fell(one: ClassChange) -> str:
    """By how much, from where to where."""
    return f"{one.name}: {text.points(one.points)} points ({text.percent(one.before)} → {text.percent(one.after)})"


def _table(before: Evaluation, after: Evaluation, drop: Drop, made: Exported, *, packed: int) -> Table:
    """What the deployed file reaches, beside the network that it was made of."""
    change = Change.of_drop(drop.points, upper=drop.upper, confidence=drop.confidence)
    worst = fell_most(class_changes(before, after))
    fell = "none" if worst is None else _fell(worst)
    lines = {
        "accuracy on validation": f"{text.percent(before.accuracy)} → {text.percent(after.accuracy)}",
        "change": f"{text.points(change.points)} points [{text.interval(change)}] on {text.integer(drop.count)} examples",
        "class that fell most": fell,
        "same answer": text.percent(made.agreement),
        "signal to noise": f"{made.sqnr:.1f} dB",
        "bytes": text.integer(made.bytes),
        "bytes, gzip -9": text.integer(packed),
    }
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column()
    for name, value in lines.items():
        grid.add_row(Text(name), Text(text.plain(value)))
    return grid
