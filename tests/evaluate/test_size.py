"""Sizes of networks."""

import torch
from torch import nn

from secateur.evaluate import measure_size


def test_counts_by_hand():
    """Parameters, trainable ones, buffers and bytes equal the sums by hand."""
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    model[0].bias.requires_grad_(False)
    size = measure_size(model)

    assert (size.parameters, size.trainable, size.buffers) == (12 + 4 + 8, 12 + 8, 9)
    assert size.bytes == 4 * (24 + 8) + 8


def test_shared_tensors_count_once():
    """A weight used by two layers is one weight, and half precision halves the bytes."""
    first, second = nn.Linear(5, 5, bias=False), nn.Linear(5, 5, bias=False)
    second.weight = first.weight
    model = nn.Sequential(first, second).to(torch.float16)

    assert (measure_size(model).parameters, measure_size(model).bytes) == (25, 50)
