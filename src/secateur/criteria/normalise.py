"""Making the scores of different groups comparable."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

from torch import Tensor

from secateur.criteria.scores import Scores
from secateur.errors import SettingsError

Norm: TypeAlias = Literal["l1", "l2"]
"""By which norm a group's scores are divided."""


def normalised(scores: Scores, by: Norm | None) -> Scores:
    r"""Divide each group's scores by their norm, so that layers of different scale compete.

    :math:`s'_c = s_c / \|s\|_p` with p = 1 or 2. A group whose scores are all zero stays as it is. The order within a group
    and its merges do not change.

    Args:
        scores: Scores of any criterion.
        by: ``"l1"``, ``"l2"``, or ``None`` for the scores as they are.

    Raises:
        SettingsError: ``by`` is something else.

    Example:
        >>> import torch
        >>> scores = Scores("l1", {"conv": torch.tensor([3.0, 4.0], dtype=torch.float64)})
        >>> normalised(scores, "l2").values["conv"]
        tensor([0.6000, 0.8000], dtype=torch.float64)

    Source:
        The L2 form across layers: Molchanov et al. 2017, arXiv:1611.06440, section 2.2.
    """
    if by is None:
        return scores
    if by not in get_args(Norm):
        raise SettingsError(f"normalise is {by!r}; it must be 'l1', 'l2' or None")
    return Scores(
        criterion=scores.criterion,
        values={name: _divided(values, by) for name, values in scores.values.items()},
        merges=scores.merges,
    )


def _divided(values: Tensor, by: Norm) -> Tensor:
    norm = values.abs().sum() if by == "l1" else values.square().sum().sqrt()
    return values / norm if float(norm) > 0 else values
