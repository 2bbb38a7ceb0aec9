"""Values that the pages share: how good a network is, how each class fared, and which examples only one network gets right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Percent = Annotated[float, Field(ge=0, le=100)]
Count = Annotated[int, Field(ge=0)]
Confidence = Annotated[float, Field(gt=0.5, lt=1)]


class Value(BaseModel):
    """A frozen value that refuses unknown fields and numbers that are not finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Accuracy(Value):
    """What one network reached on one split.

    Attributes:
        accuracy: Share of examples that were classified correctly, in percent.
        count: Number of examples.
        top_k: k to the share of examples whose class was among the k likeliest, in percent.
        loss: Mean loss, or None where it was not finite.
    """

    accuracy: Percent
    count: Annotated[int, Field(gt=0)]
    top_k: Mapping[int, Percent] = {}
    loss: float | None = None


class ClassChange(Value):
    """How one class fared: its accuracy before and after in percent, the change and its limits in points."""

    name: str
    count: Annotated[int, Field(gt=0)]
    before: Percent
    after: Percent
    change: float
    low: float
    high: float


def fell_most(classes: Sequence[ClassChange]) -> ClassChange | None:
    """The class whose accuracy fell most, the first of equals; None where none fell.

    >>> fell_most([]) is None
    True
    """
    fallen = [one for one in classes if one.change < 0]
    return min(fallen, key=lambda one: one.change, default=None)


class Confusion(Value):
    """How often examples of one class (``count`` of them) were taken for another, before and after."""

    true: str
    predicted: str
    count: Annotated[int, Field(gt=0)]
    before: Count
    after: Count


class Example(Value):
    """An example that only one of two networks gets right.

    Attributes:
        index: Its place in the split, from 0.
        true: Its class.
        before: What the first network takes it for.
        after: What the second takes it for.
        picture: It itself, as the address of a PNG that holds its own data; empty where it is no image.
    """

    index: Count
    true: str
    before: str
    after: str
    picture: Annotated[str, Field(pattern=r"^(data:image/png;base64,[A-Za-z0-9+/=]+)?$")] = ""

    @property
    def lost(self) -> bool:
        """Whether it was right before."""
        return self.before == self.true


class Identified(Value):
    """The examples that two networks answer differently.

    Attributes:
        lost: How many are right before and wrong after.
        gained: How many are wrong before and right after.
        moved: How many are wrong both times, with different answers.
        examples: Some of those that were lost, then some that were gained.
        note: What a reader should know of them.
    """

    lost: Count = 0
    gained: Count = 0
    moved: Count = 0
    examples: tuple[Example, ...] = ()
    note: str = ""
