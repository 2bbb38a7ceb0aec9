"""Let readers make up for removed units, from what they saw of them."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import replace
from functools import partial
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from secateur.channels import Group
from secateur.errors import PlanError, SettingsError
from secateur.observe import Covariance, Observations
from secateur.plan.change import Change, Mix, Plan

Method = Literal["least-squares", "mean"]


Fit: TypeAlias = "Callable[[Covariance, NDArray[np.int64], bool], Mix | None]"
"""From what a reader saw, the kept units and whether it has a bias to how it makes up for the removed ones."""


_NOISE = 1e-12
"""Share of the greatest second moment that counts as rounding errors."""


def _least_squares(seen: Covariance, kept: NDArray[np.int64], has_bias: bool, *, ridge: float) -> Mix:
    """The combination of kept units that is nearest to each old unit on the samples seen.

    With C the (centred, if a bias can take the mean) second moment: A = C[:, K] (C[K, K] + r I)^-1, one row an old unit.
    Kept units stand for themselves exactly. Kept units that do not vary (dead ones, say) explain nothing: r is never so small
    that their rounding errors would count, or that the system has no solution.
    """
    gram = seen.gram.double().numpy()
    moment = (seen.covariance if has_bias else seen.gram).double().numpy()
    mean = seen.mean.double().numpy()
    inner = moment[np.ix_(kept, kept)]
    least = max(_NOISE * float(gram.diagonal().max()), float(np.finfo(np.float64).tiny))
    strength = max(ridge * float(np.trace(inner)) / len(kept), least)
    inverted = np.linalg.solve(inner + strength * np.eye(len(kept)), moment[kept])
    solved = np.asarray(inverted.T, dtype=np.float64)
    solved[kept] = np.eye(len(kept))
    if not has_bias:
        return Mix(solved)
    shift = np.asarray(mean - solved @ mean[kept], dtype=np.float64)
    shift[kept] = 0.0
    return Mix(solved, shift)


def _mean(seen: Covariance, kept: NDArray[np.int64], has_bias: bool) -> Mix | None:
    """Each removed unit is replaced by its mean, which only a bias can take."""
    if not has_bias:
        return None
    width = len(seen.mean)
    matrix = np.zeros((width, len(kept)))
    matrix[kept, np.arange(len(kept))] = 1.0
    shift = seen.mean.double().numpy().copy()
    shift[kept] = 0.0
    return Mix(matrix, shift)


def _compensated(
    change: Change, group: Group, readers_with_bias: Container[str], seen: Observations, fit: Fit
) -> Change:
    mixes: dict[str, Mix] = {}
    for member in group.by_role("read"):
        covariance = seen.covariances.get((group.name, member.tensor))
        if covariance is None or covariance.count == 0:  # a reader that the observed pass did not use
            continue
        mix = fit(covariance, change.take, member.tensor in readers_with_bias)
        if mix is not None:
            mixes[member.tensor] = mix
    return replace(change, mixes=mixes) if mixes else change


def compensate(
    plan: Plan, observations: Observations, *, method: Method = "least-squares", ridge: float = 1e-3
) -> Plan:
    r"""Let the readers of each cut group make up for what they no longer see.

    ``least-squares`` replaces each removed unit by the combination of kept ones (and a constant, where the reader has a
    bias) that is nearest to it on the observed inputs of each reader:
    :math:`\min_A E\|h - A h_K - b\|^2 + r\|A\|^2`. ``mean`` replaces it by its mean, which goes into the reader's bias;
    readers without a bias are left as they are. Exact where removed units are such combinations (for a constant: in
    layers without zero padding).

    Args:
        plan: A plan that removes units. Merges it already holds are replaced for the readers that were observed.
        observations: With ``Need.COVARIANCE`` for the plan's groups.
        method: ``least-squares`` or ``mean``.
        ridge: r, as a share of the mean variance of the kept units.

    Returns:
        The plan with mixes. Its cost is the same.

    Raises:
        SettingsError: ``ridge`` is negative, or there is no such method.
        PlanError: The observations are of another network.

    Source:
        Least-squares reconstruction of the next layer's input: He et al. 2017, arXiv:1707.06168 (there on the layer's
        output and with a choice of channels; here on its input, for a choice already made). Mean: Molchanov et al. 2016.
    """
    if method not in ("least-squares", "mean"):
        raise SettingsError(f"method={method!r} must be 'least-squares' or 'mean'")
    if ridge < 0:
        raise SettingsError(f"ridge={ridge} must not be negative")
    fit: Fit = partial(_least_squares, ridge=ridge) if method == "least-squares" else _mean
    changes: list[Change] = []
    for group, change in zip(plan.groups, plan.changes, strict=True):
        for (name, reader), covariance in observations.covariances.items():
            if name == group.name and len(covariance.mean) != group.width:
                raise PlanError(
                    f"{reader} was observed with {len(covariance.mean)} units of {name!r}, the plan has {group.width};"
                    " observe the network that is to be cut"
                )
        pruned = len(change.kept) == len(change.take) and len(change.removed) > 0
        changes.append(_compensated(change, group, plan.biases, observations, fit) if pruned else change)
    return replace(plan, changes=tuple(changes))
