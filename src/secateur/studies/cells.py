"""Cells of a study: one network, one seed, one protocol; each is known by what it does."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import Any

from secateur.methods import StepSettings
from secateur.train import TrainSettings


@dataclass(frozen=True)
class Cell:
    """One run of a study.

    Attributes:
        network: The network's name.
        data: The data set's name.
        seed: Draws the network, and everything that is random.
        training: How the unreduced network is trained.
        settings: The protocol.
        validation: Validation examples, as `secateur.data.load` takes them.
        within: Of the judged networks the smallest is kept that lost no more than so many points on validation examples; None
            keeps the last.
        scratch: Whether the reduced architecture is trained from scratch, too.
        experiments: The questions that it serves.
    """

    network: str
    data: str
    seed: int
    training: TrainSettings
    settings: StepSettings
    validation: int | float | None = None
    within: float | None = None
    scratch: bool = False
    experiments: tuple[str, ...] = ()

    @property
    def base(self) -> dict[str, Any]:
        """What the unreduced network follows from."""
        return {
            "network": self.network,
            "data": self.data,
            "seed": self.seed,
            "validation": self.validation,
            "training": self.training.model_dump(mode="json"),
        }

    @property
    def base_key(self) -> str:
        """A name for the unreduced network."""
        return f"{plain(self.network)}-{plain(self.data)}-seed{self.seed}-{digest(self.base)}"

    @property
    def key(self) -> str:
        """A name for the cell, by what it does."""
        settings: dict[str, Any] = {**self.settings.model_dump(mode="json"), "within": self.within}
        if settings["granularity"] == "unit":
            del settings["granularity"]  # names of cells stay those that they had before there were others
        if settings["search"] == "steps":
            del settings["search"]
        said = f"{settings['criterion']}-{plain(settings['scope'])}-seed{self.seed}"
        return f"{said}-{digest({'base': self.base, 'settings': settings})}"

    def serving(self, other: Cell) -> Cell:
        """The same cell for what another serves, too."""
        served = tuple(dict.fromkeys((*self.experiments, *other.experiments)))
        return replace(self, experiments=served, scratch=self.scratch or other.scratch)


def plain(name: str) -> str:
    """A name as part of a folder's."""
    return "".join(c if c.isalnum() or c in "-._" else "-" for c in name)


def digest(document: Any) -> str:
    """Eight digits that differ where what a document says does."""
    text = json.dumps(document, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
