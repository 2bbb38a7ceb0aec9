"""The check of rules: right ones pass, wrong ones are caught, useless ones are told."""

import pytest
import torch
from torch import nn

import secateur
from secateur.errors import SettingsError
from secateur.testing import LawError, check_rule


@torch.library.custom_op("tests::gate", mutates_args=())
def gate(x: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
    """Each channel of x [b, c, h, w] times a sigmoid of s [b, c]."""
    return x * torch.sigmoid(s)[:, :, None, None]


@gate.register_fake
def _(x, s):
    return torch.empty_like(x)


EXAMPLES = (torch.zeros(2, 8, 4, 5), torch.zeros(2, 8))


def operands(ties, call):
    return ties.axes(call.tensor(0)), ties.axes(call.tensor(1))


def right(ties, call):
    """Channel i of both operands is one channel."""
    x, s = operands(ties, call)
    ties.tie(x[1], s[1])
    ties.set(call.result, x)


def ties_nothing(ties, call):
    """As if the operator made something new."""
    ties.set(call.result, (None,) * 4)


def says_nothing(ties, call):
    """The result is a constant, the operands are free."""


def swaps_operand(ties, call):
    """Channel i of one goes with channel c - 1 - i of the other."""
    x, s = operands(ties, call)
    ties.tie(x[1], None if s[1] is None else s[1][::-1])
    ties.set(call.result, x)


def swaps_result(ties, call):
    """The result's channels are the operand's backwards."""
    x, s = operands(ties, call)
    ties.tie(x[1], s[1])
    ties.set(call.result, (x[0], None if x[1] is None else x[1][::-1], *x[2:]))


def forgets(ties, call):
    """Says nothing of the second operand."""
    ties.set(call.result, ties.axes(call.tensor(0)))


def fixes(ties, call):
    """Leaves everything whole."""
    for axes in operands(ties, call):
        for labels in axes:
            ties.fix(labels, "is not understood")
    ties.set(call.result, (None,) * 4)


def raises(ties, call):
    """Does not foresee this call."""
    raise IndexError("of its own")


def costs_too_much(ties, call):
    """Counts what depends on something that was not cut with it."""
    right(ties, call)
    ties.macs(1.0, (None, call.result.shape[1]))


def test_a_right_rule_passes_with_figures():
    """Both layouts, fed by a layer and by a concat, at three shares and two seeds: nothing differs."""
    with secateur.rule(gate, right):
        found = check_rule(gate, *EXAMPLES)

    assert (found.networks, found.cuts) == (4, 24)
    assert found.error < 1e-12
    assert found.useful
    assert found.whole == found.inexact == ()


WRONG = {
    ties_nothing: "the rule says that positions of .* can go, but with fewer of them the operator does not fit",
    says_nothing: "with fewer of them the operator does not fit",
    swaps_operand: "cutting is not the same as not reading: outputs differ by",
    swaps_result: "cutting is not the same as not reading: outputs differ by",
    forgets: "cutting is not the same as not reading: outputs differ by",
    raises: "a rule raised: tests.gate was left whole: IndexError: of its own",
    costs_too_much: "the plan forecasts",
}


@pytest.mark.parametrize("wrong", WRONG, ids=lambda rule: rule.__name__)
def test_a_wrong_rule_is_caught(wrong):
    """It is told with the network at hand and the figures."""
    with secateur.rule(gate, wrong), pytest.raises(LawError, match=WRONG[wrong]) as caught:
        check_rule(gate, *EXAMPLES)

    assert "channels on axis 1, written by one layer" in str(caught.value)


@pytest.mark.parametrize("rule", [fixes, None])
def test_a_rule_that_leaves_everything_whole_is_told(rule):
    """It is right, and the result says that it is of no use, and why; so it is without a rule."""
    if rule is None:
        found = check_rule(gate, *EXAMPLES, seeds=(0,))
    else:
        with secateur.rule(gate, rule):
            found = check_rule(gate, *EXAMPLES, seeds=(0,))

    assert not found.useful
    assert (found.cuts, len(found.whole)) == (0, 4)
    assert "of no use" in str(found)
    assert ("is not understood" if rule else "tests.gate, which has no rule") in str(found)


def test_half_of_a_concat_is_not_the_other_half():
    """Turning channels round is seen where they come from two layers."""

    @torch.library.custom_op("tests::turn", mutates_args=())
    def turn(x: torch.Tensor) -> torch.Tensor:
        return x.flip(1).clone()

    @turn.register_fake
    def _(x):
        return torch.empty_like(x)

    def turned(ties, call):
        (b, c) = ties.axes(call.tensor(0))
        ties.set(call.result, (b, None if c is None else c[::-1]))

    with secateur.rule(turn, turned):
        assert check_rule(turn, torch.zeros(2, 9)).useful
    with secateur.rule(turn, secateur.channels.elementwise), pytest.raises(LawError, match="not reading"):
        check_rule(turn, torch.zeros(2, 9))


BUILT_IN = {
    "matrix product": (torch.matmul, torch.zeros(2, 5, 6), nn.Parameter(torch.randn(6, 7))),
    "grouped convolution": (nn.Conv2d(8, 6, 3, groups=2), torch.zeros(2, 8, 5, 5)),
    "gated": (lambda x: nn.functional.glu(x, 1), torch.zeros(2, 8, 6)),
    "index": (lambda x, i: x.index_select(2, i), torch.zeros(2, 8, 6), torch.tensor([2, 0, 1])),
    "pieces": (lambda x, n: x.chunk(n, 1), torch.zeros(2, 8), 2),
}


@pytest.mark.parametrize("name", BUILT_IN)
def test_rules_that_are_there_pass(name):
    """The check takes functions, modules, parameters, indices, numbers, and several results."""
    function, *examples = BUILT_IN[name]

    assert check_rule(function, *examples, seeds=(0,)).useful


def test_statistics_over_channels_are_told():
    """There is no law for what truly changes: such networks are named, not compared."""
    found = check_rule(nn.LayerNorm(6), torch.zeros(2, 8, 6), seeds=(0,))

    assert len(found.inexact) == 2
    assert all("axis last" in line for line in found.inexact)


def test_what_holds_no_channels_is_refused():
    """Without an activation among the examples nothing could be cut."""
    with pytest.raises(SettingsError, match="no argument is a tensor of floating numbers"):
        check_rule(torch.relu, torch.zeros(3, dtype=torch.int64))
