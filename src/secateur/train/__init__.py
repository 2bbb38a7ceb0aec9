"""Training: one loop, its settings, distillation, attention transfer and augmentation."""

from secateur.train.attention import attention_loss, attention_map
from secateur.train.augment import (
    Augmenter,
    fill_of,
    make_augmenter,
    random_flip,
    random_shift,
    random_signal,
)
from secateur.train.distil import distil_loss, soften, teacher_logits
from secateur.train.forward import Examples, check_fit, device_of, dtype_of, logits, mode
from secateur.train.loop import Penalty, fit
from secateur.train.rates import learning_rate, make_optimizer
from secateur.train.settings import TrainSettings
from secateur.train.state import EpochRecord, FitResult, TrainState, restore, snapshot

__all__ = [
    "Augmenter",
    "EpochRecord",
    "Examples",
    "FitResult",
    "Penalty",
    "TrainSettings",
    "TrainState",
    "attention_loss",
    "attention_map",
    "check_fit",
    "device_of",
    "distil_loss",
    "dtype_of",
    "fill_of",
    "fit",
    "learning_rate",
    "logits",
    "make_augmenter",
    "make_optimizer",
    "mode",
    "random_flip",
    "random_shift",
    "random_signal",
    "restore",
    "snapshot",
    "soften",
    "teacher_logits",
]
