"""Folding: the same outputs, the same class, norms that cannot go are said."""

import pytest
import torch
from tests.quantise.networks import mobile, with_statistics
from torch import nn

from secateur import networks
from secateur.errors import ModelError, WatchError
from secateur.quantise import fold, unfold
from secateur.testing import CONSTRUCTS, Wired

IMAGE = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def relative(found, wanted):
    return float(((found - wanted).abs().max() / wanted.abs().max()).detach())


@pytest.mark.parametrize(
    ("build", "x"),
    [
        (lambda: networks.build("digits-net", seed=0), IMAGE),
        (lambda: networks.build("resnet20", seed=0), torch.randn(2, 3, 16, 16)),
        (lambda: networks.build("uci-custom", seed=0), torch.randn(2, 3, 128)),
        (mobile, IMAGE),
    ],
    ids=["digits-net", "resnet20", "uci-custom", "mobile"],
)
def test_a_folded_network_computes_the_same(build, x):
    """No norm is left, the class is kept, and outputs are those of the network; unfolded, they still are."""
    model = with_statistics(build())
    folded = fold(model, x[:1])

    assert type(folded.model) is type(model)
    assert not [m for m in folded.model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert not folded.left
    assert relative(folded.model(x), model(x)) < 1e-5

    back = unfold(folded, model)

    assert {n: t.shape for n, t in back.state_dict().items()} == {
        n: t.shape for n, t in model.state_dict().items()
    }
    assert relative(back(x), model(x)) < 1e-5


@pytest.mark.parametrize("name", [n for n, c in CONSTRUCTS.items() if "Norm" in n])
def test_constructs_with_norms_compute_the_same(name):
    """Whatever the norm, folding changes no output."""
    construct = CONSTRUCTS[name]
    model = with_statistics(construct.build())
    x = construct.example()

    folded = fold(model, x)

    assert relative(folded.model(x), model(x)) < 1e-5


def test_the_network_is_left_as_found():
    """Folding copies: tensors, modes and modules of the network stay."""
    model = with_statistics(networks.build("digits-net", seed=0)).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    folded = fold(model, IMAGE)

    assert model.training
    assert folded.model.training
    assert isinstance(model.norm1, nn.BatchNorm2d)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def norm_after_addition():
    return Wired(
        lambda m, x: m.norm(m.a(x) + m.b(x)),
        a=nn.Conv2d(1, 2, 1),
        b=nn.Conv2d(1, 2, 1),
        norm=nn.BatchNorm2d(2),
    )


def norm_of_what_others_read():
    return Wired(lambda m, x: m.norm(y := m.a(x)) + y, a=nn.Conv2d(1, 2, 1), norm=nn.BatchNorm2d(2))


def norm_used_twice():
    return Wired(
        lambda m, x: m.norm(m.a(x)) + m.norm(m.b(x)),
        a=nn.Conv2d(1, 2, 1),
        b=nn.Conv2d(1, 2, 1),
        norm=nn.BatchNorm2d(2),
    )


def norm_first():
    return nn.Sequential(nn.BatchNorm2d(1), nn.Conv2d(1, 2, 1))


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (norm_after_addition, "outcome of add"),
        (norm_of_what_others_read, "read by others"),
        (norm_used_twice, "several times"),
        (norm_first, "network's input"),
    ],
)
def test_a_norm_that_cannot_go_stays_and_says_why(build, reason):
    """Where folding would change what is computed, the norm stays."""
    model = with_statistics(build())

    folded = fold(model, IMAGE)

    (said,) = set(folded.left.values())
    assert reason in said
    assert not folded.pairs
    assert torch.equal(folded.model(IMAGE), model(IMAGE))


class NormAct(nn.BatchNorm2d):
    """A norm with an activation function in it, as timm has them."""

    def __init__(self, width):
        super().__init__(width)
        self.act = nn.Hardswish()

    def forward(self, x):
        return self.act(super().forward(x))


class Doubling(nn.BatchNorm2d):
    def forward(self, x):
        return 2 * super().forward(x)


def test_a_norm_with_an_activation_leaves_the_activation():
    """What else a norm's class does with its children is kept; what it does by itself is not guessed."""
    model = with_statistics(nn.Sequential(nn.Conv2d(1, 3, 3), NormAct(3), nn.Conv2d(3, 2, 1), Doubling(2)))

    folded = fold(model, IMAGE)

    assert folded.pairs == {"0": "1"}
    assert isinstance(folded.model[1][0], nn.Hardswish)
    assert "Doubling" in folded.left["3"]
    assert relative(folded.model(IMAGE), model(IMAGE)) < 1e-5


def test_unfolding_into_another_network_is_refused():
    """Weights go back only where they are from."""
    folded = fold(with_statistics(networks.build("digits-net", seed=0)), IMAGE)

    with pytest.raises(ModelError, match="made of another one"):
        unfold(folded, networks.build("digits-net", seed=0, classes=7))


def test_an_input_that_does_not_fit_is_refused():
    """The error says which shape was given."""
    with pytest.raises(WatchError, match=r"\(1, 2, 8, 8\)"):
        fold(networks.build("digits-net", seed=0), torch.zeros(1, 2, 8, 8))
