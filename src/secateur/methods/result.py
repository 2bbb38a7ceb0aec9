"""What a reduction did, as values."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import nn

from secateur.channels import Channels
from secateur.cost import Cost
from secateur.evaluate import Drop, Evaluation
from secateur.methods.settings import ReduceSettings

Kind = Literal["cut", "finish"]


@dataclass(frozen=True, slots=True)
class Step:
    """One candidate: what was cut, what it reached, whether it was accepted.

    Attributes:
        iteration: Counted from 1.
        round: Counted from 0.
        kind: ``cut`` for a candidate, ``finish`` for a longer training of what was accepted.
        group: The group that was cut; empty for ``finish``.
        share: The share of its units that was to go.
        width_before: Its units before.
        width_after: Its units in the candidate.
        accepted: Whether the search went on from it.
        reason: Why, in words.
        accuracy: Of the candidate on the validation split, in percent.
        drop: How far that is below the reference, in percentage points.
        upper: The drop's upper confidence limit.
        shock: How much the validation loss rose by the cut itself, before any retraining.
        parameters: Of the candidate.
        macs: Of the candidate.
        epochs: Epochs of retraining.
        seconds: Wall time.
    """

    iteration: int
    round: int
    kind: Kind
    group: str
    share: float
    width_before: int
    width_after: int
    accepted: bool
    reason: str
    accuracy: float
    drop: float
    upper: float
    shock: float
    parameters: int
    macs: int
    epochs: int
    seconds: float = field(compare=False)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Layer:
    """One group of channels before and after, and what its units account for.

    Attributes:
        name: The group's name.
        kind: The class of the module that writes it.
        width_before: Units in the given network.
        parameters_before: Parameters that would go if all these units went.
        macs_before: Multiply-adds, likewise.
        width_after: Units in the reduced network.
        parameters_after: As before, in the reduced network.
        macs_after: As before, in the reduced network.
    """

    name: str
    kind: str
    width_before: int
    parameters_before: int
    macs_before: int
    width_after: int
    parameters_after: int
    macs_after: int


@dataclass(frozen=True, eq=False)
class ReduceResult:
    """A reduced network, and how it came about.

    Attributes:
        model: The reduced network, of the same class as the one given, in eval mode.
        history: Every candidate, in order.
        evaluation_before: The given network on the validation split.
        evaluation_after: The reduced network on the validation split.
        test_before: The given network on the test split, read once, at the end.
        test_after: The reduced network on it.
        validation_drop: The drop on the validation split.
        test_drop: The drop on the test split.
        cost_before: Of the given network.
        cost_after: Of the reduced one.
        layers: Each group of channels before and after.
        channels: What was found in the given network: its groups, what is fixed and why.
        settings: What was asked.
        seconds: Wall time over all steps.
        folder: The run folder, if there is one.
        file: What is deployed, if the network is to be; then evaluations after the reduction are this file's.
        notes: Remarks.
    """

    model: nn.Module
    history: tuple[Step, ...]
    evaluation_before: Evaluation
    evaluation_after: Evaluation
    test_before: Evaluation
    test_after: Evaluation
    validation_drop: Drop
    test_drop: Drop
    cost_before: Cost
    cost_after: Cost
    layers: tuple[Layer, ...]
    channels: Channels
    settings: ReduceSettings
    seconds: float
    folder: Path | None = None
    file: bytes | None = None
    notes: tuple[str, ...] = ()

    @property
    def removed(self) -> bool:
        """Whether anything was removed; if not, ``notes`` says why."""
        return any(step.accepted and step.kind == "cut" for step in self.history)

    @property
    def held(self) -> bool:
        """Whether the drop measured on the test split is within the bound."""
        return self.test_drop.points <= self.settings.max_drop

    def __str__(self) -> str:
        before, after = self.cost_before, self.cost_after
        figures = (
            f"{before.parameters:,} -> {after.parameters:,} parameters"
            f" ({before.parameters / max(after.parameters, 1):.1f}x),"
            f" {before.macs:,} -> {after.macs:,} MACs ({before.macs / max(after.macs, 1):.1f}x);"
            f" test accuracy {self.test_before.accuracy:.2f} -> {self.test_after.accuracy:.2f} %"
        )
        return "\n".join([figures, *self.notes])
