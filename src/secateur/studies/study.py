"""A study: questions, each with the grid of cells that answers it, read from one small file."""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeVar, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from secateur._options import did_you_mean, sentence, worst
from secateur.errors import SettingsError
from secateur.methods import StepSettings
from secateur.methods.protocol import Granularity, Retrain, Search
from secateur.studies.cells import Cell
from secateur.train import TrainSettings
from secateur.train.recipes import recipe_for

FACTORS: Final = (
    "granularity", "criterion", "normalise", "cost_weight", "scope", "retrain", "iterations", "recompute", "step",
)  # fmt: skip
"""What may differ between the cells of a question, beside network, data and seed."""

CONTROLS: Final = ("random", "l1")
"""Criteria that every comparison of criteria has; of weights the second is also called magnitude."""

T = TypeVar("T")


def _several(value: object) -> object:
    """One value where several may stand."""
    return cast("object", value) if isinstance(value, (list, tuple)) else (value,)


def read_seeds(value: object) -> object:
    """Seeds as a list: a single number may mean two things."""
    if isinstance(value, int):
        raise PydanticCustomError(
            "seeds",
            "a single number may be a seed or how many there are; say seeds = [{seed}] for that seed, or list several,"
            " such as seeds = [0, 1, 2]",
            {"seed": int(value)},
        )
    return value


Several = Annotated[tuple[T, ...], BeforeValidator(_several), Field(min_length=1)]


class Experiment(BaseModel):
    """One question, and the values that each factor takes: every combination is a cell.

    Attributes:
        name: What it is called, such as ``4.1``.
        question: What it asks, in a sentence.
        compare: The factor whose values are compared, all else being equal.
        granularity: ``unit``, ``kernel`` or ``weight``: what goes. Below, units stand for whichever it is.
        criterion: Names of criteria. Where criteria are compared, ``random`` and ``l1`` (unless ``magnitude``, the same, is there) are
            added as controls.
        normalise: ``none``, ``l1`` or ``l2``.
        cost_weight: See `StepSettings`, as for all that follows.
        scope: ``network``, or names of layers.
        retrain: ``none``, ``network``, ``layer`` or ``block``.
        iterations: Batches after each step; 0 goes with ``none`` alone, and cells of other combinations are left out.
        recompute: Steps after which scores are taken anew; 0 for once.
        step: Units, or a share of them, that go at a time.
        until: Share of units at which a cell ends.
        max_drop: Of the networks on a curve the smallest is kept that lost no more than so many points on validation examples; by
            default the last is.
        measure: What is compared: ``accuracy``, the mean over the curve; or ``share``, the largest share of the units that can go
            within ``max_drop``, at which a cell ends then.
        search: For ``share``: ``steps``, or by ``bisection`` (see `StepSettings`), where nothing is retrained.
        printed: For ``share``: what was printed elsewhere, in percent, shown beside; by layer and value of the compared factor.
        scratch: Whether the kept network's architecture is also trained from scratch, with as many examples in all. By default
            where the whole network is pruned and retrained.
        judge: Steps after which the accuracy is taken.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = Field(min_length=1)
    question: str = ""
    compare: str = "criterion"
    granularity: Several[Granularity] = ("unit",)
    criterion: Several[str] = ("taylor",)
    normalise: Several[Literal["none", "l1", "l2"]] = ("none",)
    cost_weight: Several[float] = (0.0,)
    scope: Several[str] = ("network",)
    retrain: Several[Retrain] = ("none",)
    iterations: Several[int] = (0,)
    recompute: Several[int] = (1,)
    step: Several[int | float] = (0.05,)
    until: float = Field(default=0.9, gt=0, lt=1)
    max_drop: float | None = Field(default=None, ge=0, lt=100)
    measure: Literal["accuracy", "share"] = "accuracy"
    search: Search = "steps"
    printed: dict[str, dict[str, float]] = Field(default_factory=dict)
    scratch: bool | None = None
    judge: int = Field(default=1, ge=1)

    def levels(self) -> dict[str, tuple[Any, ...]]:
        """The values of each factor, controls included."""
        found: dict[str, tuple[Any, ...]] = {
            name: tuple(dict.fromkeys(getattr(self, name))) for name in FACTORS
        }
        found["step"] = tuple(dict.fromkeys(int(s) if float(s).is_integer() else s for s in self.step))
        if self.compare == "criterion":
            controls = [name for name in CONTROLS if name != "l1" or "magnitude" not in found["criterion"]]
            found["criterion"] = tuple(dict.fromkeys((*found["criterion"], *controls)))
        return found


class Study(BaseModel):
    """What ``secateur compare`` runs.

    Attributes:
        name: Its title.
        networks: Names of networks (`secateur.networks.build`).
        data: Names of data sets.
        seeds: A list; each draws its own network, and everything that is random in its cells.
        train: How the unreduced networks are trained: changes to the pair's recipe.
        retrain: How they are retrained between steps: changes to the training.
        judge_examples: Validation examples on which curves are taken; None for all there are.
        score_examples: Training examples on which scores are computed.
        validation: Validation examples: a count, or a share (see `secateur.data.load`).
        experiment: The questions.

    Raises:
        SettingsError: A key is unknown, a value is out of its range, or a combination is impossible; it says where.

    Example:
        >>> study = Study(networks="digits-net", data="digits", experiment=[
        ...     {"name": "1", "criterion": ["taylor", "l1"], "scope": ["conv2", "conv3"]}])
        >>> len(study.cells()), sorted({cell.settings.criterion for cell in study.cells()})
        (18, ['l1', 'random', 'taylor'])
        >>> Study(networks="digits-net", data="digits", experiment=[{"name": "1", "criterium": "l1"}])
        Traceback (most recent call last):
        ...
        secateur.errors.SettingsError: no key of an experiment is named 'criterium'; did you mean 'criterion'?
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = "study"
    networks: Several[str]
    data: Several[str]
    seeds: Annotated[tuple[int, ...], BeforeValidator(read_seeds), Field(min_length=1)] = (0, 1, 2)
    train: dict[str, Any] = Field(default_factory=dict)
    retrain: dict[str, Any] = Field(default_factory=dict)
    judge_examples: int | None = Field(default=None, ge=1)
    score_examples: int = Field(default=1024, ge=1)
    validation: int | float | None = None
    experiment: tuple[Experiment, ...] = Field(min_length=1)

    if not TYPE_CHECKING:

        def __init__(self, **options):
            try:
                super().__init__(**options)
            except ValidationError as error:
                raise SettingsError(_where(error)) from None
            self._check()

    @classmethod
    def read(cls, path: str | Path) -> Study:
        """A study from its TOML file.

        Raises:
            SettingsError: There is no such file, it is no TOML, or what it says is wrong.
        """
        file = Path(path)
        try:
            found: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise SettingsError(
                f"{file} cannot be read ({error.strerror}); name a study's TOML file"
            ) from error
        except ValueError as error:
            raise SettingsError(f"{file} is not a study: {error}") from error
        if isinstance(found.get("experiment"), dict):
            raise SettingsError(f"{file}: an experiment begins with [[experiment]], in two pairs of brackets")
        try:
            options: dict[str, Any] = {"name": file.stem, **found}
            return cls(**options)
        except SettingsError as error:
            raise SettingsError(f"{file}: {error}") from None

    def training(self, network: str, data: str) -> TrainSettings:
        """How an unreduced network is trained."""
        return recipe_for(network, data).but(**self.train)

    def cells(self) -> tuple[Cell, ...]:
        """Every cell of every experiment; two that are the same are one, that serves both."""
        made: dict[str, Cell] = {}
        for experiment in self.experiment:
            for cell in self.cells_of(experiment):
                known = made.get(cell.key)
                made[cell.key] = cell if known is None else known.serving(cell)
        return tuple(made.values())

    def cells_of(self, experiment: Experiment) -> Iterator[Cell]:
        """The cells of one experiment."""
        levels = experiment.levels()
        for network, data, seed in itertools.product(self.networks, self.data, self.seeds):
            training = self.training(network, data)
            for values in itertools.product(*levels.values()):
                chosen = dict(zip(levels, values, strict=True))
                if (chosen["retrain"] == "none") != (chosen["iterations"] == 0):
                    continue  # how many batches is asked only where something is trained
                settings = StepSettings(
                    **chosen,
                    search=experiment.search,
                    max_drop=experiment.max_drop if experiment.measure == "share" else None,
                    until=experiment.until,
                    judge=experiment.judge,
                    judge_examples=self.judge_examples,
                    score_examples=self.score_examples,
                    training=_retraining(training, self.retrain),
                    seed=seed,
                )
                whole = settings.scope == "network" and settings.retrain == "network"
                yield Cell(
                    network, data, seed, training, settings,
                    validation=self.validation,
                    within=experiment.max_drop,
                    scratch=whole if experiment.scratch is None else experiment.scratch and whole,
                    experiments=(experiment.name,),
                )  # fmt: skip

    def _check(self) -> None:
        """Refuse what cannot be, before anything runs."""
        names = [experiment.name for experiment in self.experiment]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise SettingsError(f"two experiments are named {min(twice)!r}; give each a name of its own")
        for key, values in (("networks", self.networks), ("data", self.data), ("seeds", self.seeds)):
            again = next((value for value in values if values.count(value) > 1), None)
            if again is not None:
                raise SettingsError(f"{key} names {again!r} more than once; name each once")
        for table, options in (("train", self.train), ("retrain", self.retrain)):
            missing = next((name for name, value in options.items() if value is None), None)
            if missing is not None:
                raise SettingsError(
                    f"{table}: {missing} is None, which a study's file cannot hold; leave it out"
                )
            taught = next((name for name in options if name.startswith(("distil", "attention"))), None)
            if taught is not None:
                raise SettingsError(
                    f"{table}: {taught} is about a teacher, and a study's networks have none; leave it out"
                )
        for pair in itertools.product(self.networks, self.data):
            self.training(*pair)
        for experiment in self.experiment:
            try:
                _check_comparison(experiment)
                _check_share(experiment)
                _check_retraining(experiment)
                list(self.cells_of(experiment))
            except SettingsError as error:
                raise SettingsError(f"experiment {experiment.name!r}: {error}") from None


def _check_comparison(experiment: Experiment) -> None:
    levels, compared = experiment.levels(), experiment.compare
    if compared not in FACTORS:
        raise SettingsError(f"compare={compared!r} is no factor; {did_you_mean(compared, FACTORS)}")
    if len(levels[compared]) < 2:
        raise SettingsError(
            f"it compares {compared}, of which it has a single value ({levels[compared][0]!r}); give several"
        )
    if any(isinstance(step, float) and step == 1.0 for step in experiment.step):
        raise SettingsError(
            "step = 1.0 is neither a share below 1 nor a whole number; say 1 for a single unit"
        )


def _check_share(experiment: Experiment) -> None:
    """What is asked about how much can go, and what is shown beside it."""
    if experiment.measure == "share" and experiment.max_drop is None:
        raise SettingsError(
            "it asks how much can go, and not within which bound; say max_drop = 1.0, or another"
        )
    if experiment.search == "bisection" and experiment.measure != "share":
        raise SettingsError(
            'it searches for the bound alone, which makes no curve; say measure = "share", or search = "steps"'
        )
    known = [str(level) for level in experiment.levels()[experiment.compare]]
    for scope, values in experiment.printed.items():
        unknown = next((one for one in values if one not in known), None)
        if scope not in experiment.scope or unknown is not None:
            raise SettingsError(
                f"it shows printed values of {scope!r}"
                + ("" if unknown is None else f" for {unknown!r}")
                + f", of which it has no cells; it has {experiment.compare} {', '.join(known)} of {', '.join(experiment.scope)}"
            )


def _check_retraining(experiment: Experiment) -> None:
    levels = experiment.levels()
    trained = [value for value in levels["retrain"] if value != "none"]
    if bool(trained) != any(levels["iterations"]):
        raise SettingsError(
            f"it retrains {trained[0]!r} for 0 iterations; say how many batches, such as iterations = 100"
            if trained
            else 'it gives iterations, and retrains nothing; say retrain = "network"'
        )
    for one, other in (("retrain", "iterations"), ("iterations", "retrain")):
        several = [value for value in levels[other] if value not in ("none", 0)]
        if experiment.compare == one and len(several) > 1:
            raise SettingsError(
                f"it compares {one} with several values of {other} ({several}), so that not all else is equal; give one, and ask"
                " about the others in experiments of their own"
            )
    if "none" in levels["retrain"] and 0 not in levels["iterations"]:
        raise SettingsError('it has retrain "none" among others; add 0 to its iterations')


def _retraining(training: TrainSettings, changes: Mapping[str, Any]) -> TrainSettings:
    """The training that goes on: a tenth of its highest rate, constant, without a teacher."""
    calm = {"lr": training.lr / 10, "schedule": "constant", "warmup_epochs": 0.0, "ema": None}
    return training.but(**{**calm, **changes})


def _where(error: ValidationError) -> str:
    """What is wrong, and with which experiment."""
    first = worst(error)
    place: list[int | str] = list(first["loc"])
    inside = len(place) > 1 and place[0] == "experiment"
    if not inside:
        return sentence(
            error,
            Study,
            named="key",
            of=" of a study",
            missing="a study names networks, data and experiments",
        )
    name = str(place[2]) if len(place) > 2 else ""
    number = int(place[1]) + 1
    if first["type"] == "extra_forbidden":
        return f"no key of an experiment is named {name!r}; {did_you_mean(name, Experiment.model_fields)}"
    message = str(first["msg"])
    return (
        f"experiment {number}: key {name!r} cannot be {first['input']!r}: {message[:1].lower()}{message[1:]}"
    )
