"""Optional libraries: loaded when they are needed, or named with what brings them."""

import re
import sys
from pathlib import Path

import pytest

from secateur._libraries import installed, library
from secateur.errors import ModelError, SettingsError, StoreError

SOURCES = Path(__file__).parents[1] / "src" / "secateur"
LOADS = re.compile(r"except (?:ImportError|ModuleNotFoundError)|find_spec")


@pytest.fixture
def broken(tmp_path, monkeypatch):
    """Makes a library that is there and fails while it loads."""

    def make(raised: str) -> str:
        (tmp_path / "broken_lib.py").write_text(f"raise {raised}\n")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "broken_lib", raising=False)
        return "broken_lib"

    return make


@pytest.mark.parametrize("kind", [SettingsError, ModelError, StoreError])
def test_what_is_missing_is_named_with_what_brings_it(kind, monkeypatch):
    """In an error of the kind that was asked for; who asks is said, and what can be done without."""
    monkeypatch.setitem(sys.modules, "absent_lib", None)

    with pytest.raises(kind) as caught:
        library("absent_lib.inner", extra="onnx", what="this", instead="take that", error=kind)

    assert re.fullmatch(
        r"this needs absent_lib, which is not installed \(.+\); pip install 'secateur\[onnx\]', or take that",
        str(caught.value),
    )
    assert not installed("absent_lib")


@pytest.mark.parametrize(
    "raised",
    ["ImportError('cannot import name x')", "RuntimeError('operator torchvision::nms does not exist')"],
)
def test_what_does_not_load_is_told_from_what_is_missing(broken, raised):
    """It is there, so it is to be installed anew; the reason is said."""
    name = broken(raised)
    assert installed(name)

    with pytest.raises(
        SettingsError, match=r"broken_lib is needed, and is installed but broken \(.*--force-reinstall"
    ):
        library(name, extra="vision")


def test_there_is_one_place_that_tries_imports():
    """Nobody else looks whether a library is there."""
    own = {
        str(file.relative_to(SOURCES))
        for file in SOURCES.rglob("*.py")
        if LOADS.search(file.read_text("utf-8"))
    }

    assert own == {"_libraries.py"}
