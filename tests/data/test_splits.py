"""Splits check themselves at birth and hand out batches."""

import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.data import Split, Splits
from secateur.errors import DataError, SettingsError


def split(count=6, shape=(2,), classes=3):
    inputs = torch.arange(float(count * math.prod(shape))).reshape(count, *shape)
    return Split(inputs, torch.arange(count) % classes)


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 50), st.booleans(), st.booleans())
def test_batches_are_the_split(count, size, shuffled, drop_last):
    """Batches hold every example once with its own label, but for a short last batch that was to be dropped."""
    whole = split(count)
    order = torch.Generator().manual_seed(count) if shuffled else None

    batches = list(whole.batches(size, shuffle=order, drop_last=drop_last))

    lengths = [len(y) for _, y in batches]
    full, rest = divmod(count, size)
    assert lengths == [size] * full + ([rest] if rest and not drop_last else [])
    seen = torch.cat([x[:, 0] for x, _ in batches]) // 2 if batches else torch.zeros(0)
    assert len(set(seen.tolist())) == sum(lengths)
    assert all(torch.equal(y, (x[:, 0] // 2).long() % 3) for x, y in batches)
    if not shuffled:
        assert seen.tolist() == list(range(len(seen)))


def test_shuffling_follows_the_generator():
    """The generator alone decides the order: its state repeats it, going on changes it, the global one is untouched."""
    whole = split(20)
    order = torch.Generator().manual_seed(3)
    before = torch.get_rng_state()

    first, second = (torch.cat([y for _, y in whole.batches(7, shuffle=order)]) for _ in range(2))
    order.manual_seed(3)
    again = torch.cat([y for _, y in whole.batches(7, shuffle=order)])

    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)


def test_unshuffled_batches_are_views():
    """Going through in order copies nothing."""
    whole = split()

    inputs, _ = next(whole.batches(4))

    assert inputs.data_ptr() == whole.inputs.data_ptr()


def test_batch_size_is_checked_at_once():
    """A wrong size is refused when asked for, not when the first batch is taken."""
    with pytest.raises(SettingsError, match="a batch of 0 examples cannot be made"):
        split().batches(0)


@pytest.mark.parametrize(
    ("inputs", "targets", "message"),
    [
        (
            torch.zeros(2, 3, dtype=torch.int64),
            torch.zeros(2, dtype=torch.int64),
            "the inputs are torch.int64",
        ),
        (torch.zeros(2, 3), torch.zeros(2), "the labels are torch.float32 of shape [2]"),
        (
            torch.zeros(2, 3),
            torch.zeros(2, 1, dtype=torch.int64),
            "the labels are torch.int64 of shape [2, 1]",
        ),
        (torch.zeros(2), torch.zeros(2, dtype=torch.int64), "the inputs have shape [2]"),
        (torch.zeros(3, 3), torch.zeros(2, dtype=torch.int64), "there are 3 inputs but 2 labels"),
        (torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), "there are no examples"),
        (torch.zeros(2, 0), torch.zeros(2, dtype=torch.int64), "there are no examples"),
        (torch.zeros(2, 3), torch.tensor([0, -1]), "label -1 is negative (example 1 of 2, counted from 0)"),
    ],
)
def test_what_is_no_split(inputs, targets, message):
    """Tensors that do not make a split are refused with what is wrong."""
    with pytest.raises(DataError, match=re.escape(message)):
        Split(inputs, targets)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_must_be_finite(value):
    """NaN and infinities are counted and the first bad example is named."""
    inputs = torch.zeros(5, 4)
    inputs[2, 1] = inputs[4, 0] = value

    with pytest.raises(DataError, match="2 input values are NaN or infinite, the first in example 2"):
        Split(inputs, torch.zeros(5, dtype=torch.int64))


def test_infinities_that_cancel_are_found():
    """Infinities of both signs do not hide each other."""
    with pytest.raises(DataError, match="2 input values are NaN or infinite"):
        Split(torch.tensor([[math.inf], [-math.inf]]), torch.zeros(2, dtype=torch.int64))


def test_large_values_are_fine():
    """Values at the end of float32's range are finite, although their float32 sum is not."""
    inputs = torch.full((4, 2), torch.finfo(torch.float32).max)

    assert len(Split(inputs, torch.zeros(4, dtype=torch.int64))) == 4


def test_take_is_even_and_keeps_pairs():
    """A smaller split has even classes and every example keeps its label."""
    small = split(30).take(9, seed=1)

    assert small.targets.bincount().tolist() == [3, 3, 3]
    assert torch.equal(small.targets, (small.inputs[:, 0] // 2).long() % 3)


def test_map_changes_inputs_only():
    """Mapping keeps the labels, checks the result and leaves the split as it was."""
    whole = split(4, (1, 2, 2))

    flat = whole.map(lambda x: x.flatten(1))

    assert flat.inputs.shape == (4, 4)
    assert torch.equal(flat.targets, whole.targets)
    assert whole.inputs.shape == (4, 1, 2, 2)
    with pytest.raises(DataError, match="NaN or infinite"):
        whole.map(lambda x: x / 0)


def test_to_the_same_device_is_itself():
    """Moving a split to where it is copies nothing."""
    whole = split()

    assert whole.to("cpu") is whole


def test_to_another_device():
    """Moving a data set moves every part of it."""
    part = split()
    whole = Splits("toy", part, part, part, ("a", "b", "c"))

    moved = whole.to("cpu")

    assert [p.inputs.device.type for p in moved.parts().values()] == ["cpu"] * 3
    assert moved.name == "toy"
    assert moved.classes == whole.classes


def test_input_shape_is_one_example():
    """The input shape leaves the batch out."""
    part = split(4, (3, 5))

    assert Splits("toy", part, part, part, ("a", "b", "c")).input_shape == (3, 5)


def test_shapes_must_agree():
    """Parts of different shapes are refused with the shape of each, so that it does not matter which one is wrong."""
    message = "toy: the splits' examples differ in shape ([3] in train, [2] in validation, [2] in test)"

    with pytest.raises(DataError, match=re.escape(message)):
        Splits("toy", split(shape=(3,)), split(), split(), ("a", "b", "c"))


def test_every_label_needs_a_class():
    """A label beyond the classes is refused with the part it is in."""
    message = "toy: the validation labels go up to 2, but there are 2 classes; count classes from 0 to 1"

    with pytest.raises(DataError, match=message):
        Splits("toy", split(classes=2), split(classes=3), split(classes=2), ("a", "b"))
