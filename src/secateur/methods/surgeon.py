"""Optimal brain surgeon on one linear map: weights removed one after the other, the others moved so that they make up for it."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from secateur.errors import ModelError

MEMORY = 1 << 28
"""Bytes of inverses that are held at a time."""
BLOCK = 48
"""Weights that are removed from every row before the inverses are brought up to date and made smaller."""

_ROUNDING = 1e-13
"""What rounding leaves of an input that others explain, as a share of it."""


def removal_order(weight: Tensor, hessian: Tensor) -> tuple[Tensor, Tensor]:
    r"""In which order each row gives up its weights, and what each costs.

    A row :math:`w` that reads inputs of second moment H (all rows of a layer share it) errs by
    :math:`\frac{1}{2}\,\delta w^\top H\, \delta w`. The weight that goes next, and how the others move, are

    .. math::

        q = \arg\min_i \frac{w_i^2}{2\,[H^{-1}]_{ii}}, \qquad \delta w = -\frac{w_q}{[H^{-1}]_{qq}}\, H^{-1} e_q,

    and what is left of the inverse is :math:`H^{-1} - H^{-1} e_q e_q^\top H^{-1} / [H^{-1}]_{qq}`, without its row and column
    q. Every step is exact, so that a row's costs add up to the error of the least-squares optimum for what is left.

    Rows are worked on side by side. The inverses are brought up to date after some removals at once, by one product of
    matrices, and what is gone is dropped from them: :math:`\frac{2}{3} r d^3` multiply-adds for r rows of d weights, and
    :math:`d^2` numbers for each row that is in work.

    Args:
        weight: ``[rows, width]``.
        hessian: Positive definite, ``[width, width]``.

    Returns:
        For every row the indices in the order in which they go, and the cost of each, both ``[rows, width]``.

    Raises:
        ModelError: The Hessian is not positive definite.

    Example:
        >>> order, cost = removal_order(torch.tensor([[3.0, 1.0, -2.0]]), torch.eye(3))
        >>> order.tolist(), cost.tolist()
        ([[1, 2, 0]], [[0.5, 2.0, 4.5]])

    Source:
        Hassibi and Stork 1993, Second order derivatives for network pruning, equation 5; row by row, exactly: Frantar and
        Alistarh 2022, arXiv:2208.11580, algorithm 1. There the inverse is brought up to date after each weight.
    """
    w, h = weight.double(), hessian.double()
    rows, width = w.shape
    order = torch.empty(rows, width, dtype=torch.int64, device=w.device)
    cost = torch.empty(rows, width, dtype=torch.float64, device=w.device)
    if width:
        inverse = torch.cholesky_inverse(_factor(h))
        size = max(1, MEMORY // (8 * width * width))
        for start in range(0, rows, size):
            part = slice(start, start + size)
            order[part], cost[part] = _remove_all(w[part], inverse, h.diagonal())
    return order, cost


def _remove_all(weight: Tensor, inverse: Tensor, diagonal: Tensor) -> tuple[Tensor, Tensor]:
    """`removal_order` of some rows; ``inverse`` is that of the Hessian and ``diagonal`` the Hessian's own."""
    rows, width = weight.shape
    each = torch.arange(rows, device=weight.device)
    order: list[Tensor] = []
    cost: list[Tensor] = []
    w, index = weight.clone(), torch.arange(width, device=weight.device).expand(rows, width)
    a, least = inverse.expand(rows, width, width), (1.0 / diagonal).expand(rows, width)
    while w.shape[1]:
        count = min(BLOCK, w.shape[1])
        steps = w.new_zeros(rows, count, w.shape[1])
        d, there = a.diagonal(dim1=1, dim2=2).clone(), torch.ones_like(w, dtype=torch.bool)
        for step in range(count):
            costs = (w.square() / (2.0 * d)).masked_fill(~there, torch.inf)
            lowest, q = costs.min(dim=1)
            done = steps[:, :step]
            column = a[each, q] - torch.bmm(done[each, :, q].unsqueeze(1), done).squeeze(1)
            root = d[each, q].sqrt()
            column /= root.unsqueeze(1)
            steps[:, step] = column
            w -= column * (w[each, q] / root).unsqueeze(1)
            # an inverse's diagonal is never below the inverse of the diagonal; rounding does not push it there, either
            d = torch.maximum(d - column.square(), least)
            there[each, q] = False
            order.append(index[each, q])
            cost.append(lowest)
        left = there.nonzero()[:, 1].reshape(rows, -1)
        a = torch.baddbmm(a, steps.transpose(1, 2), steps, alpha=-1.0)
        a = a[each[:, None, None], left[:, :, None], left[:, None, :]]
        w, index, least = w.gather(1, left), index.gather(1, left), least.gather(1, left)
    return torch.stack(order, dim=1), torch.stack(cost, dim=1)


def cheapest(order: Tensor, cost: Tensor, count: int) -> Tensor:
    """Which weights go if so many go from all rows together: always the row whose next weight costs least.

    Args:
        order: As `removal_order` gives it.
        cost: Likewise.
        count: How many weights go.

    Returns:
        True where a weight stays, ``[rows, width]``.

    Example:
        >>> order, cost = removal_order(torch.tensor([[3.0, 1.0], [2.0, 2.5]]), torch.eye(2))
        >>> cheapest(order, cost, 2)
        tensor([[ True, False],
                [False,  True]])

    Source:
        Frantar and Alistarh 2022, arXiv:2208.11580, section 4 (the global step).
    """
    # a row gives up its weights in its own order, so that one is reached when the dearest up to it is
    reached = cost.cummax(dim=1).values.flatten()
    first = reached.argsort(stable=True)[:count]
    kept = torch.ones_like(reached, dtype=torch.bool)
    kept[first] = False
    return torch.ones_like(cost, dtype=torch.bool).scatter(1, order, kept.reshape(cost.shape))


def best_weights(weight: Tensor, hessian: Tensor, kept: Tensor) -> Tensor:
    r"""The weights that stay, so that the error is the least that is possible without the others.

    For the weights S of a row that stay and the others M: :math:`w_S + H_{SS}^{-1} H_{SM}\, w_M`.

    Args:
        weight: ``[rows, width]``.
        hessian: ``[width, width]``, positive definite on what stays.
        kept: True where a weight stays, ``[rows, width]``.

    Returns:
        ``[rows, width]``, float64, exactly zero where a weight went.

    Raises:
        ModelError: The Hessian is not positive definite.

    Example:
        >>> hessian = torch.tensor([[2.0, 1.0], [1.0, 2.0]])
        >>> best_weights(torch.tensor([[1.0, 4.0]]), hessian, torch.tensor([[False, True]]))
        tensor([[0.0000, 4.5000]], dtype=torch.float64)
    """
    w, h = weight.double(), hessian.double()
    made = torch.where(kept, w, 0.0)
    for index in (~kept).any(dim=1).nonzero()[:, 0]:
        row = int(index)
        s, m = kept[row].nonzero()[:, 0], (~kept[row]).nonzero()[:, 0]
        if len(s):
            moved = h[s[:, None], m] @ w[row, m]
            made[row, s] += torch.cholesky_solve(moved[:, None], _factor(h[s[:, None], s]))[:, 0]
    return made


def _factor(hessian: Tensor) -> Tensor:
    """Cholesky's factor; its pivots say how much of each input the ones before it leave unexplained."""
    found: Any = torch.linalg.cholesky_ex(hessian)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    factor, failed = cast("tuple[Tensor, Tensor]", found)
    if int(failed) or bool((factor.diagonal().square() < _ROUNDING * hessian.diagonal()).any()):
        raise ModelError(
            "the inputs depend on each other linearly, so that no single best weights make up for what is removed; give"
            " damping above 0, or more examples"
        )
    return factor
