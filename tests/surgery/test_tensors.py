"""Take and mix on one axis, against the same thing written as matrices."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.plan import Mix
from secateur.surgery.tensors import Part, change_axis, new_order, new_positions

LAYOUTS = {
    "one position a unit": np.arange(6)[:, None],
    "blocks in a row": np.arange(12).reshape(6, 2),
    "blocks apart": np.arange(12).reshape(2, 6).T,
    "reversed": np.arange(6)[::-1, None].copy(),
}


@settings(deadline=None)
@given(
    layout=st.sampled_from(sorted(LAYOUTS)),
    take=st.lists(st.integers(0, 5), min_size=1, max_size=9).map(sorted),
    seed=st.integers(0, 99),
    axis=st.integers(0, 2),
)
def test_take_and_mix_are_products_of_matrices(layout, take, seed, axis):
    """Each position of each new unit holds what the matrix says of the old ones; other positions stay as they were."""
    rng, indices = np.random.default_rng(seed), LAYOUTS[layout]
    length = indices.size + 2  # two positions that belong to nobody
    shape = [2, 3, 2]
    shape[axis] = length
    tensor = torch.from_numpy(rng.normal(size=shape))
    matrix = rng.normal(size=(6, len(take)))
    part = Part(indices, np.array(take), Mix(matrix))

    result = change_axis(tensor, axis, [part]).movedim(axis, 0)

    old = tensor.movedim(axis, 0)
    places = new_positions(new_order(length, [part]), part)
    for column in range(indices.shape[1]):
        wanted = torch.einsum("nm,nxy->mxy", torch.from_numpy(matrix), old[indices[:, column]])
        torch.testing.assert_close(result[places[:, column]], wanted)
    rest = np.setdiff1d(np.arange(len(result)), places.ravel())
    assert torch.equal(result[rest], old[-2:])
    assert len(result) == len(take) * indices.shape[1] + 2


def test_two_groups_on_one_axis_change_independently():
    """The parts of an axis that other groups own stay where they are."""
    tensor = torch.arange(8.0)
    parts = [
        Part(np.arange(4)[:, None], np.array([1, 3])),
        Part(np.arange(4, 7)[:, None], np.array([0, 0, 2])),
    ]

    assert change_axis(tensor, 0, parts).tolist() == [1, 3, 4, 4, 6, 7]


def test_copies_of_a_block_stay_whole():
    """Positions of a unit that lie side by side are copied side by side, as a flattened map has them."""
    assert new_order(6, [Part(np.arange(6).reshape(2, 3), np.array([0, 0, 1]))]).tolist() == [
        0,
        1,
        2,
        0,
        1,
        2,
        3,
        4,
        5,
    ]
    assert new_order(6, [Part(np.arange(6).reshape(3, 2).T.copy(), np.array([0, 0, 1]))]).tolist() == [
        0,
        0,
        1,
        2,
        2,
        3,
        4,
        4,
        5,
    ]
