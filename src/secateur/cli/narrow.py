"""What `secateur quantise` does with a network before its file is written: prepare it, train it, find who loses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from rich.table import Table
from torch import Tensor, nn

from secateur._options import fitting
from secateur.cli.progress import TrainProgress, doing
from secateur.cli.sources import Source
from secateur.data import Splits
from secateur.errors import SettingsError
from secateur.export import check_offered
from secateur.methods.prepared import QAT, layers_left_float, prepare_for_file, settling
from secateur.quantise import Observer, Simulated, blame, simulate, train_aware
from secateur.report import text
from secateur.train import TrainSettings
from secateur.train.recipes import recipe_for

_INT8 = ("int8", "int8-only")
_SHOWN = 5
_NAMES = {
    "plain": "rounded",
    "equalise": "equalised",
    "bias": "biases corrected",
    "fallback": "few left float",
}


@dataclass(frozen=True, slots=True, eq=False)
class Ready:
    """A network that is ready to be written.

    Attributes:
        model: The network.
        mode: In which numbers.
        ranges: Its ranges, where they are known.
        keep_float: Layers that stay float.
        notes: What was done, for the reader.
    """

    model: nn.Module
    mode: str
    ranges: Simulated | None = None
    keep_float: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def layers_named(model: nn.Module, words: Sequence[str]) -> tuple[str, ...]:
    """The modules that a command line means: each by its own name, or all with weights whose whole names fit an expression.

    Raises:
        SettingsError: An expression is none, or fits no layer.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2))
        >>> layers_named(net, ["[01]"]), layers_named(net, ["1"])
        (('0',), ('1',))
    """
    modules = dict(cast("Iterator[tuple[str, nn.Module]]", model.named_modules(remove_duplicate=False)))
    own = [word for word in words if word and word in modules]
    weighted = [
        path for path, module in modules.items() if path and any(p.dim() > 1 for p in module.parameters())
    ]
    fit = fitting([word for word in words if word not in own], weighted, option="keep_float")
    return tuple(path for path in modules if path in {*own, *fit})


def check(
    source: Source,
    file: Path,
    *,
    target: str,
    mode: str,
    observer: str,
    keep_float: tuple[str, ...],
    prepared: bool,
    blaming: bool,
    asked: Mapping[str, Any],
) -> None:
    """Refuse what cannot be had, before anything is trained, found or written.

    Raises:
        SettingsError: The options do not go together, or the target does not offer what is asked for.
        StoreError: There is no folder for the file.
    """
    written = "int8" if mode == QAT else mode
    check_offered(
        target, written, observer=observer, keep_float=keep_float, model=source.model, path=file
    )  # fmt: skip
    if mode != QAT and ("epochs" in asked or "lr" in asked):
        raise SettingsError(f"--epochs and --lr are for --mode {QAT}; leave them out with --mode {mode}")
    if blaming and written not in _INT8:
        raise SettingsError(f"--blame is for {', '.join((*_INT8, QAT))}; leave it out with --mode {mode}")
    if prepared and mode not in _INT8:
        why = "training makes up for what it would do" if mode == QAT else "that mode has no ranges"
        raise SettingsError(f"--prepare is for {' and '.join(_INT8)}; leave it out with --mode {mode}: {why}")
    if (prepared or mode == QAT) and target != "litert":
        what = f"--mode {QAT}" if mode == QAT else "--prepare"
        raise SettingsError(
            f"{what} hands ranges to the file, and only files for litert take any; give --target litert"
        )
    if mode == QAT:
        settling(TrainSettings(), **_said(asked))  # a rate or a number of epochs that cannot be


def narrowed(
    source: Source,
    splits: Splits,
    examples: Tensor,
    *,
    mode: str,
    observer: str,
    keep_float: tuple[str, ...],
    max_drop: float | None,
    prepared: bool,
    asked: Mapping[str, Any],
) -> Ready:
    """Prepare or train a network, where that is asked for; `check` has been passed."""
    if not prepared and mode != QAT:
        return Ready(source.model, mode, None, keep_float)
    if mode == QAT:
        return _trained(
            source, splits, observer=observer, keep_float=keep_float, count=len(examples), asked=asked
        )
    with doing("equalising layers and correcting biases"):
        found = prepare_for_file(
            source.model, splits, examples,
            mode=mode, observer=observer, keep_float=keep_float, max_drop=max_drop,
        )  # fmt: skip
    notes = [
        f"{_NAMES[one.step]}: {text.percent(one.accuracy)} as simulated, {one.sqnr:.1f} dB{'' if one.kept else ' (not kept)'}"
        for one in found.steps
    ]
    return Ready(
        found.model, mode, found.simulated, layers_left_float(found.simulated, keep_float), tuple(notes)
    )


def _trained(
    source: Source,
    splits: Splits,
    *,
    observer: str,
    keep_float: tuple[str, ...],
    count: int,
    asked: Mapping[str, Any],
) -> Ready:
    settings = settling(recipe_for(source.origin.spec, splits.name), **_said(asked))
    with TrainProgress(settings.epochs) as progress:
        made = train_aware(
            source.model, splits, settings,
            calibration=count, observer=cast("Observer", observer), keep_float=keep_float,
            seed=asked.get("seed", 0), on_epoch=progress.epoch, on_batch=progress.batch,
        )  # fmt: skip
    note = f"Trained for {settings.epochs} epoch{'' if settings.epochs == 1 else 's'} in int8, at a rate of {settings.lr:g}."
    return Ready(made.model, "int8", made.simulated, keep_float, (note,))


def _said(asked: Mapping[str, Any]) -> dict[str, Any]:
    """What of the training is asked for."""
    return {name: asked[name] for name in ("epochs", "lr") if name in asked}


def blamed(ready: Ready, examples: Tensor, splits: Splits, *, observer: str) -> Table:
    """The layers and operators that lose most when they alone are rounded."""
    made = ready.ranges or simulate(ready.model, examples, observer=cast("Observer", observer))
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("loses most")
    table.add_column("signal to noise", justify="right")
    table.add_column("accuracy, points", justify="right")
    for loss in blame(made, splits.validation)[:_SHOWN]:
        table.add_row(loss.name, f"{loss.sqnr:.1f} dB", text.points(-loss.drop))
    return table
