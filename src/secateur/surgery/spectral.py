"""Spectral norms after a cut: they are those of what is left.

A layer under spectral norm keeps an estimate of the first singular vectors of its weight, which train mode improves by a step a
pass. What a cut leaves of the estimate is that of another matrix: a weight that is divided by what it says may have any norm.
So both vectors are found anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import linalg as scipy_linalg  # pyright: ignore[reportMissingTypeStubs]
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _SpectralNorm  # pyright: ignore[reportPrivateUsage]
from torch.nn.utils.parametrize import is_parametrized
from torch.nn.utils.spectral_norm import SpectralNorm

_SMALL: Final = 32
"""Rows or columns up to which a matrix is decomposed as a whole."""

Numbers: TypeAlias = NDArray[np.float64]


def spectra_of(module: nn.Module) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The matrix of each weight of a module under spectral norm, and the estimates of its first singular vectors.

    One that is taken of what another parametrisation computes is left out.

    >>> from torch.nn.utils.parametrizations import spectral_norm
    >>> [[tuple(x.shape) for x in found] for found in spectra_of(spectral_norm(nn.Conv2d(2, 3, 5)))]
    [[(3, 50), (3,), (50,)]]
    """
    if is_parametrized(module):
        for entries in cast("Any", module.parametrizations).values():
            first, original = entries[0], getattr(entries, "original", None)
            if isinstance(first, _SpectralNorm) and original is not None and original.dim() > 1:
                held = cast("Any", first)
                yield held._reshape_weight_to_matrix(original.detach()), held._u, held._v
    for hook in cast("dict[int, object]", vars(module)["_forward_pre_hooks"]).values():
        if isinstance(hook, SpectralNorm):
            weight, u, v = (getattr(module, f"{hook.name}_{part}") for part in ("orig", "u", "v"))
            yield hook.reshape_weight_to_matrix(weight.detach()), u, v


@torch.no_grad()
def settle_spectra(module: nn.Module) -> None:
    """Find the first singular vectors of a module's weights under spectral norm anew."""
    for matrix, u, v in spectra_of(module):
        if matrix.is_meta:
            continue
        found = first_vectors(matrix, u)
        if found is not None:
            u.copy_(found[0])
            v.copy_(found[1])


def first_vectors(matrix: Tensor, start: Tensor) -> tuple[Tensor, Tensor] | None:
    """The left and right singular vectors of the largest singular value, in double precision; None where there are none.

    Large matrices are multiplied with vectors only (Lanczos' method, from a start that is given, so that nothing is drawn).

    >>> u, v = first_vectors(torch.diag(torch.tensor([3.0, 2.0])), torch.ones(2))
    >>> round(float(u @ torch.diag(torch.tensor([3.0, 2.0])).to(u) @ v), 6)
    3.0
    """
    values = matrix.cpu().double().numpy()
    if not values.any() or not np.isfinite(values).all():
        return None
    left, right = _by_products(values, start.cpu().double().numpy()) or _whole(values)
    return torch.tensor(left), torch.tensor(right)


def _whole(values: Numbers) -> tuple[Numbers, Numbers]:
    left, _, right = np.linalg.svd(values, full_matrices=False)
    return left[:, 0], right[0]


def _by_products(values: Numbers, start: Numbers) -> tuple[Numbers, Numbers] | None:
    """By products with vectors; None for a small matrix, and where they do not settle."""
    if min(values.shape) <= _SMALL:
        return None
    first = start if values.shape[0] <= values.shape[1] else values.T @ start
    first = first if first.any() else np.ones_like(first)
    solver: Any = scipy_linalg  # untyped
    try:
        left, _, right = solver.svds(values, k=1, v0=first)
    except solver.ArpackError:
        return None
    return left[:, 0], right[0]
