"""Gradual pruning: a little goes at a time while the network trains, by a schedule, until exactly so much is gone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from secateur._model import check_finite, copied, named_tensors, unwrapped
from secateur._options import expect
from secateur.channels import watch
from secateur.cost import Cost, CostModel
from secateur.data import Splits
from secateur.errors import RunError, SettingsError
from secateur.evaluate import Evaluation, evaluate
from secateur.methods.gradual_cuts import Cutter, Thinned, cutter_of
from secateur.methods.gradual_settings import GradualSettings
from secateur.methods.reduce import MODEL_FILE, in_format_of, print_of
from secateur.methods.seeds import seed_for
from secateur.methods.states import States
from secateur.observe import Subsets
from secateur.store import RunFolder, model_snapshot, restore_model, save, save_masks
from secateur.surgery import Masks
from secateur.train import EpochRecord, TrainState, fit, fit_subsets

PRUNE: Final = "prune"
MASKS_FILE: Final = "masks.safetensors"

_START: Final = "start"


@dataclass(frozen=True, slots=True)
class CutRecord:
    """One cut.

    Attributes:
        epoch: After how many epochs.
        share: What was to be gone by then.
        left: Weights, or units, that stayed.
        total: How many there were at first.
    """

    epoch: int
    share: float
    left: int
    total: int


@dataclass(frozen=True, eq=False)
class GradualResult:
    """What gradual pruning made.

    Attributes:
        model: The network, in eval mode. Where weights went, it has its old shape, and they are exactly zero.
        masks: Which weights stay; None where units went.
        history: One record an epoch.
        cuts: One record a cut.
        layers: What is left of each layer that took part.
        before: Quality of the network as given on the validation split.
        after: That of the pruned one.
        cost_before: Parameters and multiply-adds of the network as given.
        cost_after: Of the pruned one; masked weights count, since they are still there.
        settings: The protocol.
        file: The saved network, if there is a run folder.
        notes: What a reader should know.
    """

    model: nn.Module
    masks: Masks | None
    history: tuple[EpochRecord, ...]
    cuts: tuple[CutRecord, ...]
    layers: tuple[Thinned, ...]
    before: Evaluation
    after: Evaluation
    cost_before: Cost
    cost_after: Cost
    settings: GradualSettings
    file: Path | None = None
    notes: tuple[str, ...] = ()

    @property
    def sparsity(self) -> float:
        """The share of all weights, or units, of the layers that took part that is gone."""
        return 1 - sum(one.left for one in self.layers) / sum(one.total for one in self.layers)


def gradual(
    model: nn.Module,
    data: Splits,
    settings: GradualSettings | None = None,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    about: Mapping[str, Any] | None = None,
    earlier: Sequence[Any] = (),
    on_epoch: Callable[[EpochRecord], None] | None = None,
    on_cut: Callable[[CutRecord], None] | None = None,
    on_batch: Callable[[int, int], None] | None = None,
) -> GradualResult:
    """Prune a network a little at a time, and train it on after each cut.

    At every cut the weights with the lowest scores go until the share of the schedule is gone; what is gone stays gone. Weights are held
    at zero, exactly, by masks; with ``granularity="units"`` whole units are cut out, and the optimiser's state follows. With a run folder
    an interrupted run goes on where it stopped, to the bit.

    Args:
        model: A trained network; it is left as found. On resuming, one of the same architecture, whose weights do not matter.
        data: Learned from is the training split, judged is on the validation split; the test split is not read.
        settings: The protocol. On resuming that of the run holds, and none is given.
        out: A new or empty folder; at the end it holds ``model.safetensors`` and, where weights went, ``masks.safetensors``.
        resume: Go on with the run in ``out``.
        about: What else ``run.toml`` should say.
        earlier: What the network's own file says of how it came about.
        on_epoch: Told of each epoch.
        on_cut: Told of each cut.
        on_batch: Told after each step how many of how many steps until the next cut are done.

    Returns:
        The pruned network, its masks, and what it reaches.

    Raises:
        SettingsError: An expression of ``exclude`` fits no layer, or an option cannot be.
        NothingToCutError: No layer is left to prune.
        DataError: Network and data do not fit.
        ModelError: The loss is no longer finite.
        RunError: The folder is in use, holds something else, or was begun with other settings or data.

    Example:
        >>> from secateur import data, networks
        >>> digits = data.load("digits", limit=300)
        >>> net = networks.build("digits-net", seed=0)
        >>> found = gradual(net, digits, GradualSettings(sparsity=0.75, exclude=("out",), epochs=3))
        >>> found.masks.left, found.masks.total
        (9892, 39568)

    Source:
        Zhu and Gupta 2017, To prune, or not to prune: exploring the efficacy of pruning for model compression, arXiv:1710.01878.
        There a cut falls between training steps, and none after the last one that is trained; here it falls between epochs, and the network
        is trained on after the last one, too (``epochs`` equal to begin + steps * every leaves that out).
    """
    expect(
        "gradual(model, data, GradualSettings(sparsity=0.9))", model=(model, nn.Module), data=(data, Splits)
    )
    given = copied(unwrapped(model), {}).eval()
    check_finite(named_tensors(given))
    splits = in_format_of(given, data)
    evaluate(
        given, splits.validation.take(1), classes=splits.classes
    )  # refuse what does not fit before there is a folder
    tell = _Listening(on_epoch, on_cut, on_batch)
    if resume:
        if out is None:
            raise SettingsError("resume=True needs out=, the folder of the run that is to go on")
        with RunFolder.open(out, kind=PRUNE) as folder:
            stored = GradualSettings(**folder.settings[PRUNE])
            if settings is not None and settings != stored:
                raise RunError(
                    f"{out} was started with other settings; leave them out to go on with it, or name another folder"
                )
            return _Run(given, splits, stored, tell, folder=folder, earlier=earlier).run()
    if settings is None:
        raise SettingsError("settings are missing; give GradualSettings(sparsity=0.9)")
    expect("gradual(model, data, GradualSettings(sparsity=0.9))", settings=(settings, GradualSettings))
    cutter_of(given, splits, settings)
    if out is None:
        return _Run(given, splits, settings, tell, folder=None, earlier=earlier).run()
    document = {PRUNE: settings.model_dump(mode="json", exclude_none=True), "about": dict(about or {})}
    with RunFolder.create(out, document, kind=PRUNE) as folder:
        return _Run(given, splits, settings, tell, folder=folder, earlier=earlier).run()


def unpruned_in(path: str | Path, build: Callable[[], nn.Module]) -> nn.Module:
    """The network that a run of gradual pruning started from, rebuilt from its folder.

    Args:
        path: The run folder.
        build: Makes a network of that architecture; its weights do not matter.

    Raises:
        RunError: There is no such run, or it stopped before it had stored anything.
    """
    with RunFolder.open(path, kind=PRUNE, read_only=True) as folder:
        if next(iter(folder.entries()), None) is None:
            raise RunError(f"{path} stopped before anything was stored; start it again in another folder")
        return _restored(folder, _START, build)[0]


@dataclass(frozen=True, slots=True)
class _Listening:
    epoch: Callable[[EpochRecord], None] | None
    cut: Callable[[CutRecord], None] | None
    batch: Callable[[int, int], None] | None


@dataclass(frozen=True, slots=True)
class _Phase:
    """The epochs from one cut to the next; the first may begin without one."""

    begin: int
    end: int
    share: float | None


def _phases(settings: GradualSettings) -> list[_Phase]:
    cuts = settings.course.cuts()
    ends = [*(epoch for epoch, _ in cuts), settings.length]
    first = [_Phase(0, ends[0], None)] if ends[0] else []
    return first + [_Phase(epoch, end, share) for (epoch, share), end in zip(cuts, ends[1:], strict=True)]


class _Run:
    """One run: its phases, and the run folder that follows them."""

    def __init__(
        self,
        given: nn.Module,
        data: Splits,
        settings: GradualSettings,
        tell: _Listening,
        *,
        folder: RunFolder | None,
        earlier: Sequence[Any],
    ) -> None:
        self.data, self.settings, self.tell, self.folder, self.earlier = data, settings, tell, folder, earlier
        self.history: list[EpochRecord] = []
        self.cuts: list[CutRecord] = []
        self.phase, self.state = -1, None
        self.stored: set[str] = set()
        self.given, self.model, masks = given, copy.deepcopy(given), None
        self.states = None if folder is None else States(folder)
        if folder is not None:
            masks = self._resumed(folder)
        self.cutter: Cutter = cutter_of(self.given, data, settings)
        if masks is not None:
            self.cutter.masks = masks
        self.optimizer: torch.optim.Optimizer | None = None
        self.subsets: Subsets | None = None

    def _resumed(self, folder: RunFolder) -> Masks | None:
        """Take up what the folder holds; the masks of the phase in which it stands, if any."""
        entries = list(folder.entries())
        if not entries:
            folder.put(_START, *_taken(self.given, None))
            start = {"event": "start", "snapshot": _START, "history": list(self.earlier)}
            folder.append({**start, "data": print_of(self.data)})
            return None
        if entries[0]["data"] != print_of(self.data):
            raise RunError(
                f"{folder.path} was started on other data, or on other splits of them; give those that it was started on"
            )
        self.earlier = entries[0]["history"]
        self.stored = {entry["snapshot"] for entry in entries if "snapshot" in entry}
        self.history = [EpochRecord(**entry["epoch"]) for entry in entries if "epoch" in entry]
        given = self.given
        self.given, _ = _restored(folder, _START, lambda: copy.deepcopy(given))
        self.phase = max((entry["phase"] for entry in entries if "state" in entry), default=-1)
        self.cuts = [
            CutRecord(**entry["cut"]) for entry in entries if "cut" in entry and entry["phase"] <= self.phase
        ]
        self.state = None if self.states is None else self.states.latest()
        name = _name(self.phase)
        masks = None
        if name in self.stored:
            self.model, masks = _restored(folder, name, lambda: copy.deepcopy(given))
        else:
            self.model = copy.deepcopy(self.given)
        return masks

    def run(self) -> GradualResult:
        """Cut and train to the end, and judge the result."""
        teacher = self.given if self.settings.distil else None
        for number, phase in enumerate(_phases(self.settings)):
            if number < self.phase:
                continue
            if number > self.phase and phase.share is not None:
                self._cut(number, phase, phase.share)
            if phase.end > phase.begin:
                self._train(number, phase, teacher)
        return self._result()

    def _cut(self, number: int, phase: _Phase, share: float) -> None:
        self.model.eval()
        seen = None if self.subsets is None else self.subsets.observations()
        self.cutter.cut(self.model, share, self.optimizer, step=number, seen=seen)
        self.subsets = None
        layers = self.cutter.layers(self.model)
        masks = self.cutter.masks
        left = sum(one.left for one in layers) if masks is None else masks.left
        record = CutRecord(phase.begin, share, left, sum(one.total for one in layers))
        self.cuts.append(record)
        name = _name(number)
        if self.folder is not None and name not in self.stored:
            self.folder.put(name, *_taken(self.model, masks), parent=_START)
            self.folder.append({"event": "cut", "phase": number, "cut": asdict(record), "snapshot": name})
        if self.tell.cut is not None:
            self.tell.cut(record)

    def _train(self, number: int, phase: _Phase, teacher: nn.Module | None) -> None:
        records: list[EpochRecord] = []

        def told(record: EpochRecord) -> None:
            records.append(replace(record, epoch=phase.begin + record.epoch))
            self.history.append(replace(records[-1], correct=None))
            if self.tell.epoch is not None:
                self.tell.epoch(records[-1])

        def keep(state: TrainState) -> None:
            if self.states is not None:
                self.states.store(state, record=records[-1], phase=number)

        state, self.state = self.state, None
        changes = self.settings.training_between(phase.begin, phase.end)
        on_state = None if self.states is None else keep
        seed = seed_for(self.settings.seed, "gradual", number)
        train, validation, on_batch = self.data.train, self.data.validation, self.tell.batch
        cut_follows = phase.end <= self.settings.course.end
        self.subsets = self.cutter.subsets(self.model, step=number) if cut_follows else None
        if self.subsets is None:
            found = fit(
                self.model, train, validation, changes, seed=seed, teacher=teacher, masks=self.cutter.masks,
                optimizer=self.optimizer, state=state, on_epoch=told, on_batch=on_batch, on_state=on_state,
            )  # fmt: skip
        else:
            found = fit_subsets(
                self.model, train, validation, changes, self.subsets, seed=seed, teacher=teacher,
                optimizer=self.optimizer, state=state, on_epoch=told, on_batch=on_batch, on_state=on_state,
            )  # fmt: skip
        self.optimizer = found.optimizer

    def _result(self) -> GradualResult:
        model, data = self.model.eval(), self.data
        before, after = (evaluate(one, data.validation, classes=data.classes) for one in (self.given, model))
        costs = [CostModel(watch(one, data.train.inputs[:1])).total() for one in (self.given, model)]
        file = None if self.folder is None else self.folder.path / MODEL_FILE
        result = GradualResult(
            model, self.cutter.masks, tuple(self.history), tuple(self.cuts), self.cutter.layers(model), before, after,
            costs[0], costs[1], self.settings, file, self._notes(),
        )  # fmt: skip
        if file is not None:
            _save(result, file, data, self.earlier)
        return result

    def _notes(self) -> tuple[str, ...]:
        notes: list[str] = []
        if self.settings.course.end >= self.settings.length:
            notes.append(
                "The network was not trained after the last cut: epochs ends there; give more to make it good."
            )
        return (*notes, *self.cutter.notes(self.model))


def _name(phase: int) -> str:
    return f"cut-{phase:02d}"


def _taken(model: nn.Module, masks: Masks | None) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """A network and its masks as a snapshot holds them."""
    tensors, document = model_snapshot(model)
    own = {f"model/{name}": tensor for name, tensor in tensors.items()}
    held = {} if masks is None else {f"mask/{name}": kept for name, kept in masks.tensors().items()}
    return {**own, **held}, {"network": document}


def _restored(folder: RunFolder, name: str, build: Callable[[], nn.Module]) -> tuple[nn.Module, Masks | None]:
    """What `_taken` took."""
    tensors, document = folder.get(name)
    own = {key.removeprefix("model/"): tensor for key, tensor in tensors.items() if key.startswith("model/")}
    held = {key.removeprefix("mask/"): tensor for key, tensor in tensors.items() if key.startswith("mask/")}
    return restore_model(build, own, document["network"]), Masks(held) if held else None


def _save(result: GradualResult, file: Path, data: Splits, earlier: Sequence[Any]) -> None:
    if result.masks is not None:
        save_masks(result.masks, file.with_name(MASKS_FILE))
    figures = {
        "data": data.name,
        "input_shape": list(data.input_shape),
        "validation_accuracy": result.after.accuracy,
        "validation_accuracy_before": result.before.accuracy,
        "validation_examples": result.after.count,
        "parameters": result.cost_after.parameters,
        "parameters_before": result.cost_before.parameters,
        "macs": result.cost_after.macs,
        "macs_before": result.cost_before.macs,
        "sparsity": result.sparsity,
    }
    event = {
        "event": PRUNE,
        "data": data.name,
        "options": result.settings.model_dump(mode="json"),
        "settings": result.settings.training.model_dump(mode="json"),
        "cuts": [asdict(record) for record in result.cuts],
        "epochs": len(result.history),
    }
    save(result.model, file, evaluation=figures, history=[*earlier, event])
