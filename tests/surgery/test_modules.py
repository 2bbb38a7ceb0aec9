"""Attributes that repeat a size fit the tensors again."""

import pytest
import torch
from torch import nn

from secateur.surgery import fit_attributes


class Subclass(nn.Conv2d):
    """A user's own convolution."""


CASES = {
    "subclass": (Subclass(4, 6, 3), nn.Conv2d(2, 3, 3), {"in_channels": 2, "out_channels": 3, "groups": 1}),
    "grouped": (nn.Conv2d(8, 12, 3, groups=4), nn.Conv2d(4, 8, 3, groups=4), {"in_channels": 4, "out_channels": 8, "groups": 4}),
    "depthwise": (nn.Conv1d(8, 16, 3, groups=8), nn.Conv1d(3, 6, 3, groups=3), {"in_channels": 3, "out_channels": 6, "groups": 3}),
    "grouped that has become depthwise": (
        nn.Conv2d(8, 8, 1, groups=4), nn.Conv2d(4, 8, 1, groups=4), {"in_channels": 4, "out_channels": 8, "groups": 4},
    ),
    "transposed": (
        nn.ConvTranspose2d(8, 12, 2, groups=4), nn.ConvTranspose2d(4, 8, 2, groups=4),
        {"in_channels": 4, "out_channels": 8, "groups": 4},
    ),
    "depthwise transposed": (
        nn.ConvTranspose1d(8, 8, 2, groups=8), nn.ConvTranspose1d(3, 3, 2, groups=3),
        {"in_channels": 3, "out_channels": 3, "groups": 3},
    ),
    "dense": (nn.Linear(4, 3), nn.Linear(2, 1), {"in_features": 2, "out_features": 1}),
    "bilinear": (nn.Bilinear(4, 5, 3), nn.Bilinear(2, 5, 3), {"in1_features": 2, "in2_features": 5, "out_features": 3}),
    "batch norm": (nn.BatchNorm1d(4), nn.BatchNorm1d(3), {"num_features": 3}),
    "batch norm without parameters": (nn.BatchNorm1d(4, affine=False), nn.BatchNorm1d(3, affine=False), {"num_features": 3}),
    "layer norm": (nn.LayerNorm(4), nn.LayerNorm(3), {"normalized_shape": (3,)}),
    "group norm": (nn.GroupNorm(2, 8), nn.GroupNorm(2, 4), {"num_groups": 2, "num_channels": 4}),
    "one channel a group": (nn.GroupNorm(8, 8), nn.GroupNorm(5, 5), {"num_groups": 5, "num_channels": 5}),
    "PReLU": (nn.PReLU(4), nn.PReLU(2), {"num_parameters": 2}),
    "embedding": (nn.Embedding(9, 4), nn.Embedding(9, 3), {"num_embeddings": 9, "embedding_dim": 3}),
    "recurrent": (nn.LSTM(4, 3), nn.LSTM(2, 3), {"input_size": 2, "hidden_size": 3}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_attributes_follow_the_tensors(name):
    """A module that was given the tensors of a smaller one says the smaller one's sizes."""
    module, smaller, wanted = CASES[name]
    for key, parameter in smaller.named_parameters():
        setattr(module, key, nn.Parameter(parameter.detach().clone()))
    for key, buffer in smaller.named_buffers():
        setattr(module, key, buffer.clone())

    fit_attributes(module)

    assert {key: getattr(module, key) for key in wanted} == wanted


def test_modules_without_tensors_are_left_alone():
    """An activation or a norm without parameters has nothing to read a size from."""
    norm = nn.GroupNorm(2, 4, affine=False)

    for module in (nn.ReLU(), nn.Sequential(nn.Linear(2, 2)), norm):
        fit_attributes(module)

    assert norm.num_channels == 4
    assert torch.equal(norm(torch.ones(1, 4, 2)), torch.zeros(1, 4, 2))
