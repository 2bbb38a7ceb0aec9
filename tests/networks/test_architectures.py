"""The registered networks have the parameter counts and shapes of the studies they come from."""

import pytest
import torch
from torch import nn

from secateur.errors import ModelError
from secateur.networks import ResNet, build, input_shape_of, names
from secateur.networks.resnet import Block

COUNTS = {
    "alexnet": 2_472_266,
    "digits-net": 40_618,
    "lenet-caffe": 431_080,
    "lenet300-100": 266_610,
    "lenet32-64-1024": 3_274_634,
    "lenet5": 61_706,
    "mobilenet": 3_217_226,
    "resnet": 272_474,
    "resnet18": 11_173_962,
    "resnet20": 272_474,
    "resnet32": 466_906,
    "resnet50": 23_520_842,
    "resnet56": 855_770,
    "uci-custom": 278_266,
    "vgg11": 9_228_362,
    "vgg13": 9_413_066,
    "vgg16": 14_724_042,
    "vgg8": 3_917_386,
}


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def by_layer(model: nn.Module) -> dict[str, int]:
    return {
        name: parameters(module)
        for name, module in model.named_children()
        if parameters(module) and "norm" not in name
    }


def test_every_network_has_a_count_here():
    """A new registered network gets its count into this file before it lands."""
    assert sorted(COUNTS) == list(names())


@pytest.mark.parametrize("name", COUNTS)
def test_count(name):
    """A registered network has exactly the documented number of parameters."""
    assert parameters(build(name, seed=0)) == COUNTS[name]


@pytest.mark.parametrize("name", COUNTS)
def test_shapes(name):
    """A registered network maps a batch of its input shape to finite logits, one row an example."""
    model = build(name, seed=0)
    shape = input_shape_of(name)
    assert shape is not None

    logits = model(torch.randn(3, *shape, generator=torch.Generator().manual_seed(0)))

    assert logits.shape == (3, 6 if name == "uci-custom" else 10)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("name", COUNTS)
def test_classes(name):
    """Every registered network takes the number of classes."""
    model = build(name, classes=4)

    assert model.out.out_features == 4


def test_lenet300_100_weights():
    """Without biases LeNet-300-100 has the 266,200 weights that the studies count."""
    weights = [p.numel() for p in build("lenet300-100").parameters() if p.ndim == 2]

    assert weights == [784 * 300, 300 * 100, 100 * 10]
    assert sum(weights) == 266_200


def test_lenet300_100_takes_images_and_vectors():
    """An image and its flattened pixels give the same logits."""
    model = build("lenet300-100", seed=0)
    images = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))

    torch.testing.assert_close(model(images), model(images.flatten(1)), rtol=0, atol=0)


def test_lenet5_by_layer():
    """LeNet-5's layers have the counts of the source's table."""
    assert by_layer(build("lenet5")) == {
        "conv1": 156, "conv2": 2_416, "dense1": 48_120, "dense2": 10_164, "out": 850,
    }  # fmt: skip


def test_lenet32_64_1024_weights():
    """Without biases the wide LeNet has the weights of the source, layer by layer."""
    weights = [p.numel() for p in build("lenet32-64-1024").parameters() if p.ndim > 1]

    assert weights == [800, 51_200, 3_211_264, 10_240]


def test_uci_custom_by_layer():
    """UCI-Custom's layers have the counts of the source's table."""
    assert by_layer(build("uci-custom")) == {
        "conv1": 96, "conv2": 992, "conv3": 5_152, "conv4": 34_680, "conv5": 129_720,
        "dense1": 96_100, "dense2": 10_100, "out": 606,
    }  # fmt: skip


def test_uci_custom_total():
    """With batch norm's four numbers a channel UCI-Custom has exactly 279,086."""
    state = build("uci-custom").state_dict()

    total = sum(t.numel() for name, t in state.items() if not name.endswith("num_batches_tracked"))

    assert total == 279_086


@pytest.mark.parametrize(("blocks", "depth"), [(3, 20), (5, 32), (9, 56)])
def test_cifar_resnets_have_6n_plus_2_layers(blocks, depth):
    """ResNet(3, [n], 2, False) has 6n + 2 weighted layers, shortcuts not counted."""
    model = ResNet(stages=3, blocks=blocks, convolutions=2, bottleneck=False)

    layers = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and "shortcut" not in name
    ]

    assert len(layers) == depth


@pytest.mark.parametrize("bottleneck", [False, True])
@pytest.mark.parametrize(("stages", "blocks", "convolutions"), [(1, 2, 3), (2, (1, 3), 4), (4, 1, 3)])
def test_resnet_family(stages, blocks, convolutions, bottleneck):
    """s, [n], l and b are what the built network has, and each stage after the first halves the map."""
    model = ResNet(stages=stages, blocks=blocks, convolutions=convolutions, bottleneck=bottleneck, width=4)
    rows = [list(stage) for stage in model.stages]
    wanted = [blocks] * stages if isinstance(blocks, int) else list(blocks)

    assert [len(row) for row in rows] == wanted
    for block in (block for row in rows for block in row):
        convs = [m for m in block.body if isinstance(m, nn.Conv2d)]
        assert len(convs) == convolutions
        assert [c.kernel_size[0] == 1 for c in convs] == [
            bottleneck and at in {0, convolutions - 1} for at in range(convolutions)
        ]
    features = model.stages(model.stem(torch.zeros(1, 3, 32, 32)))
    assert features.shape[1:] == (
        4 * 2 ** (stages - 1) * (4 if bottleneck else 1), *[32 // 2 ** (stages - 1)] * 2
    )  # fmt: skip


def test_block_adds_its_input():
    """With the last norm's scale and shift at zero a block is the ReLU of its input."""
    block = Block(4, (4, 4), (3, 3), stride=1).eval()
    nn.init.zeros_(block.body.norm2.weight)
    x = torch.randn(2, 4, 5, 5, generator=torch.Generator().manual_seed(0))

    torch.testing.assert_close(block(x), x.relu(), rtol=0, atol=0)


@pytest.mark.parametrize(("activation", "kind"), [("relu", nn.ReLU), ("tanh", nn.Tanh)])
@pytest.mark.parametrize("name", ["lenet5", "lenet300-100", "lenet-caffe", "lenet32-64-1024"])
def test_activation(name, activation, kind):
    """A LeNet has the asked activation behind every hidden layer and no other."""
    model = build(name, activation=activation)

    found = [m for m in model.modules() if isinstance(m, nn.ReLU | nn.Tanh)]
    weighted = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]

    assert len(found) == len(weighted) - 1
    assert all(isinstance(m, kind) for m in found)


def test_default_activations():
    """LeNet-300-100 has the thesis's tanh, the others ReLU."""
    assert isinstance(build("lenet300-100").act1, nn.Tanh)
    assert isinstance(build("lenet5").act1, nn.ReLU)


@pytest.mark.parametrize(("name", "size"), [("lenet5", 32), ("lenet-caffe", 16), ("lenet32-64-1024", 8)])
def test_lenets_take_other_images(name, size):
    """A LeNet built for another image size and other channels takes such images."""
    model = build(name, channels=3, size=size)

    assert model(torch.zeros(1, 3, size, size)).shape == (1, 10)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("lenet5", {"activation": "swish"}, "no activation is named 'swish'; choose one of: relu, tanh"),
        ("lenet5", {"size": 8}, "an input of 8x8 pixels leaves nothing"),
        ("lenet5", {"classes": 0}, "classes is 0, but a network needs at least 1"),
        ("uci-custom", {"channels": 0}, "channels is 0, but a network needs at least 1"),
        ("resnet", {"stages": 2, "blocks": [1, 2, 3]}, r"2 stages with blocks=\[1, 2, 3\] cannot be built"),
        ("resnet", {"blocks": 0}, "3 stages with blocks=0 cannot be built"),
        ("resnet", {"bottleneck": True}, "a block of 2 convolutions is too short; it needs at least 3"),
    ],
)
def test_impossible_networks_are_refused(name, arguments, message):
    """Arguments that make no network are refused with the number that is wrong."""
    with pytest.raises(ModelError, match=message):
        build(name, **arguments)
