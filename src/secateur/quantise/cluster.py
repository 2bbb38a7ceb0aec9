"""Weight sharing: the numbers of a weight become a few levels, by k-means or by what they cost and how often they are used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateur._options import expect
from secateur.errors import ModelError, SettingsError

Numbers = NDArray[np.float64]
Places = NDArray[np.int64]

Start: TypeAlias = Literal["least", "linear"]
"""Where the levels of k-means begin."""

_CELLS: Final = 512
_ROUNDS: Final = 300
"""Rounds at most; k-means on a line settles in some tens."""
_SETTLED: Final = 1e-9
"""The share by which a round must lower what is minimised to be followed by another."""


@dataclass(frozen=True, eq=False)
class Clustered:
    """A weight whose numbers are a few levels.

    Attributes:
        levels: The levels, ascending but for a zero that stands for pruned weights and is the first.
        indices: Of each number of the weight, which level it has; int64, of the weight's shape.
        zero: Whether the first level is the zero of pruned weights, which training leaves alone.

    Raises:
        SettingsError: An index names no level, or the zero is none.

    Example:
        >>> found = Clustered(torch.tensor([0.0, -1.0, 2.0]), torch.tensor([[0, 1], [2, 2]]), zero=True)
        >>> found.weight()
        tensor([[ 0., -1.],
                [ 2.,  2.]])
        >>> round(found.entropy, 3)
        1.5
    """

    levels: Tensor
    indices: Tensor
    zero: bool

    def __post_init__(self) -> None:
        if self.levels.dim() != 1 or not self.levels.is_floating_point() or self.indices.dtype != torch.int64:
            raise SettingsError("levels are a vector of floating-point numbers, and indices are int64")
        if self.indices.numel() and not 0 <= int(self.indices.min()) <= int(self.indices.max()) < len(
            self.levels
        ):
            raise SettingsError(
                f"the indices go from {int(self.indices.min())} to {int(self.indices.max())}, and there are"
                f" {len(self.levels)} levels"
            )
        if self.zero and (not len(self.levels) or float(self.levels[0]) != 0.0):
            raise SettingsError("the first level must be 0 where it stands for pruned weights")

    def weight(self) -> Tensor:
        """The weight: its level for each number."""
        return self.levels[self.indices]

    def counts(self) -> Tensor:
        """How often each level is used."""
        return torch.bincount(self.indices.flatten(), minlength=len(self.levels))

    @property
    def entropy(self) -> float:
        """Bits a number, at the least, where each is coded by how often its level is used: the entropy of order zero."""
        share = self.counts().double() / max(self.indices.numel(), 1)
        used = share[share > 0]
        return float(-(used * used.log2()).sum()) + 0.0


def cluster(weight: Tensor, clusters: int, *, start: Start = "least", rate: float = 0.0) -> Clustered:
    r"""Cluster a weight's numbers: k-means, or with a ``rate`` what is best for so much error a bit.

    With levels :math:`c_j` that a share :math:`p_j` of the numbers has, what is made small is

    .. math::

        \frac{1}{\sigma^2} \sum_i (w_i - c_{j(i)})^2 - \lambda \sum_i \log_2 p_{j(i)},

    where :math:`\sigma^2` is the mean square of the numbers that are not zero: the error for the bits that an entropy coder will
    spend. At :math:`\lambda = 0` it is k-means, and each number takes the nearest level. Both halves of a round are exact: on a line each
    level is taken on an interval.

    Rounds end where none of both halves alone betters anything, so that it matters where they begin. ``least`` is where the error is least, by
    dynamic programming: over up to 512 numbers that is the best that there is, over more they are first put into as many cells of equal width. ``linear`` is as
    printed: evenly spaced from the least number to the greatest, which sets more levels apart for the few great numbers.

    Exact zeros (pruned weights) keep a level of their own, which is exactly 0. Without a rate no other number takes it; with one any may,
    where that is worth it, so that weights are pruned further.

    Args:
        weight: The numbers.
        clusters: Levels at most, besides that of pruned weights.
        start: Where levels begin.
        rate: :math:`\lambda`, in the mean square per bit.

    Returns:
        Levels that are all used.

    Raises:
        SettingsError: An option is out of its range.
        ModelError: A number is not finite.

    Example:
        >>> cluster(torch.tensor([0.0, 0.9, 1.1, -2.0]), 2).levels
        tensor([ 0., -2.,  1.])

    Source:
        Han, Mao and Dally 2016, Deep Compression, arXiv:1510.00149, section 3.1. The least error on a line: Fisher 1958, JASA 53(284); Wang and Song
        2011, The R Journal 3(2). With a rate: entropy-constrained
        scalar quantisation, Chou, Lookabaugh and Gray 1989, IEEE Trans. ASSP 37(1).
    """
    expect("cluster(weight, 32)", weight=(weight, Tensor), clusters=(clusters, int))
    if clusters < 1:
        raise SettingsError(f"clusters={clusters} must be at least 1")
    if start not in get_args(Start):
        raise SettingsError(f"start={start!r} must be 'least' or 'linear'")
    if not 0 <= rate < float("inf"):
        raise SettingsError(f"rate={rate:g} must be 0 or more, and finite")
    if not bool(torch.isfinite(weight).all()):
        raise ModelError("the weight that is to be clustered holds numbers that are not finite")
    flat = weight.detach().cpu().flatten().double().numpy()
    pruned = flat == 0
    order = np.argsort(flat[~pruned], kind="stable")
    ascending = flat[~pruned][order]
    zeros = int(pruned.sum())
    levels, ends = _kmeans(ascending, clusters, start)
    taken = np.repeat(np.arange(len(levels)), np.diff(ends))
    if rate and len(ascending):
        scale = rate * float(np.square(ascending).mean())
        levels, taken = _constrained(ascending, levels, taken, zeros=zeros, scale=scale)
    indices = np.empty(len(flat), dtype=np.int64)
    found = np.empty(len(ascending), dtype=np.int64)
    found[order] = taken
    if zeros:
        if not rate:
            levels, found = np.concatenate([[0.0], levels]), found + 1
        indices[pruned] = 0
    indices[~pruned] = found
    made = torch.as_tensor(levels).to(weight.dtype)
    return Clustered(made, torch.as_tensor(indices).view(weight.shape), zero=bool(zeros))


def _kmeans(ascending: Numbers, clusters: int, start: Start) -> tuple[Numbers, Places]:
    """Levels in ascending order, and where each one's numbers begin, with the end; levels that none takes are left out."""
    if not len(ascending):
        return np.empty(0), np.zeros(1, dtype=np.int64)
    levels = _even(ascending, clusters) if start == "linear" else _spread(ascending, clusters)
    sums = _running(ascending)
    lowest, best = float("inf"), (levels, np.zeros(1, dtype=np.int64))
    for _ in range(_ROUNDS):
        ends = _nearest(ascending, levels)
        counts = np.diff(ends)
        levels = np.asarray((np.diff(sums[ends]) / np.maximum(counts, 1))[counts > 0])
        ends = np.append(ends[:-1][counts > 0], len(ascending))
        error = float(np.square(ascending - np.repeat(levels, np.diff(ends))).sum())
        if error >= lowest * (1 - _SETTLED):
            break
        lowest, best = error, (levels, ends)
    return best


def _spread(ascending: Numbers, clusters: int) -> Numbers:
    """Levels of the least error for numbers that are put together into cells, found by dynamic programming."""
    edges = _even(ascending, _CELLS + 1)[1:-1]
    ends = (
        np.arange(len(ascending) + 1)
        if len(ascending) <= _CELLS
        else np.concatenate([[0], np.unique(np.searchsorted(ascending, edges)), [len(ascending)]])
    )
    middle = ascending.mean()
    counts, sums, squares = (_running(np.power(ascending - middle, power))[ends] for power in range(3))
    n, s, q = (one[None, :] - one[:, None] for one in (counts, sums, squares))
    apart: Numbers = np.where(
        n > 0, q - s * s / np.maximum(n, 1), np.inf
    )  # error of one level from a cell's begin to another's
    least = apart[0]
    begins: list[Places] = []
    for _ in range(min(clusters, len(ends) - 1) - 1):
        every = least[:, None] + apart
        begins.append(every.argmin(axis=0).astype(np.int64))
        least = every.min(axis=0)
    at, cuts = len(ends) - 1, [len(ends) - 1]
    for begin in reversed(begins):
        at = int(begin[at])
        cuts.append(at)
    bounds = np.unique([0, *cuts])
    return np.asarray(middle + np.diff(sums[bounds]) / np.diff(counts[bounds]))


def _even(ascending: Numbers, count: int) -> Numbers:
    """So many numbers, evenly spaced from the least to the greatest."""
    steps = np.arange(count) / max(count - 1, 1)
    return np.asarray(ascending[0] + (ascending[-1] - ascending[0]) * steps, dtype=np.float64)


def _running(numbers: Numbers) -> Numbers:
    return np.concatenate([np.zeros(1), np.cumsum(numbers)])


def _nearest(ascending: Numbers, levels: Numbers) -> Places:
    """Where the numbers of each level begin, with the end."""
    between = np.searchsorted(ascending, (levels[1:] + levels[:-1]) / 2, side="right")
    return np.concatenate([[0], between, [len(ascending)]]).astype(np.int64)


def _constrained(
    ascending: Numbers, levels: Numbers, taken: Places, *, zeros: int, scale: float
) -> tuple[Numbers, Places]:
    """Lower the error and the bits together, round by round; with zeros, the first level is theirs."""
    if zeros:
        levels, taken = np.concatenate([[0.0], levels]), taken + 1
    sums = _running(ascending)
    fixed = 1 if zeros else 0
    lowest = np.inf
    best = (levels, taken)
    for _ in range(_ROUNDS):
        counts = np.bincount(taken, minlength=len(levels))
        counts[:fixed] += zeros
        bits = -np.log2(np.maximum(counts, 1) / (len(ascending) + zeros))
        cost = float(np.square(ascending - levels[taken]).sum()) + scale * float(counts @ bits)
        if cost >= lowest * (1 - _SETTLED):
            break
        lowest, best = cost, (levels, taken)
        alive = (counts > 0) | (np.arange(len(levels)) < fixed)
        levels, bits = levels[alive], bits[alive]
        owners, ends = _lower_envelope(levels, scale * bits, ascending)
        taken = np.repeat(owners, np.diff(ends))
        levels = levels.copy()
        means = np.diff(sums[ends])
        for owner, total, count in zip(owners, means, np.diff(ends), strict=True):
            if owner >= fixed and count:
                levels[owner] = total / count
    levels, taken = best
    names, place = np.unique(taken, return_inverse=True)
    if zeros and 0 not in names:
        names, place = np.concatenate([[0], names]), place + 1
    return levels[names], place.astype(np.int64)


def _lower_envelope(levels: Numbers, penalties: Numbers, ascending: Numbers) -> tuple[Places, Places]:
    """Which levels are cheapest somewhere, in the order of the numbers, and where each one's numbers begin, with the end.

    :math:`(w - c)^2 + b` is, less :math:`w^2`, a line in w of slope :math:`-2c`: the cheapest form its lower envelope, in which
    greater levels follow smaller ones.
    """
    order = np.lexsort((penalties, levels))
    hull: list[int] = []
    begins: list[float] = []
    for new in order:
        begin = -np.inf
        dominated = False
        while hull:
            last = hull[-1]
            gap = levels[new] - levels[last]
            if gap == 0:
                dominated = True  # as cheap a level comes first
                break
            # where both cost the same
            begin = (levels[new] + levels[last]) / 2 + (penalties[new] - penalties[last]) / (2 * gap)
            if begin > begins[-1]:
                break
            hull.pop()
            begins.pop()
            begin = -np.inf
        if not dominated:
            hull.append(int(new))
            begins.append(float(begin))
    ends = np.searchsorted(ascending, np.asarray(begins[1:]), side="right")
    return np.asarray(hull), np.concatenate([[0], ends, [len(ascending)]]).astype(np.int64)


def summed(gradient: Tensor, indices: Tensor, count: int) -> Tensor:
    """What each level gets of a weight's gradient: the sum over its members.

    Example:
        >>> summed(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0, 1, 0]), 2)
        tensor([5., 2.])
    """
    total: Any = torch.zeros(count, dtype=torch.float64, device=gradient.device)
    return total.index_add_(0, indices.flatten(), gradient.flatten().double()).to(gradient.dtype)
