"""Quality on held-out data."""

import json

import pytest
import sklearn.metrics
import torch
from torch import nn

from secateur.errors import DataError, ModelError, SettingsError
from secateur.evaluate import evaluate


@pytest.fixture
def setting(toy):
    """A random classifier of six classes and 400 examples of five of them."""
    gen = torch.Generator().manual_seed(0)
    data = toy(torch.randn(400, 8, generator=gen), torch.randint(0, 5, (400,), generator=gen))
    model = nn.Sequential(nn.Linear(8, 6), nn.Dropout(0.5))
    with torch.no_grad():
        model[0].weight.copy_(torch.randn(6, 8, generator=gen))
    return model, data


def test_figures_equal_scikit_learns(setting):
    """Accuracy, top-k, per-class accuracy and loss equal scikit-learn's on the same outputs."""
    model, data = setting
    result = evaluate(model, data, batch_size=64, top_k=(1, 2, 3, 10))
    outputs = model[0](data.inputs).detach().double()
    y, predicted = data.targets.numpy(), outputs.argmax(1).numpy()
    per_class = sklearn.metrics.recall_score(y, predicted, labels=list(range(5)), average=None)

    assert result.accuracy == pytest.approx(100 * sklearn.metrics.accuracy_score(y, predicted))
    assert result.error == pytest.approx(100 - result.accuracy)
    assert sorted(result.top_k) == [1, 2, 3]
    for k in (2, 3):
        expected = sklearn.metrics.top_k_accuracy_score(y, outputs.numpy(), k=k, labels=list(range(6)))
        assert result.top_k[k] == pytest.approx(100 * expected)
    assert [c.accuracy for c in result.per_class[:5]] == pytest.approx(list(100 * per_class))
    assert result.per_class[5].accuracy is None
    probabilities = outputs.softmax(1).numpy()
    assert result.loss == pytest.approx(
        sklearn.metrics.log_loss(y, probabilities, labels=list(range(6))), rel=1e-5
    )
    assert torch.equal(result.correct, torch.from_numpy(predicted == y))


def test_network_is_left_as_found(setting):
    """Evaluation uses eval mode, gives every module its mode back, and touches neither gradients nor random state."""
    model, data = setting
    model.train()
    model[0].eval()
    before = torch.get_rng_state()
    first, second = evaluate(model, data), evaluate(model, data, batch_size=7)

    assert torch.equal(first.correct, second.correct)
    assert (model.training, model[0].training, model[1].training) == (True, False, True)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(p.grad is None for p in model.parameters())


def test_number_comes_with_its_conditions(setting):
    """The result says under which conditions it holds, and its dictionary is plain JSON."""
    model, data = setting
    result = evaluate(model.double(), data, batch_size=50, classes=list("abcdef"))
    written = json.loads(json.dumps(result.as_dict()))

    assert written["conditions"] == {
        "device": "cpu",
        "dtype": "float64",
        "count": 400,
        "batch_size": 50,
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
    }
    assert [c["name"] for c in written["per_class"]] == list("abcdef")
    assert sum(c["correct"] for c in written["per_class"]) == int(result.correct.sum())
    assert "correct" not in written


def test_top_1_is_the_accuracy_also_with_ties(toy):
    """Where outputs are equal, top-1 and accuracy still are the same number."""
    result = evaluate(nn.Identity(), toy(torch.zeros(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])))

    assert result.top_k[1] == result.accuracy


def test_unfit_input_is_refused(setting, toy):
    """Wrong shapes, labels, names and options are refused with the numbers that disagree."""
    model, data = setting
    with pytest.raises(DataError, match=r"\(1, 3\)"):
        evaluate(model, toy(torch.zeros(4, 3), data.targets[:4]))
    with pytest.raises(DataError, match="0 to 9"):
        evaluate(model, toy(data.inputs[:2], torch.tensor([0, 9])))
    with pytest.raises(DataError, match="tells 6 classes apart, and there are 2 classes by name"):
        evaluate(model, data, classes=("a", "b"))
    with pytest.raises(SettingsError, match="batch_size"):
        evaluate(model, data, batch_size=0)
    with pytest.raises(ModelError, match="finite"):
        evaluate(model, toy(data.inputs * float("inf"), data.targets))
