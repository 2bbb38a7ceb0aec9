"""``secateur quantise`` with training, preparing and blaming: what is written is what was promised."""

import pytest

pytest.importorskip("litert_torch")


@pytest.fixture
def trained(secateur, tmp_path):
    """A run folder with a small trained network."""
    folder = tmp_path / "m"
    assert secateur("train", "digits-net", "--data", "digits", "--epochs", 1, "--out", folder).code == 0
    return folder


def test_trained_with_rounding(trained, secateur):
    """The file is written beside the network, it is scored, and who loses most is told."""
    said = secateur(
        "quantise", trained, "--mode", "qat", "--target", "litert", "--data", "digits", "--epochs", 1, "--blame"
    )  # fmt: skip

    assert said.code == 0, said
    assert (trained / "model-qat.tflite").exists()
    assert "Trained for 1 epochs in int8" in said.out
    assert "loses most" in said.out
    assert "conv1" in said.out


def test_prepared(trained, secateur):
    """Each step says what it brought; the file is in int8."""
    said = secateur(
        "quantise", trained, "--target", "litert", "--data", "digits", "--prepare", "--max-drop", 5, "--calibration", 20
    )  # fmt: skip

    assert said.code == 0, said
    assert (trained / "model-int8.tflite").exists()
    assert all(step in said.out for step in ("rounded:", "equalised:", "biases corrected:"))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--mode", "qat", "--target", "onnx"), "give --target litert"),
        (("--mode", "dynamic", "--target", "litert", "--prepare"), "leave it out with --mode dynamic"),
        (("--mode", "int8", "--target", "litert", "--epochs", 3), "--epochs and --lr are for --mode qat"),
        (("--mode", "qat", "--target", "litert", "--prepare"), "leave it out with --mode qat"),
        (("--mode", "qat", "--target", "litert", "--keep-float", "conv9"), "did you mean 'conv"),
    ],
)
def test_what_cannot_be_had_is_refused(options, reason, trained, refused):
    """Before anything is trained or written."""
    assert reason in refused("quantise", trained, "--data", "digits", *options)
    assert not list(trained.glob("*.tflite"))
