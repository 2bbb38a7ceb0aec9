"""What a method that works while a network trains is told by the training loop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn


class Companion(Protocol):
    """A method that works while a network trains: it adds to the loss, and between epochs it may change the network in place."""

    @property
    def batch_size(self) -> int:
        """Examples of a step; the rate grows with it. It may change between epochs."""
        ...

    def begin(self, optimizer: torch.optim.Optimizer, average: nn.Module | None, *, batch_size: int) -> None:
        """Learn what else must follow a change, before the first step.

        Args:
            optimizer: What trains the network.
            average: Its running average, if there is one.
            batch_size: Examples of a step, as the settings have it.
        """
        ...

    def penalty(self, loss: Tensor) -> Tensor:
        """What is added to the loss of a step.

        Args:
            loss: The loss of the step without it.
        """
        ...

    def after_epoch(self, epoch: int) -> bool:
        """Do what is due after an epoch; whether the network has another structure now.

        Args:
            epoch: How many are done.
        """
        ...

    def state(self) -> Mapping[str, Any]:
        """What is to be known when training goes on, as JSON values."""
        ...

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        ...
