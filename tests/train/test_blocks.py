"""The block around a cut: where it begins and ends, and what it may not cut through."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur import networks
from secateur.channels import visits, watch
from secateur.errors import ModelError, NoBlockError, SettingsError
from secateur.train import TrainingBlock, block_around

X = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))


def block(model: nn.Module, *groups: str, x: Tensor = X) -> TrainingBlock:
    return block_around(model, watch(model, x), groups, x)


class Chain(nn.Module):
    """Four layers; what lies between the second and the third is for others to say."""

    def __init__(self) -> None:
        super().__init__()
        for number, (before, after) in enumerate(((4, 6), (6, 6), (6, 6), (6, 3)), start=1):
            setattr(self, f"layer{number}", nn.Linear(before, after))

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer2(self.layer1(x))
        return self.layer4(self.layer3(self.between(x)))

    def between(self, x: Tensor) -> Tensor:
        return x


def test_in_a_sequential_it_goes_from_the_writer_to_the_reader() -> None:
    """Norms, activations and poolings between are in it; its shares are counted before the cut."""
    net, x = networks.build("digits-net", seed=0), torch.zeros(1, 1, 8, 8)

    found = block(net, "conv3", x=x)

    assert found.modules == ("conv3", "norm3", "act3", "pool3", "flatten", "dense1")
    assert found.parameters == 64 * 32 * 9 + 64 + 2 * 64 + 256 * 64 + 64
    assert found.macs == 64 * 32 * 9 * 16 + 256 * 64
    assert found.parameter_share == found.parameters / 40_618


def test_groups_that_are_cut_together_have_one_block() -> None:
    """It holds all of them."""
    net, x = networks.build("digits-net", seed=0), torch.zeros(1, 1, 8, 8)

    found = block(net, "conv2", "conv3", x=x)

    assert (found.modules[0], found.modules[-1]) == ("conv2", "dense1")


def test_inside_a_residual_branch_it_is_a_part_of_the_branch() -> None:
    """What the branch gives is not in question; the stream itself reaches from its first writer to its last reader."""
    net, x = networks.build("resnet20", seed=0), torch.zeros(1, 3, 32, 32)
    channels, seen = watch(net, x), visits(net, x)

    inner = block_around(net, channels, "stages.1.0.body.conv1", x, seen=seen)
    stream = block_around(net, channels, "stages.1.0.body.conv2", x, seen=seen)

    assert inner.modules[0] == "stages.1.0.body.conv1"
    assert inner.modules[-1] == "stages.1.0.body.conv2"
    assert stream.modules == ("stages.1", "stages.2")


def test_modules_that_are_called_in_turn_are_a_row_whoever_calls_them() -> None:
    """The calls count, not the names: a loop over a list of layers is one, too."""

    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(
                [nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)]
            )

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = layer(x)
            return x

    assert block(Loop(), "layers.0").modules == ("layers.0", "layers.1", "layers.2")


@pytest.mark.parametrize("between", [F.relu, F.relu_, lambda x: x + 0])
def test_code_between_two_modules_is_not_cut_through(between) -> None:
    """Where something is computed between them, even in place, no block holds both but one that holds the caller, too."""

    class Between(Chain):
        def between(self, x: Tensor) -> Tensor:
            return between(x)

    plain, other = Chain(), nn.Sequential(OrderedDict(body=Between(), head=nn.Linear(3, 2)))

    assert block(plain, "layer2").modules == ("layer2", "layer3")
    assert block(other, "body.layer2").modules == ("body",)
    with pytest.raises(NoBlockError, match="smaller than the network"):
        block(Between(), "layer2")


def test_what_others_read_inside_is_not_hidden_in_a_block() -> None:
    """Layers in a row, but what the third gives is also read elsewhere: the block must hold that."""

    class Skip(Chain):
        def forward(self, x: Tensor) -> Tensor:
            inner = self.layer3(self.layer2(self.layer1(x)))
            return self.layer4(inner) + inner.std(dim=1, keepdim=True).detach()

    class Inner(Chain):
        def forward(self, x: Tensor) -> Tensor:
            second = self.layer2(self.layer1(x))
            return self.layer4(self.layer3(second)) * second.mean()

    assert block(Skip(), "layer2").modules == ("layer2", "layer3")
    with pytest.raises(NoBlockError):
        block(Inner(), "layer2")


def test_a_module_that_needs_more_than_its_tensor_is_no_block_by_itself() -> None:
    """An argument that says what it says by default may be left out; another one may not."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 4)

        def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
            return x + scale * self.down(torch.relu(self.up(x)))

    class Net(nn.Module):
        def __init__(self, scale: float) -> None:
            super().__init__()
            self.body, self.head, self.scale = Scaled(), nn.Linear(4, 2), scale

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.body(x, scale=self.scale))

    assert block(Net(1.0), "body.up").modules == ("body",)
    with pytest.raises(NoBlockError):
        block(Net(2.0), "body.up")


def test_a_layer_that_is_called_twice_is_in_one_block_as_a_whole() -> None:
    """A run cannot begin or end with it."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.again, self.last = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.again(self.again(self.first(x))))

    net = nn.Sequential(OrderedDict(body=Twice(), head=nn.Linear(3, 2)))

    assert block(net, "body.first").modules == ("body",)


def test_the_input_and_what_spans_the_network_have_no_block() -> None:
    """The reason is named."""
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))

    with pytest.raises(NoBlockError, match="around 0 that is smaller than the network"):
        block(net, "0")
    with pytest.raises(NoBlockError, match="features of the network's input are cut"):
        block_around(net, watch(net, X, inputs=True), "input", X)


def test_what_does_not_belong_together_is_refused() -> None:
    """Channels of another network, groups that are not there, visits of another kind."""
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    channels = watch(net, X)

    with pytest.raises(ModelError, match="found in another network"):
        block_around(nn.Linear(4, 2), channels, "0", X)
    with pytest.raises(ModelError, match="no group is named '7'"):
        block_around(net, channels, "7", X)
    with pytest.raises(SettingsError, match="no group is named"):
        block_around(net, channels, (), X)
    with pytest.raises(ModelError, match="watched in another way"):
        block_around(net, channels, "0", X, seen=visits(net, X, inputs=True))


def test_looking_leaves_the_network_as_found() -> None:
    """Mode, hooks, buffers, gradients and the random state."""
    net, x = networks.build("digits-net", seed=0), torch.randn(2, 1, 8, 8)
    net.conv1.weight.grad = torch.ones_like(net.conv1.weight)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    state = torch.get_rng_state()

    block(net, "conv1", x=x)

    assert torch.equal(torch.get_rng_state(), state)
    assert net.training
    assert net.conv1.weight.grad is not None
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
