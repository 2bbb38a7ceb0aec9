"""The report of a reduction as values: what was cut, what it cost, and under which conditions.

Numbers carry their unit in the name or here: accuracies and drops are percentages and percentage points, MACs are
multiply-adds for one example (one multiply-add counts once), bytes are those of the network saved without its history.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Final, Self, cast

from pydantic import AwareDatetime, Field, JsonValue, ValidationError, model_validator

from secateur.errors import FileFormatError
from secateur.report.values import (
    Accuracy,
    ClassChange,
    Confidence,
    Confusion,
    Count,
    Identified,
    Percent,
    Value,
    fell_most,
)

FORMAT: Final = "secateur.report"
VERSION: Final = 1


class Figures(Value):
    """One network in numbers.

    Attributes:
        parameters: Trainable numbers.
        macs: Multiply-adds of one forward pass of one example.
        bytes: Size of the network saved without its history, so that before and after compare.
        validation: On the split by which decisions were made; the training never saw it.
        test: On the split that was read once, at the end; None where there is none.
    """

    parameters: Count
    macs: Count
    bytes: Count
    validation: Accuracy
    test: Accuracy | None = None


class Change(Value):
    """How the accuracy changed between two networks on the same examples.

    Attributes:
        points: Accuracy after minus accuracy before, in percentage points. Negative is a loss.
        low: Lower limit of ``points``.
        high: Upper limit of ``points``.
        confidence: How sure each limit is, taken on its own (one-sided).
    """

    points: float
    low: float
    high: float
    confidence: Confidence = 0.95

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low <= self.points <= self.high:
            raise ValueError(
                f"the change {self.points} does not lie within its limits {self.low} and {self.high}"
            )
        return self

    @classmethod
    def of_drop(cls, points: float, *, upper: float, confidence: float = 0.95) -> Self:
        """The change that a drop and its upper confidence limit describe; the other limit lies as far away.

        Args:
            points: The drop, in percentage points; positive is a loss.
            upper: The drop that is not exceeded with the given confidence.
            confidence: That confidence, one-sided.

        Example:
            >>> Change.of_drop(0.25, upper=0.5)
            Change(points=-0.25, low=-0.5, high=0.0, confidence=0.95)
        """
        return cls(points=-points, low=-upper, high=upper - 2 * points, confidence=confidence)


class Bound(Value):
    """How much accuracy might be lost, and whether that was kept.

    Attributes:
        max_drop: The bound, in percentage points.
        confidence: How sure the drop on unseen data must be within the bound (one-sided); None where the measured drop
            itself was compared, without its sampling error.
        reference: The validation accuracy from which drops are counted, in percent.
        held_on_validation: Whether the result is within the bound on the validation split.
        held_on_test: Whether its measured drop is on the test split, which was read once; None where there is none.
        statement: The same in words.
    """

    max_drop: Annotated[float, Field(ge=0)]
    confidence: Confidence | None
    reference: Percent
    held_on_validation: bool
    held_on_test: bool | None
    statement: str

    @classmethod
    def judge(
        cls,
        *,
        max_drop: float,
        reference: float,
        validation: Change,
        test: Change | None,
        with_sampling_error: bool = True,
        unchanged: bool = False,
    ) -> Self:
        """Decide whether a bound held, and say so.

        On the validation split the upper limit of the drop must be within the bound (the drop itself, without
        ``with_sampling_error``); on the test split the measured drop.

        Args:
            max_drop: The bound, in percentage points.
            reference: The validation accuracy from which drops are counted, in percent.
            validation: The change on the validation split.
            test: The change on the test split, where there is one.
            with_sampling_error: Whether the bound was set on the upper limit of the drop.
            unchanged: Whether the network is the one that was given.

        Example:
            >>> validation = Change.of_drop(0.25, upper=0.5)
            >>> bound = Bound.judge(max_drop=0.5, reference=99.0, validation=validation, test=None)
            >>> bound.held_on_validation, bound.held_on_test
            (True, None)
            >>> bound.statement
            'On validation the measured accuracy fell by 0.25 points; at most 0.50 were lost with 95 % confidence (upper limit): within the bound of 0.5 points. There is no test split.'
        """
        compared = -validation.low if with_sampling_error else -validation.points
        on_validation = compared <= max_drop
        on_test = None if test is None else -test.points <= max_drop
        limit = ""
        if with_sampling_error:
            sure = f"with {validation.confidence * 100:g} % confidence (upper limit)"
            limit = f"; at most {max(compared, 0.0):.2f} were lost {sure}"
        words = [
            f"On validation the measured accuracy {_moved(validation.points)}{limit}: "
            f"{_within(on_validation)} the bound of {in_points(max_drop)}."
        ]
        if test is None:
            words.append("There is no test split.")
        else:
            held = -test.points <= max_drop
            words.append(
                f"On test, read once, the measured accuracy {_moved(test.points)}: {_within(held)} the bound"
                f"{'' if held or -test.high > max_drop else ', by less than its examples can tell'}."
            )
        return cls(
            max_drop=max_drop,
            confidence=validation.confidence if with_sampling_error else None,
            reference=reference,
            held_on_validation=on_validation,
            held_on_test=on_test,
            statement="The network is unchanged, so no accuracy was lost." if unchanged else " ".join(words),
        )


def in_points(value: float) -> str:
    """A number of percentage points in words.

    >>> in_points(1.0), in_points(0.5)
    ('1 point', '0.5 points')
    """
    return f"{value:g} point{'' if value == 1 else 's'}"


def _moved(points: float) -> str:
    """How an accuracy moved, in words."""
    if abs(points) < 0.005:
        return "did not change"
    return f"{'fell' if points < 0 else 'rose'} by {abs(points):.2f} points"


def _within(held: bool) -> str:
    """On which side of the bound."""
    return "within" if held else "outside"


class Method(Value):
    """How the network was reduced: the method, its settings, and the paper it is from."""

    name: str
    settings: Mapping[str, JsonValue] = {}
    source: str = ""


class Data(Value):
    """The data, how many examples each split has, and how they were split and normalised."""

    name: str
    splits: Mapping[str, Count] = {}
    notes: Mapping[str, str] = {}


class Layer(Value):
    """One group of channels before and after. Parameters and MACs are those that its units account for."""

    name: str
    kind: str
    width_before: Count
    width_after: Count
    parameters_before: Count
    parameters_after: Count
    macs_before: Count
    macs_after: Count


class FixedAxis(Value):
    """Positions of a tensor axis that could not be removed, and why."""

    tensor: str
    axis: int
    count: Count
    reason: str


class Iteration(Value):
    """One candidate: what was removed, what it reached, and whether it was accepted.

    Attributes:
        iteration: Counted from 1.
        group: The group that was cut.
        share: The share of its units that was to go, between 0 and 1.
        width_before: Its units before the cut.
        width_after: Its units in the candidate.
        removed: How many units went.
        accepted: Whether the search went on from this candidate.
        reason: Why.
        accuracy: The candidate's accuracy on validation after retraining, in percent.
        drop: How much that is below the reference, in percentage points.
        drop_upper: The drop's upper confidence limit.
        parameters: Of the candidate.
        macs: Of the candidate.
        epochs: Epochs of retraining.
        seconds: Wall-clock time of the iteration.
    """

    iteration: Annotated[int, Field(ge=1)]
    group: str
    share: Annotated[float, Field(ge=0, le=1)]
    width_before: Count
    width_after: Count
    removed: Count
    accepted: bool
    reason: str
    accuracy: Percent
    drop: float
    drop_upper: float
    parameters: Count
    macs: Count
    epochs: Annotated[float, Field(ge=0)]
    seconds: Annotated[float, Field(ge=0)]


class OutputFile(Value):
    """A file that the reduction wrote, and what it is for."""

    name: str
    what: str
    bytes: Count


class Report(Value):
    """Everything that a reader of a reduction needs.

    Attributes:
        title: What to call it.
        created: When, with the time zone.
        network: The network's name.
        data: The data and its splits.
        method: The method, its settings and its source.
        seed: The seed from which every random choice follows.
        bound: The bound on the accuracy loss, and whether it held.
        before: The unreduced network in numbers.
        after: The reduced network in numbers.
        validation_change: The change of accuracy on validation, with limits.
        test_change: The same on test.
        layers: Each group's width before and after.
        fixed: What could not be cut, and why.
        unknown_ops: Operators without a rule, and how often each was met.
        iterations: Every candidate, in order.
        classes: How each class fared, on ``classes_split``.
        classes_split: The split of which ``classes``, ``confusions`` and ``identified`` speak.
        confusions: Pairs of classes that are mistaken for each other more often than before, the worst first.
        identified: The examples that only one of the two networks gets right; None where they were not looked for.
        conditions: What else the numbers depend on: commit, versions, machine, threads, seconds, command.
        files: What was written.
        notes: Remarks for the reader.
    """

    title: str
    created: AwareDatetime
    network: str
    data: Data
    method: Method
    seed: int
    bound: Bound
    before: Figures
    after: Figures
    validation_change: Change
    test_change: Change | None = None
    layers: tuple[Layer, ...] = ()
    fixed: tuple[FixedAxis, ...] = ()
    unknown_ops: Mapping[str, Count] = {}
    iterations: tuple[Iteration, ...] = ()
    classes: tuple[ClassChange, ...] = ()
    classes_split: str = "validation"
    confusions: tuple[Confusion, ...] = ()
    identified: Identified | None = None
    conditions: Mapping[str, JsonValue] = {}
    files: tuple[OutputFile, ...] = ()
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _whole(self) -> Self:
        numbers = [step.iteration for step in self.iterations]
        if len(set(numbers)) != len(numbers):
            raise ValueError("two iterations carry the same number")
        measured = (self.before.test is None, self.after.test is None, self.test_change is None)
        if len(set(measured)) != 1:
            raise ValueError("test figures must be given before, after and as a change, or not at all")
        return self

    @property
    def headline(self) -> tuple[str, Accuracy, Accuracy, Change]:
        """The split to quote (test where it was read), the accuracy on it before and after, and the change."""
        if self.before.test is not None and self.after.test is not None and self.test_change is not None:
            return "test", self.before.test, self.after.test, self.test_change
        return "validation", self.before.validation, self.after.validation, self.validation_change

    @property
    def fell_most(self) -> ClassChange | None:
        """The class whose accuracy fell most, the first of equals; None where none fell."""
        return fell_most(self.classes)

    @property
    def unchanged(self) -> bool:
        """Whether the network is the one that was given, because no candidate was accepted."""
        same = self.after.parameters == self.before.parameters and self.after.macs == self.before.macs
        return same and not any(step.accepted for step in self.iterations)

    def to_json(self) -> str:
        """The document as JSON text, with its format and version; the same report gives the same text."""
        document = {"format": FORMAT, "version": VERSION, **self.model_dump(mode="json")}
        return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read a document that :meth:`to_json` wrote.

        Raises:
            FileFormatError: The text is not JSON, not a report, of another version, or not of this schema.

        Example:
            >>> Report.from_json("{}")
            Traceback (most recent call last):
            ...
            secateur.errors.FileFormatError: this is not a Secateur report: its "format" is missing instead of "secateur.report"; pass a report.json that Secateur wrote
        """
        try:
            read: object = json.loads(text)
        except (json.JSONDecodeError, RecursionError) as error:
            raise FileFormatError(
                f"this is not a Secateur report: it is not JSON ({error}); pass a report.json that Secateur wrote"
            ) from error
        document = cast("dict[str, Any]", read) if isinstance(read, dict) else {}
        if document.get("format") != FORMAT:
            found = json.dumps(document["format"]) if "format" in document else "missing"
            raise FileFormatError(
                f'this is not a Secateur report: its "format" is {found} instead of "{FORMAT}"; '
                "pass a report.json that Secateur wrote"
            )
        if document.get("version") != VERSION:
            raise FileFormatError(
                f"this report is of version {document.get('version')!r}, this Secateur reads version {VERSION}; "
                "read it with the Secateur that wrote it"
            )
        fields = {key: value for key, value in document.items() if key not in {"format", "version"}}
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(str(part) for part in first["loc"]) or "the document"
            raise FileFormatError(
                f"this report is damaged: {place}: {first['msg']}; write it again with `secateur report`"
            ) from error
