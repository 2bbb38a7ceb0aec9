"""How gradual pruning is to be done: every option, checked before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from secateur._options import sentence
from secateur.errors import SettingsError
from secateur.plan import Minimum, RoundTo, Schedule, ScheduleKind, check_limits
from secateur.train import TrainSettings

PrunedThing: TypeAlias = Literal["weights", "units"]

_PRINTED: Final = ((0.3, 1, 2), (0.6, 2, 3), (1.0, 6, 4))
"""Up to which share, how many epochs apart, how many cuts: as printed for 30, 60 and 90 %."""
_CRITERIA: Final[Mapping[PrunedThing, str]] = {"weights": "magnitude", "units": "taylor"}


def _fine_tuning() -> TrainSettings:
    return TrainSettings(optimizer="rmsprop", lr=1e-4, lr_end=1e-5, schedule="linear", batch_size=64)


class GradualSettings(BaseModel):
    """Options of gradual pruning, checked when they are set.

    Attributes:
        sparsity: The share that is gone at the end, of every layer or of all together; it is met to one weight, or unit, as far as
            ``minimum`` and ``round_to`` let it.
        granularity: ``weights`` are set to zero and held there; ``units`` are cut for real.
        schedule: The law by which the share grows (`secateur.plan.Schedule`).
        initial: The share that goes at the first cut.
        begin: Epochs before the first cut.
        every: Epochs between two cuts. None takes what the source prints for the nearest share, or what fits ``epochs``.
        steps: Cuts after the one at ``begin``; likewise.
        epochs: Epochs in all. None trains as long after the last cut as between two.
        scope: ``layer`` removes the share from every layer, ``global`` ranks all together.
        criterion: What goes first; by default ``magnitude`` of weights, ``taylor`` of units.
        normalise: For ``global``: divide a layer's scores by their norm first.
        exclude: Layers whose whole names fit one of these regular expressions stay as they are. Where units go, it is the layer
            that writes them.
        minimum: Units that stay in each layer at least, where units go; see `secateur.plan`. Where it keeps the share from being met, the
            result says so in its notes.
        round_to: Widths that stay are rounded up to a multiple of it, for units by layer; likewise.
        below: Where units go: only those go whose score is below this, and ``sparsity`` is the most that may. ``l1`` and
            ``distance`` are in the unit of the weights, ``relevance`` in standard deviations of chance: -1.645 is where a unit is more
            relevant than chance with a probability of 5 %.
        subsets: For ``relevance``: in each training step before the last cut, this share of each layer's units takes part, drawn at
            random, and the steps since the cut before are what relevance is taken from. None takes it from passes over
            ``score_examples`` at each cut, as for a first cut before any training, and trains the whole network.
        score_examples: Training examples that a criterion which needs data looks at.
        distil: The network also learns from the answers of the unpruned one (``training.distil_weight``).
        training: How it is trained between the cuts. The schedule of the rate is ``constant`` or ``linear``, and runs over all epochs;
            ``epochs``, ``keep`` and ``early_stopping`` do not matter: the last epoch's weights are kept.
        seed: What every random choice follows from.

    Raises:
        SettingsError: An option is unknown, out of its range, or contradicts another.

    Example:
        >>> GradualSettings(sparsity=0.9).course.cuts()[0]
        (6, 0.5203125)
        >>> GradualSettings(sparsity=0.9).length, GradualSettings(sparsity=0.9, epochs=10).course.every
        (30, 2)
        >>> GradualSettings(sparsity=90)
        Traceback (most recent call last):
        ...
        secateur.errors.SettingsError: option 'sparsity' cannot be 90: input should be less than 1
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    sparsity: float = Field(gt=0, lt=1)
    granularity: PrunedThing = "weights"
    schedule: ScheduleKind = "cubic"
    initial: float = Field(default=0.0, ge=0, lt=1)
    begin: int = Field(default=0, ge=0)
    every: int | None = Field(default=None, ge=1)
    steps: int | None = Field(default=None, ge=1)
    epochs: int | None = Field(default=None, ge=1)
    scope: Literal["layer", "global"] = "layer"
    criterion: str | None = None
    normalise: Literal["none", "l1", "l2"] = "none"
    exclude: tuple[str, ...] = ()
    minimum: Minimum = 1
    round_to: RoundTo = 1
    below: float | None = None
    subsets: float | None = Field(default=None, gt=0, lt=1)
    score_examples: int = Field(default=1024, ge=1)
    distil: bool = False
    training: TrainSettings = Field(default_factory=_fine_tuning)
    seed: int = Field(default=0, ge=0)

    if not TYPE_CHECKING:

        def __init__(self, **options):
            try:
                super().__init__(**options)
            except ValidationError as error:
                missing = "say which share is to go, such as 0.9"
                raise SettingsError(
                    sentence(error, GradualSettings, of=" of gradual pruning", missing=missing)
                ) from None

    @model_validator(mode="after")
    def _agree(self) -> GradualSettings:
        if self.training.schedule == "cosine" or self.training.warmup_epochs:
            raise ValueError(
                "the rate of gradual pruning is constant or falls linearly over all epochs; leave out the cosine schedule and"
                " warmup_epochs"
            )
        by_layer = self.granularity == "units" and self.scope == "layer"
        if not by_layer and self.round_to != 1:
            raise ValueError("round_to is for units by layer; leave it out, or take granularity='units'")
        if self.granularity == "weights" and self.minimum != 1:
            raise ValueError("minimum is for units; leave it out, or take granularity='units'")
        check_limits(minimum=self.minimum, round_to=self.round_to)
        self._check_scores()
        if self.course.end > self.length:
            raise ValueError(
                f"the last cut is after {self.course.end} epochs, and epochs is {self.length}; give more epochs, or smaller"
                " begin, every or steps"
            )
        return self

    def _check_scores(self) -> None:
        """What is said of scores that these do not have."""
        if self.below is not None and self.granularity != "units":
            raise ValueError("below is for units; leave it out, or take granularity='units'")
        if self.below is not None and self.normalise != "none":
            raise ValueError("below is in the unit of the scores as they are; leave out normalise")
        if self.subsets is not None and (self.granularity, self.by) != ("units", "relevance"):
            raise ValueError(
                "subsets is how relevance is gathered; leave it out, or take granularity='units' and criterion='relevance'"
            )

    @property
    def course(self) -> Schedule:
        """The schedule, with what was left open."""
        _, every, steps = next(one for one in _PRINTED if self.sparsity <= one[0])
        if self.epochs is not None:
            free = self.epochs - self.begin
            most = free - 1 if self.every is None else (free - 1) // self.every
            steps = self.steps or max(1, min(steps, most))
            every = max(1, free // (steps + 1))
        return Schedule(
            self.sparsity, self.schedule, self.initial, self.begin, self.every or every, self.steps or steps
        )  # fmt: skip

    @property
    def length(self) -> int:
        """Epochs in all."""
        return self.course.end + self.course.every if self.epochs is None else self.epochs

    @property
    def by(self) -> str:
        """The criterion."""
        return self.criterion or _CRITERIA[self.granularity]

    def training_between(self, begin: int, end: int) -> TrainSettings:
        """How the network is trained from one epoch to another: the part of the rate's whole way that falls to them."""
        first, last = self.training.lr, self.training.lr_end
        rates: dict[str, float] = {}
        if self.training.schedule == "linear":
            rates = {
                "lr": first + (last - first) * begin / self.length,
                "lr_end": first + (last - first) * end / self.length,
            }
        return self.training.but(epochs=end - begin, keep="last", early_stopping=None, **rates)
