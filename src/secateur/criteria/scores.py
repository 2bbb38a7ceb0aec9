"""Scores of channels, and the merges that go with some of them, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateur.errors import ModelError, SettingsError


@dataclass(frozen=True, eq=False)
class Merge:
    """Into which unit each unit of a group folds when it is removed.

    Removing unit j replaces its activation by ``scale[j] * h[into[j]] + shift[j]``. ``into[j]`` is alive at the time at
    which j goes, if units go in ascending order of their scores. The unit that would go last folds into itself.

    Attributes:
        into: int64 ``[width]``.
        scale: float64 ``[width]``.
        shift: float64 ``[width]``.

    Raises:
        SettingsError: The three do not have one length, or ``into`` names a unit that is not there.
    """

    into: NDArray[np.int64]
    scale: NDArray[np.float64]
    shift: NDArray[np.float64]

    def __post_init__(self) -> None:
        width = self.into.shape[0]
        if not self.into.shape == self.scale.shape == self.shift.shape == (width,):
            raise SettingsError(
                f"a merge needs three vectors of one length; into has {self.into.shape}, scale {self.scale.shape},"
                f" shift {self.shift.shape}"
            )
        if width and not (self.into.min() >= 0 and self.into.max() < width):
            raise SettingsError(f"a merge of {width} units goes into unit {int(self.into.max())}")
        if not (np.isfinite(self.scale).all() and np.isfinite(self.shift).all()):
            raise SettingsError("a merge's scale and shift must be finite")


@dataclass(frozen=True, eq=False)
class Scores:
    """How much each unit of each group matters by one criterion; the lowest goes first.

    Attributes:
        criterion: Its name.
        values: By group, float64 ``[width]`` on the CPU.
        merges: By group, for criteria that fold a removed unit into another.

    Raises:
        ModelError: A value is not finite.
        SettingsError: The values have another type or shape, or a merge's order contradicts them.

    Example:
        >>> Scores("l1", {"conv1": torch.tensor([3.0, 1.0, 2.0], dtype=torch.float64)})
        Scores by l1
        group  width  lowest  median  highest
        conv1      3       1       2        3
    """

    criterion: str
    values: Mapping[str, Tensor]
    merges: Mapping[str, Merge] = field(default_factory=dict[str, Merge])

    def __post_init__(self) -> None:
        for name, values in self.values.items():
            if values.dim() != 1 or values.dtype != torch.float64:
                raise SettingsError(
                    f"the scores of group {name!r} by {self.criterion!r} are {values.dtype} {tuple(values.shape)};"
                    " they must be float64 with one value a unit"
                )
            if not bool(torch.isfinite(values).all()):
                unit = int((~torch.isfinite(values)).nonzero()[0])
                raise ModelError(
                    f"criterion {self.criterion!r} gives unit {unit} of group {name!r} the score {float(values[unit])};"
                    " check the weights and the data of that layer for very large numbers"
                )
        for name, merge in self.merges.items():
            self._check_order(name, merge)

    def _check_order(self, name: str, merge: Merge) -> None:
        if name not in self.values or self.values[name].shape[0] != merge.into.shape[0]:
            raise SettingsError(f"the merges of group {name!r} have no scores of the same width")
        values = self.values[name].numpy()
        early = values[merge.into] <= values
        early[np.argmax(values)] = False
        if early.any():
            unit = int(np.flatnonzero(early)[0])
            raise SettingsError(
                f"group {name!r} merges unit {unit} into unit {int(merge.into[unit])}, which is removed before it"
            )

    def __repr__(self) -> str:
        rows: list[tuple[str, ...]] = [("group", "width", "lowest", "median", "highest")]
        for name, values in self.values.items():
            figures = (values.min(), values.median(), values.max()) if values.numel() else ()
            rows.append((name, str(values.numel()), *(f"{float(figure):.4g}" for figure in figures)))
        first = max(len(row[0]) for row in rows)
        others = max((len(cell) for row in rows for cell in row[1:]), default=0)
        lines = [row[0].ljust(first) + "".join("  " + cell.rjust(others) for cell in row[1:]) for row in rows]
        return "\n".join([f"Scores by {self.criterion}", *lines])
