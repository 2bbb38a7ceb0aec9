"""Trainings as values: every epoch, what went meanwhile, and how trainings compare in accuracy, multiply-adds and time."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, cast

from pydantic import Field, JsonValue, ValidationError
from scipy.special import stdtrit  # pyright: ignore[reportMissingTypeStubs]

from secateur.data import Splits
from secateur.errors import FileFormatError, SettingsError, StoreError
from secateur.methods.training import TrainResult
from secateur.networks import origin_of
from secateur.report.conditions import here
from secateur.report.reduction import accuracy_of
from secateur.report.text import setting
from secateur.report.values import Accuracy, Count, Value

TRAINING_FILE: Final = "training.json"
CONFIDENCE: Final = 0.95
_PAIR: Final = 2


class Epoch(Value):
    """One epoch, in the units of `secateur.train.EpochRecord`.

    Attributes:
        epoch: From 1.
        train_loss: Mean of what was minimised.
        validation_loss: Mean cross-entropy on validation.
        validation_accuracy: Percent.
        lr: Learning rate of the last step.
        seconds: Wall time with validation, and with the reconfiguration behind it.
        macs: Multiply-adds of one forward pass of one example.
        ratio: The penalty's share of loss and penalty together; None where there is no penalty.
        batch_size: Examples of a step.
    """

    epoch: Annotated[int, Field(ge=1)]
    train_loss: float
    validation_loss: float | None
    validation_accuracy: float | None
    lr: float
    seconds: float
    macs: Count
    ratio: float | None = None
    batch_size: int | None = None


class Reconfigured(Value):
    """What a reconfiguration left.

    Attributes:
        epoch: After which epoch.
        units: How many units went, those in whole blocks not counted.
        blocks: The blocks that went whole.
        parameters: What is left.
        macs: Multiply-adds of one example from then on.
        widths: How many units each group has from then on.
        seconds: What the reconfiguration took.
    """

    epoch: Annotated[int, Field(ge=1)]
    units: Count
    blocks: tuple[str, ...]
    parameters: Count
    macs: Count
    widths: Mapping[str, Count]
    seconds: float


class Training(Value):
    """A training that has ended.

    Attributes:
        format: What the file is.
        name: What the page calls it.
        network: The network's name.
        data: The data's.
        seed: What every random choice followed from.
        settings: How it was trained.
        meanwhile: Options of PruneTrain, where it cut the network meanwhile.
        epochs: One record each.
        best_epoch: The epoch whose weights were kept.
        parameters: Of the network at the start, and at the end.
        macs: Multiply-adds of one example at the start, and at the end.
        training_macs: Multiply-adds of all forward passes of the training, and what they would have been without cuts.
        widths: How many units each group had at the start; empty where nothing was cut.
        changes: What each reconfiguration left.
        validation: At the end.
        test: On the split that was read once, at the end.
        conditions: Versions, machine, threads.
    """

    format: Literal["secateur.training"] = "secateur.training"
    name: str
    network: str
    data: str
    seed: int
    settings: Mapping[str, JsonValue]
    meanwhile: Mapping[str, JsonValue] | None
    epochs: Annotated[tuple[Epoch, ...], Field(min_length=1)]
    best_epoch: int
    parameters: tuple[Count, Count]
    macs: tuple[Count, Count]
    training_macs: tuple[Count, Count]
    widths: Mapping[str, Count]
    changes: tuple[Reconfigured, ...]
    validation: Accuracy
    test: Accuracy
    conditions: Mapping[str, JsonValue]

    @property
    def seconds(self) -> float:
        """Wall time of all epochs, with validation and reconfigurations."""
        return sum(one.seconds for one in self.epochs)

    @property
    def saved(self) -> float:
        """The training's multiply-adds as a share of those without cuts."""
        spent, uncut = self.training_macs
        return spent / uncut if uncut else 1.0

    def width_of(self, group: str) -> tuple[tuple[int, int], ...]:
        """How many units a group has: the epoch from which on, and the count."""
        return (
            (0, self.widths[group]),
            *((one.epoch, one.widths.get(group, 0)) for one in self.changes),
        )

    @classmethod
    def from_json(cls, content: str) -> Self:
        """Read what `model_dump_json` wrote.

        Raises:
            FileFormatError: It is no training of this version.
        """
        try:
            return cls.model_validate_json(content)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the file"
            raise FileFormatError(
                f"it is not a training of this version of Secateur: {where}: {first['msg']}; train again to write one"
            ) from error


def training_of(result: TrainResult, *, data: Splits, name: str, seed: int) -> Training:
    """A training as values.

    Args:
        result: What `secateur.methods.train` returned.
        data: What it learned from.
        name: What to call it.
        seed: Of the training.

    Example:
        >>> import tempfile
        >>> from secateur import data, networks
        >>> from secateur.methods import train
        >>> from secateur.train import TrainSettings
        >>> digits = data.load("digits", limit=300)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     result = train(networks.build("digits-net", seed=0), digits, TrainSettings(epochs=2), out=folder)
        >>> made = training_of(result, data=digits, name="digits", seed=0)
        >>> len(made.epochs), made.macs[0] == made.macs[1], made.saved
        (2, True, 1.0)
    """
    pruned = result.prunetrain
    cuts = () if pruned is None else pruned.reconfigurations
    before = result.cost if pruned is None else pruned.cost_before
    took = {one.epoch: one.seconds for one in cuts}
    ratios = () if pruned is None else pruned.ratios
    epochs = tuple(
        Epoch(
            epoch=record.epoch,
            train_loss=record.train_loss,
            validation_loss=record.validation_loss,
            validation_accuracy=record.validation_accuracy,
            lr=record.lr,
            seconds=record.seconds + took.get(record.epoch, 0.0),
            macs=next((one.cost.macs for one in reversed(cuts) if one.epoch < record.epoch), before.macs),
            ratio=ratios[record.epoch - 1] if record.epoch <= len(ratios) else None,
            batch_size=record.batch_size,
        )
        for record in result.history
    )
    origin = origin_of(result.model)
    uncut = sum(before.macs for _ in epochs) * len(data.train)
    return Training(
        name=name,
        network=type(result.model).__name__ if origin is None else origin.spec,
        data=data.name,
        seed=seed,
        settings=result.settings.model_dump(mode="json"),
        meanwhile=None if pruned is None else pruned.settings.model_dump(mode="json"),
        epochs=epochs,
        best_epoch=result.best_epoch,
        parameters=(before.parameters, result.cost.parameters),
        macs=(before.macs, result.cost.macs),
        training_macs=(sum(one.macs for one in epochs) * len(data.train), uncut),
        widths={} if pruned is None else pruned.widths_before,
        changes=tuple(
            Reconfigured(
                epoch=one.epoch,
                units=one.units,
                blocks=one.blocks,
                parameters=one.cost.parameters,
                macs=one.cost.macs,
                widths=one.widths,
                seconds=one.seconds,
            )
            for one in cuts
        ),
        validation=accuracy_of(result.validation),
        test=accuracy_of(result.test),
        conditions=here(),
    )


def read_training(path: Path) -> Training:
    """Read a training from its file, or from the folder that holds it.

    Raises:
        StoreError: There is none, or it cannot be read.
        FileFormatError: It is not one of this version.
    """
    file = path / TRAINING_FILE if path.is_dir() else path
    try:
        content = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(
            f"{file} cannot be read ({getattr(error, 'strerror', None) or error}); name the folder of a training that has ended"
        ) from error
    try:
        return Training.from_json(content)
    except FileFormatError as error:
        raise FileFormatError(f"{file}: {error}") from error


@dataclass(frozen=True, slots=True)
class Arm:
    """Trainings that differ in their seed alone.

    Attributes:
        name: What the page calls them.
        trainings: One a seed.
    """

    name: str
    trainings: tuple[Training, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        """In the order of the trainings."""
        return tuple(one.seed for one in self.trainings)

    def mean(self, of: Callable[[Training], float]) -> float:
        """Over the seeds."""
        return statistics.fmean(of(one) for one in self.trainings)

    def spread(self, of: Callable[[Training], float]) -> float | None:
        """The standard deviation over the seeds; None with one."""
        values = [of(one) for one in self.trainings]
        return statistics.stdev(values) if len(values) >= _PAIR else None


def arms_of(trainings: Sequence[Training]) -> tuple[Arm, ...]:
    """Gather trainings that differ in their seed alone, in the order in which they are given.

    Raises:
        SettingsError: Two are of different data, or the same seed comes twice.
    """
    if len({one.data for one in trainings}) > 1:
        raise SettingsError(
            f"{' and '.join(dict.fromkeys(one.data for one in trainings))} are different data; compare trainings on the same"
        )
    gathered: dict[str, list[Training]] = {}
    for one in trainings:
        alike = one.model_copy(update={"seed": 0}).model_dump_json(
            include={"network", "settings", "meanwhile"}
        )
        gathered.setdefault(alike, []).append(one)
    found: list[Arm] = []
    for group in gathered.values():
        seeds = [one.seed for one in group]
        if len(set(seeds)) < len(seeds):
            twice = next(one for one in group if seeds.count(one.seed) >= _PAIR)
            raise SettingsError(
                f"two of the trainings have the same settings and seed {twice.seed} ({twice.name} is one); name each once"
            )
        found.append(Arm(_shared(group, len(found)), tuple(group)))
    return tuple(found)


def _shared(group: Sequence[Training], number: int) -> str:
    """What the names of an arm's trainings have in common."""
    if len(group) == 1:
        return group[0].name
    both = zip(*(one.name for one in group), strict=False)
    start = "".join(
        letters[0] for letters in itertools.takewhile(lambda letters: len(set(letters)) == 1, both)
    )
    return start.rstrip("0123456789-_. ") or f"{group[0].network}, {number + 1}"


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over seeds with its confidence interval; the ends are NaN with a single seed.

    Attributes:
        mean: Of the differences, or of the ratios.
        low: Lower end.
        high: Upper end.
        seeds: Pairs.
        one: What no change would be: 0 of differences, 1 of ratios.
    """

    mean: float
    low: float
    high: float
    seeds: int
    one: float = 0.0

    @property
    def found(self) -> bool:
        """Whether the interval leaves out that nothing changed."""
        return self.high < self.one or self.low > self.one


def difference(first: Arm, second: Arm, of: Callable[[Training], float]) -> Interval:
    """By how much one arm is above another, paired by seed where they have the same ones.

    Args:
        first: The one.
        second: What it is compared with.
        of: The figure.

    Returns:
        The mean difference with its interval by Student's t; without common seeds by Welch's.
    """
    paired = [
        of(one) - of(other) for one in first.trainings for other in second.trainings if one.seed == other.seed
    ]
    if paired and len(paired) == len(first.trainings) == len(second.trainings):
        return _interval(paired)
    return _welch([of(one) for one in first.trainings], [of(one) for one in second.trainings])


def ratio(first: Arm, second: Arm, of: Callable[[Training], float]) -> Interval:
    """How many times the one arm's figure is the other's: the geometric mean, with the interval of the logarithms."""
    found = difference(first, second, lambda one: math.log(of(one)))
    return Interval(math.exp(found.mean), math.exp(found.low), math.exp(found.high), found.seeds, 1.0)


def _interval(values: Sequence[float]) -> Interval:
    mean, count = statistics.fmean(values), len(values)
    if count < _PAIR:
        return Interval(mean, math.nan, math.nan, count)
    reach = _quantile(count - 1) * statistics.stdev(values) / math.sqrt(count)
    return Interval(mean, mean - reach, mean + reach, count)


def _welch(first: Sequence[float], second: Sequence[float]) -> Interval:
    mean, count = statistics.fmean(first) - statistics.fmean(second), min(len(first), len(second))
    if count < _PAIR:
        return Interval(mean, math.nan, math.nan, count)
    parts = [statistics.variance(values) / len(values) for values in (first, second)]
    error = math.sqrt(sum(parts))
    if not error:
        return Interval(mean, mean, mean, count)
    degrees = sum(parts) ** 2 / sum(
        part**2 / (len(values) - 1) for part, values in zip(parts, (first, second), strict=True)
    )
    reach = _quantile(degrees) * error
    return Interval(mean, mean - reach, mean + reach, count)


def _quantile(degrees: float) -> float:
    return cast("float", stdtrit(degrees, (1 + CONFIDENCE) / 2))


def differing(arms: Sequence[Arm]) -> Mapping[str, tuple[str, ...]]:
    """What the arms' settings differ in: by option the value of each arm."""
    said: list[dict[str, Any]] = []
    for arm in arms:
        one = arm.trainings[0]
        said.append(
            {"network": one.network}
            | dict(one.settings)
            | {f"prunetrain.{name}": value for name, value in (one.meanwhile or {}).items()}
        )
    names = dict.fromkeys(name for found in said for name in found)
    return {
        name: values
        for name in names
        if len(set(values := tuple(setting(found[name]) if name in found else "–" for found in said))) > 1
    }
