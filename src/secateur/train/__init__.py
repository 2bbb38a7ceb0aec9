"""Training: one loop, its settings, penalties, distillation, attention transfer, augmentation, and blocks that are trained by themselves."""

from secateur.train.attention import attention_loss, attention_map
from secateur.train.augment import (
    Augmenter,
    fill_of,
    make_augmenter,
    random_affine,
    random_flip,
    random_shift,
    random_signal,
)
from secateur.train.blocks import TrainingBlock, block_around
from secateur.train.blockwise import PairsFrom, block_outputs, fit_block
from secateur.train.companion import Companion
from secateur.train.distil import distil_loss, soften, teacher_logits
from secateur.train.forward import Examples, check_fit, device_of, dtype_of, logits, mode
from secateur.train.ghost import GhostNorms
from secateur.train.inconsistent import LossLimit, conserve
from secateur.train.loop import Penalty, fit
from secateur.train.memory import Line, fit_line, fixed_bytes, kept_bytes, largest_batch
from secateur.train.penalties import GroupLasso
from secateur.train.rates import learning_rate, make_optimizer
from secateur.train.settings import TrainSettings
from secateur.train.small_maps import SmallMaps
from secateur.train.sparse_gradients import sparse_gradients, thinned
from secateur.train.state import EpochRecord, FitResult, TrainState, restore, snapshot
from secateur.train.subsets import fit_subsets

__all__ = [
    "Augmenter",
    "Companion",
    "EpochRecord",
    "Examples",
    "FitResult",
    "GhostNorms",
    "GroupLasso",
    "Line",
    "LossLimit",
    "PairsFrom",
    "Penalty",
    "SmallMaps",
    "TrainSettings",
    "TrainState",
    "TrainingBlock",
    "attention_loss",
    "attention_map",
    "block_around",
    "block_outputs",
    "check_fit",
    "conserve",
    "device_of",
    "distil_loss",
    "dtype_of",
    "fill_of",
    "fit",
    "fit_block",
    "fit_line",
    "fit_subsets",
    "fixed_bytes",
    "kept_bytes",
    "largest_batch",
    "learning_rate",
    "logits",
    "make_augmenter",
    "make_optimizer",
    "mode",
    "random_affine",
    "random_flip",
    "random_shift",
    "random_signal",
    "restore",
    "snapshot",
    "soften",
    "sparse_gradients",
    "teacher_logits",
    "thinned",
]
