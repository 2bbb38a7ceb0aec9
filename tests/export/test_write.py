"""What holds for every target, on the one that needs no other library."""

import copy
import sys
from pathlib import Path

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
from secateur.export import TARGETS, check_offered, export, is_deployed, open_file, runtimes_of, suffix_of
from secateur.export.deployed import BY_NAME
from secateur.quantise import simulate


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


def test_what_would_be_refused_later_can_be_asked_before(small, images, tmp_path, monkeypatch):
    """A name without its ending, a folder that is not there, and a layer that is none; export itself converts nothing then."""
    monkeypatch.setattr(BY_NAME["torch"], "convert", lambda _: pytest.fail("it was converted"))
    for name, kind, words in (
        ("n.bin", SettingsError, r"does not end in \.pt2"),
        ("none/n.pt2", StoreError, "there is no folder .*none"),
    ):
        with pytest.raises(kind, match=words):
            check_offered("torch", "float32", path=tmp_path / name)
        with pytest.raises(kind, match=words):
            export(small, images, tmp_path / name, target="torch")
    with pytest.raises(SettingsError, match=r"names 'stem\.1\.x', which is no layer; did you mean 'stem\.1'"):
        check_offered("litert", "int8", keep_float=["stem.1.x"], model=small)
    assert (
        "add" in simulate(small, images).names
    )  # an operator has a name, too, and is none of the layers that files know
    with pytest.raises(SettingsError, match="names 'add', which is no layer"):
        check_offered("litert", "int8", keep_float=["add"], model=small)
    check_offered("litert", "int8", keep_float=["stem.1"], model=small, path=tmp_path / "n.tflite")


@pytest.mark.parametrize("name", [name for name in TARGETS if len(BY_NAME[name].modes) > 1])
def test_what_a_quantiser_raises_is_told(name, small, images, tmp_path, monkeypatch):
    """In any target: an error of the library as one of ours that says it, one of ours as it is; nothing is written."""

    def failing(error):
        def quantise(*_):
            raise error

        monkeypatch.setattr(target, "quantise", quantise)

    target = BY_NAME[name]
    monkeypatch.setattr(target, "convert", lambda _: b"content")
    monkeypatch.setattr(target, "open", lambda *_, **__: lambda x: small(x).detach())
    options = {"target": name, "mode": "int8", "calibration": images}

    failing(RuntimeError("no scale for it"))
    with pytest.raises(
        ExportError, match=rf"{name} cannot take this network \(RuntimeError: no scale for it"
    ):
        export(small, images, tmp_path / f"n{target.suffix}", **options)
    failing(DataError("ours"))
    with pytest.raises(DataError, match=r"^ours$"):
        export(small, images, tmp_path / f"n{target.suffix}", **options)
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


@pytest.mark.parametrize("target", TARGETS)
def test_each_target_names_what_runs_its_files(target):
    """By the ending of the file; the module can be loaded where the target's files can be opened."""
    file = Path(f"net{suffix_of(target)}")

    for name in runtimes_of(file):
        pytest.importorskip(name)
    assert is_deployed(file)
    assert bool(runtimes_of(file)) == bool(BY_NAME[target].extra)


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
