"""Files for LiteRT: their number formats, their ranges against those by hand, what stays float, and what is refused."""

import pytest
import torch

from secateur.errors import ExportError
from secateur.export import MODES, export, open_file
from secateur.export.deployed import BY_NAME
from secateur.export.litert import LiteRT
from secateur.export.litert_graph import MOVERS, graph_of

pytest.importorskip("litert_torch")
pytest.importorskip("ai_edge_quantizer")


@pytest.fixture(scope="module")
def converted_once(small):
    """The small network is converted once; what follows the conversion differs from test to test."""
    kept: dict[str, bytes] = {}
    target, convert = BY_NAME["litert"], BY_NAME["litert"].convert

    def remembered(request):
        if type(request.model) is not type(small):
            return convert(request)
        if "content" not in kept:
            kept["content"] = convert(request)
        return kept["content"]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(target, "convert", remembered)
        yield


@pytest.fixture(scope="module")
def made(small, images, converted_once, tmp_path_factory):
    """The network in every mode."""
    folder = tmp_path_factory.mktemp("litert")
    return {
        mode: export(small, images, folder / f"{mode}.tflite", target="litert", mode=mode, calibration=images)
        for mode in MODES
    }


def graph(exported, model):
    return graph_of(exported.path.read_bytes(), dict(model.named_modules()))


def kinds(operators):
    return {held.kind for one in operators for held in (*one.inputs, *one.outputs)}


def test_every_mode_agrees_as_far_as_its_numbers_go(made):
    """Float32 to a ten-thousandth; sixteen bits better than eight."""
    assert made["float32"].deviation <= 1e-4
    assert made["float16"].sqnr > 60 > made["int8"].sqnr > 25
    assert made["dynamic"].sqnr > 25
    assert made["int8-only"].sqnr == pytest.approx(made["int8"].sqnr, abs=1.0)
    assert all(one.float_operators == () for one in made.values())


def test_integer_only_is_only_integers(made, small):
    """Input, output and everything between; and the file still takes and gives floats here."""
    found = graph(made["int8-only"], small)
    opened = open_file(made["int8-only"].path)

    assert {held.kind for held in (*found.inputs, *found.outputs)} == {"INT8"}
    assert kinds(found.operators) <= {"INT8", "INT32", "INT64"}
    assert opened.integer
    assert opened(torch.zeros(2, 1, 6, 6)).dtype == torch.float32


def test_int8_is_integer_between_float_ends(made, small):
    """Only what changes the format touches floats."""
    found = graph(made["int8"], small)

    assert {held.kind for held in (*found.inputs, *found.outputs)} == {"FLOAT32"}
    assert "FLOAT32" not in kinds(one for one in found.operators if one.name not in MOVERS)
    assert not open_file(made["int8"].path).integer


def test_weights_are_narrow(made, small):
    """In dynamic files int8, in float16 files of sixteen bits."""
    for mode, kind in (("dynamic", "INT8"), ("float16", "FLOAT16")):
        found = graph(made[mode], small)
        weights = {
            held.kind
            for one in found.operators
            for held in one.weights
            if held.kind not in ("INT32", "INT64")
        }
        assert weights == {kind}


def test_ranges_are_those_of_all_examples(made, small, images):
    """The step of an activation is (largest − smallest) / 255 by hand, over all calibration examples."""
    from ai_edge_litert.interpreter import Interpreter

    with torch.no_grad():
        hidden = torch.relu(
            small.hidden(small.pool(torch.relu(small.deep(x := small.stem(images)) + x)).flatten(1))
        )
    reader = Interpreter(model_content=made["int8"].path.read_bytes())
    steps = [one["quantization"] for one in reader.get_tensor_details() if tuple(one["shape"]) == (1, 16)]

    by_hand = float(hidden.max() - min(hidden.min(), 0)) / 255
    assert any(scale == pytest.approx(by_hand, rel=1e-3) for scale, _ in steps)


def test_observers_differ_as_they_say(small, images, converted_once, tmp_path):
    """A rare large value: all of it is covered by min/max; the moving average clips it, to the cost of the signal."""
    rare = images.clone()
    rare[-1] *= 8
    found = {
        observer: export(
            small,
            rare,
            tmp_path / "n.tflite",
            target="litert",
            mode="int8",
            calibration=rare,
            observer=observer,
        )
        for observer in ("minmax", "ema")
    }

    assert found["minmax"].sqnr > found["ema"].sqnr + 3


def test_a_layer_stays_float_in_the_file(small, images, converted_once, tmp_path):
    """Its weights, too; what is around it does not."""
    made = export(
        small, images, tmp_path / "n.tflite", target="litert", mode="int8", calibration=images,
        keep_float=["deep", "out"],
    )  # fmt: skip
    found = [one for one in graph(made, small).operators if one.weights]

    wide = {one.layers for one in found if any(held.kind == "FLOAT32" for held in one.weights)}
    assert wide == {("deep",), ("out",)}
    assert {layer for one in found for layer in one.layers} == {"stem.0", "deep", "hidden", "out"}
    assert made.float_operators == ("DEPTHWISE_CONV_2D of deep", "FULLY_CONNECTED of out")


@pytest.mark.parametrize("mode", ["dynamic", "float16"])
def test_a_layer_keeps_its_weights_in_modes_of_weights(small, images, converted_once, tmp_path, mode):
    """As wide as they were; the others are narrow."""
    made = export(small, images, tmp_path / "n.tflite", target="litert", mode=mode, keep_float=["hidden"])
    found = {
        held.kind for one in graph(made, small).operators for held in one.weights if one.layers == ("hidden",)
    }

    assert found == {"FLOAT32"}
    assert made.bytes > 72 * 16 * 4


def test_written_twice_it_is_the_same(made, small, images, tmp_path, monkeypatch):
    """Equal outputs, to the bit."""
    monkeypatch.setattr(BY_NAME["litert"], "convert", LiteRT().convert)  # anew, not what is kept
    again = export(small, images, tmp_path / "n.tflite", target="litert", mode="int8", calibration=images)

    assert torch.equal(open_file(again.path)(images), open_file(made["int8"].path)(images))
    assert again.bytes == made["int8"].bytes


def test_an_operator_that_cannot_be_taken_is_named_with_its_layer(with_operator, tmp_path):
    """The layer by its path, and what to do."""
    with pytest.raises(
        ExportError, match=r"LiteRT cannot take.*erfinv.*is 2 \(.*erfinv\); replace that operator"
    ):
        export(
            with_operator(torch.special.erfinv),
            torch.zeros(2, 1, 6, 6),
            tmp_path / "n.tflite",
            target="litert",
        )
    assert list(tmp_path.iterdir()) == []


def test_an_operator_without_a_kernel_is_named_with_its_layer(with_operator, tmp_path):
    """The converter takes it, and the runtime does not."""
    with pytest.raises(ExportError, match=r"STABLEHLO_SORT.*is 2 \(sort\)"):
        export(
            with_operator(lambda x: x.sort(-1)[0]),
            torch.zeros(2, 1, 6, 6),
            tmp_path / "n.tflite",
            target="litert",
        )
    assert list(tmp_path.iterdir()) == []


def test_a_silent_fallback_is_an_error(small, images, converted_once, tmp_path, monkeypatch):
    """A quantiser that leaves weights float, and says nothing, is found out; with the operators by layer."""
    from ai_edge_quantizer import recipe

    monkeypatch.setattr(recipe, "static_wi8_ai8", recipe.dynamic_wi8_afp32)
    with pytest.raises(ExportError, match=r"no int8 form of CONV_2D of stem\.0|no int8 form of .*of deep"):
        export(small, images, tmp_path / "n.tflite", target="litert", mode="int8", calibration=images)
    assert list(tmp_path.iterdir()) == []
