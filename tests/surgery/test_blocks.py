"""Removing whole blocks equals having all of their parameters zero, costs are as forecast, and everything else follows."""

import copy

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.strategies import random_plan, residual_networks
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import secateur
from secateur.channels import Block, Channels, PassThrough
from secateur.errors import ModelError
from secateur.networks import build
from secateur.plan import Macs, Plan, plan_for
from secateur.surgery.blocks import BLOCKS
from secateur.testing import check_cut, cost_of, outputs_of, randomise

X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def watched(model: nn.Module, x: Tensor) -> tuple[Channels, tuple[Block, ...]]:
    channels = secateur.watch(model, x)
    return channels, secateur.blocks(model, channels, x)


def resnet() -> nn.Module:
    return randomise(build("resnet20", seed=0), 1)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(case=residual_networks(), data=st.data())
def test_removing_equals_zero_parameters(case, data):
    """Whichever blocks go, with or without channels besides, the network computes what it does with these at zero."""
    net, names = case
    channels, found = watched(net.model, net.x)
    assert tuple(block.name for block in found) == names

    gone = [block for block in found if data.draw(st.booleans(), label=block.name)]
    changes = random_plan(channels, ratio=0.5, seed=0).changes

    check_cut(net.model, net.x, secateur.plan_blocks(channels, gone))
    check_cut(net.model, net.x, plan_for(channels, changes, blocks=gone))


@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.too_slow])
@given(case=residual_networks(), share=st.sampled_from([0.3, 0.6, 0.9]))
def test_where_nothing_is_left_inside_the_block_goes(case, share):
    """Ranked together, units may take their blocks along; the law and the forecast hold, and what is left goes on being cut."""
    net, _ = case
    channels, found = watched(net.model, net.x)
    scores = secateur.score(net.model, channels, "random")

    plan = secateur.plan(channels, scores, remove=share, scope="global", blocks=found)
    check_cut(net.model, net.x, plan)

    small = secateur.apply(net.model, plan)
    again, rest = watched(small, net.x)
    expected = {block.name for block in found} - {block.name for block in plan.blocks}
    # what the input of a rectified one shows depends on what is left before it
    differing = expected ^ {block.name for block in rest}
    assert all(net.model.get_submodule(name).kind == "rectified" for name in differing)
    check_cut(small, net.x, secateur.plan_blocks(again, rest))


ZOO = {
    "resnet18": (64, 5), "resnet50": (64, 12), "mobilenet_v2": (64, 10), "mobilenet_v3_small": (64, 6),
    "efficientnet_b0": (64, 9), "convnext_tiny": (64, 18), "densenet121": (64, 0), "swin_t": (32, 12),
}  # fmt: skip


@pytest.mark.parametrize("name", ZOO)
def test_the_zoo_loses_blocks_exactly(name):
    """Of torchvision's networks all blocks, some with channels, and some within a budget go exactly."""
    models = pytest.importorskip("torchvision.models", exc_type=ImportError)
    size, count = ZOO[name]
    model, x = randomise(getattr(models, name)(num_classes=10), 1), torch.randn(2, 3, size, size)
    channels, found = watched(model, x)
    assert len(found) == count
    if not found:
        return
    scores = secateur.score(model, channels, "l2")

    check_cut(model, x, secateur.plan_blocks(channels, found))
    check_cut(model, x, secateur.plan(channels, scores, remove=0.5, without=found[::2]))
    check_cut(model, x, secateur.plan(channels, scores, budget=Macs(at_most=0.5), blocks=found))


def vit() -> tuple[nn.Module, Tensor]:
    models = pytest.importorskip("torchvision.models", exc_type=ImportError)
    model = models.VisionTransformer(
        image_size=16, patch_size=4, num_layers=3, num_heads=2, hidden_dim=16, mlp_dim=24, num_classes=5
    )
    return randomise(model, 1), torch.randn(2, 3, 16, 16)


def test_a_vision_transformer_loses_layers():
    """The layers of a small vision transformer are blocks, one by one and all at once."""
    model, x = vit()
    channels, found = watched(model, x)
    assert [block.kind for block in found] == ["EncoderBlock"] * 3

    for gone in (found[:1], found[1:], found):
        check_cut(model, x, secateur.plan_blocks(channels, gone))


@pytest.mark.parametrize("inplace", [False, True])
def test_places_and_names_stay(inplace):
    """The block's place holds an identity in its mode, the other modules and their hooks are where they were."""
    model = resnet().train()
    channels, found = watched(model, X)
    calls: list[str] = []
    model.stages[1][1].register_forward_hook(lambda *_: calls.append("kept"))
    model.stages[0][1].register_forward_hook(lambda *_: calls.append("gone"))
    before = copy.deepcopy(model)

    small = secateur.apply(model, secateur.plan_blocks(channels, [found[1]]), inplace=inplace)

    assert (small is model) == inplace
    assert type(small.stages[0][1]) is nn.Identity
    assert small.stages[0][1].training
    assert len(small.stages[0]) == 3
    gone = {name for name, _ in before.named_parameters()} - {name for name, _ in small.named_parameters()}
    assert gone == {name for name, _ in before.named_parameters() if name.startswith("stages.0.1.")}
    outputs_of(small, X)
    assert calls == ["kept"]
    if not inplace:
        assert len(outputs_of(model, X)) == 1
        assert calls == ["kept", "gone", "kept"]


class Mixed(nn.Module):
    """Blocks held in an attribute, a plain list, a tuple in a dictionary, and called with a mask by its name."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Masked()
        self.second = Masked()
        self.order = [self.first]
        self.more = {"later": (self.second,)}
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.order[0](x, None)
        return self.head(self.more["later"][0](mask=torch.ones(1, 4, dtype=x.dtype), x=x))


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        y = self.down(self.up(x).relu())
        return x + (y if mask is None else y * mask)


@pytest.mark.parametrize("inplace", [False, True])
def test_further_arguments_are_ignored(inplace):
    """A block called with a mask leaves a module that takes it and ignores it, wherever the network holds the block."""
    model, x = randomise(Mixed()).double(), torch.randn(3, 4, dtype=torch.float64)
    channels, found = watched(model, x)
    assert [block.name for block in found] == ["first"]  # of the second, the mask comes first

    plan = secateur.plan_blocks(channels, found)
    check_cut(model, x, plan)
    small = secateur.apply(model, plan, inplace=inplace)

    assert isinstance(small.first, PassThrough)
    assert small.order[0] is small.first
    assert small.more["later"][0] is small.second


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.AdamW])
def test_the_optimiser_lets_go_of_what_left(make, inplace):
    """Parameters of the block leave the optimiser with their state, the others keep theirs, and training goes on."""
    model = resnet()
    channels, found = watched(model, X)
    options = {"momentum": 0.9} if make is torch.optim.SGD else {}
    inside = [p for n, p in model.named_parameters() if n.startswith("stages.0.1.")]
    ids = {id(p) for p in inside}
    rest = [p for p in model.parameters() if id(p) not in ids]
    optimizer = make([{"params": rest}, {"params": inside, "lr": 0.5}], lr=0.01, **options)
    step(model, optimizer)

    plan = secateur.plan(
        channels,
        secateur.score(model, channels, "l1"),
        remove=0.5,
        without=[b for b in found if b.name == "stages.0.1"],
    )
    small = secateur.apply(model, plan, optimizer=optimizer, inplace=inplace)

    held = [p for settings_ in optimizer.param_groups for p in settings_["params"]]
    assert {id(p) for p in held} == {id(p) for p in small.parameters()}
    assert {id(p) for p in optimizer.state} == {id(p) for p in small.parameters()}
    assert optimizer.param_groups[1]["params"] == []
    before = [p.detach().clone() for p in small.parameters()]
    step(small, optimizer)
    assert all(not torch.equal(old, new) for old, new in zip(before, small.parameters(), strict=True))


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model.train()(X).square().sum().backward()
    optimizer.step()


def test_an_optimiser_that_cannot_follow_is_refused():
    """L-BFGS keeps one history for all parameters, so it cannot lose some; nothing has changed then."""
    model = resnet()
    channels, found = watched(model, X)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=1e-4, max_iter=2)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = model(X).square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)

    with pytest.raises(ModelError, match="LBFGS"):
        secateur.apply(model, secateur.plan_blocks(channels, found[:1]), optimizer=optimizer, inplace=True)
    assert not hasattr(model, BLOCKS)


def test_averages_and_wrappers_go_along():
    """A moving average loses the same block, and a wrapped network is wrapped again."""
    model = resnet().eval()
    channels, found = watched(model, X)
    average = AveragedModel(model)

    small = secateur.apply(
        nn.DataParallel(model), secateur.plan_blocks(channels, found[:2]), averages=average
    )

    assert isinstance(small, nn.DataParallel)
    assert torch.equal(small.module(X), average.module.eval()(X))
    assert type(average.module.stages[0][1]) is nn.Identity


class Tied(nn.Module):
    """Two blocks that share a weight, one of which shares a bias with what stays."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Branch(), Branch()
        self.second.up.weight = self.first.up.weight
        self.head = nn.Linear(4, 4)
        self.head.bias = self.first.down.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x)))


class Branch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.up(x).relu())


def test_shared_tensors_go_with_the_last_that_holds_them():
    """What is shared between blocks goes with the last of them, what others hold stays; the forecast knows."""
    model, x = randomise(Tied()), torch.randn(3, 4)
    channels, found = watched(model, x)
    assert [block.name for block in found] == ["first", "second"]

    for gone in (found[:1], found[1:], found):
        plan = secateur.plan_blocks(channels, gone)
        small = secateur.apply(model, plan)
        assert cost_of(small, x) == plan.after
    assert small.head.bias is not None
    assert plan.after.parameters == 20


def test_blocks_go_one_after_the_other():
    """A second plan on the shallower network removes more, a plan for the deeper one is refused, and the record adds up."""
    model = resnet()
    channels, found = watched(model, X)
    small = secateur.apply(model, secateur.plan_blocks(channels, found[:1]))
    again, rest = watched(small, X)
    smaller = secateur.apply(small, secateur.plan_blocks(again, rest[-1:]))

    assert getattr(smaller, BLOCKS) == [
        {"name": "stages.0.0", "alone": True},
        {"name": "stages.2.2", "alone": True},
    ]
    assert len(watched(smaller, X)[1]) == len(found) - 2
    with pytest.raises(secateur.errors.PlanError, match="another network"):
        secateur.apply(small, secateur.plan_blocks(channels, found[1:2]))


def test_plans_with_blocks_are_kept_as_text():
    """A plan that removes blocks and channels is the same after JSON, and cuts the same."""
    model = resnet().eval()
    channels, found = watched(model, X)
    plan = secateur.plan(channels, secateur.score(model, channels, "l1"), remove=0.5, without=found[2:4])

    again = Plan.from_json(plan.to_json())

    assert again.to_json() == plan.to_json()
    assert again.blocks == plan.blocks
    assert torch.equal(secateur.apply(model, plan)(X), secateur.apply(model, again)(X))
