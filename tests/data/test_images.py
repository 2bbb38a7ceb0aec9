"""Image data sets are split by class and standardised by the learning images."""

import numpy as np
import torch

from secateur.data.images import Images, channel_statistics, image_splits


def images(count, seed=0):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (count, 3, 4, 4)).astype(np.uint8)
    return Images(pixels, np.arange(count) % 5)


def splits(**options):
    wanted = {"default_validation": 20, "seed": 0, "validation": None, "limit": None, **options}
    return image_splits(
        "toy", images(100), images(30, 1), classes=tuple("abcde"), notes={"source": "x"}, **wanted
    )


def test_statistics_are_numpys():
    """Mean and deviation from counts are those of the pixels themselves, also over more than one chunk."""
    pixels = np.random.default_rng(0).integers(0, 256, (6001, 2, 2, 3)).astype(np.uint8)

    mean, deviation = channel_statistics(pixels)

    np.testing.assert_allclose(mean, pixels.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(deviation, pixels.astype(float).std(axis=(0, 2, 3)), rtol=1e-12)


def test_a_constant_channel_stays_finite():
    """A channel without any contrast becomes zero, not NaN."""
    mean, deviation = channel_statistics(np.full((3, 1, 2, 2), 7, np.uint8))

    assert mean.tolist() == [7]
    assert deviation.tolist() == [1]


def test_learning_images_come_out_standard():
    """Training and validation images together have mean 0 and deviation 1 in every channel."""
    made = splits()
    learning = torch.cat([made.train.inputs, made.validation.inputs])

    torch.testing.assert_close(learning.mean(dim=(0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-6)
    torch.testing.assert_close(learning.std(dim=(0, 2, 3), correction=0), torch.ones(3), rtol=1e-6, atol=0)


def test_no_image_is_in_two_splits():
    """Every learning image is in exactly one of training and validation."""
    made = splits()

    rows = torch.cat([made.train.inputs, made.validation.inputs]).flatten(1)

    assert (len(made.train), len(made.validation), len(made.test)) == (80, 20, 30)
    assert len({tuple(row.tolist()) for row in rows}) == 100


def test_the_seed_leaves_the_test_split():
    """Another seed gives another validation split but the very same test inputs."""
    one, other = splits(seed=0), splits(seed=1)

    assert torch.equal(one.test.inputs, other.test.inputs)
    assert not torch.equal(one.validation.inputs, other.validation.inputs)


def test_a_limit_leaves_validation_and_test():
    """A limit thins the training images evenly and touches nothing else."""
    whole, limited = splits(), splits(limit=25)

    assert limited.train.targets.bincount().tolist() == [5] * 5
    assert torch.equal(limited.validation.inputs, whole.validation.inputs)
    assert torch.equal(limited.test.inputs, whole.test.inputs)
    every = {tuple(row.tolist()) for row in whole.train.inputs.flatten(1)}
    assert all(tuple(row.tolist()) in every for row in limited.train.inputs.flatten(1))


def test_notes_say_how():
    """The notes carry the source, the split and the normalisation."""
    notes = splits(limit=25, seed=4).notes

    assert notes["source"] == "x"
    assert notes["split"] == (
        "25 training and 20 validation images, by class, seed 4; training limited to 25, the classes even"
    )
    assert notes["normalisation"].startswith("each channel: (pixel - mean) / deviation")
