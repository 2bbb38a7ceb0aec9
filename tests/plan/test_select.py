"""From scores to plans: shares, scopes, budgets, ties, and what is refused."""

import itertools
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.strategies import networks
from torch import nn

import secateur
from secateur.cost import CostModel
from secateur.criteria import Merge, Scores
from secateur.errors import BudgetError, NothingToCutError, PlanError, SettingsError
from secateur.plan import Bytes, Change, Macs, Parameters, Plan, change_of, plan, plan_for
from secateur.testing import EXOTIC, cost_of


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.ReLU(),
        nn.Conv2d(6, 4, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16, 5),
        nn.ReLU(),
        nn.Linear(5, 2),
    )


X = torch.zeros(1, 3, 6, 6)
NET = network()
CHANNELS = secateur.watch(NET, X)


def scores(**values: list[float]) -> Scores:
    """Scores of groups by name; those not given score 0, 1, 2, ..."""
    return Scores(
        "given",
        {
            g.name: torch.tensor(values.get(f"g{g.name}", list(range(g.width))), dtype=torch.float64)
            for g in CHANNELS.groups
        },
    )


def kept(made: secateur.plan) -> dict[str, list[int]]:
    return {change.group: change.take.tolist() for change in made.changes}


def test_the_lowest_scores_go():
    """A share of every group goes, the lowest scores first."""
    made = plan(CHANNELS, scores(g0=[5, 1, 4, 2, 3, 0]), remove=0.5)

    assert kept(made) == {"0": [0, 2, 4], "2": [2, 3], "5": [2, 3, 4]}
    assert made.removed == 7


def test_of_equal_scores_the_highest_index_goes_first():
    """Ties are broken the same way everywhere, also across groups and under a budget."""
    same = {f"g{g.name}": [1.0] * g.width for g in CHANNELS.groups}

    assert kept(plan(CHANNELS, scores(**same), remove=0.5)) == {"0": [0, 1, 2], "2": [0, 1], "5": [0, 1, 2]}
    for made in (
        plan(CHANNELS, scores(**same), remove=0.5, scope="global"),
        plan(CHANNELS, scores(**same), budget=Parameters(at_most=0.5)),
    ):
        assert all(units == list(range(len(units))) for units in kept(made).values())


def test_global_scope_ranks_all_units_together_and_leaves_one_in_each_group():
    """With one scale for all, the lowest of all go; the best unit of a group never does."""
    made = plan(
        CHANNELS, scores(g0=[100] * 6, g2=[0, 1, 2, 3], g5=[50, 51, 52, 53, 54]), remove=0.5, scope="global"
    )

    assert kept(made) == {"2": [3], "5": [4]}


def test_normalising_lets_groups_compete():
    """Divided by their norms, groups of different scale lose alike."""
    values = scores(g0=[600, 500, 400, 300, 200, 100], g2=[4, 3, 2, 1], g5=[0.5, 0.4, 0.3, 0.2, 0.1])

    raw = plan(CHANNELS, values, remove=0.6, scope="global")
    fair = plan(CHANNELS, values, remove=0.6, scope="global", normalise="l1")

    assert {name: len(units) for name, units in kept(raw).items()} == {"0": 4, "2": 1, "5": 1}
    assert {name: len(units) for name, units in kept(fair).items()} == {"0": 2, "2": 2, "5": 2}


def test_shares_by_group_name():
    """A mapping removes its own share from each group it names, and nothing elsewhere."""
    assert kept(plan(CHANNELS, scores(), remove={"2": 0.25, "5": 0.99})) == {"2": [1, 2, 3], "5": [4]}


def test_groups_can_be_chosen():
    """Only the chosen groups are cut, whatever the scope."""
    for options in ({"remove": 0.5}, {"remove": 0.4, "scope": "global"}, {"budget": Macs(at_most=0.8)}):
        assert set(kept(plan(CHANNELS, scores(), groups=["0"], **options))) == {"0"}


@pytest.mark.parametrize("round_to", [1, 2, 4])
@pytest.mark.parametrize(
    "options", [{"remove": 0.6}, {"remove": 0.6, "scope": "global"}, {"budget": Macs(at_most=0.75)}]
)
def test_widths_are_rounded_up(round_to, options):
    """Every width that stays is a multiple of `round_to`, and never below what was asked for."""
    values = scores(g0=[1.1, 4, 0, 3, 2, 5], g2=[3.1, 1.1, 2.1, 0.1])

    made = plan(CHANNELS, values, round_to=round_to, **options)

    assert made.changes
    assert all(len(change.take) % round_to == 0 for change in made.changes)
    if "remove" in options:
        free = plan(CHANNELS, values, **options)
        for change in free.changes:
            rounded = made.change(change.group)
            assert rounded is None or len(change.take) <= len(rounded.take) < len(change.take) + round_to


def test_widths_below_the_multiple_stay():
    """A group narrower than `round_to` is left alone, and a budget that this makes unreachable says so."""
    with pytest.raises(
        NothingToCutError, match=r"0: 6 units, less what was asked for, round up to 6 \(round_to=8\)"
    ):
        plan(CHANNELS, scores(), remove=0.9, round_to=8)
    with pytest.raises(BudgetError, match="with as few units left as may be in each of 3 groups"):
        plan(CHANNELS, scores(), budget=Macs(at_most=0.9), round_to=8)


@settings(deadline=None, max_examples=25)
@given(
    case=networks(), share=st.sampled_from([0.3, 0.5, 0.8]), kind=st.sampled_from([Macs, Parameters, Bytes])
)
def test_budgets_are_met_with_the_fewest_removals(case, share, kind):
    """A budget is met, and with one removal less it would not be; or the least reachable cost is named."""
    channels = secateur.watch(case.model, case.x)
    ranks = secateur.score(case.model, channels, "l1")
    budget = kind(at_most=share)
    least = CostModel(channels).at({group.name: 1 for group in channels.groups})
    if not budget.met(least, CostModel(channels).total()):
        with pytest.raises(BudgetError, match=re.escape(str(least))):
            plan(channels, ranks, budget=budget)
        return

    made = plan(channels, ranks, budget=budget)

    assert budget.met(made.after, made.before)
    assert cost_of(secateur.apply(case.model, made), case.x) == made.after
    values = {name: score.numpy() for name, score in ranks.values.items()}
    last = max(made.changes, key=lambda change: values[change.group][change.removed].max())
    back = last.removed[np.argmax(values[last.group][last.removed])]
    changes = [c for c in made.changes if c is not last]
    changes.append(change_of(channels.group(last.group), np.append(last.take, back)))
    assert not budget.met(plan_for(channels, changes).after, made.before)


def test_budget_search_agrees_with_trying_every_count():
    """The fewest removals are those that trying one after the other finds."""
    values = scores(g0=[5, 1.5, 4, 2, 3, 0.5], g2=[1, 2.5, 0.2, 9], g5=[0.1, 8, 7, 1.2, 3.3])
    costs = CostModel(CHANNELS)
    before = costs.total()
    flat = sorted(
        (score, group.name, unit)
        for group in CHANNELS.groups
        for unit, score in enumerate(values.values[group.name].tolist())
        if unit != int(values.values[group.name].argmax())
    )
    for share in (0.9, 0.6, 0.3, 0.15):
        for count in itertools.count():
            gone = {name: {unit for _, other, unit in flat[:count] if other == name} for _, name, _ in flat}
            left = {
                g.name: np.array([u for u in range(g.width) if u not in gone[g.name]])
                for g in CHANNELS.groups
            }
            if costs.kept(left).macs <= share * before.macs:
                break

        made = plan(CHANNELS, values, budget=Macs(at_most=share))

        assert made.removed == count
        assert made.after == costs.kept(left)


def test_budget_that_cannot_be_met_names_the_least_reachable():
    """A budget below what one unit a group costs is refused, with that cost."""
    least = CostModel(CHANNELS).at({group.name: 1 for group in CHANNELS.groups})

    with pytest.raises(
        BudgetError, match=f"the network has {least.parameters:,} parameters, {least.macs:,} MACs"
    ):
        plan(CHANNELS, scores(), budget=Macs(at_most=2))
    made = plan(CHANNELS, scores(), budget=Parameters(at_most=least.parameters))
    assert made.after.parameters == least.parameters


def test_budget_that_is_met_already_removes_nothing():
    """Nothing goes that need not."""
    made = plan(CHANNELS, scores(), budget=Macs(at_most=1.0))

    assert made.changes == ()
    assert made.after == made.before


NOTHING = {
    "a share below one unit": ({"remove": 0.1}, "0: a share of 0.1 of 6 units is less than one"),
    "by name": ({"remove": {"2": 0.2}}, "2: a share of 0.2 of 4 units is less than one"),
    "of the whole": (
        {"remove": 0.05, "scope": "global"},
        "0, 2, 5: other groups' units have lower scores, and those were enough",
    ),
    "of one group": ({"remove": 0.1, "groups": ["5"]}, "0, 2: was not chosen; 5: a share of 0.1 of 5 units"),
}


@pytest.mark.parametrize("name", NOTHING)
def test_a_plan_that_would_remove_nothing_is_refused(name):
    """A share so small that no unit goes is an error that says so of each group, and what to do."""
    options, message = NOTHING[name]

    with pytest.raises(NothingToCutError) as caught:
        plan(CHANNELS, scores(), **options)

    assert str(caught.value).startswith("nothing would be removed: ")
    assert message in str(caught.value)
    assert "ask for a larger share" in str(caught.value)


@pytest.mark.parametrize("remove", [0.0, {}, {"2": 0.0}])
def test_asking_for_nothing_gives_a_plan_of_nothing(remove):
    """A share of zero is a plan without changes, which can be applied and says that nothing was asked for."""
    made = plan(CHANNELS, scores(), remove=remove)

    assert made.changes == ()
    assert "stays: 0, 2, 5: none of it was asked for" in str(made)
    torch.testing.assert_close(secateur.apply(NET, made)(X + 1), NET(X + 1), rtol=0, atol=0)


def test_what_stays_is_listed_with_its_reason():
    """A partial plan names the groups it leaves whole and the axes nobody can cut, also after being written down."""
    values = scores()
    made = plan(
        CHANNELS, Scores("given", {k: v for k, v in values.values.items() if k != "5"}), remove={"0": 0.5}
    )

    for text in (str(made), str(Plan.from_json(made.to_json()))):
        assert "stays: 2: none of it was asked for" in text
        assert "stays: 5: has no score" in text
        assert "stays: 0.weight[1]: reads the network's input" in text
        assert "stays: 7.weight[0], 7.bias[0]: reaches the network's output" in text


REFUSED = {
    "neither": ({}, "give either remove=, a share of the units, or budget="),
    "both": ({"remove": 0.5, "budget": Macs(at_most=0.5)}, "give either remove="),
    "everything": (
        {"remove": 1.0},
        "remove=1.0 for 0: it must be a share from 0 up to, but not including, 1",
    ),
    "negative": ({"remove": -0.1, "scope": "global"}, "remove=-0.1 for the network"),
    "round_to": ({"remove": 0.5, "round_to": 0}, "round_to=0 must be at least 1"),
    "scope": ({"remove": 0.5, "scope": "world"}, "scope='world' must be 'layer' or 'global'"),
    "unknown name": (
        {"remove": {"conv9": 0.5}},
        "remove= names conv9, which are no groups that may be cut; those are 0, 2, 5",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_options_out_of_range_are_refused(name):
    """Each contradiction is told with the value that was given."""
    options, message = REFUSED[name]

    with pytest.raises(SettingsError) as caught:
        plan(CHANNELS, scores(), **options)

    assert message in str(caught.value)


def test_scores_of_another_network_are_refused():
    """Scores of other widths, or of none of the groups, do not make a plan."""
    with pytest.raises(
        PlanError, match=r"group '0' has 6 units but 5 scores; score the network that is to be cut"
    ):
        plan(CHANNELS, scores(g0=[1, 2, 3, 4, 5]), remove=0.5)
    with pytest.raises(NothingToCutError, match="none of the chosen groups has a score"):
        plan(CHANNELS, Scores("given", {}), remove=0.5)


def test_merges_follow_the_chain_of_removals():
    """A unit folded into one that goes later ends in the one that stays, scales multiplied and shifts carried along."""
    group = CHANNELS.group("2")
    merge = Merge(np.array([1, 2, 3, 3]), np.array([2.0, 3.0, 0.5, 1.0]), np.array([0.1, 0.2, 0.4, 0.0]))

    mix = change_of(group, np.array([3]), merge).mixes["*"]

    np.testing.assert_allclose(mix.matrix[:, 0], [2 * 3 * 0.5, 3 * 0.5, 0.5, 1])
    np.testing.assert_allclose(mix.shift, [0.1 + 2 * 0.2 + 6 * 0.4, 0.2 + 3 * 0.4, 0.4, 0])


def test_widening_is_counted():
    """Repeated units are paid for, each copy."""
    made = plan_for(CHANNELS, [Change("0", 6, np.array([0, 0, 1, 2, 3, 4, 5, 5]))])

    wide = network()
    wide[0], wide[2] = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)
    assert made.after == cost_of(wide, X)


def test_nothing_is_merged_where_a_reader_cannot_be_mixed():
    """An embedding that is a head, too, both writes and reads: its units go without being folded into others."""
    construct = EXOTIC["tied embeddings"]
    model = construct.build()
    channels = secateur.watch(model, construct.example())
    plan = secateur.plan(channels, secateur.score(model, channels, "similarity"), remove=0.5)

    assert plan.changes
    assert not any(change.mixes for change in plan.changes)
