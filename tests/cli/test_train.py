"""The command that trains."""

import json
import re

import numpy as np
import pytest

import secateur as library
from secateur import data
from secateur.evaluate import evaluate
from secateur.store import read_description

FEW = ("--data", "digits", "--epochs", "2")


def test_a_network_is_trained_saved_and_described(secateur, tmp_path):
    """Training shows each epoch with the time left, then what the network reaches, and writes it with its figures."""
    out = tmp_path / "net"

    said = secateur("train", "digits-net", *FEW, "--out", out, "--seed", 1)

    assert said.code == 0
    assert re.search(r"epoch 1 of 2: validation [\d.]+\s%, loss [\d.]+, .* left", said.err)
    file = out / "model.safetensors"
    found = read_description(file)
    accuracy = evaluate(library.load(file), data.load("digits").test).accuracy
    assert found.evaluation["test_accuracy"] == pytest.approx(accuracy)
    assert found.history[0]["settings"]["epochs"] == 2
    assert f"{accuracy:.2f}" in said.out
    assert "40,618" in said.out
    assert str(file) in said.out
    assert f"secateur reduce {file} --data digits --max-drop 2 --out" in said.out
    assert "loading digits …\nbuilding digits-net …\n" in said.err
    assert "testing and writing …" in said.err


def test_options_override_the_recipe(secateur, tmp_path):
    """What is said wins over the recipe, 0 switches an option off, and network arguments arrive."""
    out = tmp_path / "net"

    said = secateur(
        "train", "lenet300-100", *FEW, "--out", out, "--arg", "features=64", "--arg", "activation=relu",
        "--optimizer", "adam", "--clip", "0", "--batch-size", "256", "--epochs", "1",
    )  # fmt: skip

    assert said.code == 0, said.err
    found = read_description(out / "model.safetensors")
    settings = found.history[0]["settings"]
    assert dict(found.origin.arguments) == {"features": 64, "activation": "relu"}
    assert (settings["optimizer"], settings["lr"], settings["clip"]) == ("adam", 0.001, None)
    assert (settings["batch_size"], settings["epochs"]) == (256, 1)


def test_only_the_latest_state_is_kept(base, lines_of):
    """After training, one state is on the disk, whatever the number of epochs."""
    assert [file.name for file in (base / "states").iterdir()] == ["epoch-00004.safetensors"]
    assert [entry["state"] for entry in lines_of(base) if "state" in entry] == [
        f"epoch-{number:05d}" for number in (1, 2, 3, 4)
    ]


def test_a_finished_training_can_be_resumed_without_harm(secateur, base):
    """Resuming what is finished trains nothing and leaves the same file."""
    file = base / "model.safetensors"
    before = file.read_bytes()

    said = secateur("train", base, "--resume")

    assert said.code == 0, said.err
    assert file.read_bytes() == before
    assert "epoch 4 of 4:" not in said.err


def test_a_saved_network_is_trained_on(secateur, base, tmp_path):
    """A file can be the start of a training, and its own figures say so."""
    out = tmp_path / "on"

    said = secateur("train", base / "model.safetensors", *FEW, "--out", out)

    assert said.code == 0, said.err
    assert (out / "model.safetensors").is_file()
    assert read_description(out / "model.safetensors").origin.spec == "digits-net"


def test_a_user_s_network_and_data_are_found_where_one_stands(secateur, tmp_path, monkeypatch):
    """A module in the current folder gives network and data, and the trained file is read back by naming its data."""
    (tmp_path / "own_parts.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "def net():\n"
        "    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))\n"
        "def splits():\n"
        "    x = torch.randn(120, 6, generator=torch.Generator().manual_seed(0))\n"
        "    y = (x[:, 0] > 0).long()\n"
        "    return (x[:80], y[:80]), None, (x[80:], y[80:])\n"
    )
    monkeypatch.chdir(tmp_path)
    options = ("--data", "own_parts:splits", "--data-seed", 3)
    trained = secateur("train", "own_parts:net", *options, "--out", "net", "--epochs", 8)
    again = secateur("train", "net", "--resume")
    file = "net/model.safetensors"

    cut = secateur(
        "reduce", file, "--data", "own_parts:splits", "--max-drop", 60, "--out", "cut", "--max-iterations", 2
    )
    shown = secateur("watch", file)

    assert (trained.code, cut.code) == (0, 0), trained.err + cut.err
    assert (tmp_path / "cut" / "report.html").is_file()
    for said in (trained.out, again.out):
        hint = said[said.index("Make it smaller:") :]
        assert f"secateur reduce {file} --data own_parts:splits --data-seed 3 --max-drop" in hint
    assert shown.code == 2
    assert "--allow" in shown.err
    for kept in (file, "cut/model.safetensors"):
        assert "shape [6]" in secateur("watch", kept, "--allow", "own_parts").out


def test_the_suggestion_trusts_the_network_s_own_package(secateur, tmp_path, monkeypatch):
    """A network from a package of the user's and data from elsewhere: the command that is suggested runs as it stands."""
    (tmp_path / "own_net.py").write_text(
        "from torch import nn\n"
        "def net():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))\n"
    )
    monkeypatch.chdir(tmp_path)

    said = secateur("train", "own_net:net", *FEW, "--out", "net")
    _, command = said.out.strip().rsplit("secateur ", 1)
    again = secateur(*command.split(), "--max-iterations", 1, "--epochs", 1, "--max-drop", 60)

    assert "--allow own_net" in command
    assert again.code == 0, again.err


def test_training_with_other_options_does_not_resume(refused, base):
    """An option that differs from the run's own is refused and named; the run's own may be repeated."""
    said = refused("train", base, "--resume", "--epochs", "9")

    assert "--epochs" in said
    assert "4" in said


def test_the_same_command_with_resume_goes_on(secateur, base):
    """The command that started a run, with --resume behind it, goes on with that run."""
    said = secateur("train", "digits-net", "--data", "digits", "--out", base, "--epochs", 4, "--resume")

    assert said.code == 0, said.err


def test_run_toml_holds_what_resuming_needs(base):
    """The run folder says how the network is built and which data, without the place of any file."""
    text = (base / "run.toml").read_text(encoding="utf-8")

    assert 'spec = "digits-net"' in text
    assert 'data = "digits"' in text
    assert json.dumps({}) in text


def test_outputs_are_those_of_the_data(secateur, tmp_path):
    """A network built by name has an output for each class of the data, unless an argument says otherwise."""
    few = ("train", "secateur.networks.small:digits_net", *FEW, "--allow", "secateur")
    data = tmp_path / "two"
    data.mkdir()
    for part in ("train", "test"):
        x = np.random.default_rng(0).normal(size=(60, 1, 8, 8)).astype("float32")
        np.savez(data / f"{part}.npz", x=x, y=np.arange(60) % 2)

    said = secateur("train", "digits-net", "--data", data, "--epochs", 1, "--out", tmp_path / "net")
    assert said.code == 0, said.err
    asked = secateur(*few, "--arg", "classes=12", "--out", tmp_path / "asked")

    assert read_description(tmp_path / "net" / "model.safetensors").origin.arguments == {"classes": 2}
    assert asked.code == 2
    assert "12 classes" in asked.err


def test_a_recipe_by_name(secateur, refused, tmp_path):
    """The settings are those of the recipe that is named, under what else is asked; a wrong name lists all."""
    said = secateur(
        "train", "digits-net", *FEW, "--recipe", "mobile-short", "--shift", 1, "--out", tmp_path / "net"
    )

    assert said.code == 0, said.err
    settings = read_description(tmp_path / "net" / "model.safetensors").history[0]["settings"]
    assert (settings["epochs"], settings["shift"], settings["augment"]) == (2, 1, "flip-shift")
    assert settings["channels_last"]
    wrong = refused("train", "digits-net", *FEW, "--recipe", "short", "--out", tmp_path / "other")
    assert "'short'; there are mobile and mobile-short" in wrong


def test_a_stem_is_for_networks_that_are_built(refused, base):
    """A saved network has its stem already, and a wrong name lists those that there are."""
    assert "leave --stem out" in refused("watch", base / "model.safetensors", "--stem", "cifar")
    assert "no stem is named 'x'; there is cifar" in refused("watch", "digits-net", "--stem", "x")


MEANWHILE = ("--while", "prunetrain", "--penalty-ratio", "0.6", "--threshold", "0.05", "--every", "1")


def test_a_network_is_cut_while_it_trains(secateur, tmp_path):
    """Each reconfiguration is told, the table says what went and what the training took, and the file is the smaller network."""
    out = tmp_path / "net"

    said = secateur("train", "digits-net", *FEW, "--lr", 0.1, *MEANWHILE, "--out", out)
    again = secateur("train", out, "--resume")

    assert said.code == 0, said.err
    assert re.search(r"after epoch 1: \d+ units? gone; [\d,\s]+ parameters, [\d,\s]+ MACs are left", said.err)
    found = read_description(out / "model.safetensors")
    meant = found.history[0]["prunetrain"]
    assert found.evaluation["parameters"] < found.evaluation["parameters_before"] == 40_618
    assert (
        sum(p.numel() for p in library.load(out / "model.safetensors").parameters())
        == found.evaluation["parameters"]
    )
    assert meant["training_macs"] < meant["training_macs_uncut"]
    assert meant["settings"]["penalty_ratio"] == 0.6
    for told in (said.out, again.out):
        assert re.search(r"MACs of training, forward .*uncut", told)
        assert "units gone" in told


def test_batches_grow_while_a_network_shrinks(secateur, refused, tmp_path):
    """It is told how far; what cannot fit is refused before there is a folder."""
    growing = ("train", "digits-net", "--data", "digits", "--epochs", 4, "--lr", "0.1", "--batch-size", 16, "--while", "prunetrain", "--every", 1,
               "--penalty-ratio", "0.6", "--threshold", "0.1", "--grow-batch", "--ghost-batch", 16, "--out", tmp_path / "net")  # fmt: skip

    small = refused(*growing, "--memory", "20kB")
    assert "give more" in small
    assert not (tmp_path / "net").exists()
    assert "leave one of them out" in refused(*growing, "--inconsistent", 3)
    assert not (tmp_path / "net").exists()
    assert "memory" in refused(*growing, "--memory", "lots")
    assert "add --grow-batch" in refused(
        *(word for word in growing if word != "--grow-batch"), "--batch-limit", 32
    )
    said = secateur(*growing, "--validation", 300)

    assert said.code == 0, said.err
    assert re.search(r"after epoch 1: .* examples a step", said.err)
    assert re.search(r"examples of a step +16, at last \d+", said.out)
    assert "Examples of a step" in (tmp_path / "net" / "report.html").read_text()


def test_trainings_are_shown_and_compared(secateur, refused, base, tmp_path):
    """Each has a page of its own; several go on one, beside the first."""
    runs = {"dense": (), "cut": ("--while", "prunetrain", "--every", "1", "--threshold", "0.05")}
    for name, options in runs.items():
        said = secateur(
            "train", "digits-net", "--data", "digits", "--epochs", 3, "--lr", "0.1", "--early-stopping", 0, *options, "--out", tmp_path / name
        )  # fmt: skip
        assert f"The report: {tmp_path / name / 'report.html'}" in said.out
    (tmp_path / "dense" / "report.html").unlink()

    alone = secateur("report", tmp_path / "dense")
    both = secateur("report", tmp_path / "dense", tmp_path / "cut", "--out", tmp_path / "both.html")

    assert alone.code == both.code == 0
    assert (tmp_path / "dense" / "report.html").is_file()
    assert "cut: " in both.out
    assert "against dense, with" in both.out
    assert "cut: " in (tmp_path / "both.html").read_text()
    assert "add --out" in refused("report", tmp_path / "dense", tmp_path / "cut")
    assert "more than one folder" in refused("report", tmp_path / "dense", "--out", tmp_path / "one.html")
    twice = refused("report", tmp_path / "dense", tmp_path / "dense", "--out", tmp_path / "twice.html")
    assert "name each once" in twice
    assert not (tmp_path / "twice.html").exists()
    (tmp_path / "cut" / "training.json").unlink()
    assert "go on with" in refused("report", tmp_path / "cut")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--penalty-ratio", "0.3"), "--penalty-ratio is for --while prunetrain"),
        (("--while", "prune"), "'prune' is nothing that goes on while a network trains; there is prunetrain"),
        (("--while", "prunetrain", "--penalty-ratio", "1.5"), "--penalty-ratio cannot be 1.5"),
        (("--while", "prunetrain", "--every", "0"), "--every cannot be 0"),
        (
            ("--while", "prunetrain", "--every", "7"),
            "--every (7) is longer than the 1 of 2 epochs in which units may go",
        ),
        (("--while", "prunetrain", "--early-stopping", "3"), "--early-stopping 3 could end"),
    ],
)
def test_what_cannot_go_on_meanwhile_is_refused(refused, tmp_path, options, words):
    """Options without their method, unknown methods, values out of range; no folder is made."""
    assert words in refused("train", "digits-net", *FEW, *options, "--out", tmp_path / "net")
    assert not (tmp_path / "net").exists()
