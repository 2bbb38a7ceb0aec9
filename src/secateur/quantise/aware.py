"""Quantisation-aware training: the network learns with its numbers rounded, so that it does not miss what rounding takes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from secateur._options import expect
from secateur.data import Splits
from secateur.errors import SettingsError
from secateur.quantise.calibrate import Observer
from secateur.quantise.fold import Folded, fold, unfold
from secateur.quantise.grid import Range
from secateur.quantise.simulate import Simulated, simulate
from secateur.surgery import Masks
from secateur.train import EpochRecord, FitResult, TrainSettings, fit

_PREFIX = "network."
"""Where a simulated network has the network that it rounds."""


@dataclass(frozen=True, slots=True, eq=False)
class Aware:
    """A network that was trained with its numbers rounded.

    Attributes:
        model: The network, of the class and with the tensors that it had: its weights lie on their grids, and its norms scale by one.
        simulated: The same network as int8 runtimes compute it, with its norms folded.
        training: How the training went.
    """

    model: nn.Module
    simulated: Simulated
    training: FitResult

    @property
    def ranges(self) -> Mapping[str, Range]:
        """The range of activations at each place."""
        return self.simulated.ranges

    @property
    def keep_float(self) -> frozenset[str]:
        """The layers and operators that stay in floating point."""
        return self.simulated.keep_float


def train_aware(
    model: nn.Module,
    data: Splits,
    settings: TrainSettings,
    *,
    calibration: int = 100,
    observer: Observer = "minmax",
    follow: float = 0.01,
    keep_float: Collection[str] = (),
    masks: Masks | None = None,
    teacher: nn.Module | None = None,
    seed: int = 0,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    on_batch: Callable[[int, int], None] | None = None,
    device: torch.device | str | None = None,
) -> Aware:
    """Train a network so that it computes well in int8.

    Norms are folded first, with their running statistics, and stay so: what is trained are the products that a file holds. Weights and activations are
    rounded in every forward pass as :func:`simulate` does it; gradients pass through the rounding as if it were not there, and stop where an
    activation lies outside its range. Ranges start from calibration and follow those of the batches slowly. At the end the weights are put on
    their grids.

    Args:
        model: A trained network; it is left as found.
        data: What it learns from; epochs are judged on the validation split, in int8.
        settings: How to train: few epochs, at a far smaller rate than the one that it was trained with.
        calibration: Training examples that ranges start from.
        observer: How ranges are made of these.
        follow: By how much a range moves towards that of each batch; 0 keeps it.
        keep_float: Names of layers and operators that are not rounded.
        masks: Weights that do not stay by these are zero throughout, and in the file.
        teacher: A network to imitate, such as the float network itself.
        seed: Of the training.
        on_epoch: Told of each epoch.
        on_batch: Told after each step how many of how many steps are done.
        device: Where to train.

    Returns:
        The network, and its int8 form.

    Raises:
        SettingsError: An option is out of its range, or a name is nobody's.
        ModelError: A weight is computed from others.

    Example:
        >>> from secateur import data, networks
        >>> digits = data.load("digits", limit=100)
        >>> net = networks.build("digits-net", seed=0)
        >>> aware = train_aware(net, digits, TrainSettings(epochs=1, lr=0.001))
        >>> from secateur.quantise import round_weight
        >>> weight = aware.simulated.network.conv1.weight
        >>> torch.allclose(round_weight(weight), weight, rtol=1e-6)
        True

    Source:
        Jacob et al. 2018, arXiv:1712.05877, section 3; gradients: Bengio et al. 2013, arXiv:1308.3432. There norms are folded anew at every step; here
        once, as Nagel et al. 2021, arXiv:2106.08295, section 4.2, recommend.
    """
    expect(
        "train_aware(model, data, TrainSettings(epochs=3, lr=1e-4))",
        model=(model, nn.Module),
        data=(data, Splits),
        settings=(settings, TrainSettings),
    )
    if calibration < 1 or not 0 <= follow <= 1:
        raise SettingsError(
            f"calibration ({calibration}) must be at least 1 and follow ({follow}) between 0 and 1"
        )
    count = min(calibration, len(data.train))
    examples = data.train.take(count, seed=seed).inputs
    folded = fold(model, examples[:1])
    made = simulate(folded.model, examples, observer=observer, keep_float=keep_float)
    made.follow = follow
    options: dict[str, Any] = {}
    if masks is not None:
        options["masks"] = Masks({f"{_PREFIX}{name}": kept for name, kept in masks.kept.items()})
    training = fit(
        made,
        data.train,
        data.validation,
        settings,
        seed=seed,
        teacher=teacher,
        on_epoch=on_epoch,
        on_batch=on_batch,
        device=device,
        **options,
    )
    made.follow = 0.0
    made.eval()
    settled = made.settle()
    back = unfold(Folded(settled, folded.pairs, folded.left), model)
    return Aware(back.to(next(settled.parameters()).device), made.on(settled).eval(), training)
