"""Tests of secateur.observe.readers."""

import numpy as np
import pytest
import torch
from torch import nn

from secateur.channels.groups import Group, Member
from secateur.errors import ModelError
from secateur.observe.readers import Reader, readers_of


def reading(tensor: str, axis: int, indices: list[list[int]]) -> Group:
    """A group of which only a reader matters."""
    return Group("g", len(indices), (Member(tensor, axis, "read", np.array(indices)),))


def only_reader(model: nn.Module, tensor: str, axis: int, indices: list[list[int]]) -> Reader:
    (reader,) = readers_of(model, reading(tensor, axis, indices))
    return reader


def test_a_map_has_its_positions_as_samples() -> None:
    """A convolution's input gives one sample an example and position, for the channels in the group's order."""
    reader = only_reader(nn.Sequential(nn.Conv2d(4, 1, 1)), "0.weight", 1, [[3], [1]])
    x = torch.arange(2 * 4 * 2 * 3.0).reshape(2, 4, 2, 3)

    h = reader.samples(x, examples=2)

    torch.testing.assert_close(h, torch.stack([x[:, 3].flatten(1), x[:, 1].flatten(1)], dim=2))


def test_a_flattened_map_has_its_positions_as_samples() -> None:
    """A dense layer's columns that belong to one unit are positions of that unit."""
    reader = only_reader(nn.Sequential(nn.Linear(6, 1)), "0.weight", 1, [[0, 1, 2], [3, 4, 5]])
    x = torch.arange(12.0).reshape(2, 6)

    h = reader.samples(x, examples=2)

    assert h[0].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert h[1].tolist() == [[6, 9], [7, 10], [8, 11]]


def test_a_grouped_convolution_reads_a_channel_of_each_of_its_groups() -> None:
    """Column j of a weight with g groups reads channel k * I/g + j for every k."""
    model = nn.Sequential(nn.Conv1d(6, 4, 1, groups=2))
    reader = only_reader(model, "0.weight", 1, [[2], [0]])

    assert reader.positions.tolist() == [[2, 5], [0, 3]]
    assert reader.samples(torch.arange(6.0).reshape(1, 6, 1), examples=1)[0].tolist() == [[2, 0], [5, 3]]


def test_a_transposed_convolution_reads_along_its_first_axis() -> None:
    """A transposed convolution's weight is [in, out, ...]."""
    model = nn.Sequential(nn.ConvTranspose2d(3, 5, 2))
    reader = only_reader(model, "0.weight", 0, [[0], [2]])

    assert reader.samples(torch.arange(3.0).reshape(1, 3, 1, 1), examples=1)[0].tolist() == [[0, 2]]


def test_one_map_without_a_batch_axis_is_one_example() -> None:
    """A convolution also takes [channels, height, width]."""
    reader = only_reader(nn.Sequential(nn.Conv2d(2, 1, 1)), "0.weight", 1, [[0], [1]])

    assert reader.samples(torch.zeros(2, 4, 4), examples=1).shape == (1, 16, 2)


def test_windows_of_an_example_are_positions() -> None:
    """Where the first axis is a multiple of the batch, its surplus counts as positions; else it is refused."""
    reader = only_reader(nn.Sequential(nn.Linear(1, 1)), "0.weight", 1, [[0]])
    x = torch.arange(6.0).reshape(6, 1, 1)

    assert reader.samples(x, examples=2).flatten(1).tolist() == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(ModelError, match="6 rows for 4 examples, so its first axis is not the batch"):
        reader.samples(x, examples=4)


def test_a_shared_weight_is_read_by_each_of_its_layers() -> None:
    """Two layers that hold one parameter are both watched."""
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight

    reader = only_reader(model, "0.weight", 1, [[0], [1], [2]])

    assert reader.modules == (model[0], model[1])


@pytest.mark.parametrize(
    ("tensor", "axis", "reason"),
    [
        (
            "0.in_proj_weight",
            1,
            "not the weight of an ordinary dense or convolutional layer.*MultiheadAttention",
        ),
        ("1.weight", 0, "along axis 0, not along its input axis"),
        ("7.weight", 1, "7.weight is not in this model"),
    ],
)
def test_what_cannot_be_seen_is_refused_with_the_reason(tensor: str, axis: int, reason: str) -> None:
    """A reader that is no ordinary layer, or not in the model, is an error that names it."""
    model = nn.Sequential(nn.MultiheadAttention(4, 1), nn.Linear(4, 4))

    with pytest.raises(ModelError, match=reason):
        readers_of(model, reading(tensor, axis, [[0]]))


def test_a_group_that_nobody_reads_is_refused() -> None:
    """Without a reader there is nothing to look at."""
    group = Group("g", 1, (Member("0.weight", 0, "write", np.array([[0]])),))

    with pytest.raises(ModelError, match="no layer reads it"):
        readers_of(nn.Sequential(nn.Linear(1, 1)), group)
