"""A network's structure: by layer and group, as a tree, and as a picture that works in a browser."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from rich.console import Console
from tests.strategies import networks
from torch import nn

from secateur.channels import watch
from secateur.errors import StoreError
from secateur.observe.calls import calls
from secateur.report import Structure, render_structure, structure_of, tree, write_structure
from secateur.report.picture import rows

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def seen(model: nn.Module, x: torch.Tensor, *, inputs: bool = False, name: str = "net") -> Structure:
    channels = watch(model, x, inputs=inputs)
    return structure_of(model, channels, calls(model, x), network=name, input_shape=tuple(x.shape[1:]))


def printed(renderable: Any, width: int = 120) -> str:
    console = Console(width=width, no_color=True, force_terminal=False, legacy_windows=False)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


class Block(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.a = nn.Conv2d(width, inner, 3, padding=1)
        self.norm = nn.BatchNorm2d(inner)
        self.b = nn.Conv2d(inner, width, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.b(torch.relu(self.norm(self.a(x))))


def residual(*inner: int, width: int = 8) -> nn.Module:
    """A stem, residual blocks of some inner widths, and a head."""
    blocks = nn.Sequential(*(Block(width, each) for each in inner))
    return nn.Sequential(nn.Conv2d(3, width, 3), blocks, nn.Flatten(), nn.Linear(width * 16, 5))


X = torch.zeros(1, 3, 6, 6)


@settings(deadline=None, max_examples=15)
@given(case=networks())
def test_every_cost_and_every_axis_is_at_a_layer(case):
    """Layers' parameters and multiply-adds add up to the network's; every member and fixed axis is at its layer."""
    structure = seen(case.model, case.x)
    channels = watch(case.model, case.x)

    assert sum(layer.parameters for layer in structure.layers) == structure.total.parameters
    assert sum(layer.macs for layer in structure.layers) <= structure.total.macs
    parts = [part for layer in structure.layers for part in layer.parts]
    assert len(parts) == sum(len(group.members) for group in channels.groups)
    assert len(structure.fixed) == len(channels.fixed)
    assert [view.number for view in structure.groups] == list(range(1, len(channels.groups) + 1))


@settings(deadline=None, max_examples=15)
@given(case=networks())
def test_bands_reach_from_first_to_last_and_never_overlap(case):
    """At each layer a lane holds one group, and a group's band covers every layer that takes part in it."""
    for row in rows(seen(case.model, case.x)):
        lanes = [strand.x for strand in row.strands]
        assert len(lanes) == len(set(lanes))
        drawn = {strand.group: set(strand.roles) for strand in row.strands}
        for part in row.layer.parts:
            assert part.role in drawn[part.group]


def test_equal_blocks_are_drawn_once():
    """Blocks that follow one another and are equal are one branch; all are shown on demand."""
    structure = seen(residual(4, 4, 4), X)

    folded, full = printed(tree(structure)), printed(tree(structure, full=True))

    assert "0 to 2 Block  3 equal blocks, each:" in folded
    assert folded.count("BatchNorm2d") == 1
    assert full.count("BatchNorm2d") == 3
    assert "equal blocks" not in full


def test_blocks_of_other_widths_are_told_apart():
    """Blocks of other widths are not called equal; four or more of one form are shown as one, and that is said."""
    few, many = (printed(tree(seen(residual(*range(3, 3 + count)), X))) for count in (3, 4))

    assert few.count("BatchNorm2d") == 3
    assert many.count("BatchNorm2d") == 1
    assert "4 blocks of one form, their widths differ; the first" in many


def test_the_tree_says_role_width_cost_and_reason():
    """At each layer stand the groups with role and width, the cost, and the number of the reason for what stays."""
    text = printed(tree(seen(residual(4), X)))

    assert re.search(r"0 Conv2d  writes own 8; 3 stay \[1\]  224 params", text)
    assert "a Conv2d  writes own 4; reads 0 8" in text
    assert "norm BatchNorm2d  carries 1.0.a 4" in text
    assert "3 Linear  reads 0 8x16; 5 stay [2]" in text
    assert "[1] reads the network's input: 0.weight[1]" in text
    assert "[2] reaches the network's output: 3.weight[0], 3.bias[0]" in text


def test_a_residual_network_of_fifty_layers_fits_on_two_screens():
    """A ResNet-50 is a tree of at most a hundred lines."""
    models = pytest.importorskip(
        "torchvision.models", reason="torchvision is not installed", exc_type=(ImportError, RuntimeError)
    )

    text = printed(tree(seen(models.resnet50(), torch.zeros(1, 3, 64, 64))))

    assert len(text.splitlines()) <= 100
    assert "1 to 5 Bottleneck  5 equal blocks" in text


def test_a_network_in_which_nothing_can_go_is_drawn_and_says_so():
    """Without groups tree and page have the reasons."""
    structure = seen(nn.Linear(4, 2), torch.zeros(1, 4))

    assert "Nothing in this network can go." in printed(tree(structure))
    assert "(itself) Linear" in printed(tree(structure))
    page = render_structure(structure)
    assert "Nothing in this network can go" in page
    assert "reaches the network&#39;s output" in page


def test_the_input_is_a_layer_where_it_may_be_cut():
    """Input features that may go stand at the top as a layer of their own."""
    structure = seen(
        nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), torch.zeros(1, 4), inputs=True
    )

    assert structure.layers[0].kind == "Input"
    assert "is own 4" in printed(tree(structure))


def test_the_page_asks_for_nothing_and_escapes_names():
    """Nothing is fetched, a name that is a script is shown, and the same structure gives the same page."""
    evil = "<script>alert('x')</script>"
    page = render_structure(seen(residual(4), X, name=evil))

    assert evil not in page
    assert "&lt;script&gt;" in page
    assert not re.search(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//|@import|url\(""", page)
    assert page == render_structure(seen(residual(4), X, name=evil))


def test_pages_are_replaced_and_nothing_else_is(tmp_path: Path):
    """A page is written over a page; another file, a folder and a missing folder are refused and left as they are."""
    structure = seen(residual(4), X)
    page = write_structure(structure, tmp_path / "net.html")
    assert write_structure(structure, page) == page
    other = tmp_path / "weights.html"
    other.write_text("precious")

    with pytest.raises(StoreError, match="exists and is no page of Secateur's"):
        write_structure(structure, other)
    with pytest.raises(StoreError, match="is a folder; name a file"):
        write_structure(structure, tmp_path)
    with pytest.raises(
        StoreError, match=r"is no folder, so net\.html cannot be written there; make it first"
    ):
        write_structure(structure, tmp_path / "missing" / "net.html")

    assert other.read_text() == "precious"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["net.html", "weights.html"]


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_in_a_browser_the_picture_answers(tmp_path: Path):
    """Offline in headless Chromium: bands, layers, table and filter answer, nothing overflows, and nobody complains."""
    from playwright.sync_api import sync_playwright

    structure = seen(residual(*[4 + each % 3 for each in range(110)]), X, name="a network of 111 groups")
    file = write_structure(structure, tmp_path / "net.html")
    complaints: list[str] = []
    switches = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=switches)
        page = browser.new_context(viewport={"width": 1280, "height": 900}, offline=True).new_page()
        page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("requestfailed", lambda request: complaints.append(request.url))
        page.goto(file.as_uri())
        shown = page.locator("#rows > li:visible")
        assert shown.count() == len(structure.layers)

        second = page.locator('#rows g[data-g="2"]').first
        second.hover()
        assert page.locator("#rows.lit").count() == 1
        assert page.locator("#rows .on").count() > 0
        second.click()
        assert page.locator("#chosen").text_content() == f"Group 2: {structure.group(2).group.name}"
        assert page.locator("#why").text_content() == structure.group(2).why
        assert page.locator("#members li").count() == len(structure.group(2).group.members)

        page.locator("#rows .layer").first.click()
        assert "reads the network's input" in (page.locator("#members").text_content() or "")
        page.locator("#members button").first.click()
        assert (page.locator("#chosen").text_content() or "").startswith("Group 1:")

        page.locator("#words").fill("1.7. conv2d")
        assert shown.count() == 2
        assert page.locator("#count").text_content() == f"2 of {len(structure.layers)} layers"
        page.locator("#words").fill("")
        page.locator("input[value=fixed]").check(force=True)
        assert shown.count() == sum(bool(layer.fixed) for layer in structure.layers)
        page.locator("input[value=all]").check(force=True)

        page.locator('#group-table tr[data-g="111"] th').click()
        assert (page.locator("#chosen").text_content() or "").startswith("Group 111:")
        assert page.evaluate("document.documentElement.scrollWidth") <= 1280

        narrow = browser.new_context(
            viewport={"width": 400, "height": 850}, color_scheme="dark", offline=True
        )
        phone = narrow.new_page()
        phone.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        phone.goto(file.as_uri())
        assert phone.evaluate("document.documentElement.scrollWidth") <= 400
        phone.locator('#rows g[data-g="1"]').first.click()
        assert (phone.locator("#chosen").text_content() or "").startswith("Group 1:")
        box = phone.locator("#details").bounding_box() or {"y": 1e9}
        assert box["y"] < 850  # what was chosen is told where it can be seen
        browser.close()

    assert complaints == []
