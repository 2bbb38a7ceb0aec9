"""What layers read: second moments of their windows."""

import pytest
import torch
from torch import nn

from secateur.errors import DataError, ModelError
from secateur.observe import layer_inputs, patches
from secateur.observe.calls import calls

LAYERS = [
    (nn.Conv2d(3, 4, 3, padding=1), (2, 3, 7, 6)),
    (nn.Conv2d(3, 4, (3, 2), stride=2, padding=(2, 1), dilation=(2, 1)), (2, 3, 9, 8)),
    (nn.Conv2d(3, 4, 3, padding="same", padding_mode="reflect"), (2, 3, 7, 6)),
    (nn.Conv2d(3, 4, 2, padding="same"), (2, 3, 7, 6)),
    (nn.Conv1d(3, 4, 3, stride=2, padding=1, padding_mode="circular"), (2, 3, 9)),
    (nn.Conv3d(3, 4, 2), (2, 3, 4, 5, 4)),
    (nn.Linear(5, 4), (2, 6, 5)),
    (nn.Linear(5, 4), (2, 5)),
]


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=str)
def test_windows_times_the_weight_are_the_outputs(layer, shape):
    """A layer's output at each position is its weight's rows times what it reads there, plus the bias."""
    layer = layer.double()
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    made = patches(layer, x)[0] @ layer.weight.flatten(1).T + layer.bias

    wanted = layer(x) if isinstance(layer, nn.Linear) else layer(x).movedim(1, -1)
    torch.testing.assert_close(made, wanted.reshape(made.shape))


def test_moments_are_over_all_examples_and_positions():
    """Mean and second moment are those of all windows of all batches; the network is left as found."""
    model = nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 3, 3)).double().train()
    x = torch.randn(5, 2, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    seen = layer_inputs(model, ["1"], [(x[:2], None), (x[2:], None)])["1"]

    rows = patches(model[1], model.eval()[0](x))[0].flatten(0, 1)
    torch.testing.assert_close(seen.mean, rows.mean(0))
    torch.testing.assert_close(seen.gram, rows.T @ rows / len(rows))
    assert seen.count == len(rows) == 5 * 16
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not model[1]._forward_pre_hooks


def test_data_that_cannot_be_used():
    """No batch, and inputs that are not finite, are refused by the layer's name."""
    model = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(DataError, match="no batch"):
        layer_inputs(model, ["0"], [])
    with pytest.raises(ModelError, match=r"'0\.weight' reads is not finite"):
        layer_inputs(model, ["0"], [(torch.full((1, 2), float("nan")), None)])


def test_calls_say_on_what_shapes_modules_ran():
    """Of each call of a module the shapes of what it took and gave are told."""
    layer = nn.Conv2d(1, 1, 3, padding=1)
    model = nn.Sequential(layer, nn.MaxPool2d(2), layer)

    found = calls(model, torch.zeros(2, 1, 8, 8))

    assert found.batch == 2
    assert found.shapes["0"] == (((2, 1, 8, 8), (2, 1, 8, 8)), ((2, 1, 4, 4), (2, 1, 4, 4)))
    assert found.shapes["1"] == (((2, 1, 8, 8), (2, 1, 4, 4)),)
