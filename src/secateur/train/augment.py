"""Random changes to training examples, on whole batches and with a generator of their own."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from secateur.errors import DataError
from secateur.train.settings import TrainSettings

Augmenter: TypeAlias = Callable[[Tensor, torch.Generator], Tensor]
"""Takes a batch and a generator, returns a changed batch of the same shape."""

SCALE = 0.1
JITTER = 0.05
ROTATE = 12.0
STRETCH = 0.1
SHEAR = 0.1


def random_shift(
    images: Tensor, generator: torch.Generator, *, by: int, fill: Tensor | float = 0.0
) -> Tensor:
    """Move each image by up to ``by`` pixels along both axes; what comes in from outside is ``fill``.

    Args:
        images: ``[n, channels, height, width]``.
        generator: Draws the shifts (on the processor, so that every device gets the same).
        by: Largest shift in pixels, each of the (2·by+1)² shifts being equally likely.
        fill: One number, or one per channel.

    Returns:
        The shifted images, same shape.

    Example:
        >>> moved = random_shift(torch.ones(2, 1, 4, 4), torch.Generator().manual_seed(0), by=1)
        >>> moved.shape, bool(moved.sum() <= 32)
        (torch.Size([2, 1, 4, 4]), True)
    """
    return _shifted(images, _starts(len(images), generator, by=by), by=by, fill=fill)


def _starts(count: int, generator: torch.Generator, *, by: int) -> Tensor:
    """Where each image's window begins, from 0 to 2·by along both axes: ``[2, count]``."""
    return torch.randint(0, 2 * by + 1, (2, count), generator=generator)


def _shifted(images: Tensor, starts: Tensor, *, by: int, fill: Tensor | float) -> Tensor:
    n, channels, height, width = images.shape
    border = torch.as_tensor(fill, dtype=images.dtype, device=images.device).reshape(1, -1, 1, 1)
    padded = border.expand(n, channels, height + 2 * by, width + 2 * by).clone()
    padded[:, :, by : by + height, by : by + width] = images
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    rows, columns = starts.to(images.device)
    return windows[torch.arange(n, device=images.device), :, rows, columns]


def random_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image left to right with probability one half.

    Args:
        images: ``[n, channels, height, width]``.
        generator: Draws which.

    Returns:
        The images, same shape.

    Example:
        >>> random_flip(torch.zeros(3, 1, 2, 2), torch.Generator()).shape
        torch.Size([3, 1, 2, 2])
    """
    return _flipped(images, _mirrored(len(images), generator))


def _mirrored(count: int, generator: torch.Generator) -> Tensor:
    """Which images are mirrored."""
    return torch.rand(count, 1, 1, 1, generator=generator) < 0.5


def _flipped(images: Tensor, chosen: Tensor) -> Tensor:
    return torch.where(chosen.to(images.device), images.flip(-1), images)


def random_affine(
    images: Tensor,
    generator: torch.Generator,
    *,
    rotate: float = ROTATE,
    stretch: float = STRETCH,
    shear: float = SHEAR,
    shift: float = 0.0,
    fill: Tensor | float = 0.0,
) -> Tensor:
    r"""Rotate, stretch, shear and move each image a little, interpolating between pixels.

    A pixel at :math:`p`, counted from the middle, takes the value that was at :math:`R(\theta)\,S\,p + t`, with R a
    rotation, :math:`S = \begin{pmatrix} s_x & h \\ 0 & s_y \end{pmatrix}` and t a shift; every number is drawn evenly.

    Args:
        images: ``[n, channels, height, width]``.
        generator: Draws the changes (on the processor, so that every device gets the same).
        rotate: Largest angle in degrees, to either side.
        stretch: Largest departure of :math:`s_x` and :math:`s_y` from 1.
        shear: Largest :math:`h`.
        shift: Largest shift along either axis, in pixels.
        fill: What comes in from outside: one number, or one per channel.

    Returns:
        The changed images, same shape.

    Example:
        >>> ones = torch.ones(2, 1, 4, 4)
        >>> same = random_affine(ones, torch.Generator(), rotate=0, stretch=0, shear=0)
        >>> torch.equal(same, ones)
        True

    Source:
        Simard et al. 2003, Best practices for convolutional neural networks (affine distortions of digits).
    """
    count, _, height, width = images.shape
    angle, wide, high, slant, right, down = 2 * torch.rand(6, count, generator=generator) - 1
    angle = angle * math.radians(rotate)
    wide, high, slant = 1 + stretch * wide, 1 + stretch * high, shear * slant
    cosine, sine = angle.cos(), angle.sin()
    # grid_sample counts both axes from -1 to 1, so what mixes them is scaled by the image's shape
    rows = (
        torch.stack(
            [cosine * wide, (cosine * slant - sine * high) * height / width, 2 * shift * right / width]
        ),
        torch.stack([sine * wide * width / height, sine * slant + cosine * high, 2 * shift * down / height]),
    )
    matrices = torch.stack(rows).permute(2, 0, 1).to(images)
    border = torch.as_tensor(fill, dtype=images.dtype, device=images.device).reshape(1, -1, 1, 1)
    grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
    return F.grid_sample(images - border, grid, align_corners=False) + border


def random_signal(
    signals: Tensor, generator: torch.Generator, *, scale: float = SCALE, jitter: float = JITTER
) -> Tensor:
    r"""Scale each channel of each signal a little and add a little noise: :math:`x (1 + s a) + j e`.

    Args:
        signals: ``[n, channels, length]``, normalised to a deviation near 1.
        generator: Draws a (one normal number a channel) and e (one a sample).
        scale: Deviation s of the factor.
        jitter: Deviation j of the noise.

    Returns:
        The signals, same shape.

    Example:
        >>> random_signal(torch.zeros(2, 3, 8), torch.Generator(), jitter=0.0).abs().max()
        tensor(0.)

    Source:
        Um et al. 2017, arXiv:1706.00527 (scaling and jittering of wearables' signals).
    """
    factor = 1.0 + scale * torch.randn(*signals.shape[:2], 1, generator=generator, dtype=signals.dtype)
    noise = jitter * torch.randn(signals.shape, generator=generator, dtype=signals.dtype)
    return signals * factor.to(signals.device) + noise.to(signals.device)


class Moves:
    """Shifts, and mirroring before them: finitely many changes, so that a teacher can answer to all of them beforehand.

    Attributes:
        count: How many there are.

    Example:
        >>> moves = Moves(1, 0.0, flip=True)
        >>> drawn = moves.draw(4, torch.Generator().manual_seed(0))
        >>> moves.count, tuple(drawn.shape), moves.apply(torch.zeros(4, 1, 8, 8), drawn).shape
        (18, (4,), torch.Size([4, 1, 8, 8]))
    """

    def __init__(self, by: int, fill: Tensor | float, *, flip: bool) -> None:
        """Shifts of up to so many pixels, what comes in from outside, and whether half of the images are mirrored."""
        self._by, self._fill, self._flip = by, fill, flip
        self._side = 2 * by + 1
        self.count = self._side**2 * (2 if flip else 1)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """The number of the change for each of so many images."""
        mirrored = (
            _mirrored(count, generator).reshape(-1) if self._flip else torch.zeros(count, dtype=torch.bool)
        )
        rows, columns = _starts(count, generator, by=self._by)
        return (mirrored * self._side + rows) * self._side + columns

    def apply(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Each image, changed as its number says."""
        side = self._side
        if self._flip:
            images = _flipped(images, (drawn >= side**2).reshape(-1, 1, 1, 1))
        starts = torch.stack([drawn // side % side, drawn % side])
        return _shifted(images, starts, by=self._by, fill=self._fill)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Change each image at random."""
        return self.apply(images, self.draw(len(images), generator))


def fill_of(inputs: Tensor, kind: Literal["minimum", "mean"]) -> Tensor:
    """Each channel's minimum or mean over all examples: what the border of a shifted image is filled with.

    Args:
        inputs: ``[n, channels, ...]``.
        kind: Which of the two.

    Returns:
        ``[channels]``.

    Example:
        >>> fill_of(torch.tensor([[[[1.0, 3.0]]]]), "mean")
        tensor([2.])
    """
    rows = inputs.movedim(1, 0).flatten(1)
    return rows.amin(dim=1) if kind == "minimum" else rows.mean(dim=1)


def make_augmenter(settings: TrainSettings, inputs: Tensor) -> Augmenter | None:
    """The changes that the settings ask for.

    Args:
        settings: ``augment``, ``shift`` and ``shift_fill``.
        inputs: All training inputs: they give the shape and the border's value.

    Returns:
        A function of a batch and a generator, or None for ``none``.

    Raises:
        DataError: The inputs are not images (or not signals, for ``signal``).

    Example:
        >>> make_augmenter(TrainSettings(), torch.zeros(4, 1, 8, 8)) is None
        True
    """
    if settings.augment == "none":
        return None
    wanted, what = (
        (3, "signals [n, channels, length]") if settings.augment == "signal" else (4, "images [n, c, h, w]")
    )
    if inputs.ndim != wanted:
        raise DataError(
            f"augment={settings.augment!r} changes {what}, but the training inputs have the shape "
            f"{tuple(inputs.shape)}; choose another augment or 'none'"
        )
    if settings.augment == "signal":
        return random_signal
    fill = fill_of(inputs, settings.shift_fill)
    if settings.augment == "affine":
        return partial(random_affine, shift=settings.shift, fill=fill)
    return Moves(settings.shift, fill, flip=settings.augment == "flip-shift")
