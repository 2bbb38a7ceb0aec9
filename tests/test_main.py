"""`python -m secateur`."""

import subprocess
import sys
from importlib import metadata


def test_the_package_can_be_run(tmp_path):
    """The package run as a module is the command, with its output and its codes."""
    said, refused = (
        subprocess.run(
            [sys.executable, "-m", "secateur", *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        for words in (["--version"], ["nosuchcommand"])
    )

    assert (said.returncode, said.stdout) == (0, f"secateur {metadata.version('secateur')}\n")
    assert (refused.returncode, refused.stderr[:7]) == (2, "error: ")
