"""What holds for every target, on the one that needs no other library."""

import copy
import sys

import pytest
import torch
from torch import nn

from secateur.errors import (
    DataError,
    ExportError,
    FileFormatError,
    SettingsError,
    StoreError,
    UntrustedImportError,
)
from secateur.evaluate import class_changes, evaluate, paired_drop
from secateur.export import TARGETS, export, is_deployed, open_file, suffix_of
from secateur.export.deployed import BY_NAME


class Labelled:
    """Examples whose labels are a network's own answers."""

    def __init__(self, model, inputs):
        self.inputs = inputs
        self.targets = model.eval()(inputs).argmax(dim=1).detach()

    def __len__(self):
        return len(self.targets)


def test_the_file_computes_what_the_network_does(small, images, tmp_path):
    """On any number of examples, and the model is left as it was found."""
    small = copy.deepcopy(small).train()
    before = {name: value.clone() for name, value in small.state_dict().items()}

    made = export(small, images, tmp_path / "net.pt2", target="torch")

    assert small.training
    assert all(torch.equal(before[name], value) for name, value in small.state_dict().items())
    assert all(p.requires_grad for p in small.parameters())
    assert (made.bytes, made.compared) == ((tmp_path / "net.pt2").stat().st_size, 24)
    assert made.deviation <= 1e-4
    opened = open_file(made.path, allow=["torch"])
    assert torch.allclose(opened(images[:5]), small.eval()(images[:5]), atol=1e-5)
    assert (opened.target, opened.path, opened.input_shape, opened.integer) == (
        "torch",
        made.path,
        (1, 6, 6),
        False,
    )


def test_deployed_files_are_measured_like_networks(small, images, tmp_path):
    """Accuracy, its change and that of each class."""
    export(small, images, tmp_path / "net.pt2", target="torch")
    data = Labelled(small, images)

    before, after = evaluate(small, data), evaluate(open_file(tmp_path / "net.pt2", allow=["torch"]), data)

    assert after.accuracy == 100.0
    assert paired_drop(before, after).points == 0.0
    assert [change.points for change in class_changes(before, after)] == [0.0] * len(
        class_changes(before, after)
    )


def test_a_file_that_differs_is_not_written(small, images, tmp_path, monkeypatch):
    """What the converter changed by more than a ten-thousandth is an error, and nothing is left behind."""
    right = BY_NAME["torch"].convert

    def wrong(request):
        with torch.no_grad():
            request.model.out.bias[0] += 0.01
        content = right(request)
        with torch.no_grad():
            request.model.out.bias[0] -= 0.01
        return content

    monkeypatch.setattr(BY_NAME["torch"], "convert", wrong)
    with pytest.raises(ExportError, match="does not compute what the network does"):
        export(small, images, tmp_path / "net.pt2", target="torch")
    assert list(tmp_path.iterdir()) == []


def test_an_old_file_is_replaced_whole(small, images, tmp_path):
    """Without anything beside it."""
    file = tmp_path / "net.pt2"
    file.write_bytes(b"old")
    export(small, images, file, target="torch")

    assert file.stat().st_size > 1000
    assert [one.name for one in tmp_path.iterdir()] == ["net.pt2"]


def test_what_is_not_offered_is_refused_before_anything_is_done(small, images, tmp_path):
    """With what the target offers, and who offers what was asked for."""
    for options, words in (
        (
            {"target": "torch", "mode": "int8"},
            r"torch does not offer mode='int8'; it offers float32 .*litert, onnx, executorch",
        ),
        ({"target": "onnx", "mode": "int8-only"}, "offered by litert"),
        ({"target": "tflite"}, "no target is named 'tflite'"),
        ({"target": "litert", "mode": "int9"}, "did you mean 'int8'"),
        (
            {"target": "onnx", "mode": "int8", "observer": "ema", "calibration": images},
            "onnx does not offer observer='ema'",
        ),
        ({"target": "litert", "mode": "int8"}, "calibration="),
        (
            {"target": "litert", "mode": "int8", "calibration": images, "keep_float": ["stem.1.x"]},
            "did you mean 'stem.1'",
        ),
        ({"target": "litert", "keep_float": ["out"]}, "leave it out"),
        (
            {"target": "litert", "mode": "int8", "calibration": images, "keep_float": "out"},
            r"write keep_float=\['out'\]",
        ),
    ):
        with pytest.raises(SettingsError, match=words):
            export(
                small,
                images,
                tmp_path / f"n{suffix_of(options['target']) if options['target'] in TARGETS else ''}",
                **options,
            )
    with pytest.raises(SettingsError, match=r"does not end in \.onnx"):
        export(small, images, tmp_path / "n.tflite", target="onnx")
    assert list(tmp_path.iterdir()) == []


def test_examples_that_do_not_fit_are_refused(small, images, tmp_path):
    """Calibration of another shape, whole numbers, values that are not finite, and what the network does not take."""
    file = tmp_path / "n.tflite"
    with pytest.raises(DataError, match=r"calibration has examples of shape \[1, 8, 8\].*\[1, 6, 6\]"):
        export(small, images, file, target="litert", mode="int8", calibration=torch.zeros(3, 1, 8, 8))
    with pytest.raises(DataError, match="calibration holds values that are not finite"):
        export(small, images, file, target="litert", mode="int8", calibration=images / 0)
    with pytest.raises(DataError, match=r"example is torch.int64"):
        export(small, images.long(), file, target="litert")
    with pytest.raises(DataError, match="does not take inputs of shape"):
        export(small, torch.zeros(1, 2, 6, 6), file, target="litert")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "needed", [("litert", "litert_torch"), ("onnx", "onnx"), ("executorch", "executorch.exir")]
)
def test_a_missing_library_is_named_with_what_brings_it(small, images, tmp_path, monkeypatch, needed):
    """Each target has an extra."""
    target, module = needed
    monkeypatch.setitem(sys.modules, module, None)

    with pytest.raises(
        SettingsError, match=rf"{module.partition('.')[0]}.*pip install 'secateur\[{target}\]'"
    ):
        export(small, images, tmp_path / f"n{suffix_of(target)}", target=target)


def test_a_network_that_cannot_be_traced_is_told(images, tmp_path):
    """A branch on values is one."""

    class Branching(nn.Module):
        def forward(self, x):
            return x.flatten(1) if x.sum() > 0 else -x.flatten(1)

    with pytest.raises(ExportError, match=r"cannot be traced.*branches on values"):
        export(Branching(), images, tmp_path / "n.pt2", target="torch")


def test_files_that_cannot_be_opened_are_told(tmp_path):
    """Of an unknown kind, missing, damaged, or one that may run code."""
    for target in TARGETS:
        (tmp_path / f"bad{suffix_of(target)}").write_bytes(b"no such content" * 40)
    with pytest.raises(SettingsError, match=r"name one of: \.tflite"):
        open_file(tmp_path / "bad.bin")
    with pytest.raises(StoreError, match="cannot be read"):
        open_file(tmp_path / "none.onnx")
    with pytest.raises(UntrustedImportError, match=r"may run code.*--allow torch"):
        open_file(tmp_path / "bad.pt2")
    with pytest.raises(FileFormatError, match="cannot be opened for torch"):
        open_file(tmp_path / "bad.pt2", allow=["torch"])


def test_inputs_of_another_shape_are_told(small, images, tmp_path):
    """With the file's shape and theirs."""
    export(small, images, tmp_path / "n.pt2", target="torch")
    opened = open_file(tmp_path / "n.pt2", allow=["torch"])

    with pytest.raises(DataError, match=r"takes examples of shape \[1, 6, 6\].*\[1, 8, 8\]"):
        opened(torch.zeros(2, 1, 8, 8))


def test_names_of_deployed_files_are_known(tmp_path):
    """Each target's, and no others."""
    assert all(is_deployed(tmp_path / f"a{suffix_of(target)}") for target in TARGETS)
    assert not is_deployed(tmp_path / "a.safetensors")
