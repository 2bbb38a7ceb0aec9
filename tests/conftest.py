"""What is collected, and that each test draws the same random numbers, alone or after others."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Seed every global generator before a test's fixtures are made, so that it does the same alone as after others."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave out Python files of the tests that hold none."""
    helper = collection_path.suffix == ".py" and not collection_path.name.startswith(("test_", "conftest"))
    return True if helper else None
