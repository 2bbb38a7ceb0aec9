"""Rules of one's own: added, refused, replaced and taken back; modules and functions seen as a whole; sizes that follow."""

import pytest
import torch
from torch import nn

import secateur
from secateur.channels.leaves import leaves_closed
from secateur.channels.rules import RULES
from secateur.errors import ModelError, SettingsError
from secateur.testing import Wired, check_cut, check_left_as_found, check_rule, outputs_of


@torch.library.custom_op("tests::halve", mutates_args=())
def halve(x: torch.Tensor) -> torch.Tensor:
    """Half of each element: an operator without a rule."""
    return x / 2


@halve.register_fake
def _(x):
    return torch.empty_like(x)


def alike(ties, call):
    """The result has the operand's axes."""
    ties.set(call.result, ties.axes(call.tensor(0)))


def other(ties, call):
    """Another right rule."""
    alike(ties, call)


def between(function) -> nn.Module:
    """Something between two layers."""
    return Wired(lambda m, x: m.b(function(m.a(x))), a=nn.Linear(8, 6), b=nn.Linear(6, 2))


X = torch.zeros(1, 8)
SPELLINGS = {
    "name": "tests::halve",
    "packet": torch.ops.tests.halve,
    "overload": torch.ops.tests.halve.default,
    "definition": halve,
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_rule_holds_inside_its_context(spelling):
    """However an operator is named, its rule frees the channels inside the block, and is gone after it."""
    with secateur.rule(SPELLINGS[spelling], alike):
        inside = secateur.watch(between(halve), X)
    after = secateur.watch(between(halve), X)

    assert [(g.name, g.width) for g in inside.groups] == [("a", 6)]
    assert after.groups == ()
    assert dict(after.unknown_ops) == {"tests.halve": 1}


def test_a_decorated_rule_is_given_back_as_it_is():
    """The decorator adds the rule and leaves the function."""
    before = dict(RULES)
    try:
        assert secateur.rule("tests::halve")(alike) is alike
        assert RULES[torch.ops.tests.halve] is alike
    finally:
        del RULES[torch.ops.tests.halve]
    assert before == RULES


@pytest.mark.parametrize("operator", ["tests::halve", "aten::convolution", "aten::relu", nn.Bilinear])
def test_a_second_rule_is_refused(operator):
    """An operator, PyTorch's own included, has one rule unless the other is to be replaced."""
    with (
        secateur.rule(operator, alike, replace=True),
        pytest.raises(SettingsError, match="has a rule; pass replace=True"),
    ):
        secateur.rule(operator, other)


def test_undoing_puts_back_what_was_replaced():
    """Replaced rules return in the order in which they went; out of order is refused, twice does nothing."""
    with secateur.rule(halve, alike):
        second = secateur.rule(halve, other, replace=True)
        third = secateur.rule(halve, alike, replace=True)
        third_of_second = pytest.raises(SettingsError, match="has been replaced since")
        with third_of_second:
            second.undo()
        third.undo()
        third.undo()
        assert RULES[torch.ops.tests.halve] is other
        second.undo()
        assert RULES[torch.ops.tests.halve] is alike
    assert torch.ops.tests.halve not in RULES


REFUSED = {
    "unknown": ("tests::nowhere", "no operator is named 'tests::nowhere'"),
    "overload by name": ("aten::relu.default", "without an overload"),
    "a function": (torch.relu, "is no operator"),
    "another class": (dict, "is no operator"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_operator_is_refused(case):
    """The message names what was given and what may be given."""
    operator, message = REFUSED[case]

    with pytest.raises(SettingsError, match=message):
        secateur.rule(operator, alike)


def test_what_is_no_rule_is_refused():
    """A rule is a function."""
    with pytest.raises(SettingsError, match="give a function of ties and a call"):
        secateur.rule("tests::halve", 3)


class Sorted(nn.Module):
    """What it does inside has no rule: each channel's largest entry first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        counts = torch.histc(x[0, 0].float(), 3).sum() * 0
        return x.sort(1, descending=True).values * self.scale + counts


def sorted_rule(ties, call):
    """Channels lie on the last axis."""
    x = ties.axes(call.tensor(0))
    ties.tie(x[-1], ties.axes(call.module.scale)[0])
    ties.set(call.result, (x[0], None, x[2]))


def test_a_module_is_seen_as_a_whole():
    """What stays whole because of an operator inside can go once the class has a rule, and the law holds."""
    example = torch.zeros(2, 5, 6)

    without = check_rule(Sorted(6), example, axes=(-1,), seeds=(0,))
    with secateur.rule(Sorted, sorted_rule):
        found = check_rule(Sorted(6), example, axes=(-1,), seeds=(0,))

    assert not without.useful
    assert found.useful
    assert found.cuts > 0
    assert found.whole == ()


def test_a_whole_module_that_keeps_its_size_is_found_on_trial():
    """A leaf whose own code pins the width stays whole, unless an attribute can follow."""

    class Pinned(nn.Module):
        def forward(self, x):
            return x.view(-1, 6) * 2

    net = nn.Sequential(nn.Linear(8, 6), Pinned(), nn.Linear(6, 2))
    with secateur.rule(Pinned, alike):
        channels = secateur.watch(net, X)

    assert channels.groups == ()
    assert any("a size that the network's code fixes" in fixed.reason for fixed in channels.fixed)


def test_a_rule_that_raises_leaves_the_module_whole():
    """It is told by name, and nothing is guessed."""

    def raises(ties, call):
        raise KeyError("width")

    net = nn.Sequential(nn.Linear(8, 6), Sorted(6), nn.Linear(6, 2))
    with secateur.rule(Sorted, raises):
        channels = secateur.watch(net, torch.zeros(2, 5, 8))

    assert channels.groups == ()
    assert "Sorted was left whole: KeyError: 'width'" in channels.notes


class Doubled(torch.autograd.Function):
    """A function with a backward pass of its own; inside is an operator without a rule."""

    @staticmethod
    def forward(ctx, x):
        return x * 2 + torch.histc(x.float(), 3).sum() * 0

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 2


def test_a_function_with_its_own_backward_is_seen_as_a_whole():
    """Its rule speaks for all that is inside, also through a name that was bound before."""
    bound = Doubled.apply

    with secateur.rule(Doubled, alike):
        found = check_rule(bound, torch.zeros(2, 6), seeds=(0,))
    without = check_rule(bound, torch.zeros(2, 6), seeds=(0,))

    assert found.useful
    assert not without.useful


def test_classes_are_left_as_found():
    """Outside of watching, and after an error, a class's forward is its own; one that is inherited stays inherited."""

    class Child(Sorted):
        pass

    forward = Sorted.forward
    with secateur.rule(Sorted, sorted_rule), secateur.rule(Child, sorted_rule):
        failing = Wired(lambda m, x: m.child(x) @ Sorted.forward, child=Child(6))  # no such product
        with pytest.raises(secateur.errors.WatchError):
            secateur.watch(failing, torch.zeros(2, 5, 6))
        with leaves_closed():
            assert Sorted.forward is not forward
        x = torch.randn(2, 5, 6)
        torch.testing.assert_close(Child(6)(x), x.sort(1, descending=True).values)
        check_left_as_found(net := Child(6), lambda: secateur.watch(net, x))

    assert Sorted.forward is forward
    assert "forward" not in vars(Child)


class Block(nn.Module):
    """Keeps its width twice, once in a tuple, and computes with it."""

    def __init__(self, dim: int = 6) -> None:
        super().__init__()
        self.shape = (-1, dim)
        self.dim = dim
        self.a, self.b = nn.Linear(8, dim), nn.Linear(dim, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.a(x).relu().view(self.shape)) * self.dim**-0.5


def test_attributes_follow_as_said():
    """What was said follows through plan and apply, in every instance, and the network can be watched and cut again."""
    net = nn.Sequential(Block(), nn.Linear(2, 8), Block(9))
    x = torch.zeros(4, 8)
    with secateur.follow(Block, {"dim": "a.weight[0]", "shape[1]": "b.weight[1]"}):
        for narrow, wide in ((3, 5), (2, 3)):
            channels = secateur.watch(net, x)
            made = secateur.plan(channels, secateur.score(net, channels, "l1"), remove=0.5)
            net = secateur.apply(net, made)

            assert (net[0].dim, net[2].dim) == (narrow, wide)
            assert (net[0].shape, net[2].shape) == ((-1, narrow), (-1, wide))
            assert outputs_of(net, x)[0].shape == (4, 2)


def test_an_attribute_that_a_forward_only_computes_with_follows_when_said():
    """No trial fails at a number that is only computed with: without being told it stays what it was."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dim = 6
            self.a, self.b = nn.Linear(8, 6), nn.Linear(6, 2)

        def forward(self, x):
            return self.b(self.a(x).relu()) * self.dim

    def cut() -> nn.Module:
        net = Scaled()
        channels = secateur.watch(net, X)
        return secateur.apply(net, secateur.plan(channels, secateur.score(net, channels, "l1"), remove=0.5))

    assert cut().dim == 6
    with secateur.follow(Scaled, {"dim": "a.weight[0]"}):
        assert cut().dim == 3


FOLLOWING = {
    "no tensor": ({"dim": "c.weight[0]"}, ModelError, r"has no tensor axis c.weight\[0\]"),
    "no axis": ({"dim": "a.weight[2]"}, ModelError, r"has no tensor axis a.weight\[2\]"),
    "other length": ({"dim": "a.weight[1]"}, ModelError, r"keeps dim=6, and a.weight\[1\] has 8 positions"),
    "no attribute": ({"depth": "a.weight[0]"}, ModelError, "keeps depth=None"),
    "no place": ({"shape[2]": "a.weight[0]"}, ModelError, r"keeps shape\[2\]=None"),
    "no axis named": ({"dim": "a.weight"}, SettingsError, "cannot be read"),
    "no name": ({"dim.x": "a.weight[0]"}, SettingsError, "cannot be read"),
}


@pytest.mark.parametrize("case", FOLLOWING)
def test_sizes_that_cannot_follow_are_refused(case):
    """A name that cannot be read is refused when it is said, one that does not fit when a network is watched."""
    sizes, error, message = FOLLOWING[case]

    with pytest.raises(error, match=message), secateur.follow(Block, sizes):
        secateur.watch(Block(), X)


def test_sizes_are_said_once():
    """A class's sizes are replaced only on purpose, and only those of modules can be said."""
    with (
        secateur.follow(Block, {"dim": "a.weight[0]"}),
        pytest.raises(SettingsError, match="the sizes of Block are known"),
    ):
        secateur.follow(Block, {})
    with pytest.raises(SettingsError, match=r"no subclass of nn\.Module"):
        secateur.follow(dict, {})


def test_a_cut_through_a_leaf_keeps_the_law():
    """A network with a whole module between layers computes what it did without the removed channels."""
    net = nn.Sequential(nn.Linear(8, 6), Sorted(6), nn.Linear(6, 2))
    x = torch.randn(3, 5, 8)
    with secateur.rule(Sorted, sorted_rule):
        channels = secateur.watch(net, x)
        made = secateur.plan(channels, secateur.score(net, channels, "l1"), remove=0.5)

    assert check_cut(net, x, made) < 1e-12
