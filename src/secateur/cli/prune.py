"""``secateur prune``: a trained network into one of which a share is gone, a little at a time."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text
from torch import nn

from secateur.cli import options as o
from secateur.cli import show
from secateur.cli.progress import PruneProgress, doing
from secateur.cli.runs import about, finished, folder_of, kept, required, stored_run
from secateur.cli.sources import Source, data_options, open_data, open_network, trusted
from secateur.data import Splits
from secateur.errors import ModelError, SettingsError
from secateur.evaluate import measure_file
from secateur.methods import MODEL_FILE, PRUNE, GradualResult, GradualSettings, gradual, unpruned_in
from secateur.networks import names
from secateur.report import text
from secateur.store import save
from secateur.train.recipes import recipe_for

_INHERITED = ("augment", "shift", "shift_fill")
_TRAINING = (
    "lr",
    "lr_end",
    "batch_size",
    "optimizer",
    "momentum",
    "weight_decay",
    "augment",
    "shift",
    "distil_weight",
)


def prune(
    *,
    network: o.Network = None,
    data: o.DataName = None,
    sparsity: Annotated[
        float | None, typer.Option(help="The share that goes, such as 0.9; it is met exactly.")
    ] = None,
    out: o.Out = None,
    resume: o.Resume = False,
    granularity: Annotated[
        str | None, typer.Option(help="weights, which become zero, or units, which are cut out.")
    ] = None,
    schedule: Annotated[str | None, typer.Option(help="cubic, linear or one-shot.")] = None,
    begin: Annotated[int | None, typer.Option(help="Epochs before the first cut.")] = None,
    every: Annotated[int | None, typer.Option(help="Epochs between two cuts.")] = None,
    steps: Annotated[int | None, typer.Option(help="Cuts after the one at --begin.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs in all.")] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(help="A regular expression of layers that stay as they are; may be repeated."),
    ] = None,
    scope: Annotated[
        str | None, typer.Option(help="The share is met by each layer, or by all together: layer or global.")
    ] = None,
    criterion: Annotated[str | None, typer.Option(help="What goes first.")] = None,
    normalise: Annotated[str | None, typer.Option(help="For --scope global: none, l1 or l2.")] = None,
    below: Annotated[
        float | None,
        typer.Option(
            help="For units: only those go whose score is below this; --sparsity is the most that may."
        ),
    ] = None,
    subsets: Annotated[
        float | None,
        typer.Option(
            help="For --criterion relevance: the share of each layer's units that takes part in a training step, such as 0.9."
        ),
    ] = None,
    round_to: o.RoundTo = None,
    minimum: o.Minimum = None,
    distil: Annotated[bool, typer.Option("--distil", help="Learn from the unpruned network, too.")] = False,
    distil_weight: Annotated[float | None, typer.Option(help="How much of the learning that is.")] = None,
    data_dir: o.DataDir = None,
    lr: o.Rate = None,
    lr_end: Annotated[float | None, typer.Option(help="Learning rate at the end.")] = None,
    batch_size: o.BatchSize = None,
    optimizer: Annotated[str | None, typer.Option(help="sgd, adam, adamw or rmsprop.")] = None,
    momentum: Annotated[float | None, typer.Option(help="Momentum of SGD and RMSprop.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="L2 penalty.")] = None,
    augment: o.Augment = None,
    shift: o.Shift = None,
    seed: o.Seed = None,
    data_seed: o.DataSeed = None,
    validation: o.Validation = None,
    allow: o.Allow = None,
) -> None:
    """Prune a trained network gradually, to an exact share, training it on between the cuts."""
    asked = o.given(**locals())  # every option by its name, for the run's record
    if resume:
        _resumed(network, out, asked)
    else:
        _started(asked)


def _started(asked: Mapping[str, Any]) -> None:
    named, data, out = required(asked, what="a saved network to prune")
    if "sparsity" not in asked:
        raise SettingsError("--sparsity is missing; say which share is to go, such as 0.9")
    _settings(asked, {})  # bad options are refused before anything is read
    if named in names():
        raise ModelError(f"{named} is not trained; `secateur train {named}` makes a file that can be pruned")
    splits = open_data(data, **data_options(asked))
    source = open_network(named, allow=trusted(asked.get("allow"), data))
    settings = _settings(asked, _inherited(source, splits.name))
    noted = about(source, named=named, data=data, asked=asked)
    with kept(out, kind=PRUNE), PruneProgress(settings.length) as progress:
        result = gradual(
            source.model, splits, settings, out=out, about=noted, earlier=source.history,
            on_epoch=progress.epoch, on_cut=progress.cut, on_batch=progress.batch,
        )  # fmt: skip
    _show(result, splits, source.model)


def _resumed(network: str | None, out: Path | None, asked: Mapping[str, Any]) -> None:
    folder, repeated = folder_of(network, out, asked)
    run = stored_run(folder, kind=PRUNE, asked=repeated)
    splits = run.data()
    model = unpruned_in(folder, run.build)
    settings = GradualSettings(**run.settings[PRUNE])
    done = sum("epoch" in entry for entry in run.entries)
    with kept(folder, kind=PRUNE), PruneProgress(settings.length, done=done) as progress:
        result = gradual(
            model, splits, out=folder, resume=True,
            on_epoch=progress.epoch, on_cut=progress.cut, on_batch=progress.batch,
        )  # fmt: skip
    _show(result, splits, model)


def _inherited(source: Source, data: str) -> dict[str, Any]:
    """Training examples are changed as in the network's own training."""
    known = source.training or recipe_for(source.origin.spec, data).model_dump()
    return {key: known[key] for key in _INHERITED if key in known}


def _settings(asked: Mapping[str, Any], inherited: Mapping[str, Any]) -> GradualSettings:
    own = {key: value for key, value in asked.items() if key in GradualSettings.model_fields}
    if "exclude" in own:
        own["exclude"] = tuple(own["exclude"])
    explicit = {key: asked[key] for key in _TRAINING if key in asked}
    plain = GradualSettings(sparsity=0.5).training
    if explicit.get("lr", plain.lr) < plain.lr_end:
        explicit.setdefault("lr_end", explicit["lr"] / 10)
    return GradualSettings(**own, training=plain.but(**{**inherited, **explicit}))


def _show(result: GradualResult, data: Splits, unpruned: nn.Module) -> None:
    """What is left of each layer, what the network reaches, and where it is."""
    if result.file is None:
        raise RuntimeError("the command's runs have a folder")
    with finished(result.file):
        _told(result, result.file, data, unpruned)


def _told(result: GradualResult, file: Path, data: Splits, unpruned: nn.Module) -> None:
    out = show.console()
    units = result.masks is None
    thing = "units" if units else "weights"
    out.print(_layers(result, thing))
    out.print()
    out.print(show.change_of(result.before, result.after, data, split="validation"), soft_wrap=True)
    with doing("packing the file"):
        now = measure_file(file)
        with tempfile.TemporaryDirectory() as folder:
            save(unpruned, Path(folder) / MODEL_FILE)
            was = measure_file(Path(folder) / MODEL_FILE)
    out.print(f"file: {text.size(was.raw)} → {text.size(now.raw)}")
    out.print(f"gzip -9: {text.size(was.gzip)} → {text.size(now.gzip)}")
    for note in result.notes:
        out.print(f"note: {note}", soft_wrap=True)
    if not units:
        out.print(
            "Zeros by themselves change neither the file's size nor the time that the network takes: they pay where it is packed"
            " (`secateur compress`), or where units go for real (--granularity units).",
            soft_wrap=True,
        )
        out.print(f"\nThe masks: {file.with_name('masks.safetensors')}", soft_wrap=True)
    out.print(f"The network: {file}", soft_wrap=True)


def _layers(result: GradualResult, thing: str) -> Table:
    grid = Table(title=f"Pruned: {thing} by layer", title_justify="left", title_style="bold", box=None)
    for heading in ("layer", "before", "left", "gone"):
        grid.add_column(heading, justify="left" if heading == "layer" else "right")
    for one in result.layers:
        grid.add_row(
            Text(one.name), text.integer(one.total), text.integer(one.left), text.percent(100 * one.sparsity)
        )
    total, left = (sum(getattr(one, key) for one in result.layers) for key in ("total", "left"))
    grid.add_row("all", text.integer(total), text.integer(left), text.percent(100 * result.sparsity))
    return grid
