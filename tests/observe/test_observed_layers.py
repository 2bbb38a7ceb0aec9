"""What the weights of layers are multiplied with."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from secateur.errors import DataError, ModelError, SettingsError
from secateur.observe import layers_in, observe_layers, patches
from secateur.testing import check_left_as_found

LAYERS = {
    "dense": (nn.Linear(6, 4), (3, 6)),
    "dense on positions": (nn.Linear(6, 4), (3, 5, 6)),
    "conv1d": (nn.Conv1d(2, 4, 3, stride=2, padding=1, dilation=2), (3, 2, 11)),
    "conv2d": (nn.Conv2d(3, 4, (3, 2), stride=(1, 2), padding=(2, 1), dilation=(2, 1)), (2, 3, 7, 6)),
    "groups": (nn.Conv2d(4, 6, 3, groups=2, bias=False), (2, 4, 5, 5)),
    "depthwise": (nn.Conv1d(4, 8, 3, groups=4), (2, 4, 7)),
    "same": (nn.Conv2d(1, 2, (4, 3), padding="same"), (2, 1, 6, 6)),
    "valid": (nn.Conv1d(1, 2, 3, padding="valid"), (2, 1, 6)),
    "reflected": (nn.Conv2d(1, 2, 3, padding=(2, 1), padding_mode="reflect"), (2, 1, 6, 5)),
    "circular": (nn.Conv1d(2, 2, 3, padding=2, padding_mode="circular"), (2, 2, 6)),
    "conv3d": (nn.Conv3d(1, 2, 2, stride=2), (2, 1, 4, 4, 4)),
    "one example": (nn.Conv2d(2, 3, 2), (2, 4, 4)),
}


@pytest.mark.filterwarnings("ignore:Using padding=.same.")
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_its_rows_times_the_patches(name: str) -> None:
    """Weight times patches, and the bias, is the layer's output, whatever its stride, border, dilation and groups."""
    layer, shape = LAYERS[name]
    layer = layer.double()
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    found = patches(layer, x)

    rows = layer.weight.flatten(1).chunk(len(found))
    y = torch.cat([part @ w.T for part, w in zip(found, rows, strict=True)], dim=2)
    wanted = layer(x)
    if not isinstance(layer, nn.Linear):
        wanted = (wanted if wanted.dim() > len(layer.kernel_size) + 1 else wanted[None]).flatten(2).mT
    torch.testing.assert_close(
        y + (0 if layer.bias is None else layer.bias), wanted.reshape(y.shape), rtol=0, atol=1e-12
    )


class Shared(nn.Module):
    """A weight in two modules, one layer that nobody calls, one that is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.idle = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2)
        self.second.weight = self.first.weight
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.normed(self.second(input=self.first(x).relu()))


def test_moments_are_those_of_all_batches_and_all_holders() -> None:
    """E[x xᵀ] is over every sample that a weight is used on, in any number of batches, and the model is left as found."""
    model, x = Shared(), torch.randn(10, 3)

    seen = observe_layers(model, [(x[:4], None), (x[4:], None)])

    samples = torch.cat([x, model.first(x).relu()]).double()
    (found,) = seen["first.weight"].groups
    torch.testing.assert_close(found.gram, samples.T @ samples / 20)
    torch.testing.assert_close(found.mean, samples.mean(0))
    assert set(seen) == {"first.weight", "idle.weight"}
    assert (seen["first.weight"].count, seen["idle.weight"].count) == (20, 0)
    check_left_as_found(model, lambda: observe_layers(model, [(x, None)]))


def test_what_cannot_be_observed_is_said() -> None:
    """Layers may be named with or without their weight; a wrong name, no data and what is not finite are refused."""
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())

    assert list(layers_in(model, ["0"])) == list(layers_in(model, ["0.weight"])) == ["0.weight"]
    with pytest.raises(SettingsError, match="'1' is no dense or convolutional layer"):
        observe_layers(model, [(torch.ones(1, 2), None)], layers=["1"])
    with pytest.raises(DataError, match="no batch"):
        observe_layers(model, [])
    with pytest.raises(ModelError, match="not finite"):
        observe_layers(model, [(torch.full((1, 2), torch.inf), None)])
