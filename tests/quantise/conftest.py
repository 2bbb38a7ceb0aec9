"""Data and networks that quantisation is tried on."""

from __future__ import annotations

import pytest
from torch import nn

from secateur import data, networks
from secateur.data import Splits
from secateur.train import TrainSettings, fit


@pytest.fixture(scope="package")
def digits() -> Splits:
    return data.load("digits", limit=300)


@pytest.fixture(scope="package")
def net(digits: Splits) -> nn.Module:
    model = networks.build("digits-net", seed=0)
    fit(model, digits.train, None, TrainSettings(epochs=4, lr=0.05, batch_size=50), seed=0)
    return model.eval()
