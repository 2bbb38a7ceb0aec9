"""From the result of a reduction to its report: every figure with the conditions that it was measured under."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from pydantic import JsonValue
from torch import nn

from secateur.cost import Cost
from secateur.data import Splits
from secateur.errors import SettingsError
from secateur.evaluate import Drop, Evaluation
from secateur.methods import MODEL_FILE, ReduceResult, Step
from secateur.networks import origin_of
from secateur.report.conditions import here
from secateur.report.document import (
    Accuracy,
    Bound,
    Change,
    Data,
    Figures,
    FixedAxis,
    Iteration,
    Layer,
    Method,
    OutputFile,
    Report,
    in_points,
)
from secateur.report.examples import changes_of, confusions_of, identified_of
from secateur.report.html import write
from secateur.store.model_file import write_model

_FILES: Final = {
    MODEL_FILE: "the reduced network",
    "journal.jsonl": "every step, for resuming",
    "run.toml": "what was asked",
}
_SOURCE: Final = "SNARE (KIT, 2020), chapter 5; what goes beyond it is named in the settings"


def report_of(
    result: ReduceResult,
    *,
    data: Splits,
    network: str | None = None,
    unreduced: nn.Module | None = None,
    command: str = "",
    notes: Sequence[str] = (),
) -> Report:
    """The report of a reduction.

    Args:
        result: What :func:`secateur.reduce` returned.
        data: The data that it was reduced on.
        network: What to call the network; by default the name that it was built by.
        unreduced: The network as given. With it the sizes are those of saved files; without it, those of the tensors.
        command: The command that was given, if it was one.
        notes: Remarks for the reader, besides the result's own.

    Returns:
        The report; :func:`secateur.report.write` puts it into a folder.

    Example:
        >>> from secateur import data, networks, reduce, train
        >>> digits = data.load("digits", limit=300)
        >>> net = networks.build("digits-net", seed=0)
        >>> _ = train.fit(net, digits.train, None, train.TrainSettings(epochs=4, lr=0.05, batch_size=32))
        >>> report = report_of(reduce(net, digits, max_drop=5.0, max_iterations=2), data=digits)
        >>> report.title, len(report.iterations)
        ('digits-net on digits, reduced within 5 points', 2)
    """
    settings = result.settings
    name = network or _name_of(result.model)
    drops = result.validation_drop, result.test_drop
    validation, test = (_change(drop, unchanged=not result.removed) for drop in drops)
    sizes = _sizes(result, unreduced)
    asked = settings.model_dump(mode="json", exclude={"max_drop", "confidence", "seed"})
    return Report(
        title=f"{name} on {data.name}, reduced within {in_points(settings.max_drop)}",
        created=datetime.now(UTC),
        network=name,
        data=_data(data),
        method=Method(name="SNARE", settings=asked, source=_SOURCE),
        seed=settings.seed,
        bound=Bound.judge(
            max_drop=settings.max_drop,
            reference=result.evaluation_before.accuracy,
            validation=validation,
            test=test,
            with_sampling_error=settings.confidence > 0,
            unchanged=not result.removed,
        ),
        before=_figures(result.cost_before, sizes[0], result.evaluation_before, result.test_before),
        after=_figures(result.cost_after, sizes[1], result.evaluation_after, result.test_after),
        validation_change=validation,
        test_change=test,
        layers=_layers(result),
        fixed=_fixed(result),
        unknown_ops=dict(result.channels.unknown_ops),
        iterations=tuple(_iteration(step) for step in result.history),
        classes=changes_of(result.test_before, result.test_after, data.test.groups),
        classes_split="test",
        confusions=confusions_of(result.test_before, result.test_after),
        identified=identified_of(result.test_before, result.test_after, data.test),
        conditions=_conditions(result, command),
        files=_files(result),
        notes=(*result.notes, *result.channels.notes, *notes),
    )


def write_report(
    result: ReduceResult,
    folder: str | Path | None = None,
    *,
    data: Splits,
    network: str | None = None,
    unreduced: nn.Module | None = None,
    command: str = "",
    notes: Sequence[str] = (),
) -> Report:
    """Write ``report.html`` and ``report.json`` of a reduction.

    Args:
        result: What :func:`secateur.reduce` returned.
        folder: Where; None takes the run's own folder.
        data: As for :func:`report_of`, like what follows.
        network: What to call the network.
        unreduced: The network as given.
        command: The command that was given.
        notes: Remarks for the reader.

    Returns:
        The report that was written.

    Raises:
        SettingsError: The reduction was kept in no folder, and none is named.
        StoreError: A file could not be written.
    """
    target = result.folder if folder is None else Path(folder)
    if target is None:
        raise SettingsError("the reduction was kept in no folder; name one for its report")
    report = report_of(result, data=data, network=network, unreduced=unreduced, command=command, notes=notes)
    write(report, target)
    return report


def accuracy_of(evaluation: Evaluation) -> Accuracy:
    """What a network reached, for a report; top-1 is the accuracy itself and is not repeated."""
    return Accuracy(
        accuracy=evaluation.accuracy,
        count=evaluation.count,
        top_k={k: value for k, value in evaluation.top_k.items() if k > 1},
        loss=evaluation.loss if math.isfinite(evaluation.loss) else None,
    )


def _name_of(model: nn.Module) -> str:
    origin = origin_of(model)
    return type(model).__name__ if origin is None else origin.spec


def _data(data: Splits) -> Data:
    sizes = {"training": len(data.train), "validation": len(data.validation), "test": len(data.test)}
    return Data(name=data.name, splits=sizes, notes=data.notes)


def _layers(result: ReduceResult) -> tuple[Layer, ...]:
    return tuple(Layer(**{key: getattr(layer, key) for key in Layer.model_fields}) for layer in result.layers)


def _fixed(result: ReduceResult) -> tuple[FixedAxis, ...]:
    return tuple(
        FixedAxis(tensor=one.tensor, axis=one.axis, count=one.count, reason=one.reason)
        for one in result.channels.fixed
    )


def _change(drop: Drop, *, unchanged: bool) -> Change:
    if unchanged:  # on whatever data: there is nothing to be unsure of
        return Change(points=0.0, low=0.0, high=0.0, confidence=drop.confidence)
    return Change.of_drop(drop.points, upper=drop.upper, confidence=drop.confidence)


def _figures(cost: Cost, size: int, validation: Evaluation, test: Evaluation) -> Figures:
    return Figures(
        parameters=cost.parameters,
        macs=cost.macs,
        bytes=size,
        validation=accuracy_of(validation),
        test=accuracy_of(test),
    )


def _sizes(result: ReduceResult, unreduced: nn.Module | None) -> tuple[int, int]:
    """Bytes of both saved networks, or of their tensors where the unreduced one is not at hand."""
    if unreduced is None:
        return result.cost_before.bytes, result.cost_after.bytes
    return _saved_size(unreduced), _saved_size(result.model)


def _saved_size(model: nn.Module) -> int:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / MODEL_FILE
        write_model(model, file, origin=origin_of(model))
        return file.stat().st_size


def _iteration(step: Step) -> Iteration:
    return Iteration(
        iteration=step.iteration,
        group=step.group or "all layers",
        share=step.share,
        width_before=step.width_before,
        width_after=step.width_after,
        removed=step.width_before - step.width_after,
        accepted=step.accepted,
        reason=step.reason,
        accuracy=step.accuracy,
        drop=step.drop,
        drop_upper=step.upper,
        parameters=step.parameters,
        macs=step.macs,
        epochs=step.epochs,
        seconds=step.seconds,
    )


def _conditions(result: ReduceResult, command: str) -> dict[str, JsonValue]:
    found = here() | {
        "device": str(result.test_after.conditions["device"]),
        "seconds": round(result.seconds, 1),
    }
    return found | ({"command": command} if command else {})


def _files(result: ReduceResult) -> tuple[OutputFile, ...]:
    folder, deploy = result.folder, result.settings.deploy
    if folder is None:
        return ()
    deployed = (
        {} if deploy is None else {deploy.file_name: f"what is deployed: {deploy.mode} for {deploy.target}"}
    )
    present = [(name, what) for name, what in (_FILES | deployed).items() if (folder / name).is_file()]
    return tuple(
        OutputFile(name=name, what=what, bytes=(folder / name).stat().st_size) for name, what in present
    )
