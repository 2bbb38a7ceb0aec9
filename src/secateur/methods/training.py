"""Train a network in a run folder: after every epoch everything is on the disk, and a stopped run goes on to the bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Final, TypeAlias

from torch import nn

from secateur._files import TEMPORARY_SUFFIX
from secateur._options import expect
from secateur.channels import watch
from secateur.cost import Cost, CostModel
from secateur.data import Splits
from secateur.errors import RunError
from secateur.evaluate import Evaluation, evaluate
from secateur.methods.reduce import MODEL_FILE
from secateur.store import RunFolder, model_snapshot, restore_model, save
from secateur.store.snapshots import Snapshots
from secateur.train import EpochRecord, TrainSettings, TrainState, dtype_of, fit
from secateur.train.state import restore

KIND: Final = "train"
_START: Final = "start"
_STATES: Final = "states"

OnEpoch: TypeAlias = Callable[[EpochRecord], None] | None
OnBatch: TypeAlias = Callable[[int, int], None] | None


@dataclass(frozen=True, eq=False)
class TrainResult:
    """A trained network, and how it came about.

    Attributes:
        model: The network that was passed in, trained, in eval mode.
        history: One record an epoch.
        best_epoch: The epoch whose weights it has.
        validation: Its quality on the validation split.
        test: Its quality on the test split, read once, at the end.
        cost: Parameters, multiply-adds and bytes.
        settings: How it was trained.
        seconds: Wall time of all epochs.
        file: The saved network.
    """

    model: nn.Module
    history: tuple[EpochRecord, ...]
    best_epoch: int
    validation: Evaluation
    test: Evaluation
    cost: Cost
    settings: TrainSettings
    seconds: float
    file: Path


def train(
    model: nn.Module,
    data: Splits,
    settings: TrainSettings | None = None,
    *,
    out: str | Path,
    seed: int = 0,
    resume: bool = False,
    about: Mapping[str, Any] | None = None,
    on_epoch: OnEpoch = None,
    on_batch: OnBatch = None,
) -> TrainResult:
    """Train a network in place and keep it in a folder, from which an interrupted training goes on.

    Args:
        model: The network; on resuming, one of the same architecture, whose weights do not matter.
        data: What to learn from. The test split is read once, at the end.
        settings: How to train; None takes the defaults. On resuming, those of the run hold and none are given.
        out: A new or empty folder; at the end it holds ``model.safetensors``.
        seed: What every random choice follows from.
        resume: Go on with the training in ``out``.
        about: What else ``run.toml`` should say.
        on_epoch: Told of each epoch.
        on_batch: Told after each step how many of all steps are done.

    Returns:
        The trained network with its quality on both splits.

    Raises:
        RunError: The folder is in use, holds something else, is of another version, or was begun with other settings.
        DataError: Network and data do not fit.
        ModelError: The loss is no longer finite.
        StoreError: The disk is full or failed; what was stored before is as it was.

    Example:
        >>> import tempfile
        >>> from secateur import data, networks
        >>> digits = data.load("digits", limit=300)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     result = train(networks.build("digits-net", seed=0), digits, TrainSettings(epochs=2), out=folder)
        ...     len(result.history), result.file.name
        (2, 'model.safetensors')
    """
    call = "train(model, data, TrainSettings(), out='run')"
    expect(
        call, model=(model, nn.Module), data=(data, Splits), settings=(settings, (TrainSettings, NoneType))
    )
    if resume:
        with RunFolder.open(out, kind=KIND) as folder:
            stored = TrainSettings(**folder.settings["train"])
            if settings is not None and settings != stored:
                raise RunError(
                    f"{out} was started with other settings; leave them out to go on with it, or name another folder"
                )
            if any("snapshot" in entry for entry in folder.entries()):
                restore(model, folder.get(_START)[0])
            return _in_folder(folder, model, data, stored, on_epoch=on_epoch, on_batch=on_batch)
    chosen = settings or TrainSettings()
    # refuse what does not fit before there is a folder, and classes that are told only when all is trained
    evaluate(model, data.validation.take(1), classes=data.classes)
    document = {
        "train": chosen.model_dump(mode="json", exclude_none=True),
        "seed": seed,
        "about": dict(about or {}),
    }
    with RunFolder.create(out, document, kind=KIND) as folder:
        folder.put(_START, *model_snapshot(model))
        folder.append({"event": "start", "snapshot": _START})
        return _in_folder(folder, model, data, chosen, on_epoch=on_epoch, on_batch=on_batch)


def started_in(path: str | Path, build: Callable[[], nn.Module]) -> nn.Module:
    """The network that a training started from, rebuilt from the folder.

    Args:
        path: The run folder.
        build: Makes a network of that architecture; its weights do not matter.

    Raises:
        RunError: There is no training, or it stopped before it had stored anything.
    """
    with RunFolder.open(path, kind=KIND, read_only=True) as folder:
        if next(iter(folder.entries()), None) is None:
            raise RunError(f"{path} stopped before anything was stored; start it again in another folder")
        tensors, document = folder.get(_START)
    return restore_model(build, tensors, document)


def _in_folder(
    folder: RunFolder,
    model: nn.Module,
    data: Splits,
    settings: TrainSettings,
    *,
    on_epoch: OnEpoch,
    on_batch: OnBatch,
) -> TrainResult:
    states = _States(folder)
    seed = int(folder.settings["seed"])
    result = fit(
        model,
        data.train,
        data.validation,
        settings,
        seed=seed,
        state=states.latest(),
        on_epoch=on_epoch,
        on_batch=on_batch,
        on_state=states.store,
    )
    model.eval()
    trained = TrainResult(
        model=model,
        history=result.history,
        best_epoch=result.best_epoch,
        validation=evaluate(model, data.validation, classes=data.classes),
        test=evaluate(model, data.test, classes=data.classes),
        cost=CostModel(watch(model, data.train.inputs[:1].to(dtype_of(model)))).total(),
        settings=settings,
        seconds=sum(record.seconds for record in result.history),
        file=folder.path / MODEL_FILE,
    )
    _save(trained, data, seed)
    return trained


def _save(result: TrainResult, data: Splits, seed: int) -> None:
    figures = {
        "data": data.name,
        "input_shape": list(data.input_shape),
        "test_accuracy": result.test.accuracy,
        "validation_accuracy": result.validation.accuracy,
        "parameters": result.cost.parameters,
        "macs": result.cost.macs,
    }
    event = {
        "event": KIND,
        "data": data.name,
        "seed": seed,
        "epochs": len(result.history),
        "best_epoch": result.best_epoch,
        "settings": result.settings.model_dump(mode="json"),
    }
    save(result.model, result.file, evaluation=figures, history=[event])


class _States:
    """The state after the last epoch: stored before the journal names it; the one before goes only then."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._path = folder.path / _STATES
        self._snapshots = Snapshots(self._path)

    def latest(self) -> TrainState | None:
        """Where the journal says that the training stands; whatever a crash left beside it is removed."""
        names = [entry["state"] for entry in self._folder.entries() if "state" in entry]
        for unfinished in self._path.glob(f".*{TEMPORARY_SUFFIX}"):
            unfinished.unlink()
        self._snapshots.keep_only(names[-1:])
        return TrainState(*self._snapshots.get(names[-1])) if names else None

    def store(self, state: TrainState) -> None:
        name = f"epoch-{state.epoch:05d}"
        self._snapshots.put(name, state.tensors, state.document)
        self._folder.append({"state": name, "epoch": state.history[-1].as_dict()})
        self._snapshots.keep_only([name])
