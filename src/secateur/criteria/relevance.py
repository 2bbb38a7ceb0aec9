"""The criterion on passes with random subsets of the units."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from secateur.observe import Relevance


def relevance(found: Relevance) -> Tensor:
    r"""How far a unit's relevance lies above what chance alone comes to.

    :math:`s_j = (r_j - \mathrm{mean}\, q) / \mathrm{std}\, q`, with :math:`r_j` the unit's relevance (`secateur.observe.Subsets`) and
    q those of the layer's dummies.

    Args:
        found: What passes with random subsets gave.

    Returns:
        Scores ``[channels]``, float64, in standard deviations of chance: comparable between layers. Negative for a unit that does
        less than the others of its layer, or harm; zero for all where chance has no spread, since every unit took part in every
        pass.

    Example:
        >>> q = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
        >>> relevance(Relevance(units=torch.tensor([2.0, -1.0], dtype=torch.float64), dummies=q, draws=9))
        tensor([ 2., -1.], dtype=torch.float64)

    Source:
        As for `secateur.observe.Subsets`. There units go where :math:`p(r_j > r_\mathrm{rand}) \le \delta`, which is
        :math:`s_j \le \Phi^{-1}(\delta)`; see :func:`certainty`.
    """
    dummies = found.dummies
    if float(dummies.max()) == float(dummies.min()):
        return torch.zeros_like(found.units)
    return (found.units - dummies.mean()) / dummies.std()


def certainty(scores: Tensor) -> Tensor:
    r"""The probability that a unit is more relevant than chance: :math:`p(r_j > r_\mathrm{rand}) = \Phi(s_j)`.

    Args:
        scores: Scores by ``relevance``, of any shape.

    Returns:
        Of the same shape, from 0 to 1. Units below a small :math:`\delta` are significantly less relevant than their layer's others.

    Example:
        >>> certainty(torch.tensor([-1.6449, 0.0, 2.0], dtype=torch.float64))
        tensor([0.0500, 0.5000, 0.9772], dtype=torch.float64)
    """
    special: Any = torch.special
    return cast("Tensor", special.ndtr(scores))
