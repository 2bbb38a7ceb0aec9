"""The parts of the library stand in one order, and a part imports only parts before it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "secateur"

LEAVES = {
    "errors": set(),
    "_model": {"errors"},
    "_files": {"errors"},
    "_libraries": {"errors"},
    "_options": {"errors"},
    "data": {"errors"},
    "networks": {"errors", "_libraries"},
}
ORDER = (
    "channels",
    "cost",
    "observe",
    "criteria",
    "plan",
    "surgery",
    "train",
    "quantise",
    "evaluate",
    "export",
    "store",
    "scale",
    "methods",
    "studies",
    "report",
    "cli",
)
EVERY_PART = {*LEAVES, *ORDER, "testing", "__main__"}
SURFACE = ""
"""The package itself: `from secateur import watch`."""

MAY_IMPORT = LEAVES | {part: {*LEAVES, *ORDER[:place]} for place, part in enumerate(ORDER)}
MAY_IMPORT["cli"] |= {SURFACE}
MAY_IMPORT["testing"] = {SURFACE, *EVERY_PART} - {"cli", "__main__"}
MAY_IMPORT[SURFACE] = EVERY_PART - {"cli", "testing", "__main__"}
MAY_IMPORT["__main__"] = set[str]()  # it starts secateur_program, as the installed command does


def part_of(file: Path) -> str:
    """The part that a file of the package belongs to."""
    inside = file.relative_to(PACKAGE)
    return (
        SURFACE
        if inside.name == "__init__.py" and len(inside.parts) == 1
        else inside.parts[0].removesuffix(".py")
    )


def parts_named(module: str, names: list[str]) -> Iterator[str]:
    """The parts behind `import module` or `from module import names`."""
    root, *rest = module.split(".")
    if root != "secateur":
        return
    if rest:
        yield rest[0]
    else:
        yield from (name if name in EVERY_PART else SURFACE for name in names or [""])


def imported_parts(source: str, package: str = "secateur") -> set[str]:
    """Every part that a file imports, imports inside functions and under conditions included."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found.update(parts_named(alias.name, []))
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*parents, *([node.module] if node.module else [])])
            found.update(parts_named(module, [alias.name for alias in node.names]))
    return found


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("file", sources(), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_point_one_way(file):
    """A part imports only the parts before it."""
    part = part_of(file)
    package = ".".join(["secateur", *file.relative_to(PACKAGE).parts[:-1]])

    wrong = imported_parts(file.read_text(encoding="utf-8"), package) - MAY_IMPORT[part] - {part}

    assert not wrong, (
        f"{part or 'secateur'} imports {sorted(wrong)}; it may import {sorted(MAY_IMPORT[part])}"
    )


def test_every_part_is_placed():
    """A new part gets its place in the order before it lands."""
    assert {part_of(file) for file in sources()} - {SURFACE} <= EVERY_PART


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("def f():\n    from secateur.report import html", {"report"}),
        ("if True:\n    import secateur.cli.main as x", {"cli"}),
        ("from secateur import cost, watch", {"cost", SURFACE}),
        ("import secateur", {SURFACE}),
        ("from ..plan import Plan\nfrom . import near", {"plan", "channels"}),
        ("import torch\nfrom secateurs import plan", set()),
    ],
)
def test_every_kind_of_import_is_seen(source, found):
    """The check above sees imports in functions, under conditions, of the package itself, and relative ones."""
    assert imported_parts(source, "secateur.channels") == found


def test_one_file_knows_the_dispatcher():
    """Only channels/dispatch.py listens to PyTorch's dispatcher, and the oracle, which is to know nothing of the former."""
    knowing = [file for file in sources() if "TorchDispatchMode" in file.read_text(encoding="utf-8")]

    assert knowing == [PACKAGE / "channels" / "dispatch.py", PACKAGE / "testing" / "absent.py"]


def test_benchmarks_use_public_names():
    """A benchmark does what a user could do: it imports the package or a part, never a file inside a part."""
    files = sorted((ROOT / "benchmarks").glob("*.py"))

    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            deep = [
                name
                for name in modules
                if name.startswith("secateur.") and (name.count(".") > 1 or "._" in name)
            ]
            assert not deep, f"{file.name} imports {deep}"
