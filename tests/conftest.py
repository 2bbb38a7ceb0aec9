"""What is collected: files named test_*.py, and the examples in src; not the scripts and helpers beside the tests."""

from pathlib import Path


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave out Python files of the tests that hold none."""
    helper = collection_path.suffix == ".py" and not collection_path.name.startswith(("test_", "conftest"))
    return True if helper else None
