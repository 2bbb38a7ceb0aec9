"""The command that measures files, and widths."""

import json

import pytest


def test_files_are_measured_side_by_side(secateur, base, tmp_path):
    """For programs: a saved network and a deployed file with times, ratio, memory and sizes, and the conditions."""
    deployed = tmp_path / "net.pt2"
    assert secateur("export", base, "--target", "torch", "--out", deployed).code == 0

    said = secateur("bench", base, deployed, "--runs", 5, "--json", "--allow", "torch")

    assert said.code == 0, said.err
    found = json.loads(said.out)
    assert [row["path"] for row in found["rows"]] == [str(base / "model.safetensors"), str(deployed)]
    for row in found["rows"]:
        assert 0 < row["cpu_ms"]["0.1"] <= row["cpu_ms"]["0.5"] <= row["cpu_ms"]["0.9"]
        assert 0 < row["memory_bytes"] < row["peak_bytes"]
        assert 0 < row["size_bytes"]["gzip"] < row["size_bytes"]["raw"]
        assert (row["runs"], row["warmup"], row["threads"], row["input_shape"]) == (5, 1, 1, [1, 8, 8])
    assert {"versions", "machine"} <= set(found["conditions"])
    assert "turn 5 of 5" in said.err


def test_a_table_for_people(secateur, base):
    """Each figure stands under its name, with the number of threads."""
    said = secateur("bench", base, "--runs", 2, "--threads", 2)

    assert said.code == 0, said.err
    for words in (
        "2 threads, milliseconds",
        "of the processor",
        "gzip -9",
        "xz -9e",
        "without it",
        "2 passes",
    ):
        assert words in said.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "name a file"),
        (("nowhere.tflite",), "nowhere.tflite is not there"),
        (("lenet5",), "is a network's name, not a file"),
        (("x.tflite", "--widths"), "leave the files out"),
        (("--widths", "--target", "abacus"), "litert, onnx, executorch, torch"),
        (("--widths", "--kind", "dense", "--target", "torch"), "pointwise or conv3"),
    ],
)
def test_what_cannot_be_measured_is_refused(refused, arguments, words):
    """A wrong file, target or kind is refused in a sentence, before anything is measured."""
    assert words in refused("bench", *arguments)


def test_a_target_gives_the_grain(refused, base, tmp_path):
    """A reduction's widths suit what is named; a name without a grain, or two ways of saying it, are refused."""
    asked = ("reduce", base, "--data", "digits", "--max-drop", 1, "--out", tmp_path / "new")

    assert "give one" in refused(*asked, "--target", "litert", "--round-to", 8)
    assert "is no export target" in refused(*asked, "--target", "abacus")
