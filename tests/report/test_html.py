"""The page: every figure on it, nothing from elsewhere, nothing unescaped, and it works in a browser."""

from __future__ import annotations

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tests.report.sample import sample, untouched

from secateur.errors import StoreError
from secateur.report import read, render, write

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Words(HTMLParser):
    """The visible text of a page and the addresses that it names."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text: list[str] = []
        self.addresses: list[str] = []
        self.inside: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in {"script", "style"}:
            self.inside.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in {"src", "href", "action", "data"}]

    def handle_endtag(self, tag: str) -> None:
        if self.inside and tag == self.inside[-1]:
            self.inside.pop()

    def handle_data(self, data: str) -> None:
        if not self.inside:
            self.text.append(data)

    @property
    def words(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.text))


def test_every_figure_is_on_the_page() -> None:
    """Widths, parameters, MACs, accuracies, classes, reasons and conditions are all there."""
    report = sample()
    words = Words(render(report)).words

    assert report.bound.statement in words
    for figures in (report.before, report.after):
        assert f"{figures.parameters:,}" in words
        assert f"{figures.macs:,}" in words
    for layer in report.layers:
        assert layer.name in words
        assert f"{layer.parameters_after:,}" in words
    for step in report.iterations:
        assert f"{step.parameters:,}" in words
    for one in report.classes:
        assert f"{one.count:,}" in words
    for axis in report.fixed:
        assert axis.reason in words
    for name in ("example::fused_gate", "model.safetensors", "0123abc", "secateur reduce lenet5.safetensors"):
        assert name in words


def test_the_page_asks_for_nothing() -> None:
    """All addresses are places on the page itself; nothing is fetched, and the page is small enough to mail."""
    page = render(sample())
    found = Words(page)

    assert found.addresses
    assert all(address.startswith("#") for address in found.addresses)
    assert not re.search(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//""", page)
    assert "@import" not in page
    assert "url(" not in page
    assert len(page) < 200_000


def test_names_are_escaped() -> None:
    """A network whose name is a script is shown, not run."""
    evil = "<script>alert('x')</script>"
    page = render(sample(title=evil, network=evil, notes=(evil,), unknown_ops={evil: 1}))

    assert evil not in page
    assert "&lt;script&gt;" in page


def test_the_page_says_which_figure_is_what() -> None:
    """Beneath the figures and above the candidates stands which drop is measured and which is the upper limit."""
    words = Words(render(sample())).words

    assert "the measured change in points, then its [lower, upper] confidence limits" in words
    assert "Measured drop" in words
    assert "Upper limit" in words


def test_the_page_of_an_unchanged_network_says_so() -> None:
    """Where nothing was removed, the page says that and neither praises the bound nor names a class."""
    words = Words(render(sample(**untouched()))).words

    assert "LeNet-5 on MNIST is unchanged: nothing was removed." in words
    assert "✗ Nothing removed" in words
    assert "No class fell on test." in words
    assert "Bound held" not in words
    assert "class that fell most" not in words


def test_the_same_report_gives_the_same_page() -> None:
    """Nothing on the page depends on when or where it was made."""
    assert render(sample()) == render(sample())


def test_a_report_without_iterations_or_classes_has_a_page() -> None:
    """A run that was stopped at once can be shown, too."""
    assert "LeNet-5" in render(sample(iterations=(), classes=(), layers=(), fixed=(), unknown_ops={}))


def test_written_whole_or_not_at_all(tmp_path: Path) -> None:
    """Both files are there and read back; a failed write leaves no temporary behind and says which file."""
    report = sample()
    files = write(report, tmp_path)

    assert sorted(file.name for file in files) == ["report.html", "report.json"]
    assert read(tmp_path) == report
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json"]

    blocked = tmp_path / "blocked"
    blocked.write_text("a file where a folder should be")
    with pytest.raises(StoreError, match=r"report\.html could not be written"):
        write(report, blocked)


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_in_a_browser_everything_works(tmp_path: Path) -> None:
    """Headless Chromium, offline: sections, chart, filter and sorting work, and the console stays silent."""
    from playwright.sync_api import sync_playwright

    report = sample()
    page_file = write(report, tmp_path)[0]
    complaints: list[str] = []
    switches = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=switches)
        context = browser.new_context(viewport={"width": 1280, "height": 900}, offline=True)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("requestfailed", lambda request: complaints.append(request.url))
        page.goto(page_file.as_uri())

        for link in page.locator(".contents a").all():
            link.click()
            section = link.get_attribute("href") or ""
            assert page.locator(section).is_visible()

        first = page.locator("#chosen").text_content()
        field = page.locator(".accuracy .field")
        field.click(position={"x": 5, "y": 40})
        assert page.locator("#chosen").text_content() == "Iteration 1" != first
        page.keyboard.press("ArrowRight")
        page.locator("#plots").focus()
        page.keyboard.press("ArrowRight")
        assert page.locator("#chosen").text_content() != "Iteration 1"

        rows = page.locator("#iteration-table tbody tr")
        assert sum(row.is_visible() for row in rows.all()) == len(report.iterations)
        page.locator("#filter input[value=accepted]").check(force=True)
        accepted = sum(step.accepted for step in report.iterations)
        assert sum(row.is_visible() for row in rows.all()) == accepted
        page.locator("#filter input[value=all]").check(force=True)

        page.locator("#iteration-table thead button", has_text="Parameters").click()
        shown = [row.locator("td, th").nth(8).text_content() or "" for row in rows.all()]
        numbers = [int(text.replace(",", "")) for text in shown]
        assert numbers == sorted(numbers)
        rows.first.click()
        smallest = min(report.iterations, key=lambda step: step.parameters)
        assert page.locator("#chosen").text_content() == f"Iteration {smallest.iteration}"

        narrow = browser.new_context(
            viewport={"width": 390, "height": 844}, color_scheme="dark", offline=True
        )
        phone = narrow.new_page()
        phone.goto(page_file.as_uri())
        assert phone.evaluate("document.documentElement.scrollWidth") <= 390
        browser.close()

    assert complaints == []
