"""Criteria that merge units which do the same: the cheapest pair first, until one unit is left."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateur.criteria.scores import Merge
from secateur.errors import SettingsError
from secateur.observe import Covariance

Floats = NDArray[np.float64]

_NEAR = 1e-9
"""Squared distances below this share of the squared norms are computed anew, free of cancellation."""

_STEP = 1e-12
"""Share of the largest cost by which successive scores differ at least, so that the removal order is no tie."""


def similarity(own: Tensor, readers: Tensor) -> tuple[Tensor, Merge]:
    r"""Merge the unit that the others can best stand in for, judged by weights alone.

    :math:`s_{ij} = \langle a_j^2 \rangle\, \|w_i - w_j\|^2`

    The cheapest pair is merged: :math:`a_i \leftarrow a_i + a_j`, j goes, and the costs are updated. Exact for units
    with equal rows. No data are needed.

    Args:
        own: What makes each unit, biases included, ``[channels, fan]``.
        readers: The weights that read each unit, ``[channels, fan_out]``.

    Returns:
        Scores ``[channels]``, float64, increasing in the order in which the pairs were merged (the running maximum of
        the costs); and the merges, with scale 1 and shift 0.

    Raises:
        SettingsError: The two have different numbers of rows.

    Example:
        >>> values, merge = similarity(torch.tensor([[1.0], [5.0], [1.1]]), torch.tensor([[1.0], [1.0], [2.0]]))
        >>> values.argmin(), merge.into[0]
        (tensor(0), np.int64(2))

    Source:
        Srinivas and Babu 2015, Data-free parameter pruning for deep neural networks, arXiv:1507.06149. For
        convolutions the rows are whole kernels, and the mean of the squared outgoing weights runs over all readers.
    """
    if own.shape[0] != readers.shape[0]:
        raise SettingsError(
            f"own weights have {own.shape[0]} rows and readers {readers.shape[0]}; give one a unit in both"
        )
    outgoing = readers.double().numpy().copy()
    weight = np.square(outgoing).mean(1) if outgoing.shape[1] else np.zeros(outgoing.shape[0])

    def merged(i: int, j: int) -> None:
        outgoing[i] += outgoing[j]
        weight[i] = np.square(outgoing[i]).mean() if outgoing.shape[1] else 0.0

    removed, into, costs = greedy_merges(_squared_distances(own.double().numpy()), weight, merged)
    width = own.shape[0]
    return _ranked(removed, costs, width), Merge(into, np.ones(width), np.zeros(width))


def correlation(covariance: Covariance) -> tuple[Tensor, Merge]:
    r"""Merge the unit whose activation another one predicts best.

    :math:`s_{ij} = 1 - |\rho_{ij}|`, and j is replaced by :math:`h_j \approx \mathrm{scale}\, h_i + \mathrm{shift}`, the
    regression of j on i. Of a pair the unit of smaller variance goes (of equal variance, the later one); a constant unit
    costs nothing and leaves only its shift. Exact for activations that are linearly related.

    Args:
        covariance: Mean and Gram matrix of the units' activations.

    Returns:
        Scores ``[channels]``, float64 in [0, 1] but for rounding, increasing in the order of the merges; and the merges.

    Example:
        >>> samples = torch.tensor([[1.0, 2.5, 0.0], [2.0, 4.5, 1.0], [3.0, 6.5, 0.0]], dtype=torch.float64)
        >>> values, merge = correlation(Covariance(samples.mean(0), samples.T @ samples / 3, 3))
        >>> values.argmin(), merge.into[0], merge.scale[0].round(6), merge.shift[0].round(6)
        (tensor(0), np.int64(1), np.float64(0.5), np.float64(-0.25))

    Source:
        Babaeizadeh et al. 2016, NoiseOut, arXiv:1611.06211. The noise outputs of its title, which make units correlate
        in training, are not part of this.
    """
    mean, centred = covariance.mean.numpy(), covariance.covariance.numpy()
    second = np.diag(covariance.gram.numpy())
    variance = np.diag(centred).copy()
    variance[variance <= 1e-14 * second] = 0.0
    deviation = np.sqrt(variance)
    with np.errstate(divide="ignore", invalid="ignore"):
        rho = np.where(variance > 0, centred / np.outer(deviation, deviation), 0.0)
        slope = np.where(variance[:, None] > 0, centred / variance[:, None], 0.0)
    cost = np.clip(1.0 - np.abs(np.nan_to_num(rho)), 0.0, 1.0)
    goes_later = np.lexsort((-np.arange(len(variance)), variance)).argsort()
    cost[variance == 0, :] = np.inf
    cost[variance == 0, goes_later.argmax()] = 0.0  # any unit would do: the one that stays
    cost[goes_later[:, None] >= goes_later[None, :]] = np.inf
    removed, into, costs = greedy_merges(cost, np.ones(len(variance)), None)
    units = np.arange(len(variance))
    scale = slope[into, units]
    scale[variance == 0] = 0.0
    shift = mean - scale * mean[into]
    last = into == units
    scale[last], shift[last] = 1.0, 0.0
    return _ranked(removed, costs, len(variance)), Merge(into, scale, shift)


def distance(own: Tensor) -> Tensor:
    r"""How near a unit's weights are to those of another that stays.

    :math:`s_j = \|w_j - w_i\|` with i the nearest unit that is still there when j goes. The closest pair of all comes first, and of a
    pair the one of the smaller norm goes (of equal norms, the later one), until one unit is left, which has the highest score. So
    the units whose score is below a threshold are those that go where *of every pair closer than the threshold one goes*.

    Args:
        own: Rows of one group, ``[channels, fan]``.

    Returns:
        Scores ``[channels]``, float64, in the unit of the weights, increasing in the order in which units go. Nothing is merged: for
        that take `similarity`.

    Example:
        >>> distance(torch.tensor([[1.0, 0.0], [4.0, 0.0], [1.5, 0.0]])).round(decimals=4)
        tensor([0.5000, 2.5000, 2.5000], dtype=torch.float64)

    Source:
        Pruning by Euclidean distance, as relevance pruning is compared with it (see `secateur.observe.Subsets`). Which one of a pair
        goes is not said there.
    """
    squares = _squared_distances(own.double().numpy())
    norms = np.linalg.norm(own.double().numpy(), axis=1)
    goes_later = np.lexsort((-np.arange(len(norms)), norms)).argsort()
    squares[goes_later[:, None] >= goes_later[None, :]] = np.inf
    removed, _, costs = greedy_merges(squares, np.ones(len(norms)), None)
    return _ranked(removed, np.sqrt(costs), len(norms))


def greedy_merges(
    distance: Floats, weight: Floats, merged: Callable[[int, int], None] | None
) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """Merge the cheapest pair again and again.

    Folding j into i costs ``weight[j] * distance[j, i]``. The nearest unit of each j is remembered and sought anew only
    when it has gone, so that a step takes O(n) where few share a nearest unit. Of equal costs the highest index
    goes, into the lowest: the first of many equal units stays.

    Args:
        distance: ``[n, n]``; infinite where i may not stand in for j. The diagonal is ignored. It is overwritten.
        weight: ``[n]``.
        merged: Called with (i, j) after j was folded into i; may change ``weight[i]``.

    Returns:
        The removed units in their order ``[n - 1]``, the unit into which each unit went ``[n]`` (the last one: itself),
        and the costs ``[n - 1]``.

    Example:
        >>> square = np.array([[0.0, 1.0, 4.0], [1.0, 0.0, 9.0], [4.0, 9.0, 0.0]])
        >>> greedy_merges(square, np.ones(3), None)
        (array([1, 2]), array([0, 0, 0]), array([1., 4.]))
    """
    n = len(weight)
    np.fill_diagonal(distance, np.inf)
    nearest = distance.argmin(1)
    reach = distance[np.arange(n), nearest]
    into = np.arange(n, dtype=np.int64)
    alive = np.ones(n, dtype=bool)
    removed = np.zeros(max(n - 1, 0), dtype=np.int64)
    costs = np.zeros(max(n - 1, 0))
    for step in range(n - 1):
        cost = np.full(n, np.inf)
        open_ = alive & np.isfinite(reach)
        cost[open_] = weight[open_] * reach[open_]
        j = n - 1 - int(cost[::-1].argmin())
        i = int(nearest[j])
        removed[step], costs[step], into[j] = j, cost[j], i
        alive[j] = False
        distance[:, j] = np.inf
        if merged is not None:
            merged(i, j)
        orphans = np.flatnonzero(alive & (nearest == j))
        if len(orphans):
            nearest[orphans] = distance[orphans].argmin(1)
            reach[orphans] = distance[orphans, nearest[orphans]]
    return removed, into, costs


def _squared_distances(w: Floats) -> Floats:
    """``|w_i - w_j|^2``, ``[n, n]``, exact to a few units in the last place even for nearly equal rows."""
    squares = np.square(w).sum(1)
    sums = squares[:, None] + squares[None, :]
    distance = np.maximum(sums - 2 * (w @ w.T), 0.0)
    near = distance <= _NEAR * sums
    if near.sum() > len(w):
        same = np.unique(w, axis=0, return_inverse=True)[1].reshape(-1)
        equal = same[:, None] == same[None, :]
        distance[equal] = 0.0
        near &= ~equal
        for i in np.flatnonzero(near.any(1)):
            distance[i, near[i]] = np.square(w[near[i]] - w[i]).sum(1)
    return distance


def _ranked(removed: NDArray[np.int64], costs: Floats, width: int) -> Tensor:
    """Scores that increase strictly in the removal order; the unit that stays is the highest."""
    step = _STEP * (float(costs.max(initial=0.0)) or 1.0)
    offsets = step * np.arange(len(costs))
    rising = np.maximum.accumulate(costs - offsets) + offsets
    values = np.full(width, (rising[-1] if len(rising) else 0.0) + step)
    values[removed] = rising
    return torch.as_tensor(values)
