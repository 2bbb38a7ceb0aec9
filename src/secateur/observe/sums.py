"""Running sums of one pass, in float64."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from secateur.observe.values import Covariance, Moments, Taylor

_CHUNK = 1 << 22
"""Numbers that are converted to float64 at once."""


class MomentSum:
    """Sums for `Moments`."""

    def __init__(self, width: int) -> None:
        self._sums = torch.zeros(3, width, dtype=torch.float64)
        self._count = 0

    def add(self, h_npw: Tensor) -> None:
        """Add samples ``[n, p, w]``."""
        for h_sw in _rows(h_npw):
            self._sums += torch.stack([h_sw.sum(0), h_sw.abs().sum(0), h_sw.square().sum(0)]).cpu()
        self._count += h_npw.shape[0] * h_npw.shape[1]

    def result(self) -> Moments:
        """The means over what was added; zero if nothing was."""
        mean, absolute, square = self._sums / max(1, self._count)
        return Moments(mean=mean, absolute=absolute, square=square, count=self._count)


class GramSum:
    """Sums for `Covariance`."""

    def __init__(self, width: int) -> None:
        self._sum = torch.zeros(width, dtype=torch.float64)
        self._gram = torch.zeros(width, width, dtype=torch.float64)
        self._count = 0

    def add(self, h_npw: Tensor) -> None:
        """Add samples ``[n, p, w]``."""
        for h_sw in _rows(h_npw):
            self._sum += h_sw.sum(0).cpu()
            self._gram += (h_sw.T @ h_sw).cpu()
        self._count += h_npw.shape[0] * h_npw.shape[1]

    def result(self) -> Covariance:
        """The means over what was added; zero if nothing was."""
        count = max(1, self._count)
        return Covariance(mean=self._sum / count, gram=self._gram / count, count=self._count)


class TaylorSum:
    """Sums for `Taylor`; the contributions of a batch are complete only when every reader has given its own."""

    def __init__(self, width: int) -> None:
        self._magnitude = torch.zeros(width, dtype=torch.float64)
        self._gate = torch.zeros(width, dtype=torch.float64)
        self._count = 0
        self._pending: Tensor | None = None

    def add(self, z_npw: Tensor) -> None:
        """Add one reader's products of activation and gradient of the *mean* loss of the batch, ``[n, p, w]``."""
        examples = z_npw.shape[0]
        summed = z_npw.sum(1, dtype=torch.float64).cpu() * examples
        self._gate += summed.sum(0)
        part = summed / z_npw.shape[1]
        self._pending = part if self._pending is None else self._pending + part

    def end_batch(self) -> None:
        """Take the magnitude of what the readers gave together."""
        if self._pending is not None:
            self._magnitude += self._pending.abs().sum(0)
            self._count += self._pending.shape[0]
            self._pending = None

    def result(self) -> Taylor:
        """The means over the examples added; zero if none were."""
        count = max(1, self._count)
        return Taylor(magnitude=self._magnitude / count, gate=self._gate / count)


def _rows(h_npw: Tensor) -> Iterator[Tensor]:
    """The samples ``[n * p, w]`` in float64, a bounded number at a time."""
    width = h_npw.shape[2]
    h_sw = h_npw.detach().reshape(-1, width)
    size = max(1, _CHUNK // max(1, width))
    return (h_sw[start : start + size].double() for start in range(0, h_sw.shape[0], size))
