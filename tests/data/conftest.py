"""Where the data sets lie on the machine that runs the tests."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_dir():
    """The folder of data sets: SECATEUR_DATA, else .data beside the sources; a test that needs it skips without."""
    folder = Path(os.environ.get("SECATEUR_DATA") or Path(__file__).parents[2] / ".data")
    if not folder.is_dir():
        pytest.skip(f"no data sets: SECATEUR_DATA is not set and {folder} does not exist")
    return folder
