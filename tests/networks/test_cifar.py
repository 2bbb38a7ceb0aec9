"""VGG, AlexNet and MobileNet for images of 32x32: what belongs together in them, and that they are cut exactly."""

import pytest
import torch

import secateur
from secateur.errors import ModelError
from secateur.networks import build
from secateur.networks.cifar import VGG, AlexNet, MobileNet
from secateur.testing import outputs_of, randomise, relative_error, unread

SMALL = {
    "vgg": lambda: VGG(((6,), (8, 8))),
    "alexnet": AlexNet,
    "mobilenet": lambda: MobileNet(width=0.125),
}


@pytest.mark.parametrize("name", SMALL)
def test_cutting_equals_not_reading(name):
    """Half of the units gone is as if nobody read them."""
    net = randomise(SMALL[name]().double(), 0).eval()
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    channels = secateur.watch(net, x)
    made = secateur.plan(channels, secateur.score(net, channels, "random", seed=0), remove=0.5)

    small = secateur.apply(net, made)

    assert relative_error(outputs_of(small, x), outputs_of(unread(net, made), x)) < 1e-10
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in net.parameters()) / 2


@pytest.mark.parametrize(
    ("name", "layers"),
    [("vgg8", 5), ("vgg11", 8), ("vgg13", 10), ("vgg16", 13), ("alexnet", 5), ("mobilenet", 14), ("resnet18", 9)],
)  # fmt: skip
def test_every_convolution_s_units_can_go(name, layers):
    """One group for each convolution that is not depthwise; what meets in additions of a ResNet is one."""
    channels = secateur.watch(build(name, seed=0), torch.zeros(1, 3, 32, 32))

    assert len(channels.groups) == layers + (3 if name == "resnet18" else 0)
    assert not channels.unknown_ops


def test_other_channels_and_classes():
    """As the other networks take them."""
    assert build("vgg8", channels=1, classes=7, seed=0)(torch.zeros(2, 1, 32, 32)).shape == (2, 7)
    assert build("mobilenet", width=0.25, classes=3, seed=0)(torch.zeros(2, 3, 32, 32)).shape == (2, 3)


def test_what_cannot_be_built_is_refused():
    """No stage, no width, no class."""
    with pytest.raises(ModelError, match="at least one stage"):
        VGG(())
    with pytest.raises(ModelError, match="give more than 0"):
        MobileNet(width=0)
    with pytest.raises(ModelError, match="classes is 0"):
        AlexNet(classes=0)
