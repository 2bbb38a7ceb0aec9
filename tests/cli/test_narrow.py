"""``secateur quantise`` with training, preparing and blaming: what is written is what was promised."""

from collections import OrderedDict

import pytest
from torch import nn

from secateur.cli.narrow import layers_named
from secateur.errors import SettingsError

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
    assert "Trained for 1 epoch in int8" in said.out
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
        (
            ("--mode", "qat", "--target", "litert", "--keep-float", "conv9"),
            "--keep-float names 'conv9', which fits no layer; near are: conv",
        ),
        (("--target", "onnx", "--keep-float", "conv("), "which is no regular expression"),
        (("--mode", "qat", "--observer", "percentile"), "no observer is named 'percentile'"),
        (("--mode", "qat", "--lr", "-1"), "--lr cannot be -1"),
        (("--mode", "qat", "--epochs", "0"), "--epochs cannot be 0"),
        (("--mode", "qat", "--out", "m.bin"), "does not end in .tflite"),
        (("--mode", "qat", "--out", "none/m.tflite"), "there is no folder none"),
        (
            ("--mode", "float16", "--blame"),
            "--blame is for int8, int8-only, qat; leave it out with --mode float16",
        ),
    ],
)
def test_what_cannot_be_had_is_refused(options, reason, base, refused, monkeypatch):
    """Before data are read, and anything is trained, prepared or written."""
    from secateur.cli import narrow, quantise

    monkeypatch.chdir(base.parent)
    for module, name in (
        (narrow, "train_aware"), (narrow, "prepare_for_file"), (quantise, "export_to"), (quantise, "open_data")
    ):  # fmt: skip
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("something was done"))

    assert reason in refused("quantise", base, "--data", "digits", *options)
    assert not list(base.glob("*.tflite"))


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["conv1"], {"conv1"}),
        (["conv."], {"conv1", "conv2", "conv3"}),
        (["conv"], None),
        (["stem.0"], {"stem.0"}),
        (["stem.1"], {"stem.1"}),
        (["stem", "out|conv1"], {"stem", "out", "conv1"}),
        (["stem..*"], {"stem.0", "stem.+"}),
        (["stem.+"], {"stem.+"}),
        ([""], None),
        ([], set()),
    ],
)
def test_layers_by_name_or_expression(words, found):
    """A module's own name is that module, whatever it is; an expression fits whole names of what has weights."""
    stem = nn.Sequential(OrderedDict({"0": nn.Linear(4, 4), "1": nn.BatchNorm1d(4), "+": nn.Linear(4, 4)}))
    net = nn.Sequential(
        OrderedDict(stem=stem, **{f"conv{n}": nn.Conv2d(1, 1, 1) for n in (1, 2, 3)}, out=nn.Linear(4, 2))
    )

    if found is None:
        with pytest.raises(SettingsError, match=r"keep_float names .* which fits no layer; near are: "):
            layers_named(net, words)
    else:
        assert set(layers_named(net, words)) == found


def test_an_expression_keeps_layers_float(base, secateur, monkeypatch):
    """What fits is what the file is made with."""
    from secateur.cli import quantise
    from secateur.errors import ExportError

    asked = []

    def written(*_, **options):
        asked.append(options["keep_float"])
        raise ExportError("seen enough")

    monkeypatch.setattr(quantise, "export_to", written)
    secateur("quantise", base, "--data", "digits", "--keep-float", "conv[12]", "--keep-float", "out")

    assert asked == [("conv1", "conv2", "out")]


@pytest.mark.parametrize("observer", ["minmax", "histogram"])
def test_what_stays_float_is_judged_by_the_file_that_is_written(base, secateur, monkeypatch, observer):
    """Each file that preparing tries, and the last, has its ranges by the observer that was asked for."""
    from secateur.cli import quantise
    from secateur.errors import ExportError
    from secateur.methods import prepared
    from secateur.store import load

    tried = []

    def written(*_, **options):
        tried.append(options["observer"])
        raise ExportError("seen enough")

    monkeypatch.setattr(prepared, "export", lambda *_, **options: tried.append(options.get("observer")))
    monkeypatch.setattr(prepared, "open_file", lambda _: load(base / "model.safetensors"))
    monkeypatch.setattr(quantise, "export_to", written)
    said = secateur(
        "quantise", base, "--data", "digits", "--prepare", "--max-drop", 5, "--calibration", 10, "--observer", observer
    )  # fmt: skip

    assert "seen enough" in said.err
    assert len(tried) > 1
    assert set(tried) == {observer}
