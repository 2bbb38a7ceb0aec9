"""``secateur train``: a network on data, into a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from secateur.cli import options as o
from secateur.cli import show
from secateur.cli.progress import CutProgress
from secateur.cli.runs import about, folder_of, kept, required, stored_run
from secateur.cli.sources import data_options, open_data, open_network, trusted
from secateur.data import Splits
from secateur.errors import SettingsError
from secateur.methods import PruneTrainSettings
from secateur.methods.training import KIND, TrainResult, started_in
from secateur.methods.training import train as train_in
from secateur.report import training_of, write_training
from secateur.train import TrainSettings
from secateur.train.recipes import recipe_for, recipe_named

_OFF_AT_ZERO = ("clip", "early_stopping", "ema")
_WHILE = "while"
_PRUNETRAIN = "prunetrain"


def train(
    *,
    network: o.Network = None,
    data: o.DataName = None,
    out: o.Out = None,
    resume: o.Resume = False,
    data_dir: o.DataDir = None,
    recipe: Annotated[
        str | None, typer.Option(help="Start from the settings of this name, such as mobile or mobile-short.")
    ] = None,
    epochs: o.Epochs = None,
    lr: o.Rate = None,
    batch_size: o.BatchSize = None,
    optimizer: Annotated[str | None, typer.Option(help="sgd, adam, adamw or rmsprop.")] = None,
    momentum: Annotated[float | None, typer.Option(help="Momentum of SGD and RMSprop.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="L2 penalty.")] = None,
    schedule: Annotated[str | None, typer.Option(help="constant, linear or cosine.")] = None,
    warmup_epochs: Annotated[float | None, typer.Option(help="Epochs in which the rate climbs.")] = None,
    label_smoothing: Annotated[float | None, typer.Option(help="Share spread over all classes.")] = None,
    ema: Annotated[float | None, typer.Option(help="Decay of the averaged weights; 0 for none.")] = None,
    clip: Annotated[float | None, typer.Option(help="Largest norm of the gradients; 0 for none.")] = None,
    early_stopping: Annotated[
        int | None, typer.Option(help="Stop after so many epochs without a better one; 0 for never.")
    ] = None,
    keep: Annotated[str | None, typer.Option(help="Return the best epoch or the last.")] = None,
    precision: Annotated[str | None, typer.Option(help="auto, 32, bf16 or 16.")] = None,
    augment: o.Augment = None,
    shift: o.Shift = None,
    while_: Annotated[
        str | None, typer.Option("--while", help="What goes on meanwhile: prunetrain cuts the network.")
    ] = None,
    penalty_ratio: Annotated[
        float | None, typer.Option(help="prunetrain: the penalty's share of the loss at the first step.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="prunetrain: a unit goes when all of its weights are smaller.")
    ] = None,
    every: Annotated[int | None, typer.Option(help="prunetrain: epochs between two cuts.")] = None,
    rest: Annotated[int | None, typer.Option(help="prunetrain: epochs at the end without it.")] = None,
    grow_batch: Annotated[
        bool | None,
        typer.Option(
            "--grow-batch",
            help="prunetrain: batches grow as the network shrinks, and the rate with them.",
            show_default=False,
        ),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            help="prunetrain: what a step may keep then, such as 2GiB; by default what it keeps at first."
        ),
    ] = None,
    batch_limit: Annotated[
        int | None, typer.Option(help="prunetrain: the largest batch; by default four times the first.")
    ] = None,
    ghost_batch: Annotated[
        int | None, typer.Option(help="Batch norms take statistics over groups of so many examples.")
    ] = None,
    inconsistent: Annotated[
        int | None, typer.Option(help="Steps at most on a batch again whose loss stands out.")
    ] = None,
    sparse_gradients: Annotated[
        float | None, typer.Option(help="Share of the activations' gradients that is thinned to zeros.")
    ] = None,
    gating: Annotated[
        bool | None,
        typer.Option(
            "--gating",
            help="prunetrain: at the last cut, convolutions leave out added channels they are done with.",
        ),
    ] = None,
    round_to: o.RoundTo = None,
    minimum: o.Minimum = None,
    seed: o.Seed = None,
    data_seed: o.DataSeed = None,
    validation: o.Validation = None,
    stem: o.Stem = None,
    arg: o.Args = None,
    allow: o.Allow = None,
) -> None:
    """Train a network on data; without options, by a recipe that suits the pair."""
    asked = o.given(**locals())  # every option by its name, for the run's record
    if while_ is not None:
        asked[_WHILE] = asked.pop("while_")
    if recipe is not None:
        recipe_named(recipe)  # a wrong name is refused before anything is read
    if resume:
        _resumed(network, out, asked)
    else:
        _started(asked)


def _started(asked: Mapping[str, Any]) -> None:
    named, data, out = required(asked, what="a network to train")
    pruned = _meanwhile(asked)  # bad options are refused before anything is read
    splits = open_data(data, **data_options(asked))
    source = open_network(
        named,
        arguments=o.arguments(asked.get("arg", ())),
        allow=trusted(asked.get("allow"), data),
        seed=asked.get("seed", 0),
        stem=asked.get("stem"),
        classes=len(splits.classes),
    )
    settings = _settings(source.origin.spec, splits.name, asked)
    if pruned is not None and "early_stopping" not in asked:
        settings = settings.but(early_stopping=None)
    noted = about(source, named=named, data=data, asked=asked)
    with kept(out, kind=KIND), CutProgress(settings.epochs) as progress:
        result = train_in(
            source.model, splits, settings, out=out, seed=asked.get("seed", 0), prunetrain=pruned, about=noted,
            on_epoch=progress.epoch, on_batch=progress.batch, on_cut=progress.cut,
        )  # fmt: skip
    _report(result, splits, folder=out, seed=asked.get("seed", 0))
    show.trained(result, splits, asked)


def _resumed(network: str | None, out: Path | None, asked: Mapping[str, Any]) -> None:
    folder, repeated = folder_of(network, out, asked)
    run = stored_run(folder, kind=KIND, asked=repeated)
    splits = run.data()
    model = started_in(folder, run.build)
    done = sum("epoch" in entry for entry in run.entries)
    epochs = int(run.settings["train"]["epochs"])
    with kept(folder, kind=KIND), CutProgress(epochs, done=done) as progress:
        result = train_in(
            model, splits, out=folder, resume=True,
            on_epoch=progress.epoch, on_batch=progress.batch, on_cut=progress.cut,
        )  # fmt: skip
    _report(result, splits, folder=folder, seed=int(run.settings["seed"]))
    show.trained(result, splits, run.about)


def _report(result: TrainResult, splits: Splits, *, folder: Path, seed: int) -> None:
    made = training_of(result, data=splits, name=folder.resolve().name, seed=seed)
    write_training(made, folder)


def _meanwhile(asked: Mapping[str, Any]) -> PruneTrainSettings | None:
    """The options of what goes on meanwhile, if anything does."""
    options = {key: value for key, value in asked.items() if key in PruneTrainSettings.model_fields}
    name = asked.get(_WHILE)
    if name is None:
        if options:
            first = next(iter(options)).replace("_", "-")
            raise SettingsError(f"--{first} is for --while {_PRUNETRAIN}; add that, or leave it out")
        return None
    if name != _PRUNETRAIN:
        raise SettingsError(
            f"--while {name!r} is nothing that goes on while a network trains; there is {_PRUNETRAIN}"
        )
    return PruneTrainSettings(**options)


def _settings(network: str, data: str, asked: Mapping[str, Any]) -> TrainSettings:
    """The pair's recipe, or the one that was named, with what was asked."""
    optimizer = asked.get("optimizer")
    if "recipe" in asked:
        recipe = recipe_named(asked["recipe"], optimizer=optimizer)
    else:
        recipe = recipe_for(network, data, optimizer=optimizer)
    changes = {key: value for key, value in asked.items() if key in TrainSettings.model_fields}
    changes |= {key: None for key in _OFF_AT_ZERO if changes.get(key) == 0}
    if changes.get("momentum") == 0:
        changes["nesterov"] = False
    return recipe.but(**changes)
