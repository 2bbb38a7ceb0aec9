"""The plan that says which layers are replaced by smaller ones: decided before anything moves."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, get_args

from secateur.cost import Cost
from secateur.errors import PlanError
from secateur.plan.decompose import Kind
from secateur.plan.left import Left

_SIZES: Mapping[str, int] = {"svd": 1, "tucker": 2, "fire": 1, "depthwise-separable": 0, "shift": 0}


@dataclass(frozen=True, slots=True)
class Factors:
    """What stands for one layer.

    Attributes:
        name: The layer's module.
        kind: Of what kind.
        sizes: The rank of ``svd``, those of inputs and outputs of ``tucker``, the squeezed width of ``fire``; else nothing.
        full: What these are in the layer itself.
        before: What the layer costs.
        after: What its factors cost.
        energy: The share of the sum of squares of its weights that is kept.
    """

    name: str
    kind: Kind
    sizes: tuple[int, ...]
    full: tuple[int, ...]
    before: Cost
    after: Cost
    energy: float

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise PlanError(
                f"{self.name!r} would be replaced by {self.kind!r}; that is none of {', '.join(get_args(Kind))}"
            )
        if len(self.sizes) != _SIZES[self.kind] or len(self.full) != len(self.sizes):
            raise PlanError(
                f"{self.name!r}: {self.kind} has {_SIZES[self.kind]} sizes, not {list(self.sizes)}"
            )
        if any(not 1 <= size <= full for size, full in zip(self.sizes, self.full, strict=True)):
            raise PlanError(
                f"{self.name!r}: sizes {list(self.sizes)} must be at least 1 and at most {list(self.full)}"
            )

    @property
    def ranks(self) -> str:
        """Its sizes before and after, in words: ``20x50 -> 6x12``."""
        if not self.sizes:
            return ""
        return f"{'x'.join(map(str, self.full))} -> {'x'.join(map(str, self.sizes))}"


@dataclass(frozen=True, slots=True)
class FactorPlan:
    """Which layers are replaced by smaller ones, and what the network will then cost. A value, for one structure only.

    Attributes:
        digest: Fingerprint of the structure that it was made for.
        layers: What stands for which layer.
        before: The cost before.
        after: The cost after, exactly what the network then has.
        left: The layers that stay, by reason.
    """

    digest: str
    layers: tuple[Factors, ...]
    before: Cost
    after: Cost
    left: tuple[Left, ...] = ()

    @property
    def energy(self) -> float:
        """The least share of a layer's energy that is kept; 1 where no layer is replaced."""
        return min((layer.energy for layer in self.layers), default=1.0)

    def __str__(self) -> str:
        count = len(self.layers)
        lines = [
            f"{count} layer{'' if count == 1 else 's'} replaced:"
            f" {self.before.parameters:,} -> {self.after.parameters:,} parameters,"
            f" {self.before.macs:,} -> {self.after.macs:,} MACs"
        ]
        lines += _table([("layer", "by", "ranks", "parameters", "MACs", "energy"), *map(_row, self.layers)])
        lines += [f"  stays: {left}" for left in self.left]
        return "\n".join(lines)

    def to_json(self) -> str:
        """The plan as text, from which :meth:`from_json` makes it again."""
        return json.dumps(
            {
                "format": 1,
                "digest": self.digest,
                "factors": [asdict(layer) for layer in self.layers],
                "before": asdict(self.before),
                "after": asdict(self.after),
                "left": [asdict(left) for left in self.left],
            },
            sort_keys=True,
        )

    @staticmethod
    def from_json(text: str) -> FactorPlan:
        """A plan from its text.

        Raises:
            PlanError: The text is no plan of factors.
        """
        try:
            document = json.loads(text)
            if document["format"] != 1:
                raise PlanError(f"the plan has format {document['format']}, this version reads format 1")
            return FactorPlan(
                digest=str(document["digest"]),
                layers=tuple(_factors(entry) for entry in document["factors"]),
                before=Cost(**document["before"]),
                after=Cost(**document["after"]),
                left=tuple(Left(tuple(one["names"]), one["reason"]) for one in document["left"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, PlanError):
                raise
            raise PlanError(
                f"this is not a plan of factors: {type(error).__name__}: {error}; make one with plan_factors"
            ) from error


def _factors(entry: dict[str, Any]) -> Factors:
    return Factors(
        name=str(entry["name"]),
        kind=entry["kind"],
        sizes=tuple(entry["sizes"]),
        full=tuple(entry["full"]),
        before=Cost(**entry["before"]),
        after=Cost(**entry["after"]),
        energy=float(entry["energy"]),
    )


def _row(layer: Factors) -> tuple[str, ...]:
    return (
        layer.name,
        layer.kind,
        layer.ranks,
        f"{layer.before.parameters:,} -> {layer.after.parameters:,}",
        f"{layer.before.macs:,} -> {layer.after.macs:,}",
        f"{100 * layer.energy:.1f} %",
    )


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    if len(rows) == 1:
        return []
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
