"""What `import secateur` gives, and what it costs."""

import json
import subprocess
import sys
import types
from pathlib import Path

import pytest

import secateur

TIMES = 2.2
"""Of what PyTorch alone takes, so that the machine does not decide: 1.2 to 3.5 seconds were seen."""
HEAVY = {"IPython", "matplotlib", "onnx", "plotly", "ray", "sklearn", "timm", "torch_pruning", "torchvision"}
LOOK = """
import json, sys, time
import {module}
seconds = time.process_time()
import torch
print(json.dumps({{
    "seconds": seconds,
    "modules": sorted({{name.partition(".")[0] for name in sys.modules}}),
    "cuda": torch.cuda.is_initialized(),
    "settings": [torch.get_num_threads(), str(torch.get_default_dtype()), torch.is_grad_enabled()],
}}))
"""


def import_afresh(module: str) -> dict:
    """What importing a module does to a process that did nothing else."""
    source = LOOK.format(module=module)
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=True, timeout=120
    )
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def imported() -> dict:
    """The quickest of three: the first in a fresh clone compiles every file, which users pay for once."""
    return min((import_afresh("secateur") for _ in range(3)), key=lambda one: one["seconds"])


def test_the_public_names_are_listed():
    """`__all__` is sorted and names exactly what the package offers besides its parts."""
    public = {
        name
        for name, value in vars(secateur).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }

    assert list(secateur.__all__) == sorted(secateur.__all__)
    assert {name for name in secateur.__all__ if not name.startswith("_")} == public


@pytest.mark.parametrize("name", [name for name in secateur.__all__ if not name.startswith("_")])
def test_each_public_name_is_documented(name):
    """What is public says what it is."""
    assert (getattr(secateur, name).__doc__ or "").strip()


def test_importing_is_quick(imported):
    """Importing takes about as long again as PyTorch itself, which is included, in processor time."""
    alone = min(import_afresh("torch")["seconds"] for _ in range(3))

    assert imported["seconds"] < TIMES * alone


def test_importing_is_light(imported):
    """Importing loads no optional or heavy library, and touches no GPU."""
    assert not HEAVY & set(imported["modules"])
    assert not imported["cuda"]


def test_importing_changes_no_setting(imported):
    """Importing leaves PyTorch's threads, number type and gradient mode as they were."""
    assert imported["settings"] == import_afresh("torch")["settings"]


def test_the_package_is_typed():
    """Type checkers may rely on the annotations."""
    assert (Path(secateur.__file__).parent / "py.typed").is_file()
