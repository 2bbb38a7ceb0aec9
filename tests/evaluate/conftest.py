"""Small data for the tests of evaluation."""

from dataclasses import dataclass

import pytest
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Toy:
    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)


@pytest.fixture(scope="session")
def toy():
    """Makes examples of inputs and targets."""
    return Toy
