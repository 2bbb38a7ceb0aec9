"""What two networks answer differently, example by example: confusions that appeared, and who alone is right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from secateur.errors import DataError, SettingsError
from secateur.evaluate.change import ClassChange
from secateur.evaluate.quality import Evaluation


@dataclass(frozen=True, slots=True)
class Confusion:
    """How often examples of one class are taken for another, by two networks.

    Attributes:
        true: The class that they are of.
        predicted: The class that they are taken for.
        count: Examples of the first class.
        before: Of these, how many the first network takes for the second class.
        after: How many the second network does.
    """

    true: str
    predicted: str
    count: int
    before: int
    after: int

    @property
    def grown(self) -> int:
        """After minus before."""
        return self.after - self.before


@dataclass(frozen=True, slots=True, eq=False)
class Identified:
    """The examples that only one of two networks gets right, by their place in the data.

    Attributes:
        lost: Right before, wrong after: int64, ascending.
        gained: Wrong before, right after.
        moved: Wrong both times, with different answers.
    """

    lost: Tensor = field(repr=False)
    gained: Tensor = field(repr=False)
    moved: Tensor = field(repr=False)

    def __str__(self) -> str:
        return f"{len(self.lost)} lost, {len(self.gained)} gained, {len(self.moved)} wrong in another way"


def confusions(before: Evaluation, after: Evaluation, *, most: int = 10) -> tuple[Confusion, ...]:
    r"""The confusions that grew from one network to another, the one that grew most first.

    With :math:`n_{ij}` the examples of class i that are taken for class j, those pairs :math:`i \neq j` for which
    :math:`n_{ij}` after is more than before, in the order of the difference.

    Args:
        before: Evaluation of the first network.
        after: Of the second, on the same examples in the same order.
        most: Pairs to return at most.

    Returns:
        One entry a pair; fewer than ``most`` where fewer grew.

    Raises:
        DataError: The two are not of the same examples, or tell different classes apart.
        SettingsError: ``most`` is below 1.

    Example:
        >>> from types import SimpleNamespace
        >>> from secateur.evaluate.quality import evaluate
        >>> class Two(SimpleNamespace):
        ...     def __len__(self): return len(self.targets)
        >>> data = Two(inputs=torch.eye(2), targets=torch.tensor([0, 1]))
        >>> right, wrong = evaluate(torch.nn.Identity(), data), evaluate(torch.nn.Softmin(1), data)
        >>> confusions(right, wrong)[0]
        Confusion(true='0', predicted='1', count=1, before=0, after=1)
    """
    if most < 1:
        raise SettingsError(f"most is {most}; ask for at least 1 confusion")
    check_same_examples(before, after)
    names = [entry.name for entry in before.per_class]
    first, second = (_counted(one, len(names)) for one in (before, after))
    grown = second - first
    np.fill_diagonal(grown, 0)
    order = np.argsort(-grown, axis=None, kind="stable")[:most]
    pairs = [divmod(int(place), len(names)) for place in order if grown.flat[place] > 0]
    return tuple(
        Confusion(names[i], names[j], before.per_class[i].count, int(first[i, j]), int(second[i, j]))
        for i, j in pairs
    )


def identified(before: Evaluation, after: Evaluation) -> Identified:
    """The examples by which a reduction can be recognised: those that only one of the two networks gets right.

    Where accuracy hardly changes, these still say which examples pay for it. They are often the unusual ones of their class,
    the mislabelled, and those that show two things; look at them before you ship.

    Args:
        before: Evaluation of the first network.
        after: Of the second, on the same examples in the same order.

    Returns:
        Their places in the data.

    Raises:
        DataError: The two are not of the same examples, or tell different classes apart.

    Example:
        >>> from types import SimpleNamespace
        >>> from secateur.evaluate.quality import evaluate
        >>> class Two(SimpleNamespace):
        ...     def __len__(self): return len(self.targets)
        >>> data = Two(inputs=torch.eye(2), targets=torch.tensor([0, 1]))
        >>> print(identified(evaluate(torch.nn.Identity(), data), evaluate(torch.nn.Softmin(1), data)))
        2 lost, 0 gained, 0 wrong in another way

    Source:
        Hooker et al. 2019, arXiv:1911.05248. Their compression-identified exemplars are those on which the commonest answers of
        30 networks of each kind differ; here one network of each kind is compared, so chance has a part in which they are.
    """
    check_same_examples(before, after)
    was, now = before.correct, after.correct
    moved = ~was & ~now & (before.predicted != after.predicted)
    places = [mask.nonzero()[:, 0] for mask in (was & ~now, ~was & now, moved)]
    return Identified(*places)


def fell_most(changes: Sequence[ClassChange]) -> ClassChange | None:
    """The class whose accuracy fell most, the first of equals; None where none fell.

    Args:
        changes: Of :func:`class_changes`.

    Example:
        >>> fell_most([ClassChange("a", 10, 90.0, 80.0, -10.0, -30.0, 10.0)]).name
        'a'
    """
    fallen = [one for one in changes if one.points < 0]
    return min(fallen, key=lambda one: one.points, default=None)


def check_same_examples(before: Evaluation, after: Evaluation) -> None:
    """Refuse evaluations that are not of the same examples and classes.

    Raises:
        DataError: They are not.
    """
    if not torch.equal(before.targets, after.targets):
        raise DataError(
            f"the two evaluations ({before.count} and {after.count} examples) have different labels; evaluate both "
            "networks on the same split in the same order"
        )
    one, two = ([entry.name for entry in found.per_class] for found in (before, after))
    if one != two:
        raise DataError(
            f"the two networks tell different classes apart ({len(one)} and {len(two)}); compare networks of the same outputs"
        )


def _counted(found: Evaluation, classes: int) -> np.ndarray:
    """How many examples of each class are taken for each class: ``[true, predicted]``."""
    places = found.targets * classes + found.predicted
    return torch.bincount(places, minlength=classes**2).reshape(classes, classes).numpy()
