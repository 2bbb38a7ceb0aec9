"""Files for ExecuTorch."""

import pytest
import torch

from secateur.export import export, open_file

pytest.importorskip("executorch.exir")
pytest.importorskip("torchao")


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
