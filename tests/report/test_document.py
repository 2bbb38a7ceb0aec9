"""The document: the same after a round trip, refused when it is something else."""

from __future__ import annotations

import json
import re

import pytest
from pydantic import ValidationError
from tests.report.sample import sample

from secateur.errors import FileFormatError
from secateur.report import Bound, Change, Report


def test_a_test_split_that_is_too_small_to_tell_is_said_to_be() -> None:
    """A measured drop beyond the bound whose limits reach into it is no proof of anything."""
    fine = Change.of_drop(0.2, upper=0.4)

    def said(upper: float) -> str:
        test = Change.of_drop(1.1, upper=upper)
        return Bound.judge(max_drop=1.0, reference=99.0, validation=fine, test=test).statement

    assert said(2.5).endswith("outside the bound, by less than its examples can tell.")
    assert said(1.15).endswith("outside the bound.")


def test_json_and_back_is_the_same() -> None:
    """A report that is written and read is equal, and gives the same text again."""
    report = sample()

    again = Report.from_json(report.to_json())

    assert again == report
    assert again.to_json() == report.to_json()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not json", "it is not JSON"),
        ("[]", '"format" is missing'),
        ('{"format": "other"}', '"format" is "other"'),
        ('{"format": "secateur.report", "version": 99}', "of version 99, this Secateur reads version 1"),
        ('{"format": "secateur.report", "version": 1}', "is damaged: title: Field required"),
    ],
)
def test_foreign_and_damaged_documents_are_refused(text: str, message: str) -> None:
    """Each in one sentence that says what is wrong."""
    with pytest.raises(FileFormatError, match=re.escape(message)) as caught:
        Report.from_json(text)

    assert "\n" not in str(caught.value)


def test_an_unknown_field_is_refused() -> None:
    """A field that this version does not know is named."""
    document = json.loads(sample().to_json()) | {"surprise": 1}

    with pytest.raises(FileFormatError, match="surprise"):
        Report.from_json(json.dumps(document))


def test_a_change_lies_within_its_limits() -> None:
    """Limits on the wrong side are refused."""
    with pytest.raises(ValidationError, match="does not lie within its limits"):
        Change(points=0.0, low=0.1, high=0.2)


@pytest.mark.parametrize(("upper", "held"), [(0.5, True), (0.51, False)])
def test_the_bound_is_on_the_upper_limit(upper: float, held: bool) -> None:
    """The measured drop is within 0.5 both times; the limit decides."""
    bound = Bound.judge(max_drop=0.5, reference=99.0, validation=Change.of_drop(0.2, upper=upper), test=None)

    assert bound.held_on_validation is held


def test_without_sampling_error_the_drop_itself_counts() -> None:
    """As printed: the limit is shown nowhere and decides nothing."""
    change = Change.of_drop(0.2, upper=0.9)

    bound = Bound.judge(max_drop=0.5, reference=99.0, validation=change, test=None, with_sampling_error=False)

    assert bound.held_on_validation
    assert "confidence" not in bound.statement


def test_an_unchanged_accuracy_is_said_with_what_it_may_have_lost() -> None:
    """The sentence for no change speaks of what may have been lost, not of a change by at most so much."""
    change = Change.of_drop(0.0, upper=0.89)

    bound = Bound.judge(max_drop=1.0, reference=99.0, validation=change, test=change)

    assert "did not change, by at most" not in bound.statement
    assert "at most 0.89" in bound.statement


def test_of_an_unchanged_network_only_that_is_said() -> None:
    """No bound is said to have held or not where nothing was removed; the limits of such a change are zero."""
    zero = Change(points=0.0, low=0.0, high=0.0)

    bound = Bound.judge(max_drop=0.5, reference=99.0, validation=zero, test=zero, unchanged=True)

    assert bound.statement == "The network is unchanged, so no accuracy was lost."
    assert (bound.held_on_validation, bound.held_on_test) == (True, True)


def test_the_class_that_fell_most_is_one_that_fell() -> None:
    """The class that fell most; none where none fell."""
    report = sample()
    assert report.fell_most is not None
    assert report.fell_most.name == "9"

    risen = tuple(one.model_copy(update={"change": abs(one.change)}) for one in report.classes)

    assert sample(classes=risen).fell_most is None
