"""Files for ONNX Runtime."""

import pytest
import torch

from secateur.errors import ExportError
from secateur.export import export, open_file

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def made(small, images, tmp_path_factory):
    """The network in every mode that the target offers."""
    folder = tmp_path_factory.mktemp("onnx")
    return {
        mode: export(small, images, folder / f"{mode}.onnx", target="onnx", mode=mode, calibration=images)
        for mode in ("float32", "dynamic", "float16", "int8")
    }


def test_every_mode_agrees_as_far_as_its_numbers_go(made):
    """Float32 to a ten-thousandth; sixteen bits better than eight."""
    assert made["float32"].deviation <= 1e-4
    assert made["float16"].sqnr > 60 > made["int8"].sqnr > 35
    assert made["dynamic"].sqnr > 35  # 22 where sums saturate, as they did on processors without VNNI


def test_any_number_of_examples_goes_in(made, small, images):
    """One, and all at once, give the same."""
    opened = open_file(made["float32"].path)

    assert torch.allclose(opened(images), torch.cat([opened(one[None]) for one in images]), atol=1e-6)
    assert torch.allclose(opened(images), small.eval()(images), atol=1e-5)


def test_answers_of_dynamic_files_do_not_depend_on_the_neighbours(made, images):
    """Their activations' ranges are those of a batch, so that they are run one by one."""
    opened = open_file(made["dynamic"].path)

    assert torch.equal(opened(images), torch.cat([opened(one[None]) for one in images]))


def test_a_network_that_pins_its_batch_is_run_one_by_one(images, tmp_path):
    """Its file takes one example, and the opened file still takes several."""

    class Pinned(torch.nn.Module):
        def forward(self, x):
            return x.reshape(int(x.shape[0]), 36)[:, :3] if x.shape[0] == 1 else x.flatten(1)[:, :3]

    made = export(Pinned(), images, tmp_path / "n.onnx", target="onnx")

    assert torch.equal(open_file(made.path)(images), images.flatten(1)[:, :3])


def test_weights_are_int8_by_channel_and_activations_uint8(made):
    """Each convolution reads what was dequantised."""
    graph = onnx.load(made["int8"].path).graph
    kinds = {one.name: one.data_type for one in graph.initializer}
    weights = [name for name in kinds if name.endswith("weight_quantized")]

    assert len(weights) == 4
    assert {kinds[name] for name in weights} == {onnx.TensorProto.INT8}
    quantisers = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    assert {kinds[node.input[2]] for node in quantisers} == {onnx.TensorProto.UINT8}


def test_a_layer_stays_float(small, images, tmp_path):
    """And is said to."""
    made = export(
        small,
        images,
        tmp_path / "n.onnx",
        target="onnx",
        mode="int8",
        calibration=images,
        keep_float=["hidden"],
    )

    assert "Gemm of hidden" in made.float_operators
    assert not any("of out" in one or "of deep" in one for one in made.float_operators)


def test_what_has_no_integer_form_is_listed(with_operator, images, tmp_path):
    """It holds no weights, so that the file is made."""
    made = export(
        with_operator(torch.erf), images, tmp_path / "n.onnx", target="onnx", mode="int8", calibration=images
    )

    assert "Erf of 2" in made.float_operators


def test_an_operator_that_cannot_be_taken_is_named_with_its_layer(with_operator, images, tmp_path):
    """The layer by its path."""
    with pytest.raises(ExportError, match=r"ONNX cannot take.*is 2 \(.*\); replace that operator"):
        export(with_operator(torch.special.erfinv), images, tmp_path / "n.onnx", target="onnx")
    assert list(tmp_path.iterdir()) == []
