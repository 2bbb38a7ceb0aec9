"""Reduce a network under an accuracy bound: the main job, from a network and data to a result and a run folder."""

from __future__ import annotations

import copy
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from secateur._model import check_finite, named_tensors
from secateur._options import expect
from secateur.channels import watch
from secateur.cost import CostModel
from secateur.criteria import criterion_named
from secateur.data import Splits
from secateur.data import load as load_data
from secateur.errors import DataError, ModelError, RunError, SettingsError
from secateur.evaluate import evaluate, paired_drop
from secateur.methods.judge import too_narrow
from secateur.methods.layers import layers_of
from secateur.methods.listener import Listener
from secateur.methods.potential import check_choice
from secateur.methods.result import ReduceResult, Step
from secateur.methods.settings import ReduceSettings
from secateur.methods.snare import Search, unseen
from secateur.methods.state import SearchState
from secateur.scale import Workers
from secateur.store import RunFolder, model_snapshot, restore_model, save, write_atomic
from secateur.train import dtype_of

KIND = "reduce"
MODEL_FILE = "model.safetensors"
_UNREDUCED = "unreduced"
_LOOKED_AT = 64
"""Inputs by which data are told apart, beside all labels."""


def reduce(
    model: nn.Module,
    data: Splits | str | Path,
    *,
    max_drop: float | None = None,
    settings: ReduceSettings | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    about: Mapping[str, Any] | None = None,
    history: Sequence[Any] = (),
    listener: Listener | None = None,
    workers: Workers | None = None,
    **options: Any,
) -> ReduceResult:
    """Cut a trained network down to what it needs, for as long as its accuracy stays within a bound.

    Layers are chosen by how much they promise, a share of their units is removed by a criterion, what is left is retrained,
    and the candidate is accepted or discarded by its accuracy on the validation split. The test split is read once, at the
    end. With a run folder every step is on disk before it counts, and an interrupted run goes on where it stopped.

    Args:
        model: The trained network, ``[n, ...] -> [n, classes]``. It is not changed.
        data: Splits in memory, or the name of a data set (see :func:`secateur.data.load`).
        max_drop: How many percentage points of accuracy may be lost, on unseen data.
        settings: All options at once; ``max_drop`` and ``options`` then are not given.
        out: A folder for the run: its journal, snapshots and, at the end, ``model.safetensors``. None keeps nothing.
        resume: Go on with the run in ``out``, with the settings that it was started with.
        about: What else ``run.toml`` should say (text, numbers, lists).
        history: What the network's own file says of how it came about; the file in ``out`` goes on from there. On
            resuming, the run's own holds.
        listener: Told of progress.
        workers: Carry out candidates (`secateur.scale.RayWorkers`), of which ``candidates`` are tried at once; by default this
            process does. The result is the same.
        options: Any option of :class:`secateur.methods.ReduceSettings`.

    Returns:
        The reduced network with its history, evaluations and costs. Where no candidate held the bound, the network as it was:
        ``removed`` is False, and the reason stands in ``notes``.

    Raises:
        NothingToCutError: Nothing in the network, or in what was chosen of it, can be cut.
        SettingsError: An option is unknown or out of its range, or two contradict each other.
        ModelError: The network holds values that are not finite, or has no parameter that can be trained.
        DataError: Network and data do not fit.
        RunError: The folder is in use, not a run, of another version, or was started from another network or on other data.

    Example:
        >>> import secateur
        >>> from secateur import data, networks, train
        >>> digits = data.load("digits", limit=300)
        >>> net = networks.build("digits-net", seed=0)
        >>> _ = train.fit(net, digits.train, None, train.TrainSettings(epochs=4, lr=0.05, batch_size=32))
        >>> result = reduce(net, digits, max_drop=20.0, max_iterations=2)  # few examples need a wide bound
        >>> result.cost_after.parameters < result.cost_before.parameters
        True

    Source:
        SNARE (KIT, 2020), chapter 5; :meth:`secateur.methods.ReduceSettings.as_printed` is the method without our
        extensions.
    """
    expect("reduce(model, data)", model=(model, nn.Module), data=(data, (Splits, str, Path)))
    if workers is not None and not callable(getattr(workers, "each", None)):
        raise SettingsError(
            f"workers={workers!r} carries out no tasks; give `with secateur.scale.RayWorkers(2) as workers:`, and candidates=2 to try two at once"
        )
    splits = data if isinstance(data, Splits) else load_data(data)
    chosen = _settings(max_drop, settings, options, resume=resume)
    check_finite(named_tensors(model))
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ModelError(
            "no parameter of the network can be trained, so that no candidate could recover from a cut;"
            " set requires_grad on those that may be trained"
        )
    splits = _in_format_of(model, splits)
    _check_outputs(model, splits)
    if out is None:
        if resume:
            raise SettingsError("resume=True needs out=, the folder of the run that is to go on")
        return _Reduction(model, splits, _required(chosen), listener, workers=workers).run()
    if resume:
        with RunFolder.open(out, kind=KIND) as folder:
            stored = ReduceSettings(**folder.settings["reduce"])
            if chosen is not None and chosen != stored:
                raise SettingsError(
                    f"{out} was started with other settings; leave them out to go on with it, or name another folder"
                )
            return _Reduction(model, splits, stored, listener, folder, workers=workers).run()
    chosen = _required(chosen)
    _check_cuttable(model, splits, chosen)
    document = {"reduce": chosen.model_dump(mode="json", exclude_none=True), "about": dict(about or {})}
    with RunFolder.create(out, document, kind=KIND) as folder:
        return _Reduction(model, splits, chosen, listener, folder, earlier=history, workers=workers).run()


def unreduced_in(path: str | Path, build: Callable[[], nn.Module]) -> nn.Module:
    """The network that a run folder started from, rebuilt from its first snapshot.

    Args:
        path: The run folder.
        build: Makes a network of that architecture; its weights do not matter.

    Raises:
        RunError: The run stopped before it had stored its first snapshot.
    """
    with RunFolder.open(path, kind=KIND, read_only=True) as folder:
        if next(iter(folder.entries()), None) is None:
            raise RunError(f"{path} stopped before anything was stored; start it again in another folder")
        tensors, document = folder.get(_UNREDUCED)
    return restore_model(build, tensors, document)


def steps_in(entries: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The candidates that a run folder's journal tells of; those that were tried at once stand in one line.

    Example:
        >>> steps_in([{"event": "start"}, {"step": {"iteration": 1}}, {"steps": [{"iteration": 2}, {"iteration": 3}]}])
        [{'iteration': 1}, {'iteration': 2}, {'iteration': 3}]
    """
    return [
        step for entry in entries for step in entry.get("steps", [entry["step"]] if "step" in entry else [])
    ]


def _settings(
    max_drop: float | None, settings: ReduceSettings | None, options: Mapping[str, Any], *, resume: bool
) -> ReduceSettings | None:
    if settings is not None:
        if max_drop is not None or options:
            raise SettingsError("give either settings=, or max_drop= and single options")
        return settings
    if max_drop is None:
        if resume and not options:
            return None
        raise SettingsError("max_drop is missing; say how many percentage points of accuracy may be lost")
    return ReduceSettings(max_drop=max_drop, **options)


def _required(settings: ReduceSettings | None) -> ReduceSettings:
    if settings is None:
        raise SettingsError("max_drop is missing; say how many percentage points of accuracy may be lost")
    return settings


def _in_format_of(model: nn.Module, data: Splits) -> Splits:
    """The data in the network's own number format, in which it is watched, observed and trained."""
    dtype = dtype_of(model)
    if all(split.inputs.dtype == dtype for split in data.parts().values()):
        return data
    return replace(data, **{part: split.map(lambda x: x.to(dtype)) for part, split in data.parts().items()})


def _print_of(data: Splits) -> dict[str, list[int]]:
    """What tells data and their splits from others: of each part the count, all labels, and some inputs."""
    return {
        part: [len(split), _checksum(split.targets), _checksum(split.inputs[:_LOOKED_AT])]
        for part, split in data.parts().items()
    }


def _checksum(values: Tensor) -> int:
    return zlib.crc32(values.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())


def _check_outputs(model: nn.Module, data: Splits) -> None:
    """Refuse a network whose outputs do not fit the classes before anything is trained."""
    found = evaluate(model, data.validation.take(1))
    classes = len(found.per_class)
    if classes != len(data.classes):
        raise DataError(
            f"the network tells {classes} classes apart, {data.name} has {len(data.classes)}; reduce it on its own data"
        )


def _check_cuttable(model: nn.Module, data: Splits, settings: ReduceSettings) -> None:
    """Refuse an unknown criterion, and a network of which nothing may go, before there is a folder."""
    criterion_named(settings.criterion)
    channels = watch(model, data.train.inputs[:1], inputs=settings.inputs, attention=settings.attention)
    hidden = unseen(model, channels, data.train, settings)
    check_choice(channels, settings, unseen=hidden)


class _Reduction:
    """One reduction: the search, and the run folder that follows it."""

    def __init__(
        self,
        model: nn.Module,
        data: Splits,
        settings: ReduceSettings,
        listener: Listener | None,
        folder: RunFolder | None = None,
        *,
        earlier: Sequence[Any] = (),
        workers: Workers | None = None,
    ) -> None:
        self.data, self.settings, self.folder = data, settings, folder
        self.earlier = list(earlier)
        self.unreduced = copy.deepcopy(model).eval()
        self.history: list[Step] = []
        self.snapshot = _UNREDUCED
        state, reduced = self._resumed()
        self.search = Search(
            self.unreduced, data, settings, listener=listener, model=reduced, state=state, workers=workers
        )

    def _resumed(self) -> tuple[SearchState | None, nn.Module | None]:
        """Where the journal stands, and the network accepted last."""
        if self.folder is None:
            return None, None
        state: SearchState | None = None
        known = _print_of(self.data)
        for entry in self.folder.entries():
            steps = steps_in([entry])
            if steps:
                self.history += [Step(**step) for step in steps]
                state = SearchState.from_dict(entry["state"])
            self.snapshot = entry.get("snapshot", self.snapshot)
            self.earlier = entry.get("history", self.earlier)
            if entry.get("data", known) != known:
                raise RunError(
                    f"{self.folder.path} was started on other data, or on other splits of them; give those that it was"
                    " started on"
                )
        if state is None and next(iter(self.folder.entries()), None) is None:
            tensors, document = model_snapshot(self.unreduced)
            self.folder.put(_UNREDUCED, tensors, document)
            start = {"event": "start", "snapshot": _UNREDUCED, "history": self.earlier}
            self.folder.append({**start, "data": _print_of(self.data)})
            return None, None
        self._check_given()
        if self.snapshot == _UNREDUCED:
            return state, None
        tensors, document = self.folder.get(self.snapshot)
        return state, restore_model(lambda: copy.deepcopy(self.unreduced), tensors, document)

    def _check_given(self) -> None:
        """Refuse to go on with another network than the run's: drops would be counted from it."""
        if self.folder is None:
            return
        stored, _ = self.folder.get(_UNREDUCED)
        given, _ = model_snapshot(self.unreduced)
        if stored.keys() != given.keys() or any(
            not torch.equal(given[name].cpu(), tensor) for name, tensor in stored.items()
        ):
            raise RunError(
                f"{self.folder.path} was started from another network than the one given; give that one"
                " (`secateur.methods.unreduced_in` reads it from the folder)"
            )

    def run(self) -> ReduceResult:
        """Search to the end, and judge the result."""
        started = time.perf_counter()
        earlier = sum(step.seconds for step in self.history)
        while steps := self.search.step():
            self.history += steps
            self._store(steps)
        return self._result(earlier + time.perf_counter() - started)

    def _store(self, steps: Sequence[Step]) -> None:
        """Write what was tried at once as one line: the snapshot first, then the line that names it."""
        if self.folder is None:
            return
        said = (
            {"step": steps[0].as_dict()} if len(steps) == 1 else {"steps": [step.as_dict() for step in steps]}
        )
        entry: dict[str, Any] = {**said, "state": self.search.state.as_dict()}
        accepted = next((step for step in steps if step.accepted), None)
        if accepted is not None:
            name = f"step-{accepted.iteration:05d}"
            tensors, document = model_snapshot(self.search.model)
            self.folder.put(name, tensors, document, parent=self.snapshot)
            entry["snapshot"] = self.snapshot = name
        self.folder.append(entry)

    def _result(self, seconds: float) -> ReduceResult:
        before, after = self.unreduced, copy.deepcopy(self.search.model).eval()
        data, settings = self.data, self.settings
        test_before = evaluate(before, data.test, classes=data.classes)
        judged, file, told = self._deployed(after)
        test_after = evaluate(judged, data.test, classes=data.classes)
        confidence = settings.confidence or 0.95
        validation_after = evaluate(judged, data.validation, classes=data.classes)
        channels = self.search.watched(before)
        layers, notes = layers_of(channels, before, after)
        stopped = [_stopped(settings.max_iterations)] if self.search.stopped else []
        narrow = filter(None, [too_narrow(len(data.validation), settings)])
        result = ReduceResult(
            model=after,
            history=tuple(self.history),
            evaluation_before=self.search.before,
            evaluation_after=validation_after,
            test_before=test_before,
            test_after=test_after,
            validation_drop=paired_drop(
                self.search.before, validation_after, confidence=confidence, groups=data.validation.groups
            ),
            test_drop=paired_drop(test_before, test_after, confidence=confidence, groups=data.test.groups),
            cost_before=CostModel(channels).total(),
            cost_after=CostModel(self.search.watched(after)).total(),
            layers=layers,
            channels=channels,
            settings=settings,
            seconds=seconds,
            folder=None if self.folder is None else self.folder.path,
            file=file,
            notes=(
                *narrow,
                *told,
                *notes,
                *_left_alone(self.search.unseen, settings),
                *self._trained_whole(),
                *_remarks(self.history),
                *stopped,
            ),
        )
        self._save(result)
        return result

    def _deployed(self, after: nn.Module) -> tuple[nn.Module, bytes | None, tuple[str, ...]]:
        """What is judged at the end: the network, or its file, with what is to be said of that."""
        writer = self.search.judge.writer
        if writer is None:
            return after, None, ()
        before = self.search.judge.unreduced.file or b""
        content = self.search.current.file or writer.content_of(after)
        asked = writer.deployment
        return (
            writer.opened(content),
            content,
            (
                f"Accuracies after the reduction are those of its file for {asked.target} in {asked.mode}: {len(content):,} bytes, where the"
                f" unreduced network's has {len(before):,}, and {writer.time_ratio(content, before):.2f} of its time for one example.",
            ),
        )

    def _trained_whole(self) -> tuple[str, ...]:
        """What is to be said of layers that have no block of their own."""
        if self.settings.retrain_scope == "network":
            return ()
        known = {group.name: group for group in self.search.watched(self.unreduced).groups}
        tried = dict.fromkeys(step.group for step in self.history if step.epochs and step.group in known)
        for group in tried:
            self.search.trials.blocks.of([known[group]])
        return tuple(
            f"Candidates were retrained whole: {reason}."
            for reason in self.search.trials.blocks.whole.values()
        )

    def _save(self, result: ReduceResult) -> None:
        if self.folder is None:
            return
        if result.file is not None and result.settings.deploy is not None:
            path = self.folder.path / result.settings.deploy.file_name
            write_atomic(path, [result.file], size=len(result.file))
        save(
            result.model,
            self.folder.path / MODEL_FILE,
            evaluation=_figures(result, self.data),
            history=[*self.earlier, _event(result, self.data)],
        )


def _figures(result: ReduceResult, data: Splits) -> dict[str, Any]:
    """What a reduced network's file says that it reaches, and on how many examples."""
    return {
        "data": data.name,
        "input_shape": list(data.input_shape),
        "test_accuracy": result.test_after.accuracy,
        "test_accuracy_before": result.test_before.accuracy,
        "test_examples": result.test_after.count,
        "validation_accuracy": result.evaluation_after.accuracy,
        "validation_accuracy_before": result.evaluation_before.accuracy,
        "validation_examples": result.evaluation_after.count,
        "parameters": result.cost_after.parameters,
        "parameters_before": result.cost_before.parameters,
        "macs": result.cost_after.macs,
        "macs_before": result.cost_before.macs,
    }


def _event(result: ReduceResult, data: Splits) -> dict[str, Any]:
    """What a reduced network's file says of the reduction: the options, and the accepted steps without their times."""
    return {
        "event": KIND,
        "data": data.name,
        "options": result.settings.model_dump(mode="json"),
        "candidates": len(result.history),
        "steps": [_in_short(step) for step in result.history if step.accepted],
    }


def _in_short(step: Step) -> dict[str, Any]:
    figures = {"iteration": step.iteration, "accuracy": step.accuracy, "drop": step.drop, "upper": step.upper}
    figures |= {"parameters": step.parameters, "macs": step.macs, "epochs": step.epochs}
    cut = {"group": step.group, "before": step.width_before, "after": step.width_after}
    return {**figures, "kind": step.kind, **(cut if step.group else {})}


def _left_alone(hidden: Mapping[str, str], settings: ReduceSettings) -> tuple[str, ...]:
    return tuple(
        f"Group {group!r} was left alone, because the criterion {settings.criterion!r} cannot score it: {reason}."
        for group, reason in hidden.items()
    )


def _stopped(limit: int) -> str:
    return (
        f"The search was stopped after {limit} candidate{'' if limit == 1 else 's'}, as many as max_iterations allows, with more"
        " to try: a higher limit may remove more."
    )


def _remarks(history: list[Step]) -> tuple[str, ...]:
    if any(step.accepted and step.kind == "cut" for step in history):
        return ()
    if not history:
        return ("Nothing was removed: no candidate was tried; allow more iterations.",)
    nearest = min(history, key=lambda step: step.upper)
    return (
        f"Nothing was removed: none of {len(history)} candidates stayed within the bound (nearest: {nearest.group}"
        f" {nearest.width_before} to {nearest.width_after}, {nearest.reason})."
        " A wider bound, more validation examples or longer retraining may help.",
    )
