"""How PruneTrain is to be done: every option, checked before anything runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import ByteSize, ConfigDict, Field, ValidationError, model_validator

from secateur._options import Written, sentence
from secateur.errors import SettingsError
from secateur.plan import check_limits


class PruneTrainSettings(Written):
    """Options of PruneTrain, checked when they are set.

    Attributes:
        penalty_ratio: Which share of loss and penalty together the penalty is at the first step; from it λ follows, and stays.
            0 does nothing at all, for comparison.
        threshold: A unit goes when every weight that writes or reads it is smaller.
        every: Epochs between two reconfigurations.
        rest: Epochs at the end without penalty, in which nothing goes. None is a tenth of all, one at least. The last reconfiguration
            is right before them.
        blocks: Whether blocks of whose branch nothing is left go whole.
        minimum: Units that stay in each group at least.
        round_to: Widths that stay are rounded up to a multiple of it, or to what a target is quick with; see `secateur.plan`.
        gating: Whether, at the last reconfiguration, convolutions whose channels are added to those of others stop reading and writing the
            ones that they alone are done with. The network then gathers channels before these convolutions and spreads them behind
            (`secateur.surgery.gate`).
        grow_batch: Whether batches grow as the network shrinks, and the rate with them.
        memory: Bytes that a step may keep then (as a number, or such as "2GiB"); None is what it keeps at first, or on a GPU all that there is.
        batch_limit: The largest batch; None is four times the first.

    Raises:
        SettingsError: An option is unknown or out of its range.

    Example:
        >>> PruneTrainSettings(every=10).reconfigured_after(75)
        (10, 20, 30, 40, 50, 60, 68)
        >>> PruneTrainSettings(penalty_ratio=1.5)
        Traceback (most recent call last):
        ...
        secateur.errors.SettingsError: option 'penalty_ratio' cannot be 1.5: input should be less than 1
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    written_if_used: ClassVar[frozenset[str]] = frozenset({"batch_limit", "gating", "grow_batch", "memory"})

    penalty_ratio: float = Field(default=0.25, ge=0, lt=1)
    threshold: float = Field(default=1e-4, ge=0)
    every: int = Field(default=10, ge=1)
    rest: int | None = Field(default=None, ge=0)
    blocks: bool = True
    minimum: int = Field(default=1, ge=1)
    round_to: int | str = 1
    gating: bool = False
    grow_batch: bool = False
    memory: ByteSize | None = Field(default=None, gt=0)
    batch_limit: int | None = Field(default=None, ge=1)

    if not TYPE_CHECKING:

        def __init__(self, **options):
            try:
                super().__init__(**options)
            except ValidationError as error:
                raise SettingsError(sentence(error, PruneTrainSettings, of=" of PruneTrain")) from None

    @model_validator(mode="after")
    def _agree(self) -> PruneTrainSettings:
        check_limits(minimum=self.minimum, round_to=self.round_to)
        if not self.grow_batch and (self.memory is not None or self.batch_limit is not None):
            raise ValueError(
                "memory and batch_limit are for batches that grow; add grow_batch, or leave them out"
            )
        return self

    def pruned_until(self, epochs: int) -> int:
        """After how many of so many epochs pruning ends."""
        return epochs - (max(1, epochs // 10) if self.rest is None else self.rest)

    def reconfigured_after(self, epochs: int) -> tuple[int, ...]:
        """After which of so many epochs units go.

        Args:
            epochs: Of the whole training.

        Raises:
            SettingsError: The interval is longer than the part of the training in which units may go.
        """
        end = self.pruned_until(epochs)
        if self.every > end:
            raise SettingsError(
                f"every ({self.every}) is longer than the {max(end, 0)} of {epochs} epochs in which units may go, so that none ever would;"
                " give a smaller every or rest, or more epochs"
            )
        return tuple(sorted({*range(self.every, end + 1, self.every), end}))
