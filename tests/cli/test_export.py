"""The commands that deploy: export, quantise, and what evaluate says of deployed files."""

import pytest

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def deployed(base, tmp_path_factory):
    """The trained network's folder with files of it, in a folder of their own."""
    from secateur.cli import main

    folder = tmp_path_factory.mktemp("deployed")
    (folder / "model.safetensors").write_bytes((base / "model.safetensors").read_bytes())
    assert main(["export", str(folder), "--target", "onnx"]) == 0
    arguments = [
        "quantise",
        folder,
        "--data",
        "digits",
        "--target",
        "onnx",
        "--calibration",
        50,
        "--max-drop",
        3,
    ]
    assert main([str(argument) for argument in arguments]) == 0
    return folder


def test_files_are_beside_the_network(deployed):
    """Each by its mode, and the narrow one is smaller; nothing else is left."""
    sizes = {file.name: file.stat().st_size for file in deployed.iterdir()}

    assert set(sizes) == {"model.safetensors", "model.onnx", "model-int8.onnx"}
    assert sizes["model-int8.onnx"] < sizes["model.onnx"] / 2


def test_quantise_scores_the_file_beside_the_network(secateur, deployed, tmp_path):
    """Accuracy before and after, its interval, the class that fell most, agreement, noise, and bytes."""
    said = secateur(
        "quantise", deployed, "--data", "digits", "--target", "onnx", "--calibration", 30, "--out",
        tmp_path / "small.onnx", "--keep-float", "out",
    )  # fmt: skip

    assert said.code == 0, said.err
    for words in (
        "accuracy on validation",
        "→",
        "change",
        "class that fell most",
        "same answer",
        " dB",
        "gzip",
    ):
        assert words in said.out
    assert "Stays float: " in said.out
    assert "Gemm of out" in said.out
    assert str(tmp_path / "small.onnx") in said.out


def test_a_file_in_place_of_another_says_so(secateur, deployed, tmp_path):
    """What is written again is said to have been there before; what is new is not."""
    said = [
        secateur("export", deployed, "--target", "torch", "--out", tmp_path / "again.pt2") for _ in range(2)
    ]

    assert [one.code for one in said] == [0, 0], said
    assert ["in place of" in one.out for one in said] == [False, True]


def test_evaluate_measures_deployed_files(secateur, deployed):
    """Alone, and against the network; a file of a network in another format differs in nothing."""
    alone = secateur("evaluate", deployed / "model-int8.onnx", "--data", "digits")
    against = secateur("evaluate", deployed / "model.onnx", "--data", "digits", "--against", deployed)

    assert (alone.code, against.code) == (0, 0), alone.err + against.err
    assert "run by            onnx" in alone.out
    assert "parameters" not in alone.out
    rows = [line for line in against.out.splitlines() if " to " in line]
    assert len(rows) == 11
    assert all(" 0.00 " in row for row in rows)


def test_a_reduced_network_is_exported(secateur, small, tmp_path):
    """Its file says of which shape an example is."""
    said = secateur("export", small, "--target", "torch", "--out", tmp_path / "n.pt2")
    measured = secateur(
        "evaluate", tmp_path / "n.pt2", "--data", "digits", "--allow", "torch", "--against", small
    )

    assert (said.code, measured.code) == (0, 0), said.err + measured.err
    assert "differ from the network's by" in said.out
    rows = [line for line in measured.out.splitlines() if " to " in line]
    assert len(rows) == 11
    assert all(" 0.00 " in row for row in rows)


@pytest.mark.slow
def test_the_default_is_int8_for_litert(secateur, deployed, tmp_path):
    """The file is beside what was asked for, and is measured by LiteRT."""
    pytest.importorskip("litert_torch")
    file = tmp_path / "n.tflite"

    made = secateur("quantise", deployed, "--data", "digits", "--out", file)
    measured = secateur("evaluate", file, "--data", "digits", "--against", deployed)

    assert (made.code, measured.code) == (0, 0), made.err + measured.err
    assert "in int8 for litert" in made.out
    assert "run by            litert" in measured.out


def test_a_file_that_loses_too_much_is_not_written(refused, deployed, tmp_path, monkeypatch):
    """What it loses, what was allowed, and what to try."""
    from secateur.cli import quantise
    from secateur.evaluate import Drop

    lost = Drop(points=2.5, standard_error=0.1, upper=2.7, confidence=0.975, lost=9, gained=0, count=360)
    monkeypatch.setattr(quantise, "paired_drop", lambda *_, **__: lost)
    said = refused(
        "quantise", deployed, "--data", "digits", "--target", "onnx", "--calibration", 10, "--max-drop", 1, "--out",
        tmp_path / "n.onnx",
    )  # fmt: skip

    assert "loses 2.50 points" in said
    assert "--max-drop allows 1;" in said
    assert "--observer histogram" in said
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def quantised(deployed, monkeypatch, secateur, tmp_path):
    """What the command says when a file is a certain one: with a drop, and ranges that were not found."""
    from secateur.cli import quantise
    from secateur.evaluate import Drop
    from secateur.export import Exported

    def run(*options, points=0.0, lost=()):
        def exported(_, __, file, **___):
            file.write_bytes((deployed / "model.onnx").read_bytes())
            return Exported(
                path=file, target="onnx", mode="int8", bytes=9, deviation=0.0, sqnr=40.0, agreement=100.0, compared=9,
                ranges_not_found=lost,
            )  # fmt: skip

        drop = Drop(
            points=points, standard_error=0.1, upper=2.7, confidence=0.975, lost=9, gained=0, count=360
        )
        monkeypatch.setattr(quantise, "export_to", exported)
        monkeypatch.setattr(quantise, "paired_drop", lambda *_, **__: drop)
        out = tmp_path / "n.onnx"
        return secateur("quantise", deployed, "--data", "digits", "--target", "onnx", "--out", out, *options)

    return run


def test_a_drop_at_the_bound_is_within_it(quantised):
    """Though the sum of its fractions is a little more."""
    at, beyond = (quantised("--max-drop", 0.3, points=points) for points in (0.1 + 0.2, 0.301))

    assert (at.code, beyond.code) == (0, 2), at.err


def test_ranges_that_were_not_found_are_told(quantised):
    """By name, as what stays float is."""
    assert "ranged by calibration examples: conv2, add" in quantised(lost=("conv2", "add")).out
    assert "ranged by calibration" not in quantised().out


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["export"], "a run folder"),
        (["export", "."], "--target is missing"),
        (["export", ".", "--target", "tflite"], "no target is named 'tflite'"),
        (["export", "digits-net", "--target", "torch"], "--out FILE"),
        (["export", "digits-net", "--target", "torch", "--out", "n.tflite"], "does not end in .pt2"),
        (["export", "model.onnx", "--target", "torch"], "a deployed file"),
        (["quantise", "."], "--data is missing"),
        (["quantise", ".", "--data", "digits", "--target", "onnx", "--mode", "int8-only"], "it offers float32, dynamic"),
        (["quantise", ".", "--data", "digits", "--target", "onnx", "--keep-float", "outt"], "near are: out"),
        (["quantise", ".", "--data", "digits", "--calibration", "5000"], "5000"),
        (["evaluate", "none.tflite", "--data", "digits"], "cannot be read"),
        (["evaluate", "model.pt2", "--data", "digits"], "--allow torch"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence(refused, deployed, monkeypatch, arguments, hint):
    """And nothing is written."""
    monkeypatch.chdir(deployed)
    before = sorted(file.name for file in deployed.iterdir())

    assert hint in refused(*arguments)
    assert sorted(file.name for file in deployed.iterdir()) == before
