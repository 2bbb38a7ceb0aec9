"""Files for ExecuTorch."""

import subprocess
import sys

import pytest
import torch

from secateur.export import export, open_file

pytest.importorskip("executorch.exir")
pytest.importorskip("torchao")

_REUSED = """
import gc, sys
import torch
from secateur.export import open_file

file, inputs = sys.argv[1], torch.load(sys.argv[2])
opened = open_file(file)
gc.collect()
size = opened.path.stat().st_size
others = [b"\\xff" * size for _ in range(50)]
torch.save(opened(inputs), sys.argv[3])
"""
"""A program that takes much memory of a file's size after opening it."""


@pytest.mark.slow
def test_files_compute_what_the_network_does(small, images, tmp_path):
    """Float32 to a ten-thousandth, int8 as far as its numbers go, with a layer that stays float."""
    wide = export(small, images, tmp_path / "wide.pte", target="executorch")
    narrow = export(
        small, images, tmp_path / "narrow.pte", target="executorch", mode="int8", calibration=images,
        keep_float=["out"],
    )  # fmt: skip

    assert wide.deviation <= 1e-4
    assert narrow.sqnr > 25
    assert narrow.float_operators == ("linear of out",)
    opened = open_file(wide.path)
    assert (opened.input_shape, opened.integer) == ((1, 6, 6), False)
    assert torch.allclose(opened(images), small.eval()(images), atol=1e-4)


@pytest.mark.slow
def test_an_open_file_holds_its_bytes(small, images, tmp_path):
    """What is open computes the same when memory that nobody holds is taken by others; in a process, as it may crash."""
    file = export(small, images, tmp_path / "wide.pte", target="executorch").path
    torch.save(images, tmp_path / "inputs")

    said = subprocess.run(
        [sys.executable, "-c", _REUSED, file, tmp_path / "inputs", tmp_path / "outputs"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert said.returncode == 0, said.stderr
    assert torch.allclose(torch.load(tmp_path / "outputs"), small.eval()(images), atol=1e-4)
