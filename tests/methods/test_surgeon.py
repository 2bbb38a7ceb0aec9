"""Optimal brain surgeon on one linear map: every figure is checked against solving the problem outright."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from torch import Tensor

from secateur.errors import ModelError
from secateur.methods import surgeon
from secateur.methods.surgeon import best_weights, cheapest, removal_order


def problem(rows: int = 4, width: int = 9, *, samples: int = 40, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Weights, and inputs that depend on each other."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(width, width, generator=generator, dtype=torch.float64)
    x = torch.randn(samples, width, generator=generator, dtype=torch.float64) @ mixed
    return torch.randn(rows, width, generator=generator, dtype=torch.float64), x


def moment(x: Tensor) -> Tensor:
    return x.T @ x / len(x)


def least_squares(row: Tensor, x: Tensor, kept: Tensor) -> Tensor:
    """The best that the weights that stay can do, by a solver that knows nothing of Hessians."""
    made = torch.zeros_like(row)
    made[kept] = torch.linalg.lstsq(x[:, kept], x @ row).solution
    return made


def error(change: Tensor, h: Tensor) -> Tensor:
    return torch.einsum("...i,ij,...j->...", change, h, change) / 2


def test_what_stays_is_the_least_squares_optimum() -> None:
    """For any mask, the weights that stay are those of the constrained least-squares problem."""
    w, x = problem()
    kept = torch.rand(w.shape, generator=torch.Generator().manual_seed(1)) < 0.5

    found = best_weights(w, moment(x), kept)

    for row, mine, stays in zip(w, found, kept, strict=True):
        torch.testing.assert_close(mine, least_squares(row, x, stays))
    assert not found[~kept].any()
    torch.testing.assert_close(best_weights(w, moment(x), torch.ones_like(kept)), w, rtol=0, atol=0)


@pytest.mark.parametrize("block", [1, 4, 48])
def test_the_costs_add_up_to_the_error(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """After any number of removals, the costs so far are the error of the optimum, in any blocks and any pieces."""
    monkeypatch.setattr(surgeon, "BLOCK", block)
    monkeypatch.setattr(surgeon, "MEMORY", 8 * 9 * 9 * 3)
    w, x = problem()
    h = moment(x)

    order, cost = removal_order(w, h)

    for count in range(1, 10):
        kept = torch.ones_like(w, dtype=torch.bool).scatter(1, order[:, :count], torch.zeros(4, count).bool())
        torch.testing.assert_close(cost[:, :count].sum(1), error(best_weights(w, h, kept) - w, h))


def test_the_first_weight_is_the_best_of_all_choices() -> None:
    """Removing one weight of all rows: no other choice, with its own least-squares optimum, errs less."""
    w, x = problem()
    h = moment(x)
    order, cost = removal_order(w, h)

    kept = cheapest(order, cost, 1)

    errors = {}
    for row, column in ((r, c) for r in range(4) for c in range(9)):
        stays = torch.ones(9, dtype=torch.bool)
        stays[column] = False
        errors[row, column] = float(error(least_squares(w[row], x, stays) - w[row], h))
    best = min(errors, key=errors.__getitem__)
    assert (~kept).nonzero().tolist() == [list(best)]
    assert float(cost[best[0], 0]) == pytest.approx(errors[best])


def test_with_independent_inputs_the_best_pair_goes() -> None:
    """Where H is the identity (times what each row shares), any two weights removed are the best two, and nothing moves."""
    w, _ = problem(rows=2, width=5)
    order, cost = removal_order(w, torch.eye(5))

    kept = cheapest(order, cost, 2)

    places = [(r, c) for r in range(2) for c in range(5)]
    best = min(combinations(places, 2), key=lambda pair: sum(float(w[p]) ** 2 for p in pair))
    assert {tuple(place) for place in (~kept).nonzero().tolist()} == set(best)
    torch.testing.assert_close(best_weights(w, torch.eye(5), kept), torch.where(kept, w, 0.0))


def test_rows_give_up_weights_in_their_own_order() -> None:
    """A dear weight that hides a cheap one behind it is passed only when both are worth it; any count is met exactly."""
    order = torch.tensor([[0, 1], [1, 0]])
    cost = torch.tensor([[5.0, 1.0], [2.0, 9.0]])

    removed = [(~cheapest(order, cost, count)).nonzero().tolist() for count in range(5)]

    assert removed[:4] == [[], [[1, 1]], [[0, 0], [1, 1]], [[0, 0], [0, 1], [1, 1]]]
    assert len(removed[4]) == 4


def test_inputs_that_depend_on_each_other_are_refused() -> None:
    """A Hessian without an inverse has no single answer; the message names damping."""
    with pytest.raises(ModelError, match="damping"):
        removal_order(torch.ones(1, 2), torch.tensor([[1.0, 1.0], [1.0, 1.0]]) - 1e-9 * torch.eye(2))
