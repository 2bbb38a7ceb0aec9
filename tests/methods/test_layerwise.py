"""Layer-wise optimal brain surgeon on networks."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from secateur import data, networks
from secateur.data import Split, Splits
from secateur.errors import ModelError, NothingToCutError, SettingsError
from secateur.evaluate import evaluate
from secateur.methods import Surgeon, layerwise_obs
from secateur.observe import patches
from secateur.testing import check_left_as_found, randomise

CONVOLUTIONS = {
    "plain": nn.Conv2d(2, 4, 3),
    "grouped": nn.Conv2d(4, 6, (3, 2), stride=2, padding=(1, 2), groups=2),
    "dilated": nn.Conv1d(3, 4, 3, dilation=2, padding="same"),
    "without bias": nn.Conv1d(3, 4, 2, bias=False),
}


def split_for(layer: nn.Module, count: int = 30) -> Split:
    """Random inputs that depend on each other, with a mean."""
    generator = torch.Generator().manual_seed(0)
    if isinstance(layer, nn.Linear):
        shape = (count, layer.in_features)
    else:
        shape = (count, layer.in_channels, *[7] * len(layer.kernel_size))
    x = torch.rand(shape, generator=generator, dtype=torch.float64)
    return Split(x + x.mean(1, keepdim=True), torch.zeros(count, dtype=torch.int64))


def squared(layer: nn.Module, other: nn.Module, x: Tensor) -> float:
    """E ||y' - y||², over examples and positions."""
    change = other(x) - layer(x)
    return float(change.square().sum(1).mean())


@pytest.mark.parametrize("name", ["dense", *CONVOLUTIONS])
@pytest.mark.parametrize("remove", [0.3, 0.8])
@torch.no_grad()
def test_a_layer_becomes_the_best_that_its_mask_allows(name: str, remove: float) -> None:
    """Without damping each row, its bias with it, is the least-squares fit to what the layer gave; the error told is the true one."""
    layer = copy.deepcopy(CONVOLUTIONS.get(name, nn.Linear(7, 5))).double()
    model, split = nn.Sequential(layer), split_for(layer)

    found = layerwise_obs(model, split, remove=remove, damping=0.0)

    new, kept = found.model[0], found.masks.kept["0.weight"]
    assert int((~kept).sum()) == int(remove * kept.numel()) == found.layers[0].removed
    assert not new.weight[~kept].any()
    x = split.inputs
    assert found.layers[0].error == pytest.approx(squared(layer, new, x), rel=1e-9)
    rows = layer.weight.flatten(1).chunk(len(patches(layer, x)))
    at = 0
    for part, x_npf in zip(rows, patches(layer, x), strict=True):
        samples = x_npf.flatten(0, 1)
        for row in part:
            stays = kept[at].flatten()
            free = samples[:, stays]
            if layer.bias is not None:
                free = torch.cat([free, torch.ones(len(free), 1, dtype=torch.float64)], dim=1)
            best = torch.linalg.lstsq(free, samples @ row).solution
            torch.testing.assert_close(new.weight[at].flatten()[stays], best[: int(stays.sum())])
            if layer.bias is not None:
                torch.testing.assert_close(new.bias[at] - layer.bias[at], best[-1])
            at += 1


def test_damping_prices_what_moves() -> None:
    """More damping moves the weights less; towards none, the answer is the one without."""
    layer = nn.Linear(7, 5).double()
    split = split_for(layer)

    def moved(damping: float) -> tuple[Tensor, Tensor]:
        found = layerwise_obs(nn.Sequential(layer), split, remove=0.4, damping=damping)
        return found.model[0].weight.detach(), found.masks.kept["0.weight"]

    torch.testing.assert_close(moved(1e-9)[0], moved(0.0)[0], rtol=1e-6, atol=1e-6)
    made, kept = moved(1e6)
    torch.testing.assert_close(made, torch.where(kept, layer.weight.detach(), 0.0), rtol=1e-4, atol=1e-4)


def test_removing_nothing_changes_nothing(digits: Splits, net: nn.Module) -> None:
    """With a share of 0 every weight is the given one, bit for bit; what is not named is not touched; the given network never."""
    before = copy.deepcopy(net.state_dict())

    none = layerwise_obs(net, digits, remove=0.0, examples=50)
    one = layerwise_obs(net, digits, remove={"dense1": 0.5}, examples=50)

    assert all(torch.equal(none.model.state_dict()[name], tensor) for name, tensor in before.items())
    assert all(layer.error == 0 for layer in none.layers)
    assert none.masks.share == 0
    assert list(one.masks.kept) == ["dense1.weight"]
    assert torch.equal(one.model.conv1.weight, net.conv1.weight)
    check_left_as_found(net, lambda: layerwise_obs(net, digits, remove=0.5, examples=20))


def test_it_keeps_what_magnitude_loses(digits: Splits, net: nn.Module) -> None:
    """At the same share of each layer, a trained network loses far less than without moving; the same seed gives the same."""
    found = layerwise_obs(net, digits, remove=0.8)

    plain = copy.deepcopy(net)
    with torch.no_grad():
        for name, kept in found.masks.kept.items():
            weight = plain.get_parameter(name)
            lowest = weight.abs().flatten().argsort()[: int((~kept).sum())]
            weight.view(-1)[lowest] = 0
    assert evaluate(found.model, digits.validation).loss < 0.5 * evaluate(plain, digits.validation).loss
    assert all(layer.error < layer.without_moving for layer in found.layers)
    again = layerwise_obs(net, digits, remove=0.8)
    assert again.masks.digest == found.masks.digest
    assert all(map(torch.equal, again.model.parameters(), found.model.parameters()))


def test_one_surgeon_makes_many_cuts(digits: Splits, net: nn.Module) -> None:
    """Each cut of a surgeon is that of a call for itself, whatever was cut before; layers that it does not know are refused."""
    surgeon = Surgeon(net, digits, examples=100)

    for remove in (0.9, 0.3, {"dense1": 0.5}):
        alone = layerwise_obs(net, digits, remove=remove, examples=100)
        found = surgeon.cut(remove)
        assert found.masks.digest == alone.masks.digest
        assert all(map(torch.equal, found.model.parameters(), alone.model.parameters()))
        assert found.layers == alone.layers
    with pytest.raises(SettingsError, match="not among the layers"):
        Surgeon(net, digits, layers=["conv1"], examples=20).cut({"dense1": 0.5})


def test_inputs_that_never_change_go_first_and_cost_nothing() -> None:
    """A constant input's weights go before all others, and the bias takes up what they gave."""
    layer = nn.Linear(4, 3).double()
    split = split_for(layer)
    split.inputs[:, 0], split.inputs[:, 2] = 0.0, 2.5

    found = layerwise_obs(nn.Sequential(layer), split, remove=0.5, damping=0.0)

    assert found.masks.kept["0.weight"].tolist() == [[False, True, False, True]] * 3
    assert found.layers[0].error == pytest.approx(0.0, abs=1e-20)
    torch.testing.assert_close(found.model(split.inputs), layer(split.inputs))


def test_all_weights_may_go() -> None:
    """What is left is the mean output."""
    layer = nn.Linear(4, 3).double()
    split = split_for(layer)

    found = layerwise_obs(nn.Sequential(layer), split, remove=1.0)

    torch.testing.assert_close(found.model(split.inputs[:1])[0], layer(split.inputs).mean(0))
    assert found.layers[0].error == pytest.approx(found.layers[0].variance)


class Idle(nn.Module):
    """One layer that nobody calls."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle = nn.Linear(7, 2), nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)


def test_what_cannot_be_cut_is_said(digits: Splits, net: nn.Module) -> None:
    """A layer that is never called is left whole and told, or refused where it was named; so are wrong shares and names."""
    split = split_for(nn.Linear(7, 2))
    model = randomise(Idle()).double()

    found = layerwise_obs(model, split, remove=0.5)

    assert list(found.masks.kept) == ["used.weight"]
    assert "not called" in found.skipped["idle.weight"]
    with pytest.raises(ModelError, match="not called"):
        layerwise_obs(model, split, remove=0.5, layers=["idle"])
    with pytest.raises(SettingsError, match="no share between 0 and 1"):
        layerwise_obs(net, digits, remove=1.5)
    with pytest.raises(SettingsError, match="did you mean 'dense1'"):
        layerwise_obs(net, digits, remove={"dense": 0.5})
    with pytest.raises(SettingsError, match="leave out layers"):
        layerwise_obs(net, digits, remove={"dense1": 0.5}, layers=["dense1"])
    with pytest.raises(SettingsError, match="damping"):
        layerwise_obs(net, digits, remove=0.5, damping=-1.0)
    with pytest.raises(SettingsError, match="examples"):
        layerwise_obs(net, digits, remove=0.5, examples=0)
    with pytest.raises(NothingToCutError, match="no dense or convolutional layer"):
        layerwise_obs(nn.Sequential(nn.Flatten()), split, remove=0.5)
    split.inputs[:, 1] = split.inputs[:, 0]
    with pytest.raises(ModelError, match="damping above 0"):
        layerwise_obs(model, split, remove=0.5, damping=0.0)


def test_lenet5_is_cut_in_all_its_layers() -> None:
    """Convolutions and dense layers together, in a copy that still answers."""
    model = networks.build("lenet5", seed=0)
    images = data.load("digits", limit=60).train
    split = Split(nn.functional.interpolate(images.inputs, size=28), images.targets)

    found = layerwise_obs(model, split, remove={"conv1": 0.2, "conv2": 0.5, "dense1": 0.9}, examples=30)

    assert [layer.removed for layer in found.layers] == [30, 1200, 43_200]
    assert torch.isfinite(found.model(split.inputs[:2])).all()
