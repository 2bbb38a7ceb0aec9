"""The trained networks that cells start from, each trained once, in a folder from which an interrupted training goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from secateur.data import Splits
from secateur.methods import MODEL_FILE, train
from secateur.networks import build, classes_argument
from secateur.store import load, read_description
from secateur.train import EpochRecord, TrainSettings


def built(network: str, data: Splits, *, seed: int) -> nn.Module:
    """A new network with an output for each class of the data."""
    return build(network, seed=seed, **classes_argument(network, classes=len(data.classes)))


def trained(
    network: str,
    data: Splits,
    training: TrainSettings,
    *,
    path: Path,
    seed: int,
    on_start: Callable[[], None],
    on_epoch: Callable[[EpochRecord], None],
) -> tuple[nn.Module, Mapping[str, Any]]:
    """The trained network in a folder, trained now if it is not there, and its figures."""
    file = path / MODEL_FILE
    if not file.exists():
        on_start()
        started = (path / "run.toml").exists()
        train(
            built(network, data, seed=seed), data, None if started else training,
            out=path, seed=seed, resume=started, on_epoch=on_epoch,
        )  # fmt: skip
    model = opened(file, network)
    found: Any = read_description(file).evaluation
    return model, found


def opened(file: Path, network: str) -> nn.Module:
    """A saved network, in eval mode; one by its user's own code is trusted, since the study names it."""
    return load(file, factory=partial(build, network) if ":" in network else None).eval()
