"""How to train: every option, with its range, as one frozen value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, ValidationError, model_validator

from secateur._options import Written, sentence
from secateur.errors import SettingsError

Augment = Literal["none", "shift", "flip-shift", "affine", "signal"]
"""What is varied in the training examples; see ``secateur.train.augment``."""


class TrainSettings(Written):
    """Options of one training run, checked when they are set.

    Attributes:
        epochs: Passes over the training examples.
        batch_size: Examples a step. A last batch of a single example joins the one before it, because batch norm
            cannot train on one.
        optimizer: The rule of the steps.
        lr: Learning rate at its height.
        momentum: Momentum of SGD and RMSprop.
        nesterov: SGD with Nesterov's momentum.
        weight_decay: L2 penalty (decoupled from the gradient for ``adamw``).
        schedule: How the learning rate goes from ``lr`` (``constant``) down to ``lr_end`` (``linear``, ``cosine``).
        lr_end: Where a linear or cosine schedule ends.
        warmup_epochs: Epochs, or parts of one, in which the rate climbs linearly to ``lr``.
        label_smoothing: Share of a label spread evenly over all classes.
        precision: ``32``, or mixed with ``bf16`` or ``16`` (``16`` needs a GPU). ``auto`` is 32 on a processor and the
            best that the GPU has on a GPU.
        ema: Decay of the running average of weights and buffers, which is then what is validated and returned.
        early_stopping: Stop after this many epochs without a better one.
        keep: Return the ``best`` epoch on the validation examples (highest accuracy, then lowest loss) or the
            ``last``. Without validation examples it is the last.
        distil_weight: Share of the teacher's part in the loss, where there is a teacher.
        distil_temperature: Softens the teacher's answers.
        attention_weight: Weight of attention transfer from a teacher, beside its answers: how much it counts that layers look
            elsewhere than the teacher's.
        attention_layers: The layers that are compared, by the names of their modules in both networks; they give channels with
            positions. How many channels they have does not matter.
        augment: Random changes to the training examples.
        shift: Pixels by which ``shift``, ``flip-shift`` and ``affine`` move at most.
        shift_fill: What fills the border: each channel's ``minimum`` over the training examples or its ``mean``.
        clip: Largest norm of all gradients together.
        channels_last: Hold the weights of 2-D convolutions with their channels last while training, which is quicker where
            convolutions are depthwise; afterwards they are as they were.
        ghost_batch: Batch norms take their statistics over groups of so many examples of a batch (ghost batch norm), so that larger
            batches train as the smaller ones do.
        inconsistent: Steps at most by which a batch is trained on again at once, if its loss is above the mean of the last epoch's by three
            deviations (inconsistent stochastic gradient descent). Each loss is read then, for which a GPU waits.
        sparse_gradients: Share of the gradients of activations that is thinned to zeros, unbiased (`secateur.train.thinned`). It saves time
            only where kernels leave out zeros.
        small_maps: Compute depthwise convolutions on maps of up to four positions position by position, which is much quicker on a
            processor; the numbers are the same but for rounding. Networks for large photographs end in such maps at 32x32.

    Raises:
        SettingsError: An option is unknown, out of its range, or contradicts another.

    Example:
        >>> TrainSettings(epochs=3).but(lr=0.1).lr
        0.1
        >>> TrainSettings(epoch=3)
        Traceback (most recent call last):
        ...
        secateur.errors.SettingsError: no training option is named 'epoch'; did you mean 'epochs'?
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    written_if_used: ClassVar[frozenset[str]] = frozenset(
        {
            "attention_weight",
            "attention_layers",
            "channels_last",
            "ghost_batch",
            "inconsistent",
            "lr_end",
            "small_maps",
            "sparse_gradients",
        }
    )

    epochs: int = Field(default=20, ge=1)
    batch_size: int = Field(default=128, ge=1)
    optimizer: Literal["sgd", "adam", "adamw", "rmsprop"] = "sgd"
    lr: float = Field(default=0.01, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    nesterov: bool = False
    weight_decay: float = Field(default=0.0, ge=0)
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    lr_end: float = Field(default=0.0, ge=0)
    warmup_epochs: float = Field(default=0.0, ge=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    precision: Literal["auto", "32", "bf16", "16"] = "auto"
    ema: float | None = Field(default=None, gt=0, lt=1)
    early_stopping: int | None = Field(default=None, ge=1)
    keep: Literal["best", "last"] = "best"
    distil_weight: float = Field(default=0.5, ge=0, le=1)
    distil_temperature: float = Field(default=4.0, gt=0)
    attention_weight: float = Field(default=0.0, ge=0)
    attention_layers: tuple[str, ...] = Field(default=())
    augment: Augment = "none"
    shift: int = Field(default=2, ge=1)
    shift_fill: Literal["minimum", "mean"] = "minimum"
    clip: float | None = Field(default=None, gt=0)
    channels_last: bool = False
    ghost_batch: int | None = Field(default=None, ge=2)
    inconsistent: int = Field(default=0, ge=0)
    sparse_gradients: float = Field(default=0.0, ge=0, lt=1)
    small_maps: bool = False

    if not TYPE_CHECKING:  # type checkers see the signature that pydantic derives from the fields

        def __init__(self, **options):
            try:
                super().__init__(**options)
            except ValidationError as error:
                raise SettingsError(sentence(error, TrainSettings, named="training option")) from None

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.nesterov and (self.optimizer != "sgd" or self.momentum == 0):
            raise ValueError("nesterov needs optimizer='sgd' and a momentum above 0")
        if self.lr_end and (self.schedule == "constant" or self.lr_end > self.lr):
            raise ValueError(
                f"lr_end ({self.lr_end:g}) is where a linear or cosine schedule ends, at most at lr ({self.lr:g})"
            )
        if self.warmup_epochs > self.epochs:
            raise ValueError(f"warmup_epochs ({self.warmup_epochs:g}) is longer than epochs ({self.epochs})")
        if (self.attention_weight > 0) != bool(self.attention_layers):
            raise ValueError(
                "attention_weight and attention_layers go together: how much, and which layers' outputs are compared"
            )
        if len(set(self.attention_layers)) < len(self.attention_layers):
            raise ValueError("attention_layers names a layer twice; name each once")
        return self

    def but(self, **changes: Any) -> TrainSettings:
        """The same settings with some changed, checked again.

        Args:
            changes: New values by option name.

        Returns:
            New settings.

        Raises:
            SettingsError: As for the class.

        Example:
            >>> TrainSettings().but(schedule="cosine").schedule
            'cosine'
        """
        return TrainSettings(**{**self.model_dump(), **changes})
