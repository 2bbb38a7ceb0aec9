"""What two networks answer differently is on the page: confusions, and examples as pictures of their own."""

from __future__ import annotations

import base64
import re
import struct
import zlib
from datetime import UTC, datetime

import pytest
import torch
from tests.report.sample import sample
from torch import nn

from secateur.data import Split
from secateur.errors import StoreError
from secateur.evaluate import evaluate
from secateur.report import (
    Accuracy,
    Change,
    Comparison,
    Confusion,
    Data,
    Example,
    Identified,
    changes_of,
    confusions_of,
    identified_of,
    render,
    render_comparison,
    write_comparison,
)
from secateur.report.examples import png_of

EVIL = "<b>\x1b[31m"


def pixels(address: str) -> torch.Tensor:
    """The samples of a picture that `png_of` made, as ``[channels, height, width]``; every checksum is checked."""
    data = base64.b64decode(address.partition(",")[2])
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    place, parts = 8, {}
    while place < len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        body = data[place + 4 : place + 8 + length]
        assert struct.unpack(">I", data[place + 8 + length : place + 12 + length])[0] == zlib.crc32(body)
        parts[body[:4]] = body[4:]
        place += 12 + length
    width, height, depth, colour, *_ = struct.unpack(">IIBBBBB", parts[b"IHDR"])
    channels = {0: 1, 2: 3}[colour]
    assert depth == 8
    lines = torch.frombuffer(bytearray(zlib.decompress(parts[b"IDAT"])), dtype=torch.uint8)
    rows = lines.reshape(height, 1 + width * channels)
    assert not rows[:, 0].any()
    return rows[:, 1:].reshape(height, width, channels).permute(2, 0, 1)


class Fixed(nn.Module):
    """Answers by a table, whatever the example looks like."""

    def __init__(self, answers):
        super().__init__()
        self.answers = nn.functional.one_hot(torch.tensor(answers), 3).float()

    def forward(self, x):
        return self.answers[: len(x)]


def compared(split: Split, was: list[int], now: list[int], names=("a", EVIL, "c")) -> Comparison:
    before, after = (evaluate(Fixed(answers), split, classes=names) for answers in (was, now))
    return Comparison(
        title="small against large", created=datetime(2026, 1, 1, tzinfo=UTC), network="small", against="large",
        data=Data(name="toy"), before=Accuracy(accuracy=before.accuracy, count=6),
        after=Accuracy(accuracy=after.accuracy, count=6), change=Change(points=0, low=-1, high=1),
        amounts={"Parameters": (100, 10)}, classes=changes_of(before, after, None), classes_split="test",
        confusions=confusions_of(before, after), identified=identified_of(before, after, split),
    )  # fmt: skip


@pytest.fixture
def images():
    x = torch.rand(6, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    return Split((x - 0.5) / 0.2, torch.tensor([0, 0, 1, 1, 2, 2]))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_has_the_pixels_that_it_was_given(channels):
    """A picture read back has each pixel to a 510th, also after thinning out."""
    image = torch.rand(channels, 6, 8)

    assert (pixels(png_of(image)) / 255 - image).abs().max() <= 1 / 509
    assert (pixels(png_of(image, step=2)) / 255 - image[:, ::2, ::2]).abs().max() <= 1 / 509


def test_examples_are_those_that_changed(images):
    """Lost and gained examples carry their number, class and answers, and their picture shows the input in its own colours."""
    found = compared(images, [0, 0, 1, 1, 2, 0], [0, 1, 1, 1, 0, 2]).identified

    assert (found.lost, found.gained, found.moved) == (2, 1, 0)
    assert [(one.index, one.true, one.before, one.after, one.lost) for one in found.examples] == [
        (1, "a", "a", EVIL, True),
        (4, "c", "c", "a", True),
        (5, "c", "a", "c", False),
    ]
    x = images.inputs
    low, high = x.amin((0, 2, 3))[:, None, None], x.amax((0, 2, 3))[:, None, None]
    shown = pixels(found.examples[1].picture) / 255
    assert (shown - (x[4] - low) / (high - low)).abs().max() <= 1 / 509


def test_what_is_no_image_is_told_by_number():
    """Signals are not drawn; the page says so."""
    split = Split(torch.randn(6, 3, 9), torch.tensor([0, 0, 1, 1, 2, 2]))
    found = compared(split, [0, 0, 1, 1, 2, 2], [1, 0, 1, 1, 2, 2]).identified

    assert found.examples[0].picture == ""
    assert "of shape [3, 9], are no images" in found.note


def test_many_examples_are_cut_off_and_said_to_be():
    """No more than two dozen of a kind are shown, and the page says of how many."""
    split = Split(torch.randn(40, 1, 4, 4), torch.zeros(40, dtype=torch.int64))
    found = compared(split, [0] * 40, [1] * 40).identified

    assert len(found.examples) == 24
    assert "24 of 40 that were lost are shown" in found.note


def test_the_page_of_a_comparison_shows_everything_and_escapes(images):
    """Classes, confusions, pictures and amounts are on a page without scripts; names from outside are escaped."""
    comparison = compared(images, [0, 0, 1, 1, 2, 0], [0, 1, 1, 1, 0, 2])

    page = render_comparison(comparison)

    assert "<script" not in page
    assert EVIL not in page
    assert "&lt;b&gt;" in page
    assert page.count("<img ") == 3
    assert all(one.picture in page for one in comparison.identified.examples)
    assert "2 examples were right before and are wrong after, 1 the other way round" in page
    assert "÷</i>10.0" in page
    assert not re.search(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//""", page)


def test_a_page_does_not_replace_what_is_not_one(images, tmp_path):
    """The page is written over its own kind only."""
    comparison = compared(images, [0] * 6, [1] * 6)
    file = tmp_path / "page.html"

    assert write_comparison(comparison, file) == write_comparison(comparison, file) == file
    other = tmp_path / "thesis.html"
    other.write_text("mine")
    with pytest.raises(StoreError, match="no page of Secateur's"):
        write_comparison(comparison, other)


def test_a_reduction_s_page_has_them_too():
    """A report with confusions and examples shows them, and one without has no such section."""
    picture = png_of(torch.zeros(1, 4, 4))
    found = Identified(lost=1, examples=(Example(index=7, true="4", before="4", after="9", picture=picture),))
    confusion = Confusion(true="4", predicted="9", count=982, before=2, after=9)

    page = render(sample(confusions=(confusion,), identified=found))

    assert picture in page
    assert "+7" in page
    assert 'href="#examples"' in page
    assert 'id="examples"' not in render(sample())


def test_only_pictures_of_our_own_are_let_onto_a_page():
    """A document that names a picture elsewhere, or another kind of address, is refused."""
    for address in (
        "https://example.org/x.png",
        "data:image/svg+xml;base64,AAAA",
        'data:image/png;base64,"x',
    ):
        with pytest.raises(ValueError, match="pattern"):
            Example(index=0, true="a", before="a", after="b", picture=address)
