"""Plans for whole blocks: by name, by score, within a budget, and where channels take their block along."""

import pytest
import torch
from tests.strategies import Skip
from torch import nn

import secateur
from secateur.channels import Block, Channels
from secateur.criteria import BlockScores, Scores
from secateur.errors import BudgetError, NothingToCutError, PlanError, SettingsError
from secateur.plan import Macs, Parameters, Plan
from secateur.testing import check_cut, cost_of, randomise

X = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0))


def branch(inner: int = 6) -> nn.Module:
    return nn.Sequential(nn.Conv2d(4, inner, 1), nn.ReLU(), nn.Conv2d(inner, 4, 1))


NET = randomise(
    nn.Sequential(
        nn.Conv2d(4, 4, 1), *(Skip("plain", branch(n), nn.Identity()) for n in (6, 8, 10)), nn.Conv2d(4, 2, 1)
    )
)
CHANNELS = secateur.watch(NET, X)
FOUND = secateur.blocks(NET, CHANNELS, X)
RANKED = BlockScores("mine", FOUND, {"1": 0.5, "2": 0.1, "3": 0.5})


def scores(**values: float) -> Scores:
    """Scores in which all units of a block's group have one value; unnamed ones have 9."""
    own = {f"{name[1:]}.branch.0": value for name, value in values.items()}
    return Scores(
        "mine",
        {g.name: torch.full((g.width,), own.get(g.name, 9.0), dtype=torch.float64) for g in CHANNELS.groups},
    )


def names(plan: Plan) -> list[str]:
    return [block.name for block in plan.blocks]


def test_the_lowest_go_first():
    """A number or a share of blocks goes, lowest first, of equal ones the last; the cost is what is left."""
    assert names(secateur.plan_blocks(CHANNELS, RANKED, remove=1)) == ["2"]
    assert names(secateur.plan_blocks(CHANNELS, RANKED, remove=2)) == ["2", "3"]
    assert names(secateur.plan_blocks(CHANNELS, RANKED, remove=0.7)) == ["2", "3"]
    assert names(secateur.plan_blocks(CHANNELS, RANKED, remove=1.0)) == ["2", "3", "1"]
    assert names(secateur.plan_blocks(CHANNELS, RANKED, remove=0)) == []

    plan = secateur.plan_blocks(CHANNELS, RANKED, remove=2)
    assert cost_of(secateur.apply(NET, plan), X) == plan.after


def test_a_plan_of_blocks_says_what_it_does():
    """Its text names the blocks with what goes with them, and what stays but for what vanishes with them."""
    assert str(secateur.plan_blocks(CHANNELS, RANKED, remove=1)).splitlines() == [
        "1 block removed: 258 -> 182 parameters, 1,944 -> 1,368 MACs",
        "  2: whole block, 76 parameters, 576 MACs",
        "  stays: 0, 1.branch.0, 3.branch.0: was not chosen",
        "  stays: 0.weight[1]: reads the network's input",
        "  stays: 4.weight[0], 4.bias[0]: reaches the network's output",
    ]
    both = str(secateur.plan(CHANNELS, scores(), remove=0.5, without=FOUND[:2]))
    assert both.startswith("2 blocks, 2 groups, 7 units removed: 258 -> ")


def test_the_fewest_blocks_meet_a_budget():
    """No block more goes than the budget asks for; one that is met already asks for none, and one out of reach is refused."""
    needed = secateur.plan_blocks(CHANNELS, RANKED, budget=Parameters(at_most=190))
    assert names(needed) == ["2"]
    assert names(secateur.plan_blocks(CHANNELS, RANKED, budget=Macs(at_most=0.5))) == ["2", "3"]
    assert names(secateur.plan_blocks(CHANNELS, RANKED, budget=Macs(at_most=1.0))) == []
    with pytest.raises(BudgetError, match="without all of its 3 scored blocks"):
        secateur.plan_blocks(CHANNELS, RANKED, budget=Macs(at_most=0.01))


@pytest.mark.parametrize("remove", [-1, 4, 1.5, -0.1, True])
def test_a_number_or_a_share_of_blocks_is_checked(remove):
    """Whole numbers go up to the number of blocks, fractions up to 1."""
    with pytest.raises(SettingsError, match="a whole number of blocks from 0 to 3, or a share"):
        secateur.plan_blocks(CHANNELS, RANKED, remove=remove)


def test_what_is_asked_for_must_be_clear():
    """Scores need one of remove and budget, given blocks neither; a share below one block is no plan."""
    with pytest.raises(SettingsError, match="give either"):
        secateur.plan_blocks(CHANNELS, RANKED)
    with pytest.raises(SettingsError, match="give either"):
        secateur.plan_blocks(CHANNELS, RANKED, remove=1, budget=Macs(at_most=0.5))
    with pytest.raises(SettingsError, match="choose by scores"):
        secateur.plan_blocks(CHANNELS, FOUND, remove=1)
    with pytest.raises(NothingToCutError, match=r"a share of 0\.1 of 3 blocks is less than one"):
        secateur.plan_blocks(CHANNELS, RANKED, remove=0.1)


def foreign() -> tuple[Channels, tuple[Block, ...]]:
    net = nn.Sequential(nn.Conv2d(4, 4, 1), Skip("plain", branch(), nn.Identity()), nn.Conv2d(4, 2, 1))
    channels = secateur.watch(net, X)
    return channels, secateur.blocks(net, channels, X)


def test_blocks_of_another_network_are_refused():
    """Blocks belong to the structure in which they were found."""
    other, blocks = foreign()
    for options in ({"blocks": blocks}, {"without": blocks}):
        with pytest.raises(PlanError, match="found in another network"):
            secateur.plan(CHANNELS, scores(), remove=0.5, **options)
    with pytest.raises(PlanError, match="found in another network"):
        secateur.plan_blocks(other, FOUND)


def test_by_default_no_block_goes():
    """Without blocks= every group keeps its minimum, however low its scores."""
    plan = secateur.plan(CHANNELS, scores(_1=0.0), remove=0.9, scope="global")

    assert plan.blocks == ()
    assert all(len(change.take) >= 1 for change in plan.changes)


def test_a_block_goes_when_nothing_is_left_inside():
    """With blocks= the units of a block may all go, and the block with them; of the others the minimum stays."""
    low = scores(_1=0.0, _2=1.0)
    plan = secateur.plan(CHANNELS, low, remove=12 / 28, scope="global", blocks=FOUND, minimum=3)

    assert names(plan) == ["1"]
    assert {change.group: len(change.take) for change in plan.changes} == {"2.branch.0": 3}
    assert "stays: 1.branch.0" not in str(plan)
    check_cut(NET, X, plan)
    assert names(secateur.plan(CHANNELS, low, remove=12 / 28, scope="global", blocks=FOUND[1:])) == []


def test_a_group_may_be_asked_to_vanish():
    """A share of 1 of a group by name takes its block along; without blocks= it is out of range."""
    plan = secateur.plan(CHANNELS, scores(), remove={"2.branch.0": 1, "3.branch.0": 0.5}, blocks=FOUND)

    assert names(plan) == ["2"]
    assert [change.group for change in plan.changes] == ["3.branch.0"]
    check_cut(NET, X, plan)
    with pytest.raises(SettingsError, match="a share from 0 up to, but not including, 1"):
        secateur.plan(CHANNELS, scores(), remove={"2.branch.0": 1})
    with pytest.raises(SettingsError, match="a share from 0 up to, but not including, 1"):
        secateur.plan(CHANNELS, scores(), remove={"0": 1}, blocks=FOUND)


def test_a_budget_may_take_blocks():
    """A budget that channels alone cannot meet is met with blocks that may go, by no more units than are needed."""
    tight = Parameters(at_most=20)  # with a channel of each group it has 21
    with pytest.raises(BudgetError):
        secateur.plan(CHANNELS, scores(), budget=tight)

    plan = secateur.plan(CHANNELS, scores(_2=1.0), budget=tight, blocks=FOUND)

    assert "2" in names(plan)
    assert plan.after.parameters <= 20
    check_cut(NET, X, plan)
    loose = secateur.plan(CHANNELS, scores(_2=1.0), budget=Parameters(at_most=258 - 76), blocks=FOUND)
    assert names(loose) == ["2"]
    assert not loose.changes


def test_blocks_that_go_anyway_take_part_in_no_ranking():
    """With without= the block is gone, its units are not counted, and its groups cannot be asked for."""
    plan = secateur.plan(
        CHANNELS, scores(_1=0.0), remove=0.5, scope="global", without=FOUND[:1], blocks=FOUND[:1]
    )

    assert names(plan) == ["1"]
    assert plan.removed == int(0.5 * (4 + 8 + 10))
    with pytest.raises(SettingsError, match=r"1\.branch\.0, which are no groups"):
        secateur.plan(CHANNELS, scores(), remove={"1.branch.0": 0.5}, without=FOUND[:1])
    with pytest.raises(NothingToCutError, match="vanish with the blocks of without="):
        secateur.plan(CHANNELS, scores(), remove=0.5, without=FOUND, groups=["1.branch.0"])
    assert names(secateur.plan(CHANNELS, scores(), remove=0.0, without=FOUND[:1])) == ["1"]


def test_both_branches_must_be_empty():
    """A block with two branches goes when nothing is left of both; one branch keeps its minimum while the other has units."""
    net = randomise(
        nn.Sequential(nn.Conv2d(4, 4, 1), Skip("two branches", branch(), branch(5)), nn.Conv2d(4, 2, 1))
    )
    channels = secateur.watch(net, X)
    found = secateur.blocks(net, channels, X)
    share = {"1.branch.0": 1.0}
    ranked = secateur.score(net, channels, "l1")

    one = secateur.plan(channels, ranked, remove=share, blocks=found)
    both = secateur.plan(channels, ranked, remove=share | {"1.other.0": 1.0}, blocks=found)

    assert (names(one), [len(change.take) for change in one.changes]) == ([], [1])
    assert names(both) == ["1"]
    check_cut(net, X, both)
