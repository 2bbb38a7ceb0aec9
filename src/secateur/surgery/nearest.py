"""Factors that answer most like the layer on its inputs, beginning from those that are nearest to its weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

from secateur.observe import Covariance
from secateur.plan.decompose import Kind, composed, decomposed

_linalg: Any = torch.linalg  # untyped
_STEPS: Final = 200
_SETTLED: Final = 1e-7
"""Share of the outputs' sum of squares that a step must still gain."""
_FIXED: Final = frozenset({"shift"})


def nearest_on(
    kernel: Tensor, kind: Kind, parts: Mapping[str, Tensor], seen: Covariance, *, bias: Tensor | None
) -> tuple[dict[str, Tensor], Tensor | None]:
    r"""Improve factors in least squares on what the layer reads.

    With D the difference of the kernels and C the second moment of the inputs, :math:`\operatorname{tr}(D C D^T)` is made least: C is
    centred where the layer has a bias, which then takes the mean of what is lost. For an SVD that is solved: with U the first r left singular
    vectors of :math:`W C^{1/2}`, the factors are U and :math:`U^T W`. Others are moved together, by L-BFGS, until no one of them alone could
    be better. Which way a shift goes is not changed.

    Args:
        kernel: ``[o, c, k]``, in double precision.
        kind: Of what kind the factors are.
        parts: The factors to begin from.
        seen: What the layer read, features ``[c, k]`` flattened.
        bias: The layer's bias.

    Returns:
        The factors and the bias; never with a greater error than at the start.
    """
    if not seen.count:
        return dict(parts), bias
    moment = (seen.gram if bias is None else seen.covariance).to(kernel)
    if kind == "svd":
        matrix, rank = kernel[:, :, 0], len(parts["first"])
        vectors: Tensor
        _, vectors = _linalg.eigh(matrix @ moment @ matrix.T)
        left = vectors.flip(1)[:, :rank]
        best = decomposed((left @ (left.T @ matrix))[:, :, None], "svd", (rank,))
    else:
        best = _improved(kernel, kind, parts, moment)
    if bias is None:
        return best, None
    lost = (kernel - composed(kind, best, kernel.shape[2])).flatten(1)
    return best, bias + (lost @ seen.mean.to(kernel)).to(bias)


def _improved(kernel: Tensor, kind: Kind, parts: Mapping[str, Tensor], moment: Tensor) -> dict[str, Tensor]:
    """The factors where L-BFGS ends, or those at its start if it made nothing better."""
    fixed = {name: part for name, part in parts.items() if name in _FIXED}
    free = {
        name: part.clone(memory_format=torch.contiguous_format).requires_grad_(True)
        for name, part in parts.items()
        if name not in _FIXED
    }

    def error(apart: Tensor) -> Tensor:
        return ((apart @ moment) * apart).sum()

    scale = float(error(kernel.flatten(1)))
    if not scale > 0:
        return dict(parts)
    search = torch.optim.LBFGS(
        list(free.values()),
        max_iter=_STEPS,
        history_size=20,
        tolerance_grad=1e-12,
        tolerance_change=_SETTLED,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        made = composed(kind, {**fixed, **free}, kernel.shape[2])
        return error((kernel - made).flatten(1)) / scale

    def step() -> Tensor:
        search.zero_grad()
        found = loss()
        found.backward()  # pyright: ignore[reportUnknownMemberType]
        return found

    with torch.enable_grad():
        before = float(loss().detach())
        search.step(step)  # pyright: ignore[reportArgumentType, reportUnknownMemberType]
        better = float(loss().detach()) <= before
    return {name: ({**fixed, **free} if better else parts)[name].detach() for name in parts}
