"""Random changes to training examples."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import affine_transform

from secateur.errors import DataError
from secateur.train import (
    TrainSettings,
    fill_of,
    make_augmenter,
    random_affine,
    random_flip,
    random_shift,
    random_signal,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@settings(deadline=None)
@given(seed=st.integers(0, 1000), by=st.integers(1, 3), channels=st.integers(1, 3))
def test_shift_equals_moving_each_image(seed, by, channels):
    """The batch-wise shift gives, image by image, a window of the image padded with the fill."""
    images = torch.rand(4, channels, 5, 6, generator=generator(seed))
    fill = -torch.arange(1.0, channels + 1)
    moved = random_shift(images, generator(seed), by=by, fill=fill)
    start = torch.randint(0, 2 * by + 1, (2, 4), generator=generator(seed))
    for i in range(4):
        padded = fill[:, None, None].repeat(1, 5 + 2 * by, 6 + 2 * by)
        padded[:, by : by + 5, by : by + 6] = images[i]
        top, left = int(start[0, i]), int(start[1, i])

        assert torch.equal(moved[i], padded[:, top : top + 5, left : left + 6])


def test_shift_reaches_every_offset_equally():
    """Over many images each of the (2·by+1)² offsets comes up about equally often (5 standard deviations)."""
    images = torch.zeros(9000, 1, 5, 5)
    images[:, :, 2, 2] = 1
    landed = random_shift(images, generator(), by=1).sum(dim=0)[0]
    counts = landed[1:4, 1:4]

    assert landed.sum() == 9000
    assert counts.sum() == 9000
    assert float((counts - 1000).abs().max()) < 5 * (9000 * (1 / 9) * (8 / 9)) ** 0.5


def test_flip_mirrors_about_half():
    """Each image is either itself or its mirror image, about half of them each (5 standard deviations)."""
    images = torch.arange(3.0).repeat(2000, 1, 2, 1)
    flipped = random_flip(images, generator())
    mirrored = (flipped[:, 0, 0, 0] == 2).sum()

    assert torch.equal(flipped.sort(dim=-1).values, images)
    assert abs(int(mirrored) - 1000) < 5 * (2000 / 4) ** 0.5


@settings(deadline=None)
@given(seed=st.integers(0, 1000), size=st.sampled_from([(7, 7), (5, 9)]))
def test_affine_takes_each_pixel_from_where_the_matrix_says(seed, size):
    """Image by image it is SciPy's affine transform by rotation times stretch and shear, plus the shift, from the middle."""
    images = torch.rand(3, 2, *size, generator=generator(seed), dtype=torch.float64)
    changed = random_affine(
        images, generator(seed), rotate=30, stretch=0.2, shear=0.3, shift=2, fill=torch.tensor([-1.0, 2.0])
    )
    drawn = (2 * torch.rand(6, 3, generator=generator(seed)) - 1).double().numpy()
    middle = (np.array(size[::-1]) - 1) / 2
    for i in range(3):
        angle, wide, high, slant, right, down = drawn[:, i]
        angle = angle * math.radians(30)
        rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        matrix = rotation @ np.array([[1 + 0.2 * wide, 0.3 * slant], [0, 1 + 0.2 * high]])
        offset = middle + 2 * np.array([right, down]) - matrix @ middle
        for channel, fill in enumerate((-1.0, 2.0)):
            wanted = affine_transform(
                images[i, channel].numpy().T, matrix, offset, order=1, mode="grid-constant", cval=fill
            ).T

            assert np.abs(changed[i, channel].numpy() - wanted).max() < 1e-5


def test_signal_changes_have_the_stated_size():
    """Noise has the stated deviation and the factor is one number a channel (tolerance 5 % of the deviation)."""
    noisy = random_signal(torch.zeros(100, 3, 200), generator(), jitter=0.5)
    scaled = random_signal(torch.ones(4000, 3, 2), generator(), scale=0.2, jitter=0.0)

    assert float(noisy.std()) == pytest.approx(0.5, rel=0.05)
    assert torch.equal(scaled[..., 0], scaled[..., 1])
    assert float(scaled[..., 0].std()) == pytest.approx(0.2, rel=0.05)


@pytest.mark.parametrize("kind", ["shift", "flip-shift", "affine", "signal"])
def test_same_generator_same_change(kind):
    """Augmentation depends on the generator only, and leaves the global random state alone."""
    inputs = torch.rand(6, 2, 9) if kind == "signal" else torch.rand(6, 2, 9, 9)
    change = make_augmenter(TrainSettings(augment=kind), inputs)
    before = torch.get_rng_state()

    assert torch.equal(change(inputs, generator(3)), change(inputs, generator(3)))
    assert not torch.equal(change(inputs, generator(3)), change(inputs, generator(4)))
    assert torch.equal(torch.get_rng_state(), before)


def test_border_is_filled_with_the_channels_minimum_or_mean():
    """The fill is taken channel by channel from the training inputs."""
    inputs = torch.stack([torch.full((4, 4), -2.0), torch.eye(4)])[None]

    assert fill_of(inputs, "minimum").tolist() == [-2.0, 0.0]
    assert fill_of(inputs, "mean").tolist() == [-2.0, 0.25]


@pytest.mark.parametrize(
    ("kind", "shape"),
    [("shift", (4, 10)), ("flip-shift", (4, 1, 8)), ("affine", (4, 10)), ("signal", (4, 1, 8, 8))],
)
def test_wrong_kind_of_data_is_refused(kind, shape):
    """Images cannot be changed as signals, nor signals as images: the error names the shape."""
    with pytest.raises(DataError, match="augment") as caught:
        make_augmenter(TrainSettings(augment=kind), torch.zeros(shape))

    assert str(shape) in str(caught.value)
