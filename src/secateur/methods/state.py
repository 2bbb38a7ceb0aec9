"""Where a search stands between two steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class SearchState:
    """Where a search stands between two steps: all that is needed to go on, besides the network itself.

    Attributes:
        iteration: Candidates tried.
        accepted: Candidates accepted: the number of the network in hand.
        round: The current round, from 0.
        shares: The operation size of each layer (the share of its units that the next cut removes) that is not the first.
        rejected: To how many units a layer of the network in hand could not be cut, by the last candidate that was rejected.
        closed: Layers whose size fell below the smallest.
        best: The best validation accuracy reached, in percent.
        accepted_shock: The greatest rise in loss by a cut that retraining made good, in this round.
        rejected_shock: The smallest rise in loss that it did not.
        gained: Whether anything was accepted in this round.
        finished: Whether the round's finishing training is done.
        done: Whether the search is over.
    """

    iteration: int = 0
    accepted: int = 0
    round: int = 0
    shares: dict[str, float] = field(default_factory=dict[str, float])
    rejected: dict[str, int] = field(default_factory=dict[str, int])
    closed: list[str] = field(default_factory=list[str])
    best: float = 0.0
    accepted_shock: float = float("-inf")
    rejected_shock: float = float("inf")
    gained: bool = False
    finished: bool = False
    done: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON (which has no infinity)."""
        document = asdict(self)
        for key in ("accepted_shock", "rejected_shock"):
            if abs(document[key]) == float("inf"):
                document[key] = None
        return document

    @staticmethod
    def from_dict(document: Mapping[str, Any]) -> SearchState:
        """The state that :meth:`as_dict` wrote down."""
        values = {key: value for key, value in document.items() if value is not None}
        return SearchState(**values)
