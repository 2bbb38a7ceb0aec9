"""Weights under spectral norm after a cut."""

from __future__ import annotations

import pytest
import torch
from tests.strategies import random_plan
from torch import nn
from torch.nn.utils import parametrizations

import secateur
from secateur.surgery.spectral import first_vectors
from secateur.testing import check_cut, check_left_as_found

NORMS = {"parametrisation": parametrizations.spectral_norm, "hook": nn.utils.spectral_norm}


def norm_of(layer: nn.Module) -> float:
    weight = layer.weight.detach()
    return float(torch.linalg.matrix_norm(weight.flatten(1), 2))


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("name", NORMS)
def test_the_norm_is_one_right_after_a_cut(name: str, inplace: bool) -> None:
    """In eval mode, without a further pass; the random state is not touched, and the uncut network not if it stays."""
    made = NORMS[name]
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 24, 3, padding=1), nn.Conv2d(24, 16, 3, padding=1)]
    model = nn.Sequential(*map(made, layers), nn.Flatten(), made(nn.Linear(16 * 36, 12)), nn.Linear(12, 2))
    x = torch.randn(2, 3, 6, 6)
    with torch.no_grad():
        for _ in range(40):  # the estimates are those of the uncut weights
            model.train()(x)
    model.eval()
    channels = secateur.watch(model, x)
    plan = secateur.plan(channels, secateur.score(model, channels, "random"), remove=0.6)
    state = torch.get_rng_state()

    if inplace:
        small = secateur.apply(model, plan, inplace=True)
    else:
        check_left_as_found(model, lambda: secateur.apply(model, plan))
        small = secateur.apply(model, plan)

    assert torch.equal(torch.get_rng_state(), state)
    with torch.no_grad():
        small(x)  # the hook computes the weight in a pass
    assert [norm_of(small[place]) for place in (0, 1, 3)] == pytest.approx([1.0] * 3, abs=1e-3)


def test_the_law_holds_whatever_the_estimate_was() -> None:
    """Cutting equals not reading, with the norm of what is left: also where the network's own estimate is far off."""
    model = nn.Sequential(
        nn.Linear(6, 9),
        nn.ReLU(),
        parametrizations.spectral_norm(nn.Linear(9, 8)),
        nn.ReLU(),
        nn.Linear(8, 5),
    )
    with torch.no_grad():
        model[2].parametrizations.weight[0]._u.copy_(nn.functional.normalize(torch.arange(8.0) - 3, dim=0))
    x = torch.randn(4, 6)
    check_cut(model, x, random_plan(secateur.watch(model, x), ratio=0.5, seed=1), forecast=False)


@pytest.mark.parametrize("shape", [(7, 12), (1, 5), (5, 1), (40, 90), (90, 40)])
@pytest.mark.parametrize("filled", [0.0, 1.0])
def test_first_vectors_are_those_of_the_decomposition(shape: tuple[int, int], filled: float) -> None:
    """Of length one, and exact, from any start, also where the two largest singular values are near each other; zeros have none."""
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    if min(shape) > 1:
        left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
        values[1] = values[0] * (1 - 1e-4)
        matrix = left * values @ right
    start = torch.full(shape[:1], filled)

    u, v = first_vectors(matrix, start)

    wanted = float(torch.linalg.matrix_norm(matrix.double(), 2))
    assert float(u @ matrix.double() @ v) == pytest.approx(wanted, rel=1e-10)
    assert [float(u.norm()), float(v.norm())] == pytest.approx([1.0, 1.0])
    assert first_vectors(torch.zeros(shape), start) is None
