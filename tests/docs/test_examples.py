"""What the documentation shows runs and prints what it says."""

import doctest
import re
import textwrap
from pathlib import Path

import pytest

import secateur

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(
    r"^(?P<indent> *)```(?P<kind>python|pycon)\n(?P<code>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL
)
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def blocks_of(text: str) -> list[tuple[str, int, str]]:
    """The blocks of Python on a page: their kind, the lines before them, and their code."""
    return [
        (found["kind"], text[: found.start("code")].count("\n"), textwrap.dedent(found["code"]))
        for found in BLOCK.finditer(text)
    ]


def run_page(text: str, name: str) -> tuple[int, str]:
    """Run a page's blocks from top to bottom, as one session; how many examples printed something else, and what."""
    names: dict[str, object] = {"__name__": "__main__"}
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=FLAGS, verbose=False)
    for kind, line, code in blocks_of(text):
        if kind == "python":
            exec(compile("\n" * line + code, name, "exec"), names)
        else:
            test = doctest.DocTestParser().get_doctest(code, names, name, name, line)
            runner.run(test, out=said.append, clear_globs=False)
            names |= test.globs
    return runner.failures, "".join(said)


def id_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize(
    "page", [page for page in PAGES if BLOCK.search(page.read_text(encoding="utf-8"))], ids=id_of
)
def test_examples_run(page, tmp_path, monkeypatch):
    """A page's Python runs from top to bottom in an empty folder, and sessions print what the page shows."""
    monkeypatch.chdir(tmp_path)

    failures, said = run_page(page.read_text(encoding="utf-8"), str(page))

    assert failures == 0, said


def test_a_wrong_example_is_noticed():
    """An example that prints something else than the page shows is counted."""
    page = "```python\nx = 1\n```\n\n    ```pycon\n    >>> x + 1\n    3\n    ```\n"

    failures, said = run_page(page, "page")

    assert failures == 1
    assert "Expected:\n    3\nGot:\n    2" in said


@pytest.mark.parametrize("name", secateur.__all__)
def test_every_public_name_is_in_the_reference(name):
    """What `import secateur` gives has its place in the reference."""
    reference = (ROOT / "docs" / "reference" / "index.md").read_text(encoding="utf-8")

    assert re.search(rf"^::: secateur\..*\b{name}$", reference, re.MULTILINE)


def test_every_page_is_reachable():
    """Each page stands in the navigation."""
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = {str(page.relative_to(ROOT / "docs")) for page in PAGES[1:]}

    assert {page for page in pages if page not in navigation} == set()
