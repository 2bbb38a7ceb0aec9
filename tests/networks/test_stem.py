"""A network for large photographs, built with a stem for small images, keeps its parameters and its resolution."""

import pytest
import torch
from torch import nn

import secateur
from secateur.errors import ModelError
from secateur.networks import build, classes_argument, origin_of
from secateur.networks.stem import use_stem
from secateur.testing import check_cut, randomise

MOBILE = (
    "mobilenetv1_100",
    "mobilenetv2_100",
    "mobilenetv3_large_100",
    "mobilenetv3_small_100",
    "tf_mobilenetv3_large_minimal_100",
    "tf_mobilenetv3_small_minimal_100",
    "efficientnet_b0",
    "efficientnet_lite0",
)


@pytest.fixture
def timm():
    try:
        return pytest.importorskip("timm")
    except RuntimeError as error:  # a torchvision that does not fit torch
        pytest.skip(f"timm cannot be imported: {error}")


def last_map(model: nn.Module, side: int) -> int:
    """The side of the map that the network's last convolution of a map makes."""
    sides = []
    hooks = [
        module.register_forward_hook(lambda _m, _i, out: sides.append(out.shape[-1]))
        for module in model.modules()
        if isinstance(module, nn.BatchNorm2d)
    ]
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, side, side))
    for hook in hooks:
        hook.remove()
    return sides[-1]


class Residual(nn.Module):
    """A stem and a pooling, then a block that halves the map in its body and in its shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.body = nn.Conv2d(4, 4, 3, stride=2, padding=1)
        self.shortcut = nn.AvgPool2d(2)
        self.end = nn.Conv2d(4, 4, 3, stride=2, padding=1)

    def forward(self, x):
        x = self.stem(x)
        return self.end(self.body(x) + self.shortcut(x)).flatten(1)


def test_what_runs_beside_goes_along():
    """A step is left out in a block's body and in its shortcut; the next one stays."""
    net = Residual()
    net.shortcut.kernel_size, net.shortcut.padding = 3, 1

    use_stem(net, "cifar")

    assert (net.stem.stride, net.body.stride, net.shortcut.stride, net.end.stride) == (
        (1, 1), (1, 1), 1, (2, 2),
    )  # fmt: skip
    assert net(torch.zeros(1, 3, 8, 8)).shape == (1, 4 * 4 * 4)


@pytest.mark.parametrize(
    ("net", "said"),
    [
        (nn.Conv2d(3, 4, 3, stride=2), "and the network has 1"),
        (nn.Linear(3, 4), "does not take 3x224x224"),
    ],
)
def test_a_network_without_such_steps_is_refused(net, said):
    """A stem is refused where there is nothing that it could leave out."""
    with pytest.raises(ModelError, match=said):
        use_stem(net, "cifar")


def test_an_unknown_stem_lists_the_known():
    """A wrong name is answered with the names that there are, before anything is built."""
    with pytest.raises(ModelError, match="no stem is named 'imagenet'; there is cifar"):
        build("lenet5", stem="imagenet")


@pytest.mark.parametrize("name", MOBILE)
def test_the_mobile_networks_keep_parameters_and_resolution(timm, name):
    """With the stem the parameters are the same, the last map of a 32x32 image has 4x4 positions instead of one."""
    plain = build(f"timm:{name}", num_classes=10, seed=0)
    model = build(f"timm:{name}", num_classes=10, stem="cifar", seed=0)

    assert [p.shape for p in model.parameters()] == [p.shape for p in plain.parameters()]
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert (last_map(plain, 32), last_map(model, 32)) == (1, 4)
    assert origin_of(model).arguments == {"stem": "cifar", "num_classes": 10}
    channels = secateur.watch(model, torch.zeros(1, 3, 32, 32))
    assert channels.groups
    assert not channels.unknown_ops


def test_a_stem_survives_saving(timm, tmp_path):
    """A saved network is built again with its stem, whole and after a cut."""
    model = build("timm:mobilenetv3_small_050", num_classes=10, stem="cifar", seed=0).eval()
    x = torch.randn(2, 3, 32, 32)
    channels = secateur.watch(model, x[:1])
    plan = secateur.plan(channels, secateur.score(model, channels, "l1"), remove=0.5)
    small = secateur.apply(model, plan)

    for number, net in enumerate((model, small)):
        secateur.save(net, tmp_path / f"{number}.safetensors")
        again = secateur.load(tmp_path / f"{number}.safetensors")

        assert torch.equal(again(x), net(x))
        assert origin_of(again) == origin_of(net)
    assert sum(p.numel() for p in small.parameters()) < 0.5 * sum(p.numel() for p in model.parameters())


def test_cutting_half_is_not_reading(timm):
    """A stem changes no law: half of a network with squeezes and excitations goes as if it were not read."""
    model = randomise(build("timm:mobilenetv3_small_050", num_classes=10, stem="cifar", seed=0)).eval()
    x = torch.randn(2, 3, 16, 16)
    channels = secateur.watch(model, x[:1])

    check_cut(model, x, secateur.plan(channels, secateur.score(model, channels, "l1"), remove=0.5))


@pytest.mark.parametrize(
    ("spec", "classes", "argument"),
    [
        ("lenet5", 10, {}),
        ("lenet5", 26, {"classes": 26}),
        ("timm:mobilenetv2_100", 10, {"num_classes": 10}),
        ("torchvision:resnet18", 1000, {}),
        ("secateur.networks.lenet:lenet5", 3, {"classes": 3}),
        ("torch.nn:Identity", 3, {}),
    ],
)
def test_outputs_are_named_as_the_network_names_them(spec, classes, argument):
    """The argument for so many outputs is the network's own, and none where it has them or does not know of any."""
    assert classes_argument(spec, classes=classes) == argument
