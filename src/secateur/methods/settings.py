"""How a reduction is to be done: every option, checked before anything runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from secateur._options import sentence
from secateur.channels import Attention
from secateur.errors import SettingsError
from secateur.evaluate import Drop
from secateur.methods.deployment import Deployment
from secateur.plan import Minimum, RoundTo, check_limits
from secateur.train import TrainSettings

Compensate = Literal["none", "mean", "least-squares"]
Reference = Literal["initial", "best"]
RetrainScope = Literal["network", "block", "block-then-network"]


def _retrain() -> TrainSettings:
    return TrainSettings(
        epochs=5,
        optimizer="sgd",
        lr=0.02,
        momentum=0.9,
        nesterov=True,
        schedule="linear",
        ema=0.99,
        keep="last",
        clip=1.0,
    )


class ReduceSettings(BaseModel):
    """Options of a reduction under an accuracy bound, checked when they are set.

    Attributes:
        max_drop: How many percentage points of accuracy may be lost.
        confidence: The bound is on the drop's upper confidence limit (one-sided), so that it holds on unseen data; 0
            compares the drop as measured on the validation split, without its sampling error. That is the drop on all unseen
            data: to find it within the bound when *measured* on as many examples again, whose sampling error comes on top,
            in 95 of 100 cases, takes 0.99.
        reference: What the drop is counted from: the network as given (``initial``), or the best accuracy reached on the
            way (``best``, as printed).
        criterion: Which units of a layer go first; a name that ``secateur.score`` knows.
        layers: Only groups whose names match one of these patterns (``conv*``); None for all.
        kinds: Only groups written by modules of these classes (``Linear``); None for all.
        inputs: Whether features of the network's input may be removed, too.
        attention: What of attention may go: whole ``heads``, or positions of all heads' ``width`` (see `secateur.watch`).
        minimum: Units that stay in each layer at least; or that number by pattern of the layers' names.
        round_to: Widths that stay are a multiple of it: a number of positions, or the export target that the network is meant
            for (``"xnnpack"``, see `secateur.plan.GRAINS`); or either by pattern of the layers' names.
        choose: Which layer's cut is tried next: that of the greatest ``potential`` times operation size (as printed), which
            looks at sizes alone; or by its ``shock``: every layer's next cut is tried without retraining, and the one that
            saves most for what it adds to the loss is taken. The second costs a look at the validation data a layer.
        beta: Weight of a layer's share of the parameters in its reduction potential (and of parameters saved by a cut).
        gamma: Weight of its share of the multiply-adds (and of those saved).
        first_share: Share of a layer's units that the first cut of it removes; halved with each candidate that is rejected.
        last_share: A layer closes when its share would fall below this.
        max_iterations: How many candidates are tried at most.
        candidates: How many are tried at once, each the cut of another layer; of those within the bound the one that saves most
            is kept. Several processes can share them (``workers``).
        retrain: How a candidate is retrained.
        retrain_scope: What of a candidate is retrained: the whole ``network``; only the ``block`` around the cut, until it gives
            what the unreduced network's block gives (see `secateur.train.fit_block`); or first the block, and then the network
            where that is not enough. Where no block is smaller than the network, it is the network. A finishing training always
            trains all.
        guard: Whether the drop on training examples must be within the bound, too. ``auto`` does so where validation
            examples come in groups (few persons), whose accuracy hundreds of decisions would fit.
        retrain_examples: Retrain each candidate on so many training examples, drawn anew for each; None for all of them. A
            finishing training sees all.
        accept_early: Accept a candidate as soon as an epoch is within the bound, or no epoch at all is needed.
        give_up_early: Drop a candidate whose progress, kept up, would not reach the bound in the epochs left.
        distil: Candidates also learn from the unreduced network: from its answers (how much: ``retrain.distil_weight``), and from where its
            layers look (``retrain.attention_weight``).
        compensate: What the layers behind a cut do before retraining: nothing, take the removed units' means into their
            biases, or be refitted by least squares.
        learn_shares: Pass over shares whose cut, before retraining, raises the loss by more than retraining made good so far,
            by more than three times what it did not, and by more than the loss itself; a layer's smallest share is always
            tried, unless it removes as many units as the one that was just rejected.
        rounds: How often the search goes through the layers; with each further round all are open again, at ``first_share``.
        patience: By what the epochs of retraining are multiplied from each round to the next.
        finish: How the network is trained on at the end of a round that accepted something, and kept if it is no worse; None
            leaves it as it is.
        score_examples: How many training examples scores and compensation are computed on.
        deploy: What the reduced network becomes, a file of a runtime in narrower numbers, say. Then the accuracy of each
            candidate's *file* is held against the bound, and that of the unreduced network as it is is what it is counted from. None judges
            the network itself.
        seed: What every random choice follows from.

    Raises:
        SettingsError: An option is unknown, out of its range, or contradicts another.

    Example:
        >>> ReduceSettings(max_drop=0.5).criterion
        'taylor'
        >>> ReduceSettings(max_drop=-1)
        Traceback (most recent call last):
        ...
        secateur.errors.SettingsError: option 'max_drop' cannot be -1: input should be greater than or equal to 0
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    max_drop: float = Field(ge=0, lt=100)
    confidence: float = Field(default=0.95, ge=0, lt=1)
    reference: Reference = "initial"
    criterion: str = "taylor"
    layers: tuple[str, ...] | None = None
    kinds: tuple[str, ...] | None = None
    inputs: bool = False
    attention: Attention = "heads"
    minimum: Minimum = 1
    round_to: RoundTo = 1
    choose: Literal["potential", "shock"] = "shock"
    beta: float = Field(default=1.0, ge=0)
    gamma: float = Field(default=1.0, ge=0)
    first_share: float = Field(default=0.64, gt=0, lt=1)
    last_share: float = Field(default=0.08, gt=0, lt=1)
    max_iterations: int = Field(default=200, ge=1)
    candidates: int = Field(default=1, ge=1)
    retrain: TrainSettings = Field(default_factory=_retrain)
    retrain_scope: RetrainScope = "network"
    guard: Literal["auto", "on", "off"] = "auto"
    retrain_examples: int | None = Field(default=None, ge=1)
    accept_early: bool = True
    give_up_early: bool = True
    distil: bool = True
    compensate: Compensate = "least-squares"
    learn_shares: bool = True
    rounds: int = Field(default=2, ge=1)
    patience: float = Field(default=3.0, ge=1)
    finish: TrainSettings | None = None
    score_examples: int = Field(default=1024, ge=1)
    deploy: Deployment | None = None
    seed: int = Field(default=0, ge=0)

    if not TYPE_CHECKING:

        def __init__(self, **options):
            try:
                super().__init__(**options)
            except ValidationError as error:
                raise SettingsError(
                    sentence(
                        error,
                        ReduceSettings,
                        of=" of a reduction",
                        missing="say how many percentage points of accuracy may be lost",
                    )
                ) from None

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.last_share > self.first_share:
            raise ValueError(f"last_share ({self.last_share:g}) is above first_share ({self.first_share:g})")
        attentive = any(one is not None and one.attention_layers for one in (self.retrain, self.finish))
        if attentive and not self.distil:
            raise ValueError(
                "attention_weight compares layers with the unreduced network's, which needs distil=True"
            )
        if 0 < self.confidence < 0.5:
            raise ValueError(f"confidence ({self.confidence:g}) must be 0, or from 0.5 up to 1")
        check_limits(minimum=self.minimum, round_to=self.round_to)
        return self

    @classmethod
    def as_printed(cls, max_drop: float, **changes: Any) -> ReduceSettings:
        """SNARE as its source prints it: Taylor, 5 epochs of plain retraining, the drop from the best accuracy so far.

        Example:
            >>> ReduceSettings.as_printed(0.5).distil
            False
        """
        plain = TrainSettings(
            epochs=5, optimizer="sgd", lr=0.01, momentum=0.0, schedule="constant", keep="best"
        )
        options: dict[str, Any] = {
            "max_drop": max_drop,
            "confidence": 0.0,
            "reference": "best",
            "retrain": plain,
            "accept_early": False,
            "give_up_early": False,
            "distil": False,
            "compensate": "none",
            "learn_shares": False,
            "choose": "potential",
            "guard": "off",
            "rounds": 1,
        }
        return cls(**(options | changes))

    def limit(self, drop: Drop) -> float:
        """What of a drop is held against the bound: its upper limit, or the drop as measured."""
        return drop.upper if self.confidence else drop.points

    @property
    def weights(self) -> tuple[float, float]:
        """What parameters and multiply-adds that a cut saves count: what is aimed at, or ``beta`` and ``gamma``."""
        aim = "cost" if self.deploy is None else self.deploy.aim
        return {"cost": (self.beta, self.gamma), "bytes": (1.0, 0.0), "latency": (0.0, 1.0)}[aim]

    def but(self, **changes: Any) -> ReduceSettings:
        """The same settings with some changed, checked again."""
        return ReduceSettings(**{**self.model_dump(), **changes})

    def retraining(self, number: int) -> TrainSettings:
        """How candidates are retrained in a round, counted from 0."""
        return self.retrain.but(epochs=max(1, round(self.retrain.epochs * self.patience**number)))
