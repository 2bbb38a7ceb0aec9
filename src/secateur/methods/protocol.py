"""A protocol of pruning step by step: every option, with its range, as one frozen value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from secateur._options import sentence
from secateur.criteria import CRITERIA, WEIGHT_CRITERIA
from secateur.errors import SettingsError
from secateur.train import TrainSettings

OBS = "obs"
"""The criterion of single weights that also moves those that stay (`secateur.methods.layerwise_obs`); of each layer the same share goes."""

NETWORK = "network"
"""The scope of all layers together."""

Retrain: TypeAlias = Literal["none", "network", "layer", "block"]
Search: TypeAlias = Literal["steps", "bisection"]
Granularity: TypeAlias = Literal["unit", "kernel", "weight"]
"""What goes at a time: whole units, cut for real; or kernels or single weights, which are zero from then on."""


class StepSettings(BaseModel):
    """Options of pruning step by step, checked when they are set.

    Attributes:
        granularity: What goes: ``unit``s, which are cut for real, or ``kernel``s (all weights between one input and one output
            channel) or single ``weight``s of dense and convolutional layers, which are set to zero and stay so through retraining.
            Below, units stand for whichever it is.
        criterion: Which units go first; a name that ``secateur.score`` knows (for kernels and weights: ``secateur.score_weights``; for
            weights also ``obs``, layer-wise optimal brain surgeon, which moves those that stay).
        normalise: Each layer's scores are divided by their ``l1`` or ``l2`` norm, so that layers compete; or ``none``.
        cost_weight: Prefer units that cost more: their share of all multiply-adds, times this, is taken off their scores.
        scope: ``network`` ranks the units of all layers together; the name of a layer prunes that one alone.
        step: What goes at a time: so many units, or a share of those that the scope had at the start.
        search: ``steps`` removes step after step. ``bisection`` looks for the largest number of steps that loses no more than
            ``max_drop`` points, in few looks (`secateur.methods.largest_within`); scores are taken once (``recompute=0``), and
            nothing is retrained.
        until: The share of the scope's units at which it ends.
        max_drop: It ends as soon as the accuracy on validation examples is more than so many points below the unreduced
            network's; None goes on.
        retrain: What is trained after each step: ``none``, the whole ``network``, only the ``layer`` that was cut, or (where units
            go) the smallest ``block`` around all that was cut, until it gives what the unreduced network's block gives (the whole
            network where there is none).
        iterations: Batches of that training.
        recompute: Scores are taken anew after so many steps; 0 takes them once, at the start.
        judge: The accuracy is taken after so many steps (and after the last).
        judge_examples: Validation examples on which it is taken, the same for all; None for all there are.
        score_examples: Training examples on which scores are computed.
        training: How the network is retrained. Epochs and schedule do not matter: after a step it trains for ``iterations`` batches.
        seed: What every random choice follows from.

    Raises:
        SettingsError: An option is unknown or out of its range, iterations and what is retrained contradict each other, or
            there is no such criterion for what goes.

    Example:
        >>> StepSettings(criterion="l1", retrain="network", iterations=50).scope
        'network'
        >>> StepSettings(retrain="layer")
        Traceback (most recent call last):
        ...
        secateur.errors.SettingsError: retrain='layer' needs iterations, the batches that are trained after each step
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    granularity: Granularity = "unit"
    criterion: str = "taylor"
    normalise: Literal["none", "l1", "l2"] = "none"
    cost_weight: float = Field(default=0.0, ge=0)
    scope: str = NETWORK
    step: int | float = Field(default=1, gt=0)
    search: Search = "steps"
    until: float = Field(default=0.9, gt=0, lt=1)
    max_drop: float | None = Field(default=None, ge=0, lt=100)
    retrain: Retrain = "none"
    iterations: int = Field(default=0, ge=0)
    recompute: int = Field(default=1, ge=0)
    judge: int = Field(default=1, ge=1)
    judge_examples: int | None = Field(default=None, ge=1)
    score_examples: int = Field(default=1024, ge=1)
    training: TrainSettings = Field(default_factory=lambda: TrainSettings(lr=0.02, nesterov=True, clip=1.0))
    seed: int = Field(default=0, ge=0)

    if not TYPE_CHECKING:

        def __init__(self, **options):
            try:
                super().__init__(**options)
            except ValidationError as error:
                raise SettingsError(sentence(error, StepSettings, of=" of stepwise pruning")) from None
            if (self.retrain == "none") != (self.iterations == 0):
                raise SettingsError(
                    f"iterations={self.iterations} says how many batches are trained after each step, and retrain='none' trains none"
                    if self.retrain == "none"
                    else f"retrain={self.retrain!r} needs iterations, the batches that are trained after each step"
                )
            if isinstance(self.step, float) and self.step >= 1 and self.step != int(self.step):
                raise SettingsError(f"step={self.step:g} must be a share below 1, or a whole number of units")
            if self.retrain == "block" and self.granularity != "unit":
                raise SettingsError(
                    f"retrain='block' trains what is around units that were cut, and granularity={self.granularity!r} cuts none; take 'layer'"
                    " or 'network'"
                )
            if self.training.attention_layers:
                raise SettingsError(
                    "training with attention_layers needs a teacher, which stepwise pruning has none of; leave them out"
                )
            self._check_criterion()
            self._check_search()

    def _check_search(self) -> None:
        if self.search == "steps":
            return
        if self.max_drop is None:
            raise SettingsError(
                "search='bisection' looks for the bound max_drop; say how many points may be lost"
            )
        if self.retrain != "none" or self.recompute:
            raise SettingsError(
                "search='bisection' compares cuts of one network by one order of its units; take retrain='none' and recompute=0, or"
                " search='steps'"
            )

    def _check_criterion(self) -> None:
        """Refuse a criterion that there is, but not for what goes."""
        if self.criterion == OBS:
            if self.granularity != "weight" or self.normalise != "none" or self.cost_weight:
                raise SettingsError(
                    "criterion 'obs' removes single weights, the same share of each layer; take granularity='weight', normalise='none' and"
                    " cost_weight=0"
                )
            return
        units, weights = self.criterion in CRITERIA, self.criterion in WEIGHT_CRITERIA
        if self.granularity == "unit" and weights and not units:
            raise SettingsError(
                f"criterion {self.criterion!r} scores single weights and kernels, not units; say granularity='weight' or 'kernel', or"
                f" take one for units: {', '.join(CRITERIA)}"
            )
        if self.granularity != "unit" and units and not weights:
            raise SettingsError(
                f"criterion {self.criterion!r} scores whole units, and granularity={self.granularity!r} cuts {self.granularity}s;"
                f" take one for these: {', '.join(WEIGHT_CRITERIA)}"
            )
