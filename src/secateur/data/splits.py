"""A data set in memory: its parts, as values that check themselves at birth."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from secateur.data.sampling import draw
from secateur.errors import DataError, SettingsError


@dataclass(frozen=True, eq=False)
class Split:
    """One part of a data set: examples and their labels, ready for a network.

    Attributes:
        inputs: `[n, ...]`, floating point, already normalised.
        targets: `[n]`, int64, classes counted from 0.
        groups: `[n]`, int64: whom or what each example is from, where several are from one person, patient or device and
            so are alike; None where examples are independent. Sampling errors are those of groups then.

    Raises:
        DataError: The split is empty, lengths differ, a dtype does not fit, a value is not finite, or a label is
            negative.

    Example:
        >>> split = Split(torch.zeros(5, 1, 8, 8), torch.tensor([0, 1, 2, 0, 1]))
        >>> split
        Split(5 x [1, 8, 8])
        >>> [len(y) for _, y in split.batches(2)]
        [2, 2, 1]
    """

    inputs: Tensor
    targets: Tensor
    groups: Tensor | None = None

    def __post_init__(self) -> None:
        if not self.inputs.is_floating_point():
            raise DataError(
                f"the inputs are {self.inputs.dtype}; give floating point numbers, such as float32"
            )
        if self.targets.dtype != torch.int64 or self.targets.ndim != 1:
            raise DataError(
                f"the labels are {self.targets.dtype} of shape {list(self.targets.shape)}; give one int64 class number "
                "for each example"
            )
        if self.inputs.ndim < 2:
            raise DataError(
                f"the inputs have shape {list(self.inputs.shape)}; give [examples, features, ...]"
            )
        if len(self.inputs) != len(self.targets):
            raise DataError(
                f"there are {len(self.inputs)} inputs but {len(self.targets)} labels; give one label each"
            )
        if self.groups is not None and self.groups.shape != self.targets.shape:
            raise DataError(
                f"there are {len(self.targets)} labels but groups of shape {list(self.groups.shape)}; give one each"
            )
        if self.inputs.numel() == 0:
            raise DataError("there are no examples; give at least one")
        _check_finite(self.inputs)
        if int(self.targets.min()) < 0:
            raise DataError(
                f"label {int(self.targets.min())} is negative (example {int(self.targets.argmin())} of {len(self.targets)},"
                " counted from 0); count classes from 0"
            )

    def __len__(self) -> int:
        return len(self.targets)

    def __repr__(self) -> str:
        return f"Split({len(self)} x {list(self.inputs.shape[1:])})"

    def batches(
        self, size: int, *, shuffle: torch.Generator | None = None, drop_last: bool = False
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Go through the split once, in batches taken straight from memory.

        Args:
            size: Examples in a batch; the last one may be shorter.
            shuffle: Draws the order; None keeps the stored order, and batches are then views, not copies.
            drop_last: Leave out a last batch that is shorter than the others.

        Returns:
            An iterator over (inputs `[b, ...]`, targets `[b]`).

        Raises:
            SettingsError: The size is below 1.

        Example:
            >>> split = Split(torch.arange(4.0)[:, None], torch.arange(4))
            >>> order = torch.Generator().manual_seed(0)
            >>> sorted(int(t) for _, y in split.batches(3, shuffle=order) for t in y)
            [0, 1, 2, 3]
        """
        if size < 1:
            raise SettingsError(f"a batch of {size} examples cannot be made; give a size of at least 1")
        return self._batches(size, shuffle, drop_last)

    def _batches(
        self, size: int, shuffle: torch.Generator | None, drop_last: bool
    ) -> Iterator[tuple[Tensor, Tensor]]:
        count = len(self)
        stop = count - count % size if drop_last else count
        if shuffle is None:
            for start in range(0, stop, size):
                end = min(start + size, stop)
                yield self.inputs[start:end], self.targets[start:end]
            return
        order = torch.randperm(count, generator=shuffle, device=shuffle.device).to(self.inputs.device)
        for start in range(0, stop, size):
            chosen = order[start : min(start + size, stop)]
            yield self.inputs.index_select(0, chosen), self.targets.index_select(0, chosen)

    def take(self, count: int, *, seed: int = 0) -> Split:
        """A smaller split in which all classes are as equally frequent as they can be.

        Args:
            count: Examples to take, in their stored order.
            seed: Draws them.

        Raises:
            SettingsError: The count is below 1 or more than there are.

        Example:
            >>> split = Split(torch.zeros(6, 1), torch.tensor([0, 0, 0, 0, 1, 1]))
            >>> split.take(4).targets
            tensor([0, 0, 1, 1])
        """
        chosen = draw(self.targets.cpu().numpy(), count, seed=seed, balanced=True)
        return self.select(torch.as_tensor(chosen))

    def select(self, indices: Tensor) -> Split:
        """The examples at the given positions, in that order.

        Args:
            indices: `[m]`, int64.
        """
        chosen = indices.to(self.inputs.device)
        groups = None if self.groups is None else self.groups.index_select(0, chosen)
        return Split(self.inputs.index_select(0, chosen), self.targets.index_select(0, chosen), groups)

    def map(self, function: Callable[[Tensor], Tensor]) -> Split:
        """The same labels with the inputs changed by a function.

        Args:
            function: Takes and returns inputs `[n, ...]`.

        Raises:
            DataError: What the function returned does not make a split.

        Example:
            >>> Split(torch.zeros(5, 1, 8, 8), torch.zeros(5, dtype=torch.int64)).map(lambda x: x.flatten(1))
            Split(5 x [64])
        """
        return replace(self, inputs=function(self.inputs))

    def to(self, device: torch.device | str) -> Split:
        """The split on a device; itself where it is there already.

        Args:
            device: Where the tensors go.
        """
        inputs, targets = self.inputs.to(device), self.targets.to(device)
        if inputs is self.inputs and targets is self.targets:
            return self
        return Split(inputs, targets, None if self.groups is None else self.groups.to(device))


@dataclass(frozen=True, eq=False)
class Splits:
    """A data set: what a network learns from, what decisions are made on, and what is read once at the end.

    Attributes:
        name: What the data set is called.
        train: Examples that the network learns from.
        validation: Examples for decisions; the training never sees them.
        test: Examples for the final figure.
        classes: The name of each class, in label order.
        notes: How it was split, normalised and where it is from, in words for the report.

    Raises:
        DataError: Splits differ in shape, or a label has no class.

    Example:
        >>> part = Split(torch.zeros(2, 3), torch.tensor([0, 1]))
        >>> Splits("toy", part, part, part, ("no", "yes"))
        Splits('toy': 2 train, 2 validation, 2 test x [3], 2 classes)
    """

    name: str
    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]
    notes: Mapping[str, str] = field(default_factory=dict[str, str])

    def __post_init__(self) -> None:
        shapes = {part: list(split.inputs.shape[1:]) for part, split in self.parts().items()}
        if any(shape != list(self.input_shape) for shape in shapes.values()):
            found = ", ".join(f"{shape} in {part}" for part, shape in shapes.items())
            raise DataError(
                f"{self.name}: the splits' examples differ in shape ({found}); give all splits the same shape"
            )
        for part, split in self.parts().items():
            highest = int(split.targets.max())
            if highest >= len(self.classes):
                raise DataError(
                    f"{self.name}: the {part} labels go up to {highest}, but there are {len(self.classes)} classes; "
                    f"count classes from 0 to {len(self.classes) - 1}"
                )

    def __repr__(self) -> str:
        sizes = ", ".join(f"{len(split)} {part}" for part, split in self.parts().items())
        return f"Splits({self.name!r}: {sizes} x {list(self.input_shape)}, {len(self.classes)} classes)"

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one example, without the batch."""
        return tuple(self.train.inputs.shape[1:])

    def parts(self) -> dict[str, Split]:
        """The three splits by name: train, validation, test."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    def to(self, device: torch.device | str) -> Splits:
        """The data set on a device.

        Args:
            device: Where the tensors go.
        """
        moved = {part: split.to(device) for part, split in self.parts().items()}
        return replace(self, **moved)


def _check_finite(inputs: Tensor) -> None:
    # One sum is far cheaper than a look at every value, and is finite only if all values are.
    if torch.isfinite(inputs.sum(dtype=torch.float64)):
        return
    bad = ~torch.isfinite(inputs).flatten(1)
    if bad.any():
        raise DataError(
            f"{int(bad.sum())} input values are NaN or infinite, the first in example {int(bad.any(1).nonzero()[0])}; "
            "repair or drop those examples"
        )
