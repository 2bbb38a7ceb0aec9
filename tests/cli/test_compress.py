"""The command that compresses."""

import pytest

import secateur as library
from secateur.store import read_description


def test_a_network_is_compressed_into_a_file_that_evaluates(secateur, base, tmp_path):
    """The command shows levels, sizes and accuracy; the file is one that the other commands read."""
    file = tmp_path / "small.secateur"

    said = secateur(
        "compress", base / "model.safetensors", "--data", "digits", "--bits", 4, "--epochs", 1, "--out", file
    )

    assert said.code == 0, said.err
    assert "bits a weight" in said.out
    assert "clustered, gzip -9" in said.out
    assert "coded, Huffman" in said.out
    assert "accuracy on validation: " in said.out
    assert file.stat().st_size < (base / "model.safetensors").stat().st_size / 5
    assert read_description(file).history[-1]["event"] == "compress"
    found = secateur("evaluate", file, "--data", "digits", "--against", base / "model.safetensors")
    assert found.code == 0, found.err
    assert "Change against" in found.out
    assert secateur("load", file).code == 0
    assert all(len(p.unique()) <= 16 for name, p in library.load(file).named_parameters() if p.dim() > 1)


def test_without_data_nothing_is_trained(secateur, base, tmp_path):
    """A file alone can be compressed; accuracy is then not spoken of."""
    said = secateur("compress", base / "model.safetensors", "--clusters", 8, "--out", tmp_path / "a.secateur")

    assert said.code == 0, said.err
    assert "accuracy" not in said.out


@pytest.mark.parametrize(
    "wrong",
    [
        (("--out", "x.safetensors"), "ends in .secateur"),
        ((), "--out is missing"),
        (("--out", "x.secateur", "--epochs", "2"), "--epochs needs --data"),
        (("--out", "x.secateur", "--lr", "0.1"), "--lr needs --data"),
        (("--out", "x.secateur", "--epochs", "0", "--optimizer", "sgd"), "--optimizer needs --data"),
        (("--out", "x.secateur", "--batch-size", "8"), "--batch-size needs --data"),
        (("--out", "x.secateur", "--distil"), "--distil needs --data"),
        (("--out", "x.secateur", "--data", "digits", "--epochs", "0", "--lr", "0.1"), "--lr is of training"),
        (("--out", "x.secateur", "--data", "digits", "--epochs", "0", "--distil"), "--distil is of training"),
        (("--out", "x.secateur", "--bits", "3", "--clusters", "4"), "give either bits, or clusters"),
        (("--out", "x.secateur", "--method", "zip"), "--method cannot be 'zip'"),
        (("--out", "x.secateur", "--data", "digits", "--exclude", "cnv"), "fits no layer"),
        (("--out", "x.secateur", "--data", "digits", "--exclude", ".*"), "exclude fewer"),
        (("--out", "none/x.secateur", "--data", "digits"), "there is no folder none"),
        (("--out", "x.secateur", "--data", "digits", "--lr", "-1"), "--lr cannot be -1"),
    ],
)
def test_what_cannot_be_is_refused(refused, base, tmp_path, monkeypatch, wrong):
    """A wrong option is named before data are read, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("secateur.cli.compress.open_data", lambda *_, **__: pytest.fail("data were read"))
    arguments, sentence = wrong

    assert sentence in refused("compress", base / "model.safetensors", *arguments)
    assert not list(tmp_path.iterdir())


def test_a_damaged_file_is_refused(refused, base, secateur, tmp_path):
    """Its checksum tells."""
    file = tmp_path / "a.secateur"
    secateur("compress", base / "model.safetensors", "--out", file)
    file.write_bytes(file.read_bytes()[:-100])

    assert "the checksum differs" in refused("evaluate", file, "--data", "digits")
