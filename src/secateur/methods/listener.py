"""Who is told of what happens during a reduction."""

from __future__ import annotations

from typing import Protocol

from secateur.evaluate import Drop
from secateur.methods.result import Step
from secateur.train import EpochRecord


class Listener(Protocol):
    """Told of what happens during a reduction, for progress bars. Nothing it does changes the result."""

    def remark(self, words: str) -> None:
        """Something is to be known before hours are spent."""
        ...

    def candidate(self, iteration: int, group: str, before: int, after: int, epochs: int) -> None:
        """A candidate is about to be retrained (``group`` is empty for a finishing training)."""
        ...

    def epoch(self, record: EpochRecord, drop: Drop) -> None:
        """An epoch of retraining is done."""
        ...

    def batch(self, done: int, total: int) -> None:
        """A step of retraining is done."""
        ...

    def step(self, step: Step) -> None:
        """A candidate was accepted or rejected."""
        ...


class Silent:
    """A listener that does nothing; subclass it for some of the calls."""

    def remark(self, words: str) -> None:
        """Do nothing."""

    def candidate(self, iteration: int, group: str, before: int, after: int, epochs: int) -> None:
        """Do nothing."""

    def epoch(self, record: EpochRecord, drop: Drop) -> None:
        """Do nothing."""

    def batch(self, done: int, total: int) -> None:
        """Do nothing."""

    def step(self, step: Step) -> None:
        """Do nothing."""
