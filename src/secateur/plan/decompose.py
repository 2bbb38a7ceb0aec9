"""A layer's kernel as a product of smaller ones: linear algebra on its weights, nothing of modules or plans.

Kernels are ``[o, c, k]``: outputs, inputs, positions of the window (one for a dense layer). Parts are in the order in which they
run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Final, Literal, TypeAlias

import torch
from torch import Tensor

Kind: TypeAlias = Literal["svd", "tucker", "depthwise-separable", "fire", "shift"]
"""What stands for a layer: two factors by SVD, up to three by Tucker-2, or a module of a smaller kind."""

_linalg: Any = torch.linalg  # untyped
_ROUNDS: Final = 100
_SETTLED: Final = 1e-12
"""Share of the energy that a round of alternating must still gain."""


def decomposed(kernel: Tensor, kind: Kind, sizes: Sequence[int] = ()) -> dict[str, Tensor]:
    r"""The parts whose product is nearest to a kernel in the sum of squares.

    - ``svd``, sizes (r): :math:`W \approx U V`, the truncated singular value decomposition; nothing of rank r is nearer (Eckart and
      Young 1936).
    - ``tucker``, sizes (r, s): :math:`W_{ock} \approx \sum_{ab} U_{oa} G_{abk} V_{bc}`, by higher-order orthogonal iteration from the
      truncated SVDs of both unfoldings. A side at full size has no part.
    - ``depthwise-separable``: :math:`W_{ock} \approx P_{oc} D_{ck}`, the nearest matrix of rank one of each input channel.
    - ``shift``: the same with one position for each input channel, the one that has most energy.
    - ``fire``, sizes (s): inputs are squeezed to s; the first half of the outputs reads their centre, the other half their window.

    Args:
        kernel: ``[o, c, k]``.
        kind: Of what.
        sizes: As above.

    Returns:
        The parts by name: ``first`` ``[r, c]``, ``core`` ``[s, r, k]``, ``last`` ``[o, s]``; ``depthwise`` or ``shift`` ``[c, k]`` and
        ``pointwise`` ``[o, c]``; ``squeeze`` ``[s, c]``, ``expand1`` ``[o // 2, s]`` and ``expand`` ``[o - o // 2, s, k]``.

    Example:
        >>> kernel = torch.eye(3)[:, :, None]
        >>> {name: tuple(part.shape) for name, part in decomposed(kernel, "svd", (2,)).items()}
        {'first': (2, 3), 'last': (3, 2)}

    Source:
        SVD: Eckart and Young 1936. Tucker-2: Kim et al. 2016, arXiv:1511.06530, there by the truncated SVDs alone; the iteration is that
        of De Lathauwer et al. 2000, SIAM J. Matrix Anal. Appl. 21(4). Depthwise-separable: Howard et al. 2017, arXiv:1704.04861. Shift:
        Wu et al. 2018, arXiv:1711.08141, there the same number of channels goes each way. Fire: Iandola et al. 2016, arXiv:1602.07360,
        there with a ReLU behind each convolution; here all is linear, as the convolution that it stands for, and the expanding window
        is that convolution's.
    """
    if kind == "svd":
        return _svd(kernel[:, :, 0], *sizes)
    if kind == "tucker":
        return _tucker(kernel, *sizes)
    if kind == "fire":
        return _fire(kernel, *sizes)
    return _by_channel(kernel, shift=kind == "shift")


def composed(kind: Kind, parts: Mapping[str, Tensor], window: int) -> Tensor:
    """The kernel that parts stand for, ``[o, c, k]``, of a window of so many positions.

    Example:
        >>> kernel = torch.ones(2, 2, 9)
        >>> parts = decomposed(kernel, "depthwise-separable")
        >>> torch.allclose(composed("depthwise-separable", parts, 9), kernel)
        True
    """
    if kind == "svd":
        return (parts["last"] @ parts["first"])[:, :, None]
    if kind == "tucker":
        core = parts["core"]
        if "first" in parts:
            core = torch.einsum("abk,bc->ack", core, parts["first"])
        return torch.einsum("oa,ack->ock", parts["last"], core) if "last" in parts else core
    if kind == "fire":
        centre = torch.zeros(window, dtype=parts["expand"].dtype, device=parts["expand"].device)
        centre[window // 2] = 1.0
        expand = torch.cat([parts["expand1"][:, :, None] * centre, parts["expand"]])
        return torch.einsum("osk,sc->ock", expand, parts["squeeze"])
    inner = parts["shift"] if kind == "shift" else parts["depthwise"]
    return parts["pointwise"][:, :, None] * inner[None]


def balanced(kind: Kind, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same product with parts of equal size: for each channel between two of them, what writes it and what reads it have one norm.

    Otherwise one part would learn fast and the other hardly at all. A shift stays as it is.

    Example:
        >>> parts = {"first": torch.tensor([[4.0]]), "last": torch.tensor([[1.0]])}
        >>> balanced("svd", parts)
        {'first': tensor([[2.]]), 'last': tensor([[2.]])}
    """
    result = dict(parts)
    names = [name for name in parts if name != "shift"]
    steps = [(names[0], names[1:])] if kind == "fire" else [(a, [b]) for a, b in pairwise(names)]
    for writer, readers in steps:
        writes = result[writer].flatten(1).square().sum(1)
        columns = [result[name].transpose(0, 1).flatten(1).square().sum(1) for name in readers]
        reads = torch.stack(columns).sum(0)
        live = (writes > 0) & (reads > 0)
        scale = torch.where(live, (writes / reads) ** 0.25, torch.ones_like(writes))
        result[writer] = result[writer] / scale.reshape(-1, *[1] * (result[writer].dim() - 1))
        for name in readers:
            result[name] = result[name] * scale.reshape(1, -1, *[1] * (result[name].dim() - 2))
    return result


def energy(kernel: Tensor, stand_in: Tensor) -> float:
    """The share of a kernel's sum of squares that is not lost; below zero where more is lost than there is.

    Example:
        >>> energy(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 0.0]))
        0.36
    """
    whole = float(kernel.double().square().sum())
    lost = float((kernel.double() - stand_in.double()).square().sum())
    return 1.0 - lost / whole if whole else 1.0


def spectra(kernel: Tensor, kind: Kind) -> tuple[Tensor, ...]:
    """The squared singular values on which ranks are chosen, descending: of the matrix, or of both unfoldings (inputs, outputs)."""
    if kind == "svd":
        return (_linalg.svdvals(kernel[:, :, 0].double()).square(),)
    return tuple(_modes(kernel.double(), axis)[0] for axis in (1, 0))


def _svd(matrix: Tensor, rank: int) -> dict[str, Tensor]:
    left, values, right = _linalg.svd(matrix, full_matrices=False)
    roots = values[:rank].sqrt()
    return {"first": roots[:, None] * right[:rank], "last": left[:, :rank] * roots}


def _modes(kernel: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Squared singular values and left singular vectors (columns) of an unfolding, descending."""
    unfolded = kernel.movedim(axis, 0).flatten(1)
    values, vectors = _linalg.eigh(unfolded @ unfolded.T)
    return values.flip(0).clamp_min(0.0), vectors.flip(1)


def _tucker(kernel: Tensor, inputs: int, outputs: int) -> dict[str, Tensor]:
    if outputs >= kernel.shape[0] and inputs >= kernel.shape[1]:
        return {"core": kernel}
    one_sided = (
        outputs >= kernel.shape[0] or inputs >= kernel.shape[1]
    )  # then there is nothing to alternate with
    left, right = _modes(kernel, 0)[1][:, :outputs], _modes(kernel, 1)[1][:, :inputs]
    if outputs >= kernel.shape[0]:
        left = torch.eye(kernel.shape[0], dtype=kernel.dtype, device=kernel.device)
    if inputs >= kernel.shape[1]:
        right = torch.eye(kernel.shape[1], dtype=kernel.dtype, device=kernel.device)
    whole, before = kernel.square().sum(), kernel.new_zeros(())
    for _ in range(1 if one_sided else _ROUNDS):
        if not one_sided:
            left = _modes(torch.einsum("ock,cb->obk", kernel, right), 0)[1][:, :outputs]
            right = _modes(torch.einsum("ock,oa->ack", kernel, left), 1)[1][:, :inputs]
        core = torch.einsum("ock,oa,cb->abk", kernel, left, right)
        kept = core.square().sum()
        if kept - before <= _SETTLED * whole:
            break
        before = kept
    parts = {"first": right.T} if inputs < kernel.shape[1] else {}
    parts["core"] = torch.einsum("ock,oa,cb->abk", kernel, left, right)
    return parts | ({"last": left} if outputs < kernel.shape[0] else {})


def _by_channel(kernel: Tensor, *, shift: bool) -> dict[str, Tensor]:
    """One row of the window and one column of outputs for each input channel."""
    by_channel = kernel.transpose(0, 1)  # [c, o, k]
    if shift:
        place = by_channel.square().sum(1).argmax(1)
        chosen = torch.nn.functional.one_hot(place, kernel.shape[2]).to(kernel)
        return {"shift": chosen, "pointwise": torch.einsum("ock,ck->oc", kernel, chosen)}
    left, values, right = _linalg.svd(by_channel, full_matrices=False)
    roots = values[:, :1].sqrt()
    return {"depthwise": roots * right[:, 0], "pointwise": (roots * left[:, :, 0]).T}


def _fire(kernel: Tensor, squeeze: int) -> dict[str, Tensor]:
    half, centre = kernel.shape[0] // 2, kernel.shape[2] // 2
    read = torch.cat([kernel[:half, :, centre], kernel[half:].transpose(1, 2).flatten(0, 1)])
    basis = _modes(read, 1)[1][:, :squeeze].T
    return {
        "squeeze": basis,
        "expand1": kernel[:half, :, centre] @ basis.T,
        "expand": torch.einsum("ock,sc->osk", kernel[half:], basis),
    }
