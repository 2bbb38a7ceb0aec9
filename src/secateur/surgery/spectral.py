"""Spectral norms after a cut: they are those of what is left.

A layer under spectral norm keeps an estimate of the first singular vectors of its weight, which train mode improves by a step a
pass. What a cut leaves of the estimate is that of another matrix: a weight that is divided by what it says may have a norm of two.
So both vectors are found anew by power iteration, from what is left of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _SpectralNorm  # pyright: ignore[reportPrivateUsage]
from torch.nn.utils.parametrize import is_parametrized
from torch.nn.utils.spectral_norm import SpectralNorm

_STEPS: Final = 1000
"""Steps at most; where the two largest singular values differ by a tenth, some seventy are made."""


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
    """The left and right singular vectors of the largest singular value, by power iteration; None for zeros.

    >>> u, v = first_vectors(torch.diag(torch.tensor([3.0, 2.0])), torch.ones(2))
    >>> round(float(u @ torch.diag(torch.tensor([3.0, 2.0])).to(u) @ v), 6)
    3.0
    """
    wide = torch.float32 if matrix.device.type == "mps" else torch.float64
    exact, u = matrix.to(wide), start.to(wide)
    near = 10 * torch.finfo(wide).eps
    if not bool(u.any()):
        u = torch.ones_like(u)
    v, before = exact.mT @ u, 0.0
    for _ in range(_STEPS):
        v = v / v.square().sum().sqrt()
        u = exact @ v
        size = float(u.square().sum().sqrt())
        if not size > 0:  # also where nothing is a number
            return None
        u = u / size
        if abs(size - before) <= near * size:
            break
        v, before = exact.mT @ u, size
    return u, v
