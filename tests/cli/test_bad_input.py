"""Whatever is wrong is said in one sentence, with code 2, and leaves nothing half done."""

import inspect
import pkgutil
import shutil

import numpy as np
import pytest
import torch
from torch import nn

import secateur as library
from secateur.cli.runs import IN_PYTHON
from secateur.errors import ExportError
from secateur.networks import build
from secateur.store import FactoryNeededWarning, RunFolder


@pytest.fixture
def npz(tmp_path):
    """A folder of digits as a user would keep them; the arrays can be spoilt before they are written."""

    def write(*, spoil=lambda arrays: None):
        generator = np.random.default_rng(0)
        arrays = {
            part: {"x": generator.normal(size=(60, 1, 8, 8)).astype("float32"), "y": np.arange(60) % 10}
            for part in ("train", "test")
        }
        spoil(arrays)
        folder = tmp_path / "data"
        folder.mkdir()
        for part, held in arrays.items():
            np.savez(folder / f"{part}.npz", **held)
        return folder

    return write


def spoil(part: str, key: str, value: float):
    """Put a value into one place of an array."""

    def change(arrays) -> None:
        arrays[part][key].reshape(-1)[7] = value

    return change


def asked(file, out, *, data="digits", drop=5):
    return ("reduce", file, "--data", data, "--max-drop", drop, "--out", out, "--max-iterations", 1)


@pytest.mark.parametrize("drop", [-1, 100, "nan"])
def test_a_bound_out_of_range_is_refused(refused, base, tmp_path, drop):
    """A bound below 0, of 100 points or more, or not a number, is refused before anything is read."""
    assert "--max-drop cannot be" in refused(*asked(base, tmp_path / "out", drop=drop))
    assert not (tmp_path / "out").exists()


def test_a_bound_must_be_given(refused, base, tmp_path):
    """Without a bound nothing is reduced."""
    assert "--max-drop" in refused("reduce", base, "--data", "digits", "--out", tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--round-to", "0"), "--round-to 0 must be at least 1"),
        (("--round-to", "abacus"), "is no export target"),
        (("--minimum", "0"), "--minimum 0 must be at least 1"),
        (("--criterion", "tayler"), "no criterion is named 'tayler'"),
        (("--epochs", "0"), "--epochs cannot be 0"),
        (("--beta", "-1"), "--beta cannot be -1"),
    ],
)
def test_bad_options_are_refused_before_anything_is_read(refused, tmp_path, options, words):
    """Neither the network nor the data need be there."""
    said = refused(*asked(tmp_path / "none.safetensors", tmp_path / "out", data="nothing"), *options)
    assert words in said
    assert "loading" not in said


def test_an_untrained_network_is_not_reduced(refused, tmp_path):
    """A registered name has no weights; the answer says how to get them."""
    assert "secateur train lenet5" in refused(*asked("lenet5", tmp_path / "out"))


@pytest.mark.parametrize("command", ["train", "reduce", "evaluate"])
def test_data_of_the_wrong_shape_are_refused(refused, npz, base, tmp_path, command):
    """Examples that the network does not take are refused with their shape, and no folder is made."""

    def narrow(arrays) -> None:
        for held in arrays.values():
            held["x"] = held["x"][..., :3, :3]

    data, out = npz(spoil=narrow), tmp_path / "out"
    lines = {
        "train": ("train", "digits-net", "--data", data, "--out", out),
        "reduce": asked(base, out, data=data),
        "evaluate": ("evaluate", base, "--data", data),
    }

    assert "(1, 1, 3, 3)" in refused(*lines[command]) or command == "evaluate"
    assert not out.exists()


@pytest.mark.parametrize(
    "change_and_word",
    [
        (spoil("test", "y", 11), "11"),
        (spoil("train", "y", -1), "negative"),
        (spoil("train", "x", np.nan), "NaN"),
        (spoil("test", "x", np.inf), "infinite"),
    ],
    ids=["label beyond", "label below", "NaN", "infinity"],
)
def test_spoilt_data_are_refused(refused, npz, base, tmp_path, change_and_word):
    """Labels without a class and values that are not finite are refused and named."""
    change, word = change_and_word

    assert word in refused(*asked(base, tmp_path / "out", data=npz(spoil=change)))


def test_fewer_classes_than_outputs_are_refused(refused, npz, base, tmp_path):
    """Data with other classes than the network's are refused."""

    def fewer(arrays) -> None:
        for held in arrays.values():
            held["y"] = held["y"] % 3

    said = refused(*asked(base, tmp_path / "out", data=npz(spoil=fewer)))

    assert "10 classes" in said
    assert "3" in said


def test_a_split_that_differs_is_shown_with_the_others(refused, npz, tmp_path):
    """Examples of another shape in one file are refused with the shapes of all, so that nobody is blamed wrongly."""

    def narrow(arrays) -> None:
        arrays["train"]["x"] = arrays["train"]["x"][..., :7, :7]

    said = refused("train", "digits-net", "--data", npz(spoil=narrow), "--out", tmp_path / "out")

    assert "[1, 7, 7] in train, [1, 7, 7] in validation, [1, 8, 8] in test" in said


def test_a_network_of_other_outputs_is_refused_without_a_word_of_names(refused, tmp_path):
    """What was not given is not said to have been: the classes are the data's."""
    said = refused("train", "digits-net", "--arg", "classes=4", "--data", "digits", "--out", tmp_path / "out")

    assert "tells 4 classes apart, and there are 10 classes by name; take a network with 10 outputs" in said


@pytest.mark.parametrize("command", ["reduce", "evaluate", "train"])
def test_weights_that_are_not_finite_are_refused(refused, tmp_path, command):
    """A file with NaN in its weights is refused, and the tensor is named."""
    model = build("digits-net", seed=0)
    with torch.no_grad():
        model.get_parameter("conv1.weight")[0, 0, 0, 0] = float("nan")
    file, out = tmp_path / "nan.safetensors", tmp_path / "out"
    library.save(model, file)
    lines = {
        "reduce": asked(file, out),
        "evaluate": ("evaluate", file, "--data", "digits"),
        "train": ("train", file, "--data", "digits", "--out", out),
    }

    assert "finite" in refused(*lines[command])
    assert not out.exists()


def test_a_network_with_nothing_to_cut_is_refused(refused, tmp_path, monkeypatch):
    """A network of one layer has no channels between input and output."""
    (tmp_path / "one_layer.py").write_text(
        "from torch import nn\ndef net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    monkeypatch.chdir(tmp_path)
    library.save(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), "one.safetensors", factory="one_layer:net")

    said = refused(*asked("one.safetensors", "out"), "--allow", "one_layer")

    assert "nothing can be cut" in said


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (
            lambda folder: folder.joinpath("run.toml").write_text("format = 99\nkind = 'reduce'\n"),
            "format 99",
        ),
        (lambda folder: folder.joinpath("run.toml").write_text("no toml ="), "damaged"),
        (lambda folder: folder.joinpath("run.toml").unlink(), "no run"),
        (lambda folder: folder.joinpath("snapshots", "unreduced.safetensors").unlink(), "unreduced"),
        (lambda folder: folder.joinpath("journal.jsonl").write_text("{}}\n"), "damaged"),
        (lambda folder: folder.joinpath("journal.jsonl").write_text(""), "before anything was stored"),
    ],
)
def test_a_run_that_cannot_go_on_says_why(refused, small, tmp_path, change, word):
    """A run of another version, without its parts, or damaged, is not resumed."""
    folder = tmp_path / "run"
    shutil.copytree(small, folder)
    change(folder)

    assert word in refused("reduce", folder, "--resume")


def test_resume_wants_a_run(refused, tmp_path, base):
    """What is no run, and a run of another command, are not resumed."""
    assert "no run" in refused("reduce", tmp_path, "--resume")
    assert "'train'" in refused("reduce", base, "--resume")
    assert "folder" in refused("reduce", "--resume")


def test_a_run_from_python_is_resumed_from_python(refused, tmp_path):
    """A run that no command started does not say which data it is about."""
    from secateur.store import RunFolder

    with RunFolder.create(tmp_path / "run", {"reduce": {"max_drop": 1.0}}, kind="reduce"):
        pass

    assert "Python" in refused("reduce", tmp_path / "run", "--resume")


def test_a_folder_with_other_files_is_left_alone(refused, base, tmp_path):
    """A folder that holds other files, or a run, is not written into."""
    (tmp_path / "thesis.txt").write_text("mine")

    assert "thesis.txt" in refused(*asked(base, tmp_path))
    assert "--resume" in refused(*asked(base, base))
    assert "is a file" in refused(*asked(base, tmp_path / "thesis.txt"))
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("command", ["load", "reduce", "watch", "evaluate"])
def test_a_pickle_is_never_read(refused, tmp_path, command):
    """A file of torch.save is refused by every command that takes a file."""
    file = tmp_path / "model.pt"
    torch.save(build("digits-net", seed=0), file)
    lines = {
        "load": ("load", file),
        "reduce": asked(file, tmp_path / "out"),
        "watch": ("watch", file),
        "evaluate": ("evaluate", file, "--data", "digits"),
    }

    assert "pickle" in refused(*lines[command])


def test_a_damaged_file_is_refused(refused, base, tmp_path):
    """One changed byte is noticed."""
    content = bytearray((base / "model.safetensors").read_bytes())
    content[-100] ^= 1
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)

    assert "damaged" in refused("load", file)


def test_code_outside_the_allow_list_is_not_imported(refused, tmp_path, monkeypatch):
    """A file that asks for a package that was not allowed is refused before it is imported."""
    (tmp_path / "evil_net.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.chdir(tmp_path)
    library.save(nn.Linear(2, 2), tmp_path / "net.safetensors", factory="evil_net:net")

    assert "--allow evil_net" in refused("load", "net.safetensors")


def test_text_from_outside_does_not_steer_the_terminal(refused):
    """Control characters in a name are not written to the terminal."""
    assert "\x1b" not in refused("watch", "\x1b[31mred")


@pytest.mark.parametrize("command", ["quantise", "evaluate", "export", "compress", "load", "watch", "bench"])
@pytest.mark.parametrize("named", ["run", "run/model.safetensors"])
def test_a_network_whose_run_has_not_ended_is_not_there_yet(refused, tmp_path, command, named):
    """The answer says so, and how the run goes on, whether the folder or its file is named."""
    folder = tmp_path / "run"
    RunFolder.create(folder, {}, kind="train").close()
    options = {
        "quantise": ("--target", "litert", "--data", "digits"),
        "evaluate": ("--data", "digits"),
        "export": ("--target", "torch"),
        "compress": ("--out", tmp_path / "net.secateur"),
    }

    said = refused(command, tmp_path / named, *options.get(command, ()))

    assert f"{folder} has no network yet" in said
    assert said.endswith(f"secateur train {folder} --resume")


def test_a_folder_without_a_network_is_refused(refused, tmp_path):
    """A folder that holds nothing of ours, and one whose run makes no network, are told apart."""
    (tmp_path / "empty").mkdir()
    RunFolder.create(tmp_path / "study", {}, kind="study").close()

    assert "holds neither a network" in refused("load", tmp_path / "empty")
    assert "is the folder of a study" in refused("load", tmp_path / "study")


@pytest.mark.parametrize("kind", list(IN_PYTHON))
def test_a_run_that_python_began_goes_on_from_there(refused, tmp_path, kind):
    """The command has no network and no data to go on with; what began the run is named, and is there."""
    folder = tmp_path / "run"
    RunFolder.create(folder, {}, kind=kind).close()

    said = refused(kind, folder, "--resume")

    assert said.endswith(f"from Python, with resume=True for {IN_PYTHON[kind]}")
    assert (
        "resume"
        in inspect.signature(pkgutil.resolve_name(":".join(IN_PYTHON[kind].rsplit(".", 1)))).parameters
    )


def test_a_file_that_does_not_say_how_its_network_is_built(refused, tmp_path):
    """The answer says what to do in Python so that commands read it."""
    file = tmp_path / "net.safetensors"
    with pytest.warns(FactoryNeededWarning):
        library.save(nn.Linear(2, 2), file)

    assert "factory='package.module:function'" in refused("load", file)


def test_what_a_quantiser_wants_is_named_as_the_command_line_has_it(refused, base, monkeypatch):
    """Options in errors of exporting, too."""

    def fails(*_: object, **__: object) -> None:
        raise ExportError("onnx has no int8 form of Gemm; let the layer stay float with keep_float")

    monkeypatch.setattr("secateur.cli.quantise.export_to", fails)

    assert "stay float with --keep-float" in refused("quantise", base, "--target", "onnx", "--data", "digits")
