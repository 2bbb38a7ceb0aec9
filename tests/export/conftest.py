"""A small network with all that a converter folds, and inputs for it."""

import pytest
import torch
from torch import Tensor, nn


class Small(nn.Module):
    """Convolution with norm, a depthwise one, a sum, and two dense layers: 3 classes of 1×6×6 images."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.deep = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.pool = nn.MaxPool2d(2)
        self.hidden = nn.Linear(8 * 9, 16)
        self.out = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.pool(torch.relu(self.deep(x) + x))
        return self.out(torch.relu(self.hidden(x.flatten(1))))


@pytest.fixture(scope="session")
def images() -> Tensor:
    return torch.randn(24, 1, 6, 6, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def small(images: Tensor) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Small()
    with torch.no_grad():
        for _ in range(20):  # so that the norm has statistics
            model(images * 2 + 0.5)
    return model.eval()


@pytest.fixture
def with_operator(small):
    """The same network around an operator of one's choice."""

    class Odd(nn.Module):
        def __init__(self, function):
            super().__init__()
            self.function = function

        def forward(self, x):
            return self.function(x)

    def make(function) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(36, 6), Odd(function), nn.Linear(6, 3)).eval()

    return make
