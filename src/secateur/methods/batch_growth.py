"""Batches that grow as a network shrinks, so that a step goes on to use the memory that there is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch
from torch import nn

from secateur._model import unwrapped
from secateur.channels.nested import ForwardFn
from secateur.errors import SettingsError
from secateur.surgery.processes import wrappers
from secateur.train import device_of
from secateur.train.memory import (
    fit_line,
    fixed_bytes,
    kept_bytes,
    largest_batch,
    repeated,
    runs,
    within_memory,
)

_TIMES: Final = 4
"""How many times as large as at first batches get at most, where nothing else is asked."""
_PARTS: Final = 4
"""Batches grow by quarters of the first."""
_POINTS: Final = 3
"""Searches after which the next begins where a line through them leads."""


class BatchGrowth:
    """How many examples a step has.

    The bytes that a step keeps are counted: weights, gradients, the optimiser's memory and averages, and what the forward pass keeps for the
    backward pass (`secateur.train.kept_bytes`). Batches grow, in quarters of the first, to where that reaches the memory that is given or, if none is,
    what a step kept at first. On a GPU without a given memory it is tried whether a step runs.

    Args:
        model: The network, wrapped or not.
        example: An input of one example or several.
        first: Examples of a step at first.
        memory: Bytes that a step may keep; None is what it keeps at first, or on a GPU all that there is.
        limit: The largest batch; None is four times the first.
        forward_fn: How the network is run.

    Raises:
        SettingsError: The first batch does not fit, the limit is below it, or several processes would have to find out by themselves.
    """

    def __init__(
        self,
        model: nn.Module,
        example: Any,
        *,
        first: int,
        memory: int | None,
        limit: int | None,
        forward_fn: ForwardFn | None = None,
    ) -> None:
        self.first, self.size, self.memory = first, first, memory
        self.limit = _TIMES * first if limit is None else limit
        self._example, self._forward_fn = example, forward_fn
        self._found: list[tuple[float, int]] = []
        self._tried = memory is None and device_of(unwrapped(model)).type == "cuda"
        if self.limit < first:
            raise SettingsError(
                f"batch_limit ({self.limit}) is below the batch of {first} at the start; give a larger one"
            )
        if memory is None and any(True for _ in wrappers(model)):
            raise SettingsError(
                "where several processes train a network, each must know how far its batches may grow; give memory"
            )
        if memory is not None:
            self._check(unwrapped(model), memory)

    def _check(self, model: nn.Module, memory: int) -> None:
        needed = fixed_bytes(model) + self._kept(model, self.first)
        if needed <= memory:
            return
        most = largest_batch(self._fits(model, (), ()), first=self.first, limit=self.first)
        fewer = f"or batches of {most} examples at most" if most else "since not even one example fits"
        raise SettingsError(
            f"a step on {self.first} examples keeps {needed:,} bytes, more than the {memory:,} of memory; give more, {fewer}"
        )

    def settle(
        self, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], averages: Sequence[nn.Module]
    ) -> None:
        """Take what a step keeps as what it may keep, if nothing was said; the optimiser has its memory by now."""
        if self.memory is None and not self._tried:
            self.memory = fixed_bytes(model, optimizers, averages) + self._kept(model, self.first)

    def grow(
        self, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], averages: Sequence[nn.Module]
    ) -> int:
        """The batch of a network that has shrunk, which is never smaller than before.

        Args:
            model: The network itself.
            optimizers: What trains it.
            averages: Running averages of its weights.
        """
        multiple = max(1, self.first // _PARTS)
        each = 1 / max(self._kept(model, self.first), 1)  # the largest batch is as good as linear in it
        first = self.size
        if len(self._found) >= _POINTS and len({x for x, _ in self._found}) > 1:
            line = fit_line([x for x, _ in self._found], [float(y) for _, y in self._found])
            first = max(first, min(round(line.at(each)), self.limit))
        fits = self._fits(model, optimizers, averages)
        found = largest_batch(fits, first=first, limit=self.limit, multiple=multiple)
        self._found.append((each, found))
        self.size = max(self.size, found)
        return self.size

    def _fits(
        self, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], averages: Sequence[nn.Module]
    ) -> Callable[[int], bool]:
        if self._tried or self.memory is None:
            return runs(model, self._example, forward=self._forward_fn)
        fixed = fixed_bytes(model, optimizers, averages)
        return within_memory(model, self._example, self.memory, fixed=fixed, forward=self._forward_fn)

    def _kept(self, model: nn.Module, batch: int) -> int:
        return kept_bytes(model, repeated(self._example, batch), forward=self._forward_fn)

    def state(self) -> dict[str, Any]:
        """What is to be known to go on, as JSON values."""
        return {"size": self.size, "memory": self.memory, "found": [list(one) for one in self._found]}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.size, self.memory = int(state["size"]), state["memory"]
        self._found = [(float(x), int(y)) for x, y in state["found"]]
