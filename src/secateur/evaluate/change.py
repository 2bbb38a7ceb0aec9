"""How much worse (or better) one network is than another on the same examples, with the sampling error."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import torch
from scipy.special import stdtrit  # pyright: ignore[reportMissingTypeStubs]
from torch import Tensor

from secateur.errors import DataError, SettingsError
from secateur.evaluate.quality import Evaluation


@dataclass(frozen=True, slots=True)
class Drop:
    """The fall in accuracy from one network to another, on the same examples.

    Attributes:
        points: Accuracy before minus after, in percentage points; negative where it rose.
        standard_error: Of ``points``, from the paired differences.
        upper: The true drop is at most this, at the given confidence (one-sided).
        confidence: Of ``upper``.
        lost: Examples that were right and are wrong now.
        gained: Examples that were wrong and are right now.
        count: All examples.
    """

    points: float
    standard_error: float
    upper: float
    confidence: float
    lost: int
    gained: int
    count: int


@dataclass(frozen=True, slots=True)
class ClassChange:
    """The change of one class's accuracy, with its two-sided confidence interval.

    Attributes:
        name: The class.
        count: Examples of it.
        before: Percent.
        after: Percent.
        points: After minus before, in percentage points.
        low: Lower end of the interval of ``points``.
        high: Upper end.
    """

    name: str
    count: int
    before: float
    after: float
    points: float
    low: float
    high: float


def paired_drop(
    before: Evaluation | Tensor,
    after: Evaluation | Tensor,
    *,
    confidence: float = 0.95,
    groups: Tensor | None = None,
) -> Drop:
    r"""The drop in accuracy between two networks judged on the same examples, and an upper bound of the true one.

    With b examples lost, c gained and n in all, the differences :math:`d_i \in \{-1, 0, 1\}` have the mean
    :math:`\hat d = (b-c)/n` and the standard error :math:`\sqrt{b + c - (b-c)^2/n}\,/\,n` (McNemar's paired variance:
    what both get right or wrong does not count, so that it is far smaller than that of two separate samples).

    The bound is

    .. math:: u = \frac{(b-c) + 1 + (z^2-1)/3 + z \sqrt{b + c + 1 - (b-c)^2/n}}{n}

    One pseudo-count among the disagreements keeps the width above 0 where none was seen; 1 is the continuity
    correction and :math:`(z^2-1)/3` the correction for skewness in the expansion of a Poisson count's exact upper
    limit. Without any disagreement the bound at 95 % is 3.2/n (the rule of three says 3.0/n). Summing the exact
    trinomial distribution over lost and gained rates from 0 to 30 % and n from 30 to 2000, the bound holds at least
    as often as the confidence says: 95.3 % at the least for 95 %. Tango's score interval and the adjusted interval of
    Agresti and Min fall short of it where disagreements are few (2.7/n and 1.6/n with none seen), which is where a
    careful reduction works.

    Where examples come in groups (many windows of one person), they are alike within a group, and new data will be of new
    groups. Then the standard error is that of the G groups' sums :math:`s_g` of differences,
    :math:`\sqrt{\tfrac{G}{G-1} \sum_g (s_g - n_g \hat d)^2}\,/\,n`, the quantile is Student's with :math:`G-1` degrees of
    freedom, and the bound is never below the one for independent examples.

    Args:
        before: An evaluation, or which examples were right as bool ``[n]``.
        after: The same for the other network, on the same examples in the same order.
        confidence: Of the bound, at least 0.5 and below 1.
        groups: int64 ``[n]``, whom or what each example is from; None where examples are independent.

    Returns:
        The drop, in percentage points.

    Raises:
        DataError: The two are not of the same examples.
        SettingsError: The confidence is out of its range.

    Example:
        >>> drop = paired_drop(torch.ones(1000, dtype=torch.bool), torch.ones(1000, dtype=torch.bool))
        >>> drop.points, drop.standard_error, round(drop.upper, 2)
        (0.0, 0.0, 0.32)

    Source:
        Paired variance: McNemar 1947, Psychometrika 12(2). Pseudo-counts for paired proportions: Agresti and Min
        2005, Statistics in Medicine 24(5); ours is one among the disagreements, none among the agreements. Expansion
        of the Poisson limit: Cornish and Fisher 1938, Rev. Int. Stat. Inst. 5(4). Groups: the cluster-robust
        variance of Liang and Zeger 1986, Biometrika 73(1), with the usual G/(G-1).
    """
    z = _quantile(confidence)
    first, second = _paired(before, after)
    n = len(first)
    lost, gained = int((first & ~second).sum()), int((~first & second).sum())
    upper = upper_bound(lost, gained, n, z=z)
    error = math.sqrt(max(lost + gained - (lost - gained) ** 2 / n, 0.0)) / n
    if groups is not None:
        differences = first.double() - second.double()
        error = max(error, _error_of_groups(differences, groups))
        degrees = len(np.unique(groups.cpu().numpy())) - 1
        upper = max(upper, (lost - gained) / n + float(stdtrit(degrees, confidence)) * error)
    return Drop(
        points=100.0 * (lost - gained) / n,
        standard_error=100.0 * error,
        upper=100.0 * upper,
        confidence=confidence,
        lost=lost,
        gained=gained,
        count=n,
    )


def _error_of_groups(differences: Tensor, groups: Tensor) -> float:
    """The standard error of the mean of differences that come in groups."""
    _check_groups(groups, differences)
    names, index = np.unique(groups.cpu().numpy(), return_inverse=True)
    count = len(names)
    if count < 2:
        raise DataError(
            "all examples are of one group, so nothing is known of others; hold out at least two groups"
        )
    sums = np.bincount(index, weights=(differences - differences.mean()).numpy())
    return math.sqrt(count / (count - 1) * float((sums**2).sum())) / len(differences)


def _check_groups(groups: Tensor, examples: Tensor) -> None:
    if groups.shape != examples.shape:
        raise DataError(
            f"{len(examples)} examples but groups of shape {tuple(groups.shape)}; give one for each example"
        )


def _interval_of_groups(changes: Tensor, groups: Tensor, *, confidence: float) -> tuple[float, float]:
    """The two-sided interval of the mean of changes that come in groups; everything where there is one group only."""
    degrees = len(np.unique(groups.numpy())) - 1
    if degrees == 0:
        return -1.0, 1.0
    middle = float(changes.mean())
    reach = float(stdtrit(degrees, 0.5 + confidence / 2)) * _error_of_groups(changes, groups)
    return max(middle - reach, -1.0), min(middle + reach, 1.0)


def upper_bound(lost: int, gained: int, count: int, *, z: float) -> float:
    """The bound of :func:`paired_drop` as a share (not in points), at the normal quantile ``z``.

    Example:
        >>> round(upper_bound(0, 0, 1000, z=1.6449), 5)
        0.00321
    """
    net = lost - gained
    spread = max(lost + gained + 1 - net**2 / count, 0.0)
    return min((net + 1 + (z * z - 1) / 3 + z * math.sqrt(spread)) / count, 1.0)


def wilson(successes: int, count: int, *, confidence: float = 0.95) -> tuple[float, float]:
    r"""Wilson's score interval of a share.

    :math:`\left(x + z^2/2 \pm z\sqrt{x(n-x)/n + z^2/4}\right) / (n + z^2)`

    Args:
        successes: x.
        count: n, at least 1.
        confidence: Two-sided.

    Returns:
        Lower and upper end, between 0 and 1.

    Raises:
        DataError: There is no example, or more successes than examples.
        SettingsError: The confidence is out of its range.

    Example:
        >>> low, high = wilson(81, 263)
        >>> round(low, 4), round(high, 4)
        (0.2553, 0.3662)

    Source:
        Wilson 1927, J. Am. Stat. Assoc. 22(158); the example is Newcombe's 1998, Statistics in Medicine 17(8).
    """
    if not 0 <= successes <= count or count < 1:
        raise DataError(f"{successes} successes of {count} make no share; give 0 to n of at least 1")
    z = _quantile(0.5 + confidence / 2)
    centre = successes + z * z / 2
    reach = z * math.sqrt(successes * (count - successes) / count + z * z / 4)
    scale = count + z * z
    return max((centre - reach) / scale, 0.0), min((centre + reach) / scale, 1.0)


def paired_interval(
    both: int, lost: int, gained: int, neither: int, *, confidence: float = 0.95
) -> tuple[float, float]:
    r"""Newcombe's interval of the change of a share between two judgements of the same examples.

    With shares :math:`p_1` before and :math:`p_2` after, Wilson's ends :math:`l_i, u_i`, distances
    :math:`a_i = p_i - l_i`, :math:`b_i = u_i - p_i` and the continuity-corrected correlation :math:`\varphi`, the change
    :math:`p_2 - p_1` lies between itself minus :math:`\sqrt{a_2^2 - 2\varphi a_2 b_1 + b_1^2}` and plus
    :math:`\sqrt{b_2^2 - 2\varphi b_2 a_1 + a_1^2}`.

    Args:
        both: Right before and after.
        lost: Right before only.
        gained: Right after only.
        neither: Wrong both times.
        confidence: Two-sided.

    Returns:
        Lower and upper end, between −1 and 1.

    Raises:
        DataError: There is no example.
        SettingsError: The confidence is out of its range.

    Example:
        >>> low, high = paired_interval(43, 0, 1, 6)
        >>> low < 1 / 50 < high
        True

    Source:
        Newcombe 1998, Statistics in Medicine 17(22), 2635-2650, method 10.
    """
    n = both + lost + gained + neither
    right_1, right_2 = both + lost, both + gained
    p1, p2 = right_1 / max(n, 1), right_2 / max(n, 1)
    (l1, u1), (l2, u2) = (wilson(x, n, confidence=confidence) for x in (right_1, right_2))
    phi = _phi(both, lost, gained, neither)
    down = (p2 - l2) ** 2 - 2 * phi * (p2 - l2) * (u1 - p1) + (u1 - p1) ** 2
    up = (u2 - p2) ** 2 - 2 * phi * (u2 - p2) * (p1 - l1) + (p1 - l1) ** 2
    return p2 - p1 - math.sqrt(max(down, 0.0)), p2 - p1 + math.sqrt(max(up, 0.0))


def class_changes(
    before: Evaluation, after: Evaluation, *, confidence: float = 0.95, groups: Tensor | None = None
) -> tuple[ClassChange, ...]:
    r"""How each class's accuracy changed; classes without an example are left out.

    A class's interval is that of :func:`paired_interval`. Where examples come in groups it also reaches at least
    :math:`t_{G-1}` cluster-robust standard errors (see :func:`paired_drop`) to both sides of the change, counted over the
    class's examples and the G groups that they are from: never narrower than for independent examples. Of a class whose
    examples are all of one group nothing is known for others, and its interval is everything, -100 to 100.

    Args:
        before: Evaluation of the first network.
        after: Of the second, on the same examples in the same order.
        confidence: Of each class's interval by itself (they are not made wider for there being many).
        groups: int64 ``[n]``, whom or what each example is from; None where examples are independent.

    Returns:
        One entry a class, in percent and percentage points.

    Raises:
        DataError: The two are not of the same examples, or the groups are not theirs.
        SettingsError: The confidence is out of its range.

    Example:
        >>> from types import SimpleNamespace
        >>> class Two(SimpleNamespace):
        ...     def __len__(self): return len(self.targets)
        >>> from secateur.evaluate.quality import evaluate
        >>> data = Two(inputs=torch.eye(2), targets=torch.tensor([0, 1]))
        >>> same = evaluate(torch.nn.Identity(), data)
        >>> [change.points for change in class_changes(same, same)]
        [0.0, 0.0]
    """
    first, second = _paired(before, after)
    targets = before.targets
    if groups is not None:
        _check_groups(groups, first)
    changes: list[ClassChange] = []
    for index, entry in enumerate(before.per_class):
        own = targets == index
        n = int(own.sum())
        if not n:
            continue
        was, now = first[own], second[own]
        both, lost = int((was & now).sum()), int((was & ~now).sum())
        gained = int((~was & now).sum())
        low, high = paired_interval(both, lost, gained, n - both - lost - gained, confidence=confidence)
        if groups is not None:
            wide = _interval_of_groups(now.double() - was.double(), groups.cpu()[own], confidence=confidence)
            low, high = min(low, wide[0]), max(high, wide[1])
        share = 100.0 / n
        changes.append(
            ClassChange(
                name=entry.name,
                count=n,
                before=share * (both + lost),
                after=share * (both + gained),
                points=share * (gained - lost),
                low=100.0 * low,
                high=100.0 * high,
            )
        )
    return tuple(changes)


def _phi(both: int, lost: int, gained: int, neither: int) -> float:
    """Newcombe's correlation of the two judgements, 0 where a margin is empty."""
    margins = (both + lost) * (gained + neither) * (both + gained) * (lost + neither)
    if margins == 0:
        return 0.0
    excess = both * neither - lost * gained
    if excess > 0:
        excess = max(excess - (both + lost + gained + neither) / 2, 0.0)
    return excess / math.sqrt(margins)


def _quantile(confidence: float) -> float:
    """The normal quantile of a confidence."""
    if not 0.5 <= confidence < 1:
        raise SettingsError(
            f"confidence is {confidence}; give at least 0.5 and less than 1, for instance 0.95"
        )
    return NormalDist().inv_cdf(confidence)


def _paired(before: Evaluation | Tensor, after: Evaluation | Tensor) -> tuple[Tensor, Tensor]:
    """Which examples were right before and after, checked to be of the same examples."""
    if (
        isinstance(before, Evaluation)
        and isinstance(after, Evaluation)
        and not torch.equal(before.targets, after.targets)
    ):
        raise DataError(
            f"the two evaluations ({before.count} and {after.count} examples) have different labels; evaluate both "
            "networks on the same split in the same order"
        )
    first, second = (e.correct if isinstance(e, Evaluation) else e.cpu() for e in (before, after))
    if first.shape != second.shape or first.ndim != 1 or not len(first):
        raise DataError(
            f"a paired comparison needs the same examples, but one has the shape {tuple(first.shape)} and the other "
            f"{tuple(second.shape)}; evaluate both networks on the same split"
        )
    return first.bool(), second.bool()
