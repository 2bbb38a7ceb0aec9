"""Changes and plans check themselves, print, and survive being written down."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from tests.strategies import nets_and_plans, random_plan
from torch import nn

import secateur
from secateur.errors import PlanError, SettingsError
from secateur.plan import Bytes, Change, Macs, Mix, Parameters, Plan, change_of, plan_for
from secateur.testing import check_cut, outputs_of, relative_error


def test_changes_must_fit_their_group():
    """Nothing may vanish altogether, units are in range and ascending, a mix has one row an old and one column a new unit."""
    with pytest.raises(PlanError, match="group 'a' would lose all of its 4 units"):
        Change("a", 4, np.array([], dtype=np.int64))
    for take in ([0, 4], [-1, 2], [2, 1]):
        with pytest.raises(PlanError, match="`take` must be ascending units from 0 to 3"):
            Change("a", 4, np.array(take))
    with pytest.raises(PlanError, match=r"the mix for b is \(4, 3\), it must be \(4, 2\)"):
        Change("a", 4, np.array([0, 1]), {"b": Mix(np.zeros((4, 3)))})


def test_plans_must_match_their_groups():
    """A plan cannot be made of one group and another's change."""
    channels = secateur.watch(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), torch.zeros(1, 3))
    good = plan_for(channels, [change_of(channels.groups[0], np.array([0]))])

    with pytest.raises(PlanError, match="the change of 'other' does not fit the group '0'"):
        Plan(
            good.digest,
            good.groups,
            (Change("other", 4, np.array([0])),),
            good.biases,
            good.before,
            good.after,
        )


@settings(deadline=None, max_examples=15)
@given(case=nets_and_plans())
def test_plans_survive_being_written_down(case):
    """A plan read from its text is the same text again, and cuts the same."""
    net, ratio, seed = case
    plan = random_plan(secateur.watch(net.model, net.x), ratio=ratio, seed=seed)

    again = Plan.from_json(plan.to_json())

    assert again.to_json() == plan.to_json()
    assert str(again) == str(plan)
    cut = [outputs_of(secateur.apply(net.model, p), net.x) for p in (plan, again)]
    assert relative_error(*cut) == 0
    check_cut(net.model, net.x, again)


def test_mixes_survive_being_written_down():
    """Matrices and shifts come back to the bit."""
    channels = secateur.watch(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), torch.zeros(1, 3))
    mixes = {
        "*": Mix(np.random.default_rng(0).normal(size=(4, 2)), np.array([0.1, 1 / 3, 0, -2])),
        "1.weight": Mix(np.ones((4, 2))),
    }

    again = Plan.from_json(plan_for(channels, [Change("0", 4, np.array([1, 3]), mixes)]).to_json()).changes[0]

    np.testing.assert_array_equal(again.mixes["*"].matrix, mixes["*"].matrix)
    np.testing.assert_array_equal(again.mixes["*"].shift, mixes["*"].shift)
    assert again.mixes["1.weight"].shift is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"format": 1}',
        '"plan"',
        '{"format": 2}',
        "null",
        '{"format": 1, "digest": 3, "groups": 4}',
    ],
)
def test_anything_else_is_no_plan(text):
    """Text that is no plan of this format is refused with one error."""
    with pytest.raises(
        PlanError, match=r"this is not a plan|the plan has format 2, this version reads format 1"
    ):
        Plan.from_json(text)


def test_a_plan_s_text_counts_units():
    """What a plan removes are units of groups, however many positions each has, and one is one."""
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.Linear(3 * 36, 2))
    channels = secateur.watch(net, torch.zeros(1, 1, 8, 8))

    one, two = (plan_for(channels, [change_of(channels.groups[0], np.arange(left))]) for left in (2, 1))

    assert str(one).startswith("1 group, 1 unit removed: ")
    assert str(two).startswith("1 group, 2 units removed: ")
    assert repr(channels) == "Channels(1 group, 3 units)"


def test_a_plan_s_text_says_how_much_a_unit_is():
    """Heads and groups of channels that go together are counted as what they are; gates and flattened maps are one channel a unit."""
    whole = nn.Sequential(nn.Conv1d(2, 12, 1), nn.Conv1d(12, 12, 1, groups=3), nn.Conv1d(12, 2, 1))
    gated = nn.Sequential(nn.Linear(4, 6), nn.GLU(), nn.Linear(3, 2))
    for net, example, words in (
        (whole, torch.zeros(1, 2, 5), "  1: 4 -> 2 units of 3 channels"),
        (gated, torch.zeros(1, 4), "  0: 3 -> 2"),
    ):
        channels = secateur.watch(net, example)
        text = str(secateur.plan(channels, secateur.score(net, channels, "l1"), remove=0.5))
        assert words in text.splitlines()


def test_damaged_plans_are_refused():
    """A group whose members do not fit its width cannot be read."""
    channels = secateur.watch(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), torch.zeros(1, 3))
    document = json.loads(plan_for(channels, [change_of(channels.groups[0], np.array([0]))]).to_json())
    document["groups"][0]["width"] = 7

    with pytest.raises(PlanError, match="this is not a plan: ModelError"):
        Plan.from_json(json.dumps(document))


@pytest.mark.parametrize("kind", [Macs, Parameters, Bytes])
def test_budgets_are_positive(kind):
    """A budget of nothing, or of no number, is refused."""
    for value in (0, -1, float("nan")):
        with pytest.raises(SettingsError, match="is not positive"):
            kind(at_most=value)
