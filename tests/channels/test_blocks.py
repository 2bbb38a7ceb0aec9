"""Blocks are found by what they do: with nothing in the branch, the input comes out."""

import copy

import pytest
import torch
from tests.strategies import Skip, Twice
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import secateur
from secateur.channels import PassThrough, tensors_gone
from secateur.channels.pass_through import put_in
from secateur.cost import CostModel
from secateur.errors import ModelError, SettingsError, WatchError
from secateur.networks import build
from secateur.testing import check_cut, check_left_as_found, randomise

X = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))


def branch(inner: int = 6) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(4, inner, 3, padding=1), nn.ReLU(), nn.Conv2d(inner, 4, 1))


def skip(kind: str = "plain") -> Skip:
    return Skip(kind, branch(), branch(5))


def network(*blocks: nn.Module) -> nn.Sequential:
    return randomise(nn.Sequential(nn.Conv2d(4, 4, 1), *blocks, nn.Conv2d(4, 2, 1)))


def found_in(model: nn.Module, x: object = X, **options: object) -> tuple:
    return secateur.blocks(model, secateur.watch(model, x), x, **options)


def names_in(model: nn.Module, x: object = X) -> list[str]:
    return [block.name for block in found_in(model, x)]


def test_a_block_knows_what_goes_with_it():
    """Its inner groups, its parameters and its multiply-adds are those that the network loses."""
    model = network(skip(), nn.BatchNorm2d(4))
    channels = secateur.watch(model, X)
    (block,) = secateur.blocks(model, channels, X)

    inside = sum(p.numel() for p in model[1].branch.parameters()) + sum(
        p.numel() for p in model[1].other.parameters()
    )
    assert (block.name, block.kind, block.alone) == ("1", "Skip", True)
    assert block.groups == block.closed_by[0] == ("1.branch.0",)
    assert block.parameters == inside
    assert block.macs == 36 * (4 * 6 * 9 + 6 * 4)
    less = CostModel(channels).kept({}, without=[block])
    assert less.parameters == sum(p.numel() for p in model.parameters()) - inside
    assert less.macs == 36 * (4 * 4 + 4 * 2)
    assert repr(block) == f"Block('1', Skip: {inside} parameters, 8,640 MACs)"


class Down(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.branch, self.shortcut = branch(), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.branch(x) + self.shortcut(x)


class Dense(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.branch = branch()

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x[:, :2], self.branch(x)[:, 2:]], 1)


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.branch = branch()

    def forward(self, x: Tensor) -> tuple[Tensor, int]:
        return x + self.branch(x), 1


class Fussy(nn.Module):
    """Fails without its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = branch()

    def forward(self, x: Tensor) -> Tensor:
        if not self.branch[0].weight.is_meta and not self.branch[0].weight.any():
            raise ValueError("no weights")
        return x + self.branch(x)


class Positions(nn.Module):
    """Adds what does not depend on its input."""

    def __init__(self, copies: int = 1) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(copies, 4, 6, 6))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.table.sum(0)


@pytest.mark.parametrize(
    "other",
    [
        Down(),
        Dense(),
        nn.Sequential(Two(), nn.Identity())[0:1],
        branch(),
        nn.BatchNorm2d(4),
        nn.Identity(),
        Fussy(),
        Positions(),
    ],
    ids=[
        "projected",
        "concatenated",
        "two outputs",
        "no skip",
        "norm",
        "no parameters",
        "fussy",
        "positions",
    ],
)
def test_what_does_not_hand_its_input_on_is_no_block(other):
    """A projection, a concatenation, several outputs, a plain branch, a norm, a constant that is added: none is a residual branch."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.part, self.head = nn.Conv2d(4, 4, 1), copy.deepcopy(other), nn.Conv2d(4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            out = self.part(self.stem(x))
            return self.head(out[0] if isinstance(out, tuple) else out)

    assert names_in(randomise(Net())) == []


def test_the_innermost_is_the_block():
    """Neither a stage of blocks nor a wrapper is one."""
    assert names_in(network(nn.Sequential(nn.Sequential(skip()), skip()))) == ["1.0.0", "1.1"]


def test_a_block_may_hold_a_small_one():
    """What does most of its multiply-adds outside of the blocks in it is a block itself, and these go with it."""

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.position = Skip("plain", nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.Identity())
            self.branch = branch()

        def forward(self, x: Tensor) -> Tensor:
            x = self.position(x)
            return x + self.branch(x)

    net = network(Outer(), nn.Sequential(Skip("plain", nn.Conv2d(4, 4, 1), nn.Identity()), nn.BatchNorm2d(4)))
    assert names_in(net) == ["1", "2.0"]


def test_a_stage_with_a_table_of_places_is_none():
    """A stage whose own part only adds constants, however many, consists of its blocks."""
    assert names_in(network(nn.Sequential(Positions(4), skip(), skip()))) == ["1.1", "1.2"]


def test_what_is_called_twice_is_no_block():
    """A module that runs at two places stays at both."""
    assert names_in(network(Twice(skip()), skip())) == ["2"]


def test_a_rectified_sum_is_a_block_behind_a_rectifier_only():
    """relu(x + f(x)) hands x on where x is rectified, and zeros in x show it."""
    assert names_in(network(skip("rectified"))) == []
    assert names_in(network(nn.ReLU(), skip("rectified"), skip("rectified"))) == ["2", "3"]
    assert names_in(network(nn.Softplus(), skip("rectified"))) == []


def test_an_input_of_zeros_tells_nothing():
    """A module that is only given zeros gives zeros without weights, too, and yet it is no block."""

    class Dead(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 0

    net = nn.Sequential(
        nn.Conv2d(4, 4, 1), Dead(), nn.Sequential(nn.Conv2d(4, 4, 1, bias=False)), nn.Conv2d(4, 2, 1)
    )
    assert names_in(net) == []


@pytest.mark.parametrize("example", [torch.zeros(2, 4, 6, 6), torch.ones(2, 4, 6, 6).double()])
def test_the_examples_values_do_not_matter(example):
    """An example of one number repeated, as for watching, finds the same blocks."""
    model = network(nn.BatchNorm2d(4), nn.ReLU(), skip("rectified"), branch(), skip())

    assert names_in(model, example) == names_in(model) == ["3", "5"]


def test_a_fresh_branch_closes_nothing_by_itself():
    """Weights that start at zero make no group the one through which the branch runs."""
    block = Skip("two branches", branch(), branch(5))
    nn.init.zeros_(block.branch[2].weight)
    nn.init.zeros_(block.other[2].weight)
    net = nn.Sequential(nn.Conv2d(4, 4, 1), block, nn.Conv2d(4, 2, 1))
    (found,) = found_in(net)

    assert set(found.groups) == {"1.branch.0", "1.other.0"}
    assert [set(names) for names in found.closed_by] == [set(found.groups)]


def test_a_gate_does_not_close_the_branch():
    """Where nothing is left of a gate's inner width, the gate is constant and the branch goes on; so the branch decides."""
    net = randomise(
        nn.Sequential(nn.Conv2d(4, 4, 1), skip("gated"), nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 2, 1))
    )
    (found,) = found_in(net)

    assert found.groups == ("1.branch.0", "1.other.0")
    assert found.closed_by == (("1.branch.0",),)


@pytest.mark.parametrize("made", [parametrizations.weight_norm, nn.utils.weight_norm])
@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")
def test_weight_norm_is_no_obstacle(made):
    """A branch of weight-normed layers can be switched off, though their directions cannot be zero."""
    made_branch = nn.Sequential(made(nn.Conv2d(4, 6, 3, padding=1)), nn.ReLU(), made(nn.Conv2d(6, 4, 1)))
    net = nn.Sequential(nn.Conv2d(4, 4, 1), Skip("plain", made_branch, nn.Identity()), nn.Conv2d(4, 2, 1))

    assert names_in(net) == ["1"]


def test_recurrent_and_attention_branches_are_blocks():
    """What else runs in a branch does not matter."""

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.GRU(6, 6, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.inner(x)[0]

    layer = nn.TransformerEncoderLayer(6, 2, 8, batch_first=True, norm_first=True)
    after = nn.TransformerEncoderLayer(6, 2, 8, batch_first=True)
    net = nn.Sequential(Recurrent(), layer, after, nn.Linear(6, 2))

    assert names_in(net, torch.randn(2, 5, 6)) == ["0", "1"]


def test_what_the_network_asks_of_a_block_keeps_it():
    """A block stays whose attributes the network's own code reads; the others go."""
    layer = nn.TransformerEncoderLayer(6, 2, 8, batch_first=True, norm_first=True)
    net = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)

    assert names_in(net, torch.randn(2, 5, 6)) == ["layers.1", "layers.2"]


class Cached(nn.Module):
    """Gives its blocks a list that they extend."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList([Remembers(), Remembers()])
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        seen: list[Tensor] = []
        for part in self.parts:
            x = part(x, seen)
        return self.head(x) if len(seen) < 3 else 1 / 0


class Remembers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.branch = branch()

    def forward(self, x: Tensor, seen: list[Tensor]) -> Tensor:
        seen.append(x)
        return x + self.branch(x)


def test_trials_do_not_touch_what_the_network_passes_on():
    """What a module is given is copied for each trial, so that a cache does not grow."""
    found = found_in(randomise(Cached()))

    assert [(block.name, block.alone) for block in found] == [("parts.0", False), ("parts.1", False)]


def test_a_block_that_is_given_a_list_hands_on_its_first_tensor():
    """Where the tensor lies in a list, what takes the block's place finds it there; what cannot be copied is not tried."""

    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.part, self.head = nn.Conv2d(4, 4, 1), Inner(), nn.Conv2d(4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.part([self.stem(x)]))

    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.branch = branch()

        def forward(self, given: list[Tensor], more: object = None) -> Tensor:
            return given[0] + self.branch(given[0])

    class Generates(Listed):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.part([self.stem(x)], more=(n for n in ())))

    model = randomise(Listed())
    channels = secateur.watch(model, X)
    (block,) = secateur.blocks(model, channels, X)

    assert (block.name, block.alone) == ("part", False)
    check_cut(model, X, secateur.plan_blocks(channels, [block]))
    assert names_in(randomise(Generates())) == []


def test_the_network_is_left_as_found():
    """Looking for blocks leaves values, modes, hooks, gradients and random state as they were, also after an error."""
    model = network(nn.BatchNorm2d(4), skip("in place"), skip("two branches")).train()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    channels = secateur.watch(model, X)

    check_left_as_found(model, lambda: secateur.blocks(model, channels, X))
    with pytest.raises(WatchError, match="failed on values"):
        check_left_as_found(model, lambda: secateur.blocks(model, channels, torch.zeros(2, 3, 6, 6)))


def test_blocks_are_chosen_by_name():
    """Names and patterns choose; one that fits no block is refused with the names there are."""
    model = build("resnet20", seed=0)
    x = torch.zeros(1, 3, 32, 32)

    assert [b.name for b in found_in(model, x, only="stages.1.*")] == ["stages.1.1", "stages.1.2"]
    assert [b.name for b in found_in(model, x, only=["stages.2.1", "stages.0.?"])] == [
        "stages.0.0", "stages.0.1", "stages.0.2", "stages.2.1",
    ]  # fmt: skip
    with pytest.raises(SettingsError, match=r"no block is named so; the blocks are stages\.0\.0"):
        found_in(model, x, only="stages.1")


def test_channels_and_example_must_fit():
    """Channels of another network, an example of another shape and a network without values are refused."""
    model = network(skip())
    channels = secateur.watch(model, X)

    with pytest.raises(ModelError, match="another network"):
        secateur.blocks(network(skip(), skip()), channels, X)
    with pytest.raises(ModelError, match="has no values"):
        secateur.blocks(copy.deepcopy(model).to("meta"), channels, X)

    class Varies(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.part = nn.Conv2d(4, 4, 1), skip()

        def forward(self, x: Tensor) -> Tensor:
            return self.part(self.layer(self.layer(x)) if x.shape[-1] > 6 else self.layer(x)).mean((1, 2, 3))

    varies = randomise(Varies())
    with pytest.raises(ModelError, match="4 products on this example and 3 when it was watched"):
        secateur.blocks(varies, secateur.watch(varies, X), torch.randn(2, 4, 8, 8))


def test_a_forward_that_reads_values_is_searched_on_values():
    """Where a network branches on data, nothing runs on meta tensors, and the blocks are found all the same."""

    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network(skip(), skip())

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x if float(x.sum()) > -1e9 else -x)

    assert names_in(randomise(Reads())) == ["net.1", "net.2"]


def test_tensors_go_with_the_last_block_that_holds_them():
    """A tensor that two blocks share is gone only when both are."""
    first, second = skip(), skip()
    second.branch[0].weight = first.branch[0].weight
    one, two = found_in(network(first, second))

    assert "1.branch.0.weight" not in tensors_gone([one]) | tensors_gone([two])
    assert "1.branch.0.weight" in tensors_gone([one, two])


def test_a_pass_through_hands_on_the_first_tensor():
    """Arguments that are no tensors, further ones and named ones are ignored."""
    x, other = torch.ones(2), torch.zeros(2)

    assert PassThrough()(None, x, other) is x
    assert PassThrough()(mask=None, hidden=x, bias=other) is x


def test_modules_are_replaced_wherever_they_are_held():
    """Children, attributes, lists, tuples and dictionaries hold the new module; all else is the same object."""
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    net.extra, net.plain = [net[1], {"deep": (net[1], 3)}], (1, 2)
    extra, plain, new = net.extra, net.plain, nn.Identity()

    put_in(net, {id(net[1]): new})

    assert net[1] is new
    assert net.extra is extra
    assert extra == [new, {"deep": (new, 3)}]
    assert net.plain is plain
