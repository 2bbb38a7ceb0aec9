"""The command that prunes gradually."""

from pathlib import Path

import pytest

import secateur as library
from secateur.store import load_masks, read_description

FEW = ("--data", "digits", "--epochs", 3, "--lr", "1e-3")


@pytest.fixture(scope="module")
def pruned(base) -> Path:
    """The folder of a pruning of the trained network."""
    from secateur.cli import main

    folder = base.parent / "pruned"
    arguments = [
        "prune",
        base / "model.safetensors",
        *FEW,
        "--sparsity",
        0.8,
        "--exclude",
        "out",
        "--out",
        folder,
    ]
    assert main([str(argument) for argument in arguments]) == 0
    return folder


def test_a_network_is_pruned_to_the_exact_share(secateur, base, tmp_path):
    """The command says what each layer lost, what became of the accuracy, and that zeros alone save nothing."""
    out = tmp_path / "p"

    said = secateur(
        "prune", base / "model.safetensors", *FEW, "--sparsity", 0.75, "--schedule", "linear", "--exclude", "conv1|out",
        "--out", out,
    )  # fmt: skip

    assert said.code == 0, said.err
    masks = load_masks(out / "masks.safetensors")
    model = library.load(out / "model.safetensors")
    assert set(masks.kept) == {"conv2.weight", "conv3.weight", "dense1.weight"}
    for name, kept in masks.kept.items():
        assert int((~kept).sum()) == int((model.get_parameter(name) == 0).sum()) == 3 * kept.numel() // 4
    assert "75.00" in said.out
    assert "accuracy on validation" in said.out
    assert "neither the file's size nor the time" in said.out
    assert "gzip -9" in said.out
    assert "after epoch 1: " in said.err
    assert read_description(out / "model.safetensors").history[-1]["options"]["exclude"] == ["conv1|out"]


def test_units_go_for_real(secateur, base, tmp_path):
    """With units the network gets smaller, and there are no masks."""
    said = secateur(
        "prune", base / "model.safetensors", *FEW, "--sparsity", 0.5, "--granularity", "units", "--out", tmp_path / "u"
    )  # fmt: skip

    assert said.code == 0, said.err
    assert not (tmp_path / "u" / "masks.safetensors").exists()
    before, after = (
        sum(p.numel() for p in library.load(path / "model.safetensors").parameters())
        for path in (base, tmp_path / "u")
    )
    assert after < before / 2


def test_units_go_by_relevance_that_was_gathered_in_training(secateur, base, tmp_path):
    """Share, threshold and criterion reach the run, which keeps them, and the units are gone for real."""
    out = tmp_path / "r"

    said = secateur(
        "prune", base / "model.safetensors", *FEW, "--sparsity", 0.5, "--granularity", "units", "--criterion", "relevance",
        "--subsets", 0.8, "--below", -0.5, "--begin", 1, "--steps", 1, "--out", out,
    )  # fmt: skip

    assert said.code == 0, said.err
    options = read_description(out / "model.safetensors").history[-1]["options"]
    assert (options["criterion"], options["subsets"], options["below"]) == ("relevance", 0.8, -0.5)
    widths = [tensor.shape[0] for tensor in library.load(out / "model.safetensors").parameters()]
    assert sum(widths) < sum(
        tensor.shape[0] for tensor in library.load(base / "model.safetensors").parameters()
    )


def test_a_finished_run_can_be_resumed_without_harm(secateur, pruned):
    """Resuming what is finished trains nothing, leaves the same file, and compares sizes as the unbroken run does."""
    file = pruned / "model.safetensors"
    before = file.read_bytes()

    said = secateur("prune", pruned, "--resume")

    assert said.code == 0, said.err
    assert file.read_bytes() == before
    assert "epoch 3 of 3:" not in said.err
    assert "→" in next(line for line in said.out.splitlines() if line.startswith("gzip -9"))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "--sparsity is missing"),
        (("--sparsity", "90"), "--sparsity cannot be 90"),
        (("--sparsity", "0.9", "--exclude", "covn1"), "'covn1', which fits no layer; near are: conv1"),
        (("--sparsity", "0.9", "--schedule", "square"), "--schedule cannot be 'square'"),
        (("--sparsity", "0.9", "--epochs", "2", "--every", "4"), "the last cut is after"),
    ],
)
def test_what_cannot_be_is_refused(refused, base, tmp_path, arguments, sentence):
    """A wrong option is named as the command line has it, and no folder is left."""
    said = refused(
        "prune", base / "model.safetensors", "--data", "digits", "--out", tmp_path / "x", *arguments
    )

    assert sentence in said
    assert not (tmp_path / "x").exists()


def test_an_untrained_network_is_refused(refused, tmp_path):
    """A registered name is a network without training."""
    said = refused("prune", "digits-net", "--data", "digits", "--sparsity", "0.5", "--out", tmp_path / "x")

    assert "is not trained" in said
