"""Train a network in a run folder: after every epoch everything is on the disk, and a stopped run goes on to the bit."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Final, TypeAlias

from torch import nn

from secateur._options import expect
from secateur.channels import watch
from secateur.cost import Cost, CostModel
from secateur.data import Splits
from secateur.errors import NotFiniteError, RunError, SettingsError
from secateur.evaluate import Evaluation, evaluate
from secateur.methods.prunetrain import PruneTrain, Reconfiguration
from secateur.methods.prunetrain_settings import PruneTrainSettings
from secateur.methods.reduce import MODEL_FILE
from secateur.methods.states import States
from secateur.store import RunFolder, model_snapshot, restore_model, save
from secateur.train import EpochRecord, TrainSettings, dtype_of, fit
from secateur.train.state import restore

KIND: Final = "train"
LAST_GOOD: Final = "last-good.safetensors"
_START: Final = "start"
_PRUNETRAIN: Final = "prunetrain"
_SHOWN: Final = 8
"""Examples that blocks are looked for with."""

OnEpoch: TypeAlias = Callable[[EpochRecord], None] | None
OnBatch: TypeAlias = Callable[[int, int], None] | None
OnCut: TypeAlias = Callable[[Reconfiguration], None] | None


@dataclass(frozen=True, slots=True)
class PruneTrainResult:
    """What PruneTrain did beside a training.

    Attributes:
        settings: Its options.
        strength: λ, which the first step set; None at a ratio of 0.
        reconfigurations: What went, and when.
        cost_before: What the network cost at first.
        macs: Multiply-adds of the forward passes of all epochs over all training examples, counted from the widths of each epoch.
            Those of the backward passes, about twice as many, have shrunk alike.
        macs_uncut: What they would have been at the widths of the start.
        widths_before: How many units each group had at first.
        ratios: For each epoch the penalty's share of loss and penalty together.
    """

    settings: PruneTrainSettings
    strength: float | None
    reconfigurations: tuple[Reconfiguration, ...]
    cost_before: Cost
    macs: int
    macs_uncut: int
    widths_before: Mapping[str, int]
    ratios: tuple[float | None, ...]


@dataclass(frozen=True, eq=False)
class TrainResult:
    """A trained network, and how it came about.

    Attributes:
        model: The network that was passed in, trained, in eval mode. (Where a run that cuts it was resumed, one of its own.)
        history: One record an epoch.
        best_epoch: The epoch whose weights it has.
        validation: Its quality on the validation split.
        test: Its quality on the test split, read once, at the end.
        cost: Parameters, multiply-adds and bytes.
        settings: How it was trained.
        seconds: Wall time of all epochs.
        file: The saved network.
        prunetrain: What went meanwhile, where PruneTrain was asked for.
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
    prunetrain: PruneTrainResult | None = None


def train(
    model: nn.Module,
    data: Splits,
    settings: TrainSettings | None = None,
    *,
    out: str | Path,
    seed: int = 0,
    prunetrain: PruneTrainSettings | None = None,
    resume: bool = False,
    about: Mapping[str, Any] | None = None,
    on_epoch: OnEpoch = None,
    on_batch: OnBatch = None,
    on_cut: OnCut = None,
) -> TrainResult:
    """Train a network in place and keep it in a folder, from which an interrupted training goes on.

    Args:
        model: The network; on resuming, one of the same architecture, whose weights do not matter.
        data: What to learn from. The test split is read once, at the end.
        settings: How to train; None takes the defaults. On resuming, those of the run hold and none are given.
        out: A new or empty folder; at the end it holds ``model.safetensors``.
        seed: What every random choice follows from.
        prunetrain: Cut the network while it trains (`secateur.prunetrain`). On resuming, the options of the run hold, too.
        resume: Go on with the training in ``out``.
        about: What else ``run.toml`` should say.
        on_epoch: Told of each epoch.
        on_batch: Told after each step how many of all steps are done.
        on_cut: Told of each reconfiguration of PruneTrain.

    Returns:
        The trained network with its quality on both splits.

    Raises:
        SettingsError: PruneTrain's interval is longer than the training, or is to go with early stopping.
        NothingToCutError: PruneTrain is asked for, and no unit of the network may go.
        RunError: The folder is in use, holds something else, is of another version, or was begun with other settings.
        DataError: Network and data do not fit.
        NotFiniteError: The loss is no longer finite. With PruneTrain the folder then holds the network of the last good epoch,
            ``last-good.safetensors``.
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
    expect(call, prunetrain=(prunetrain, (PruneTrainSettings, NoneType)))
    tell = _Listening(on_epoch, on_batch, on_cut)
    if resume:
        with RunFolder.open(out, kind=KIND) as folder:
            stored, pruned = TrainSettings(**folder.settings["train"]), _stored(folder)
            if settings not in (None, stored) or prunetrain not in (None, pruned):
                raise RunError(
                    f"{out} was started with other settings; leave them out to go on with it, or name another folder"
                )
            if any("snapshot" in entry for entry in folder.entries()):
                restore(model, folder.get(_START)[0])
            return _in_folder(folder, _cut_so_far(folder, model), data, stored, prunetrain=pruned, tell=tell)
    chosen = settings or TrainSettings()
    # refuse what does not fit before there is a folder, and classes that are told only when all is trained
    evaluate(model, data.validation.take(1), classes=data.classes)
    document: dict[str, Any] = {
        "train": chosen.model_dump(mode="json", exclude_none=True),
        "seed": seed,
        "about": dict(about or {}),
    }
    if prunetrain is not None:
        _session(model, data, chosen, prunetrain)
        document[_PRUNETRAIN] = prunetrain.model_dump(mode="json", exclude_none=True)
    with RunFolder.create(out, document, kind=KIND) as folder:
        folder.put(_START, *model_snapshot(model))
        folder.append({"event": "start", "snapshot": _START})
        return _in_folder(folder, model, data, chosen, prunetrain=prunetrain, tell=tell)


@dataclass(frozen=True, slots=True)
class _Listening:
    epoch: OnEpoch
    batch: OnBatch
    cut: OnCut


def _stored(folder: RunFolder) -> PruneTrainSettings | None:
    found = folder.settings.get(_PRUNETRAIN)
    return None if found is None else PruneTrainSettings(**found)


def _cut_so_far(folder: RunFolder, model: nn.Module) -> nn.Module:
    """The network in the structure that it had when the last state was stored; later cuts are made anew."""
    entries = list(folder.entries())
    done = max((entry["epoch"]["epoch"] for entry in entries if "state" in entry), default=0)
    cuts = [entry for entry in entries if "cut" in entry and entry["cut"]["epoch"] <= done]
    names = [entry["snapshot"] for entry in cuts if "snapshot" in entry]
    return restore_model(lambda: copy.deepcopy(model), *folder.get(names[-1])) if names else model


def _session(
    model: nn.Module, data: Splits, settings: TrainSettings, asked: PruneTrainSettings, on_cut: OnCut = None
) -> PruneTrain:
    if settings.early_stopping is not None:
        raise SettingsError(
            f"early_stopping={settings.early_stopping} could end a training before PruneTrain lets it recover; leave it out"
        )
    if settings.inconsistent:
        raise SettingsError(
            f"inconsistent={settings.inconsistent} trains past the optimiser, on which PruneTrain relies; leave one of them out"
        )
    example = data.train.inputs[:_SHOWN].to(dtype_of(model))
    session = PruneTrain(model, example, asked, epochs=settings.epochs, on_cut=on_cut)
    session.begin(
        [], None, batch_size=settings.batch_size
    )  # what cannot fit is refused before there is a folder
    return session


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
    prunetrain: PruneTrainSettings | None,
    tell: _Listening,
) -> TrainResult:
    seed = int(folder.settings["seed"])
    session = None
    if prunetrain is not None:
        session = _session(model, data, settings, prunetrain, _keeping_cuts(folder, model, tell.cut))
    states = States(folder)
    try:
        result = fit(
            model, data.train, data.validation, settings,
            seed=seed, companion=session, state=states.latest(),
            on_epoch=tell.epoch, on_batch=tell.batch, on_state=states.store,
        )  # fmt: skip
    except NotFiniteError as error:
        if session is None:
            raise
        session.restore()
        save(model.eval(), folder.path / LAST_GOOD)
        raise NotFiniteError(
            f"{error}; the network after {session.done} epochs is kept in {folder.path / LAST_GOOD}"
        ) from error
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
        prunetrain=None if session is None else _pruned(session, examples=len(data.train)),
    )
    _save(trained, data, seed)
    return trained


def _keeping_cuts(folder: RunFolder, model: nn.Module, tell: OnCut) -> Callable[[Reconfiguration], None]:
    """Store the network after each reconfiguration before anything is trained on, unless a stopped run had done so."""
    stored = {entry["cut"]["epoch"] for entry in folder.entries() if "cut" in entry}

    def keep(record: Reconfiguration) -> None:
        if record.epoch not in stored:
            entry: dict[str, Any] = {"event": "cut", "cut": record.as_dict()}
            if record.changed:
                entry["snapshot"] = f"cut-{record.epoch:05d}"
                folder.put(entry["snapshot"], *model_snapshot(model), parent=_START)
            folder.append(entry)
        if tell is not None:
            tell(record)

    return keep


def _pruned(session: PruneTrain, *, examples: int) -> PruneTrainResult:
    spent, uncut = session.macs(examples)
    return PruneTrainResult(
        session.settings, session.strength, session.reconfigurations, session.cost_before, spent, uncut,
        session.widths_before, session.ratios,
    )  # fmt: skip


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
    pruned = result.prunetrain
    if pruned is not None:
        figures |= {
            "parameters_before": pruned.cost_before.parameters,
            "macs_before": pruned.cost_before.macs,
        }
        event[_PRUNETRAIN] = {
            "settings": pruned.settings.model_dump(mode="json"),
            "strength": pruned.strength,
            "reconfigurations": [one.as_dict(times=False) for one in pruned.reconfigurations],
            "widths_before": dict(pruned.widths_before),
            "ratios": list(pruned.ratios),
            "training_macs": pruned.macs,
            "training_macs_uncut": pruned.macs_uncut,
        }
    save(result.model, result.file, evaluation=figures, history=[event])
