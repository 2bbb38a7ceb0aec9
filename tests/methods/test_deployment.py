"""Candidates that are judged as the files that are deployed."""

import pytest
import torch

from secateur.errors import SettingsError
from secateur.evaluate import evaluate
from secateur.export import open_file
from secateur.methods import Deployment, ReduceSettings, Search, reduce
from secateur.methods.judge import Judge

pytest.importorskip("ai_edge_quantizer")
pytest.importorskip("litert_torch")


@pytest.fixture(scope="module")
def settings():
    """A short search that judges int8 files."""
    return ReduceSettings(
        max_drop=12.0, max_iterations=2, rounds=1, layers=("dense*",), deploy=Deployment(calibration=30)
    )


def test_what_is_reported_is_the_file(net, digits, settings, tmp_path):
    """The accuracies after a reduction are those of the file in the run folder, byte by byte the one that was judged."""
    result = reduce(net, digits, settings=settings, out=tmp_path / "run")
    file = tmp_path / "run" / "model-int8.tflite"

    assert result.removed
    assert file.read_bytes() == result.file
    found = evaluate(open_file(file), digits.test, classes=digits.classes)
    assert torch.equal(found.predicted, result.test_after.predicted)
    assert result.test_before.accuracy == evaluate(net, digits.test).accuracy
    assert any("for litert in int8" in note for note in result.notes)


def test_a_file_that_answers_worse_than_its_network_is_rejected(net, digits, settings, monkeypatch):
    """Where the network is within the bound and its file is not, the candidate is not: the file decides."""
    broken = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    monkeypatch.setattr("secateur.methods.deployment.Writer.opened", lambda *_: broken)
    monkeypatch.setattr("secateur.methods.deployment.Writer.content_of", lambda *_: b"broken")
    judge = Judge(net, digits, settings)

    assert judge.within(judge.look(net), best=0.0)
    assert not judge.within(judge.decide(net, 0.0), best=0.0)
    assert judge.spare > settings.max_drop


@pytest.mark.parametrize("after", [b"12", b"1234"])
def test_with_an_aim_at_bytes_the_file_must_get_smaller(net, digits, settings, monkeypatch, after):
    """A candidate within the bound is kept if its file is smaller than the one before, and says so if it is not."""
    files = iter([b"123"])  # of the unreduced network
    monkeypatch.setattr("secateur.methods.deployment.Writer.content_of", lambda *_: next(files, after))
    monkeypatch.setattr("secateur.methods.deployment.Writer.opened", lambda *_: net)
    wanted = settings.but(max_drop=90.0, deploy=Deployment(aim="bytes"), max_iterations=1)
    (step,) = Search(net, digits, wanted).step()

    assert step.accepted is (len(after) < 3)
    assert ("no fewer than 3" in step.reason) is not step.accepted


def test_what_a_target_does_not_offer_is_refused_at_once():
    """Target, mode, observer and aim are checked when they are set, and the nearest is named."""
    for options, said in (
        ({"mode": "int7"}, "int8"),
        ({"target": "executorch", "mode": "dynamic"}, "offered by"),
        ({"aim": "byte"}, "bytes"),
        ({"calibration": 0}, "one example"),
    ):
        with pytest.raises(SettingsError, match=said):
            Deployment(**options)


def test_settings_survive_a_file(settings):
    """What is written to run.toml gives the same settings again, and without deployment it is what it was."""
    written = settings.model_dump(mode="json", exclude_none=True)

    assert ReduceSettings(**written) == settings
    assert "deploy" not in ReduceSettings(max_drop=1.0).model_dump(mode="json", exclude_none=True)
