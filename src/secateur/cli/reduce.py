"""``secateur reduce``: a trained network and a bound, into a smaller network and a report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from torch import nn

from secateur.cli import options as o
from secateur.cli import show
from secateur.cli.progress import ReduceProgress, doing
from secateur.cli.runs import about, folder_of, kept, required, stored_run
from secateur.cli.sources import Source, data_options, open_data, open_network, trusted
from secateur.criteria import criterion_named
from secateur.data import Splits
from secateur.errors import ModelError, NothingToCutError, SettingsError
from secateur.methods import KIND, ReduceResult, ReduceSettings, steps_in, unreduced_in
from secateur.methods import reduce as reduce_in
from secateur.networks import names
from secateur.report import write_report
from secateur.train.recipes import recipe_for

_INHERITED = ("augment", "batch_size", "shift", "shift_fill")
_RETRAINING = ("epochs", "lr", "batch_size", "augment", "shift", "distil_weight")


def reduce(
    *,
    network: o.Network = None,
    data: o.DataName = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            help="Points of accuracy that may be lost; the bound is on the drop's upper confidence limit."
        ),
    ] = None,
    out: o.Out = None,
    resume: o.Resume = False,
    data_dir: o.DataDir = None,
    criterion: Annotated[str | None, typer.Option(help="Which units of a layer go first.")] = None,
    beta: Annotated[float | None, typer.Option(help="Weight of a layer's parameters.")] = None,
    gamma: Annotated[float | None, typer.Option(help="Weight of a layer's multiply-adds.")] = None,
    layers: Annotated[list[str] | None, typer.Option(help="Only groups of such names (conv*).")] = None,
    kinds: Annotated[list[str] | None, typer.Option(help="Only groups of this class (Linear).")] = None,
    inputs: Annotated[bool, typer.Option("--inputs", help="Input features may go, too.")] = False,
    attention: o.Attention = None,
    round_to: o.RoundTo = None,
    target: Annotated[
        str | None,
        typer.Option(help="What the network is to run on (litert, onnx, executorch): widths suit it."),
    ] = None,
    mode: Annotated[
        str | None,
        typer.Option(
            help="What it becomes there (int8, int8-only, dynamic, float16, float32): candidates are judged as such files."
        ),
    ] = None,
    aim: Annotated[
        str | None,
        typer.Option(help="With --mode: cuts must make the file smaller (bytes) or quicker here (latency)."),
    ] = None,
    observer: Annotated[
        str | None, typer.Option(help="With --mode: how ranges are found: minmax, histogram, ema.")
    ] = None,
    calibration: Annotated[
        int | None, typer.Option(help="With --mode: training examples that ranges are found on (100).", min=1)
    ] = None,
    minimum: o.Minimum = None,
    confidence: Annotated[
        float | None, typer.Option(help="How sure the bound must be (0.95); 0 takes drops as measured.")
    ] = None,
    guard: Annotated[
        str | None, typer.Option(help="Keep the bound on training examples, too: auto, on or off.")
    ] = None,
    first_share: Annotated[
        float | None, typer.Option(help="Share of a layer's units that the first cut removes.")
    ] = None,
    last_share: Annotated[
        float | None, typer.Option(help="A layer closes when its share would fall below this.")
    ] = None,
    max_iterations: Annotated[int | None, typer.Option(help="Candidates to try at most.")] = None,
    candidates: Annotated[
        int | None,
        typer.Option(
            help="Candidates that are tried at once; by default as many as there are workers.", min=1
        ),
    ] = None,
    workers: o.Workers = None,
    ray_address: o.RayAddress = None,
    as_printed: Annotated[bool, typer.Option("--as-printed", help="SNARE without our extensions.")] = False,
    distil: Annotated[
        bool | None,
        typer.Option(
            "--distil/--no-distil", help="Learn from the unreduced network, or from the labels only."
        ),
    ] = None,
    distil_weight: Annotated[
        float | None, typer.Option(help="How much of the learning is from the unreduced network (0.5).")
    ] = None,
    compensate: Annotated[str | None, typer.Option(help="none, mean or least-squares.")] = None,
    retrain_scope: Annotated[
        str | None,
        typer.Option(
            help="What of a candidate is retrained: network, block (around the cut), block-then-network."
        ),
    ] = None,
    retrain_examples: Annotated[
        int | None, typer.Option(help="Retrain each candidate on so many examples.")
    ] = None,
    rounds: Annotated[int | None, typer.Option(help="How often the search goes through the layers.")] = None,
    patience: Annotated[
        float | None, typer.Option(help="Each further round retrains so many times as long.")
    ] = None,
    finish_epochs: Annotated[
        int | None, typer.Option(help="Train what a round accepted for so long.", min=1)
    ] = None,
    epochs: o.Epochs = None,
    lr: o.Rate = None,
    batch_size: o.BatchSize = None,
    augment: o.Augment = None,
    shift: o.Shift = None,
    seed: o.Seed = None,
    data_seed: o.DataSeed = None,
    validation: o.Validation = None,
    stem: o.Stem = None,
    arg: o.Args = None,
    allow: o.Allow = None,
) -> None:
    """Cut a trained network down for as long as its accuracy stays within a bound."""
    asked = o.given(**locals())  # every option by its name, for the run's record
    if distil is False:
        asked["distil"] = False  # switched off, not merely left alone
    if mode is not None:
        options = {"aim": aim, "observer": observer, "calibration": calibration}
        asked["deploy"] = {"target": target or "litert", "mode": mode} | {
            key: value for key, value in options.items() if value is not None
        }
    elif aim is not None or observer is not None or calibration is not None:
        raise SettingsError(
            "--aim, --observer and --calibration say how the file is made; say with --mode what it is to be, such as int8"
        )
    if target is not None and aim != "bytes":  # a file is smallest where widths are as they come
        if round_to is not None:
            raise SettingsError("--target and --round-to both say what widths are multiples of; give one")
        asked["round_to"] = target
    if resume:
        _resumed(network, out, asked)
    else:
        _started(asked)


def _started(asked: Mapping[str, Any]) -> None:
    named, data, out = required(asked, what="a saved network to reduce")
    if "max_drop" not in asked:
        raise SettingsError("--max-drop is missing; say how many points of accuracy may be lost, such as 0.5")
    criterion_named(_settings(asked, {}).criterion)  # bad options are refused before anything is read
    if named in names():
        raise ModelError(f"{named} is not trained; `secateur train {named}` makes a file that can be reduced")
    splits = open_data(data, **data_options(asked))
    arguments, allow = o.arguments(asked.get("arg", ())), trusted(asked.get("allow"), data)
    source = open_network(
        named, arguments=arguments, allow=allow, stem=asked.get("stem"), classes=len(splits.classes)
    )
    settings = settings_of(source, splits.name, asked)
    noted = about(source, named=named, data=data, asked=asked)
    with kept(out, kind=KIND):
        with (
            o.started(asked.get("workers"), asked.get("ray_address")) as carrying,
            ReduceProgress(source.model, splits, settings) as progress,
        ):
            result = reduce_in(
                source.model, splits, settings=settings, out=out, about=noted, history=source.history,
                listener=progress, workers=carrying,
            )  # fmt: skip
        _reported(result, source.model, splits, noted)


def _resumed(network: str | None, out: Path | None, asked: Mapping[str, Any]) -> None:
    folder, repeated = folder_of(network, out, asked)
    run = stored_run(folder, kind=KIND, asked=repeated)
    splits = run.data()
    model = unreduced_in(folder, run.build)
    settings = ReduceSettings(**run.settings["reduce"])
    steps = steps_in(run.entries)
    with kept(folder, kind=KIND):
        with (
            o.started(asked.get("workers"), asked.get("ray_address")) as carrying,
            ReduceProgress(model, splits, settings, steps=steps) as progress,
        ):
            result = reduce_in(model, splits, out=folder, resume=True, listener=progress, workers=carrying)
        _reported(result, model, splits, run.about)


def _reported(result: ReduceResult, unreduced: nn.Module, splits: Splits, noted: Mapping[str, Any]) -> None:
    with doing("writing the report"):
        report = write_report(
            result, data=splits, network=noted["spec"], unreduced=unreduced, command=noted["command"]
        )
    show.reduced(report, result.folder)
    if not result.removed:
        raise NothingToCutError(
            " ".join(note for note in result.notes if note.startswith("Nothing was removed"))
        )


def settings_of(source: Source, data: str, asked: Mapping[str, Any]) -> ReduceSettings:
    """What was asked, on top of the defaults; retraining changes examples as the network's own training did."""
    inherited: Mapping[str, Any] = {}
    if "as_printed" not in asked:
        known = source.training or recipe_for(source.origin.spec, data).model_dump()
        inherited = {key: known[key] for key in _INHERITED if key in known}
    return _settings(asked, inherited)


def _settings(asked: Mapping[str, Any], inherited: Mapping[str, Any]) -> ReduceSettings:
    make = ReduceSettings.as_printed if "as_printed" in asked else ReduceSettings
    base = make(max_drop=asked["max_drop"])
    explicit = {key: asked[key] for key in _RETRAINING if key in asked}
    retrain = base.retrain.but(**{**inherited, **explicit})
    changes = {key: value for key, value in asked.items() if key in ReduceSettings.model_fields}
    if "workers" in asked and "as_printed" not in asked:  # the printed method tries one at a time
        changes.setdefault("candidates", asked["workers"])
    if "finish_epochs" in asked:
        changes["finish"] = retrain.but(epochs=asked["finish_epochs"], schedule="cosine").model_dump()
    return base.but(**changes, retrain=retrain.model_dump())
