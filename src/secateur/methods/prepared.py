"""A network made ready for int8, judged by the file that is made of it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, cast

from torch import Tensor, nn

from secateur.data import Splits
from secateur.evaluate import evaluate
from secateur.export import export, open_file, suffix_of
from secateur.quantise import Observer, Prepared, Simulated, prepare
from secateur.train import TrainSettings

QAT: Final = "qat"
"""The mode in which a network is trained with its numbers rounded, and then written in int8."""

_SLOWER: Final = 50
"""By how much the rate is below the one that the network is trained with: it only settles on its grids."""
_EPOCHS: Final = 3
_NO_BOUND: Final = 100.0


def settling(training: TrainSettings, **changes: Any) -> TrainSettings:
    """How a network is trained with its numbers rounded, by how it is trained without: few epochs at a small rate.

    Args:
        training: How it is trained without.
        changes: What is to be otherwise.

    Raises:
        SettingsError: An option is unknown, out of its range, or contradicts another.

    Example:
        >>> found = settling(TrainSettings(epochs=30, lr=0.1, warmup_epochs=1), epochs=5)
        >>> found.epochs, found.lr, found.warmup_epochs
        (5, 0.002, 0.0)
    """
    calm: dict[str, Any] = {
        "epochs": _EPOCHS,
        "lr": training.lr / _SLOWER,
        "lr_end": training.lr_end / _SLOWER,
        "warmup_epochs": 0.0,
        "early_stopping": None,
        "ema": None,
    }
    return training.but(**{**calm, **changes})


def prepare_for_file(
    model: nn.Module,
    splits: Splits,
    examples: Tensor,
    *,
    mode: str = "int8",
    observer: str = "minmax",
    keep_float: tuple[str, ...] = (),
    max_drop: float | None = None,
) -> Prepared:
    """Equalise layers and correct biases; what stays float, to hold a bound, is judged by LiteRT files on validation examples.

    Args:
        model: The network; it is left as found.
        splits: Judged is on the validation split.
        examples: Training examples that ranges are found on.
        mode: ``int8`` or ``int8-only``.
        observer: How ranges are found.
        keep_float: Layers that stay float in any case.
        max_drop: Points of accuracy that the file may lose; None leaves nothing else float.

    Raises:
        ExportError: The target cannot take the network.

    Example:
        >>> from secateur import data, networks
        >>> digits = data.load("digits", limit=100)
        >>> found = prepare_for_file(networks.build("digits-net", seed=0), digits, digits.train.inputs)
        >>> layers_left_float(found.simulated)
        ()
    """

    def judge(made: Simulated) -> float:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"trial{suffix_of('litert')}"
            export(
                made.network, examples[:1], file,
                target="litert", mode=mode, calibration=examples, observer=observer,
                keep_float=layers_left_float(made, keep_float), ranges=made,
            )  # fmt: skip
            return evaluate(open_file(file), splits.validation).accuracy

    return prepare(
        model, examples, splits.validation,
        max_drop=_NO_BOUND if max_drop is None else max_drop, observer=cast("Observer", observer),
        keep_float=keep_float, judge=None if max_drop is None else judge,
    )  # fmt: skip


def layers_left_float(made: Simulated, asked: tuple[str, ...] = ()) -> tuple[str, ...]:
    """What stays float, as files know it: layers that were asked for, and those that were found."""
    modules = dict(cast("Iterator[tuple[str, nn.Module]]", made.network.named_modules()))
    return tuple(dict.fromkeys((*asked, *(name for name in sorted(made.keep_float) if name in modules))))
