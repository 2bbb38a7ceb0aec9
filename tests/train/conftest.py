"""Small data and networks for the tests of training."""

from dataclasses import dataclass

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn


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


@pytest.fixture(scope="session")
def digits():
    """Scikit-learn's digits as 600 training and 300 validation examples."""
    bunch = load_digits()
    images = torch.tensor(bunch.images, dtype=torch.float32)[:, None] / 8.0 - 1.0
    targets = torch.tensor(bunch.target, dtype=torch.int64)
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(0))
    return Toy(images[order[:600]], targets[order[:600]]), Toy(
        images[order[600:900]], targets[order[600:900]]
    )


@pytest.fixture
def network():
    """Makes a small convolutional network with batch norm and dropout, the same for the same seed."""

    def make(seed=0):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return nn.Sequential(
                nn.Conv2d(1, 6, 3, padding=1),
                nn.BatchNorm2d(6),
                nn.ReLU(),
                nn.MaxPool2d(2),
                nn.Flatten(),
                nn.Dropout(0.1),
                nn.Linear(96, 10),
            )

    return make
