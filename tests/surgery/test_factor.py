"""Layers replaced by smaller ones: what they compute, what they cost, and that the network goes on as any other."""

import copy

import pytest
import torch
from torch import nn

import secateur
from secateur.cost import CostModel
from secateur.errors import PlanError
from secateur.plan import FactorPlan, Parameters, plan_factors, plan_replacements
from secateur.plan.decompose import balanced, composed, decomposed, energy
from secateur.surgery import Fire, Shift, factor
from secateur.surgery.modules import fill, stand_in

GEOMETRIES = [
    {},
    {"stride": 2, "padding": 1},
    {"padding": 2, "dilation": 2},
    {"padding": "same"},
    {"padding": 1, "padding_mode": "reflect", "bias": False},
    {"kernel_size": (3, 1), "padding": (1, 0), "stride": (1, 2)},
]
X = torch.randn(3, 6, 11, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def conv(weight: torch.Tensor | None = None, **options) -> nn.Conv2d:
    """A convolution from 6 to 8 channels in double precision, with weights given as ``[o, c, k]``."""
    layer = nn.Conv2d(6, 8, **{"kernel_size": 3, **options}).double()
    with torch.no_grad():
        if weight is not None:
            layer.weight.copy_(weight.reshape(layer.weight.shape))
        else:
            layer.weight.copy_(noise(*layer.weight.shape))
        if layer.bias is not None:
            layer.bias.copy_(noise(8, seed=1))
    return layer


def replaced(layer: nn.Module, kind: str, sizes: tuple[int, ...] = ()) -> nn.Module:
    weight = layer.weight.detach()
    kernel = weight.flatten(2) if weight.dim() > 2 else weight[:, :, None]
    made = stand_in(layer, kind, sizes)
    fill(made, kind, decomposed(kernel, kind, sizes), None if layer.bias is None else layer.bias.detach())
    return made


def window_of(options: dict) -> int:
    return int(torch.tensor(options.get("kernel_size", (3, 3))).prod())


def same(a: nn.Module, b: nn.Module, x: torch.Tensor = X) -> None:
    torch.testing.assert_close(a(x), b(x), rtol=0, atol=1e-10)


@pytest.mark.parametrize("options", GEOMETRIES, ids=str)
def test_nothing_is_lost_at_full_rank(options):
    """A convolution whose unfoldings have the ranks that are taken is replaced exactly, whatever its stride, padding and dilation."""
    core = noise(5, 4, window_of(options), seed=2)
    weight = torch.einsum("oa,abk,bc->ock", noise(8, 5, seed=3), core, noise(4, 6, seed=4))
    layer = conv(weight, **options)

    same(layer, replaced(layer, "tucker", (4, 5)))
    same(layer, replaced(layer, "tucker", (6, 5)))
    same(layer, replaced(layer, "tucker", (4, 8)))
    same(layer, replaced(layer, "tucker", (6, 8)))


@pytest.mark.parametrize("shape", [(7, 4), (4, 7)])
def test_a_dense_layer_at_full_rank_is_itself(shape):
    """Nothing of a dense layer is lost at full rank, on inputs with any number of axes."""
    layer = nn.Linear(*shape).double()

    same(layer, replaced(layer, "svd", (4,)), noise(2, 3, shape[0]))


def test_a_convolution_without_a_window_is_a_dense_layer():
    """A 1x1 convolution with stride and padding becomes two of them."""
    layer = conv(kernel_size=1, stride=2, padding=1)

    same(layer, replaced(layer, "svd", (6,)))


@pytest.mark.parametrize(
    "layer", [nn.Conv1d(6, 8, 3, padding=1, stride=2), nn.Conv3d(6, 8, 3, padding=1)], ids=str
)
def test_other_dimensions(layer):
    """Convolutions of one and three dimensions are replaced, too."""
    layer = layer.double()
    x = noise(2, 6, *[5] * (layer.weight.dim() - 2))

    kernel = layer.weight.detach().flatten(2)
    made = replaced(layer, "tucker", (4, 5))
    exact = copy.deepcopy(layer)
    parts = decomposed(kernel, "tucker", (4, 5))
    exact.weight.data.copy_(composed("tucker", parts, kernel.shape[2]).reshape(layer.weight.shape))
    same(exact, made, x)


def test_an_svd_loses_the_dropped_singular_values():
    """The error of rank r is the norm of the singular values that go (Eckart and Young), and no rank-r product is nearer."""
    matrix = noise(9, 7)
    values = torch.linalg.svdvals(matrix)
    for rank in range(1, 8):
        made = composed("svd", decomposed(matrix[:, :, None], "svd", (rank,)), 1)[:, :, 0]

        assert float((matrix - made).norm()) == pytest.approx(float(values[rank:].norm()), abs=1e-12)
        other = noise(9, rank, seed=rank) @ torch.linalg.lstsq(noise(9, rank, seed=rank), matrix).solution
        assert (matrix - made).norm() <= (matrix - other).norm() + 1e-12


def test_the_error_of_tucker_falls_with_each_rank():
    """A higher rank on either side loses less, and never more than both truncated unfoldings (De Lathauwer)."""
    kernel = noise(8, 6, 9)
    tails = [torch.linalg.svdvals(kernel.movedim(axis, 0).flatten(1)).square() for axis in (1, 0)]
    lost = torch.tensor(
        [
            [
                1 - energy(kernel, composed("tucker", decomposed(kernel, "tucker", (r, s)), 9))
                for s in range(1, 9)
            ]
            for r in range(1, 7)
        ],
        dtype=torch.float64,
    )
    bound = torch.tensor(
        [[float(tails[0][r:].sum() + tails[1][s:].sum()) for s in range(1, 9)] for r in range(1, 7)],
        dtype=torch.float64,
    )

    assert (lost.diff(dim=0) < 1e-9).all()
    assert (lost.diff(dim=1) < 1e-9).all()
    assert (lost <= bound / float(kernel.square().sum()) + 1e-9).all()
    assert lost[-1, -1] == pytest.approx(0, abs=1e-12)


def test_iterating_is_better_than_truncating():
    """Alternating loses less than the two truncated SVDs by themselves, from which it starts."""
    kernel = noise(8, 6, 9)
    left, right = (torch.linalg.svd(kernel.movedim(a, 0).flatten(1)).U[:, :2] for a in (0, 1))
    truncated = torch.einsum("ock,oa,cb->abk", kernel, left, right).square().sum() / kernel.square().sum()

    assert (
        energy(kernel, composed("tucker", decomposed(kernel, "tucker", (2, 2)), 9)) > float(truncated) + 1e-4
    )


@pytest.mark.parametrize("options", GEOMETRIES, ids=str)
def test_what_is_separable_is_replaced_exactly(options):
    """A convolution of rank one in each input channel is a depthwise one and 1x1."""
    weight = noise(8, 6, seed=2)[:, :, None] * noise(6, window_of(options), seed=3)
    layer = conv(weight, **options)

    same(layer, replaced(layer, "depthwise-separable"))


@pytest.mark.parametrize("options", GEOMETRIES, ids=str)
def test_what_is_a_shift_is_replaced_exactly(options):
    """A convolution that reads each channel at one position of the window is a shift and 1x1."""
    window = window_of(options)
    place = torch.arange(6) * 2 % window
    weight = noise(8, 6, seed=2)[:, :, None] * nn.functional.one_hot(place, window)
    layer = conv(weight, **options)

    same(layer, replaced(layer, "shift"))


@pytest.mark.parametrize(
    "options", [{"padding": 1}, {"padding": 1, "stride": 2}, {"padding": "same"}], ids=str
)
def test_what_is_a_fire_module_is_replaced_exactly(options):
    """A convolution whose first half reads only centres of few combinations of the channels is a fire module."""
    squeeze, expand = noise(3, 6, seed=2), noise(8, 3, 9, seed=3)
    expand[:4, :, [0, 1, 2, 3, 5, 6, 7, 8]] = 0
    layer = conv(torch.einsum("osk,sc->ock", expand, squeeze), **options)

    same(layer, replaced(layer, "fire", (3,)))


CASES = [
    ("svd", (3,)),
    ("tucker", (3, 4)),
    ("tucker", (6, 4)),
    ("depthwise-separable", ()),
    ("shift", ()),
    ("fire", (3,)),
]


def error_on(layer: nn.Module, made: nn.Module, x: torch.Tensor) -> float:
    with torch.no_grad():
        return float((layer(x) - made(x)).square().mean())


@pytest.mark.parametrize(("kind", "sizes"), CASES)
def test_no_factor_can_be_better(kind, sizes):
    """On the weights, moving any factor in any direction loses more."""
    kernel = noise(8, 6, 1 if kind == "svd" else 9)
    parts = decomposed(kernel, kind, sizes)
    best = energy(kernel, composed(kind, parts, kernel.shape[2]))
    for name, part in parts.items():
        for seed in range(5):
            moved = {**parts, name: part + 0.05 * noise(*part.shape, seed=seed)}
            if name != "shift":
                assert energy(kernel, composed(kind, moved, kernel.shape[2])) < best


@pytest.mark.parametrize(("kind", "sizes"), CASES)
@pytest.mark.parametrize("bias", [True, False])
def test_on_data_no_factor_can_be_better(kind, sizes, bias):
    """Where data are given the outputs are nearest: better than the weights' factors, and moving any factor loses more."""
    window = {"kernel_size": 1} if kind == "svd" else {"padding": 1, "stride": 2}
    layer = conv(bias=bias, **window)
    x = (
        torch.einsum("nchw,cd->ndhw", noise(16, 6, 8, 8), noise(6, 6, seed=5)) + 1.0
    )  # channels that vary together
    model = nn.Sequential(layer)
    plan = by_hand(model, kind, sizes, x)

    plain, made = (factor(model, plan, data=data)[0] for data in (None, [(x[:9], None), (x[9:], None)]))

    best = error_on(layer, made, x)
    assert best < error_on(layer, plain, x) * (1 - 1e-6)
    for _, parameter in made.named_parameters():
        for seed in range(3):
            before = parameter.detach().clone()
            parameter.data += 0.01 * float(before.norm()) * noise(*parameter.shape, seed=seed)
            assert error_on(layer, made, x) > best
            parameter.data.copy_(before)


def by_hand(model: nn.Module, kind: str, sizes: tuple[int, ...], x: torch.Tensor) -> FactorPlan:
    """A plan for the layer "0" at these sizes."""
    if kind in ("svd", "tucker"):
        return plan_factors(model, x, rank={"0": sizes if len(sizes) > 1 else sizes[0]})
    return plan_replacements(model, x, kind=kind, squeeze=(sizes or (3,))[0] / 8)


def test_on_data_what_is_exact_stays_exact():
    """A separable convolution is replaced exactly on data, too, also where its inputs hardly vary."""
    layer = conv(noise(8, 6, seed=2)[:, :, None] * noise(6, 9, seed=3), padding=1)
    x = X.clone()
    x[:, 2:] = 0.5
    for kind in ("depthwise-separable",):
        made = factor(
            nn.Sequential(layer), plan_replacements(nn.Sequential(layer), x, kind=kind), data=[(x, None)]
        )
        same(layer, made)


class Net(nn.Module):
    """Convolutions with and without a window or bias, of which one runs twice, norms, dense layers, and a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1, stride=2)
        self.norm = nn.BatchNorm2d(12)
        self.twice = nn.Conv2d(12, 12, 3, padding=1, bias=False)
        self.wide = nn.Conv2d(12, 20, 1)
        self.dense = nn.Linear(20 * 16, 30)
        self.out = nn.Linear(30, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.stem(x)).relu()
        x = x + self.twice(self.twice(x).relu())
        x = nn.functional.max_pool2d(self.wide(x).relu(), 2)
        return self.out(self.dense(x.flatten(1)).relu())


IMAGE = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def net(seed: int = 0) -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Net().eval()


PLANS = {
    "rank": lambda model: plan_factors(model, IMAGE, rank=5),
    "energy": lambda model: plan_factors(model, IMAGE, energy=0.6),
    "budget": lambda model: plan_factors(model, IMAGE, budget=Parameters(at_most=0.4)),
    "one-sided": lambda model: plan_factors(model, IMAGE, rank={"stem": (3, 4), "twice": (4, 12)}),
    "depthwise-separable": lambda model: plan_replacements(model, IMAGE, kind="depthwise-separable"),
    "shift": lambda model: plan_replacements(model, IMAGE, kind="shift"),
    "fire": lambda model: plan_replacements(model, IMAGE, kind="fire", squeeze=0.25),
}


@pytest.mark.parametrize("name", PLANS)
def test_what_was_forecast_is_what_there_is(name):
    """The plan's parameters, buffers, multiply-adds and bytes are those of the network that it makes."""
    model = net()
    plan = PLANS[name](model)

    made = factor(model, plan)

    assert CostModel(secateur.watch(model, IMAGE)).total() == plan.before
    assert CostModel(secateur.watch(made, IMAGE)).total() == plan.after
    assert plan.after.parameters == sum(p.numel() for p in made.parameters()) < plan.before.parameters


@pytest.mark.parametrize("name", PLANS)
def test_what_was_replaced_can_be_cut(name):
    """Ranks are groups of channels: a factored network is watched, cut as forecast, and cutting equals not reading."""
    made = factor(net(), PLANS[name](net()))
    channels = secateur.watch(made, IMAGE)
    inner = {
        "rank": "stem.core",
        "energy": "dense.first",
        "budget": "dense.first",
        "one-sided": "twice.first",
        "fire": "twice.squeeze",
    }
    names = [group.name for group in channels.groups]
    assert inner.get(name, "stem.pointwise") in names

    plan = secateur.plan(channels, secateur.score(made, channels, "l1"), remove=0.5)
    small = secateur.apply(made, plan)

    assert CostModel(secateur.watch(small, IMAGE)).total() == plan.after
    torch.testing.assert_close(small(IMAGE), unread(made, plan)(IMAGE), rtol=1e-4, atol=1e-5)


def unread(model: nn.Module, plan: secateur.plan) -> nn.Module:
    """The network with the readers' columns of removed units at zero."""
    masked = copy.deepcopy(model)
    for group, change in zip(plan.groups, plan.changes, strict=True):
        for member in group.by_role("read"):
            weight = masked.get_parameter(member.tensor)
            weight.data.index_fill_(member.axis, torch.as_tensor(member.indices[change.removed].ravel()), 0)
    return masked


def test_the_given_network_is_left_alone():
    """Not in place the network keeps its layers, weights, and the random state; in place the network itself is changed."""
    model = net()
    plan = PLANS["rank"](model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()

    made = factor(model, plan)

    assert made is not model
    assert torch.equal(torch.get_rng_state(), state)
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not {id(p) for p in made.parameters()} & {id(p) for p in model.parameters()}
    assert factor(model, plan, inplace=True) is model
    torch.testing.assert_close(model(IMAGE), made(IMAGE))


def test_mode_format_and_frozen_weights_are_kept():
    """Factors are in the mode, number and memory format of the layer, and frozen where it was."""
    model = net().double().train().to(memory_format=torch.channels_last)
    model.stem.requires_grad_(requires_grad=False)
    made = factor(model, plan_factors(model, IMAGE.double(), rank=4))

    assert made.stem.training
    assert made.stem.core.weight.dtype == torch.float64
    assert made.twice.core.weight.is_contiguous(memory_format=torch.channels_last)
    assert not any(p.requires_grad for p in made.stem.parameters())
    assert all(p.requires_grad for p in made.twice.parameters())


def test_a_shift_has_nothing_to_train():
    """The fixed kernel is a buffer with a single one for each channel."""
    made = factor(net(), PLANS["shift"](net()))

    assert isinstance(made.stem.shift, Shift)
    assert [name for name, _ in made.stem.named_parameters()] == ["pointwise.weight", "pointwise.bias"]
    assert torch.equal(made.stem.shift.weight.sum((1, 2, 3)), torch.ones(3))
    assert isinstance(factor(net(), PLANS["fire"](net())).stem, Fire)


def test_a_plan_of_another_network_is_refused():
    """A plan fits one structure; a network whose layer is of another class is refused, too."""
    plan = PLANS["rank"](net())
    with pytest.raises(PlanError, match="made for another network"):
        factor(nn.Sequential(nn.Linear(3, 3)), plan)
    again = factor(net(), plan)
    with pytest.raises(PlanError, match="made for another network"):
        factor(again, plan)

    class Other(nn.Conv2d):
        pass

    strange = net()
    strange.stem.__class__ = Other
    with pytest.raises(PlanError, match="is a Other"):
        factor(strange, plan)


def test_a_layer_in_two_places_is_replaced_in_both():
    """A module that the network holds under two names is one layer, and stays one."""
    layer = nn.Linear(16, 16)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    plan = plan_factors(model, torch.zeros(1, 16), rank=2)

    made = factor(model, plan)

    assert made[0] is made[2]
    assert CostModel(secateur.watch(made, torch.zeros(1, 16))).total() == plan.after


def test_a_wrapped_network_comes_back_wrapped():
    """Inside of an average of weights the network is replaced, and the wrapper stays."""
    model = torch.optim.swa_utils.AveragedModel(net())
    made = factor(model, plan_factors(model, IMAGE, rank=4))

    assert isinstance(made, torch.optim.swa_utils.AveragedModel)
    assert isinstance(made.module.stem, nn.Sequential)


@pytest.mark.parametrize(("kind", "sizes"), CASES)
def test_factors_are_balanced(kind, sizes):
    """What writes a channel between two factors and what reads it have one norm, and the product is the same."""
    kernel = noise(8, 6, 1 if kind == "svd" else 9)
    kernel[:, 2] = 0  # a channel of which nothing is written
    parts = decomposed(kernel, kind, sizes)

    made = balanced(kind, parts)

    torch.testing.assert_close(composed(kind, made, kernel.shape[2]), composed(kind, parts, kernel.shape[2]))
    names = list(made)
    if len(names) == 2 and kind != "shift":
        writes, reads = (
            made[names[0]].flatten(1).norm(dim=1),
            made[names[1]].transpose(0, 1).flatten(1).norm(dim=1),
        )
        torch.testing.assert_close(writes, reads)


def test_factors_of_factors():
    """A factor is a layer as any other and can be factored again."""
    once = factor(net(), plan_factors(net(), IMAGE, rank={"dense": 16}))
    twice = factor(once, plan_factors(once, IMAGE, rank={"dense.first": 4}))

    assert isinstance(twice.dense.first, nn.Sequential)
    assert twice(IMAGE).shape == (2, 4)
