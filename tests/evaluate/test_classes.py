"""What each class loses, which confusions appeared, and which examples only one network gets right."""

import numpy as np
import pytest
import sklearn.metrics
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from secateur.errors import DataError, SettingsError
from secateur.evaluate import class_changes, confusions, evaluate, fell_most, identified


class Says(nn.Module):
    """Answers example i of ``arange`` with the i-th of some classes."""

    def __init__(self, answers, classes):
        super().__init__()
        self.table = torch.nn.functional.one_hot(torch.as_tensor(answers), classes).float()

    def forward(self, x):
        return self.table[x[:, 0].long()]


@pytest.fixture(scope="module")
def judged(toy):
    """Makes the evaluation of given answers to given labels."""

    def make(answers, targets, classes=4):
        data = toy(torch.arange(len(targets)).float()[:, None], torch.as_tensor(targets))
        return evaluate(Says(answers, classes), data)

    return make


three_lists = st.integers(1, 40).flatmap(
    lambda n: st.tuples(*[st.lists(st.integers(0, 3), min_size=n, max_size=n) for _ in range(3)])
)


@given(three_lists)
def test_confusions_equal_scikit_learns(judged, lists):
    """Counts are those of two confusion matrices; what is named grew, in the order of growth, and nothing that grew more is left out."""
    targets, was, now = lists
    one, two = (sklearn.metrics.confusion_matrix(targets, answers, labels=range(4)) for answers in (was, now))
    growth = (two - one) * (1 - np.eye(4, dtype=int))

    found = confusions(judged(was, targets), judged(now, targets), most=3)

    assert all(
        (entry.before, entry.after, entry.count)
        == (one[i, j], two[i, j], one[i].sum())
        for entry in found
        for i, j in [(int(entry.true), int(entry.predicted))]
    )  # fmt: skip
    assert [entry.grown for entry in found] == [g for g in sorted(growth.flat, reverse=True)[:3] if g > 0]


@given(three_lists)
def test_identified_examples_explain_the_drop(judged, lists):
    """Lost, gained and moved examples are apart, are what their names say, and lost minus gained is the change in examples right."""
    targets, was, now = (np.array(one) for one in lists)
    before, after = judged(was, targets), judged(now, targets)

    found = identified(before, after)

    assert found.lost.tolist() == np.flatnonzero((was == targets) & (now != targets)).tolist()
    assert found.gained.tolist() == np.flatnonzero((was != targets) & (now == targets)).tolist()
    assert found.moved.tolist() == np.flatnonzero((was != targets) & (now != targets) & (was != now)).tolist()
    assert len(found.lost) - len(found.gained) == int(before.correct.sum() - after.correct.sum())


def test_the_worst_class_is_the_one_that_fell_most(judged):
    """Of several classes that fell the one that fell most is named, and of an evaluation the weakest class."""
    targets = [0, 0, 1, 1, 2, 2]
    before, after = judged(targets, targets, 3), judged([0, 0, 1, 0, 0, 0], targets, 3)
    changes = class_changes(before, after)

    assert fell_most(changes).name == "2"
    assert fell_most(class_changes(after, before)) is None
    assert after.worst_class.name == "2"
    assert before.worst_class is None


def test_predictions_are_kept_but_not_written(judged):
    """An evaluation keeps each answer, in the order of the data, outside of what is written."""
    found = judged([1, 2, 0], [1, 1, 1])

    assert found.predicted.tolist() == [1, 2, 0]
    assert "predicted" not in found.as_dict()


def test_others_examples_are_refused(judged):
    """Evaluations of other examples, or of networks with other classes, are not compared."""
    one = judged([0, 1], [0, 1])
    with pytest.raises(DataError, match="different labels"):
        confusions(one, judged([0, 1], [1, 1]))
    with pytest.raises(DataError, match=r"different classes apart \(4 and 3\)"):
        identified(one, judged([0, 1], [0, 1], 3))
    with pytest.raises(SettingsError, match="most is 0"):
        confusions(one, one, most=0)
