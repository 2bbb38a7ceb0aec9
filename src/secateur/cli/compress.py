"""``secateur compress``: a trained network, best a pruned one, into a coded file."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from secateur.cli import options as o
from secateur.cli import show
from secateur.cli.progress import PruneProgress, doing
from secateur.cli.sources import data_options, open_data, open_network, trusted
from secateur.data import Splits
from secateur.errors import SettingsError
from secateur.methods import CompressResult, CompressSettings, deep_compression
from secateur.methods.deep_compression import to_cluster
from secateur.report import text

_TRAINING = ("epochs", "lr", "batch_size", "optimizer")
_NAMES: Mapping[str, str] = {
    "raw": "clustered", "gzip": "clustered, gzip -9", "zstd": "clustered, zstd -19", "xz": "clustered, xz -9e",
    "huffman": "coded, Huffman", "ans": "coded, ANS",
}  # fmt: skip


def compress(
    *,
    network: o.Network = None,
    data: o.DataName = None,
    out: Annotated[
        Path | None, typer.Option(help="The file to write, ending in .secateur.", show_default=False)
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="deep-compression (k-means, Huffman), or entropy (smaller; needs secateur[compress])."
        ),
    ] = None,
    bits: Annotated[
        int | None, typer.Option(help="A layer's weights share up to 2 to this power levels (5).")
    ] = None,
    conv_bits: Annotated[int | None, typer.Option(help="The same for convolutions.")] = None,
    clusters: Annotated[int | None, typer.Option(help="In place of bits: how many levels.")] = None,
    rate: Annotated[
        float | None, typer.Option(help="The error that a bit is worth; more gives fewer bits.")
    ] = None,
    start: Annotated[str | None, typer.Option(help="Where levels begin: least (error) or linear.")] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(help="A regular expression of layers that stay as they are; may be repeated."),
    ] = None,
    fold: Annotated[
        bool,
        typer.Option(
            "--fold",
            help="Batch norms keep their shift alone: smaller, the same answers, but no longer to be trained on.",
        ),
    ] = False,
    half: Annotated[
        bool,
        typer.Option("--half", help="Biases and norms in half precision, which halves them in the file."),
    ] = False,
    epochs: Annotated[
        int | None,
        typer.Option(help="Epochs in which levels are trained (3); 0 leaves them as they are.", min=0),
    ] = None,
    distil: Annotated[bool, typer.Option("--distil", help="Learn from the network as given, too.")] = False,
    data_dir: o.DataDir = None,
    lr: o.Rate = None,
    batch_size: o.BatchSize = None,
    optimizer: Annotated[str | None, typer.Option(help="sgd, adam, adamw or rmsprop.")] = None,
    seed: o.Seed = None,
    data_seed: o.DataSeed = None,
    validation: o.Validation = None,
    allow: o.Allow = None,
) -> None:
    """Compress a network into one file: few levels for its weights, trained, and coded in few bits."""
    asked = o.given(**locals())
    if network is None:
        raise SettingsError("name a saved network to compress first")
    if out is None:
        raise SettingsError("--out is missing; name the file to write, such as net.secateur")
    _check_training(asked)
    settings = _settings(asked)
    if settings.fold and data is None:
        raise SettingsError("--fold needs --data: which norm follows which layer is seen in a forward pass")
    source = open_network(network, allow=trusted(allow, data))
    to_cluster(source.model, settings, out=out)  # what cannot be is refused before data are read
    splits = None if data is None else open_data(data, **data_options(asked))
    there = out.exists()
    count = 0 if settings.training is None or splits is None else settings.training.epochs
    with PruneProgress(count) if count else nullcontext() as progress, doing("clustering and coding"):
        result = deep_compression(
            source.model, settings, data=splits, out=out, earlier=source.history,
            on_epoch=None if progress is None else progress.epoch, on_batch=None if progress is None else progress.batch,
        )  # fmt: skip
    _show(result, splits, there=there)


def _check_training(asked: Mapping[str, Any]) -> None:
    """Raise SettingsError where an option of training is given and nothing will be trained."""
    names = [name for name in (*_TRAINING, "distil") if asked.get(name)]
    if not names:
        return
    flag = f"--{names[0].replace('_', '-')}"
    if "data" not in asked:
        raise SettingsError(f"{flag} needs --data, on which the levels are trained")
    if asked.get("epochs") == 0:
        raise SettingsError(
            f"{flag} is of training, and --epochs 0 leaves the levels as they are; leave out one of the two"
        )


def _settings(asked: Mapping[str, Any]) -> CompressSettings:
    own = {key: value for key, value in asked.items() if key in CompressSettings.model_fields}
    if "exclude" in own:
        own["exclude"] = tuple(own["exclude"])
    explicit = {key: asked[key] for key in _TRAINING if key in asked}
    plain = CompressSettings().training
    if asked.get("epochs") == 0 or plain is None:
        return CompressSettings(**own, training=None)
    return CompressSettings(**own, training=plain.but(**explicit))


def _show(result: CompressResult, data: Splits | None, *, there: bool) -> None:
    out = show.console()
    out.print(_layers(result))
    out.print()
    out.print(_sizes(result))
    out.print()
    if (
        data is not None
        and result.before is not None
        and result.after is not None
        and result.untrained is not None
    ):
        if result.history:
            out.print(
                f"accuracy on validation with levels untrained: {text.percent(result.untrained.accuracy)}"
            )
        out.print(show.change_of(result.before, result.after, data, split="validation"), soft_wrap=True)
    if result.file is not None:
        out.print(
            f"The network: {show.made(result.file, there=there)} ({text.size(result.file.stat().st_size)}); `secateur evaluate` and secateur.load read it",
            soft_wrap=True,
        )


def _layers(result: CompressResult) -> Table:
    grid = Table(title="Weights by layer", title_justify="left", title_style="bold", box=None)
    for heading in ("layer", "weights", "not zero", "levels", "bits a weight"):
        grid.add_column(heading, justify="left" if heading == "layer" else "right")
    for one in result.layers:
        grid.add_row(
            Text(one.name),
            text.integer(one.weights),
            text.integer(one.left),
            text.integer(one.levels),
            f"{one.entropy:.2f}",
        )
    return grid


def _sizes(result: CompressResult) -> Table:
    """Each size, and how many times smaller that is than the plain file of the network as given."""
    grid = Table(
        title="Bytes (without figures and history)", title_justify="left", title_style="bold", box=None
    )
    for heading in ("kept as", "bytes", "smaller by"):
        grid.add_column(heading, justify="left" if heading == "kept as" else "right")
    before = result.size_before
    grid.add_row("as given", text.integer(before), "")
    for kind, size in result.sizes.items():
        grid.add_row(_NAMES[kind], text.integer(size), f"÷ {text.factor(before, size)}")
    return grid
