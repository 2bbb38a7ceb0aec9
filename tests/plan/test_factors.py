"""Plans of smaller layers: how ranks are chosen, what stays and why, and that a plan is a value."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from secateur.errors import BudgetError, ModelError, NothingToCutError, PlanError, SettingsError
from secateur.plan import Bytes, FactorPlan, Factors, Macs, Parameters, plan_factors, plan_replacements
from secateur.plan.decompose import composed, decomposed, energy
from secateur.plan.layers import candidates
from secateur.plan.ranks import by_budget, choices_of

X = torch.zeros(2, 3, 10, 10)


def net() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 10, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(10, 14, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(14 * 25, 24),
            nn.ReLU(),
            nn.Linear(24, 3),
        )


def sizes(plan: FactorPlan) -> dict[str, tuple[int, ...]]:
    return {layer.name: layer.sizes for layer in plan.layers}


def reasons(plan: FactorPlan) -> dict[str, str]:
    return {name: left.reason for left in plan.left for name in left.names}


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_the_smallest_rank_that_keeps_the_energy(share):
    """A dense layer gets the least rank whose squared singular values make up the share."""
    model = nn.Sequential(nn.Linear(40, 30))
    model[0].weight.data = torch.diag(0.8 ** torch.arange(30.0)) @ torch.linalg.qr(torch.randn(40, 30)).Q.T
    values = torch.linalg.svdvals(model[0].weight.detach().double()).square()
    least = next(r for r in range(1, 31) if values[:r].sum() >= share * values.sum())

    plan = plan_factors(model, torch.zeros(1, 40), energy=share)

    assert sizes(plan) == {"0": (least,)}
    assert plan.energy >= share


def test_tucker_ranks_keep_the_energy_with_fewest_parameters():
    """Of the pairs that are sure to keep the share a convolution gets the one of fewest parameters; its factors keep at least the share."""
    model = net()
    plan = plan_factors(model, X, layers=["2"], energy=0.7)
    kernel = model[2].weight.detach().double().flatten(2)
    tails = [torch.linalg.svdvals(kernel.movedim(a, 0).flatten(1)).square() for a in (1, 0)]
    sure = [
        (r, s)
        for r, s in itertools.product(range(1, 11), range(1, 15))
        if tails[0][r:].sum() + tails[1][s:].sum() <= 0.3 * kernel.square().sum()
    ]

    def parameters(pair):
        r, s = pair
        return (10 * r if r < 10 else 0) + 9 * r * s + (14 * s if s < 14 else 0)

    (found,) = sizes(plan).values()
    assert parameters(found) == min(map(parameters, sure))
    assert plan.energy == pytest.approx(
        energy(kernel, composed("tucker", decomposed(kernel, "tucker", found), 9))
    )
    assert plan.energy >= 0.7


@pytest.mark.parametrize(
    "budget", [Parameters(at_most=0.3), Macs(at_most=0.5), Bytes(at_most=0.25), Parameters(at_most=2000)]
)
def test_a_budget_is_met(budget):
    """The network is within the budget, and a looser budget loses no more energy."""
    plan = plan_factors(net(), X, budget=budget)

    assert budget.met(plan.after, plan.before)


def test_one_layer_gets_the_best_within_the_budget():
    """With a single layer, greedy is the best: of all ranks within the budget those that lose least."""
    found, _ = candidates(net(), X, ["2"], lambda _: None)
    choices = choices_of(found[0])
    before = plan_factors(net(), X, rank=1).before
    for share in (0.97, 0.95, 0.94):
        budget = Parameters(at_most=share)
        chosen = by_budget([choices], budget, before)["2"]
        fitting = [
            lost
            for pair, lost in zip(choices.sizes.tolist(), choices.lost, strict=True)
            if before.parameters - found[0].cost.parameters + found[0].cost_of("tucker", pair).parameters
            <= int(share * before.parameters)
        ]
        at = choices.sizes.tolist().index(list(chosen))
        assert choices.lost[at] == pytest.approx(min(fitting))


def test_a_greedy_choice_over_layers_is_near_the_best():
    """Over two layers, the energy lost is at most one step of the hulls more than that of the best pair."""
    model = nn.Sequential(nn.Linear(20, 18), nn.ReLU(), nn.Linear(18, 12))
    x = torch.zeros(1, 20)
    found, _ = candidates(model, x, None, lambda _: None)
    every = [choices_of(one) for one in found]
    before = plan_factors(model, x, rank=1).before
    budget = Parameters(at_most=0.5)
    limit = int(0.5 * before.parameters)

    chosen = by_budget(every, budget, before)

    def options(one):
        return [(None, one.of.cost.parameters, 0.0)] + [
            (tuple(pair), one.of.cost_of("svd", pair).parameters, lost)
            for pair, lost in zip(one.sizes.tolist(), one.lost.tolist(), strict=True)
        ]

    best = min(a[2] + b[2] for a, b in itertools.product(*map(options, every)) if a[1] + b[1] <= limit)
    lost = sum({o[0]: o[2] for o in options(one)}[chosen.get(one.of.name)] for one in every)
    assert best <= lost <= best + 0.12


def test_what_saves_nothing_stays():
    """A layer of which too high a rank is asked stays, and the plan says so; if all do, that is an error."""
    plan = plan_factors(net(), X, rank={"2": (10, 14), "5": 4})

    assert sizes(plan) == {"5": (4,)}
    assert reasons(plan) == {
        "0": "no rank was given",
        "7": "no rank was given",
        "2": "would not have fewer parameters at rank 10x14 of 10x14; it would at 10x12",
    }
    assert "stays: 2: would not have fewer parameters" in str(plan)
    with pytest.raises(NothingToCutError, match="would not have fewer parameters"):
        plan_factors(net(), X, rank=1000)
    assert plan_factors(net(), X, budget=Parameters(at_most=1.0)).layers == ()


def test_the_table_says_it_all():
    """A plan prints layers, kinds, ranks, parameters, multiply-adds and energy."""
    text = str(plan_factors(net(), X, rank={"2": (4, 6), "5": 4}))

    assert "2 layers replaced: 10,053 -> 2,229 parameters, 66,972 -> 40,068 MACs" in text
    assert "tucker  10x14 -> 4x6  1,274 -> 354" in text
    assert "svd     24 -> 4       8,424 -> 1,520" in text
    assert text.count(" %") == 2


def test_a_plan_is_a_value():
    """It saves and loads as text, equal; text of something else is refused."""
    for plan in (plan_factors(net(), X, rank=3), plan_replacements(net(), X, kind="fire")):
        assert FactorPlan.from_json(plan.to_json()) == plan
    for text in ("", "[]", "{}", '{"format": 2}', plan.to_json().replace('"fire"', '"bomb"')):
        with pytest.raises(PlanError):
            FactorPlan.from_json(text)


@pytest.mark.parametrize(
    "wrong", [("svd", (0,), (3,)), ("svd", (4,), (3,)), ("tucker", (1,), (3,)), ("other", (), ())]
)
def test_a_value_checks_itself(wrong):
    """Kinds and sizes that cannot be are refused at birth."""
    cost = plan_factors(net(), X, rank=3).before
    kind, chosen, full = wrong
    with pytest.raises(PlanError):
        Factors("0", kind, chosen, full, cost, cost, 1.0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "give one of"),
        ({"rank": 2, "energy": 0.5}, "give one of"),
        ({"energy": 0.0}, "share above 0"),
        ({"energy": 1.5}, "share above 0"),
        ({"rank": 0}, "whole numbers of at least 1"),
        ({"rank": {"2": (1, 2, 3)}}, "has 3 numbers"),
        ({"rank": {"5": (1, 2)}}, "has one rank, not two"),
        ({"rank": {"9": 2}}, "no layer is named so"),
        ({"rank": {"1": 2}}, "no layer is named so"),
        ({"rank": 2, "layers": ["conv*"]}, "no dense or convolutional layer is named so"),
    ],
    ids=str,
)
def test_what_cannot_be_asked(options, said):
    """Options that contradict each other or name nothing are refused, with what to do."""
    with pytest.raises(SettingsError, match=said):
        plan_factors(net(), X, **options)


def test_a_budget_that_cannot_be_reached():
    """The error says how little can be reached."""
    with pytest.raises(BudgetError, match="cannot be reached by low ranks"):
        plan_factors(net(), X, budget=Parameters(at_most=10))


class Unusual(nn.Module):
    """Layers that cannot be replaced, each for a reason of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Linear(16, 16)
        self.grouped = nn.Conv1d(4, 4, 1, groups=2)
        self.tied = nn.Linear(16, 16)
        self.other = nn.Linear(16, 16)
        self.other.weight = self.tied.weight
        self.read = nn.Linear(16, 16)
        self.idle = nn.Linear(16, 16)
        self.normed = parametrizations.weight_norm(nn.Linear(16, 16))
        self.hooked = prune.l1_unstructured(nn.Linear(16, 16), "weight", 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.hooked(self.normed(self.other(self.tied(self.plain(x)))))
        x = self.read(x.to(self.read.weight.dtype))
        return self.grouped(x.reshape(-1, 4, 4)).flatten(1)


def test_what_cannot_be_replaced_stays_with_its_reason():
    """Layers of another class, grouped, tied, hooked, idle, or whose attributes the code reads, stay, and the plan says why."""
    model = Unusual()

    plan = plan_factors(model, torch.zeros(1, 16), rank=2)

    assert list(sizes(plan)) == ["plain"]
    said = reasons(plan)
    assert said["grouped"] == "is a grouped convolution"
    assert said["tied"] == said["other"] == "shares its weight with another layer"
    assert said["idle"] == "is not called in the pass on the example"
    assert "Parametrized" in said["normed"]
    assert said["hooked"] == "has hooks, which would be lost"
    assert said["read"].startswith("is used by the network's code in another way than by calling it")
    assert "weight" in said["read"]


def test_a_network_without_values_is_refused():
    """Ranks are chosen by weights, which must be there and finite."""
    with pytest.raises(ModelError, match="on the meta device"):
        plan_factors(net().to("meta"), X, rank=2)
    model = net()
    model[0].weight.data[0] = float("nan")
    with pytest.raises(ModelError, match="not finite"):
        plan_factors(model, X, energy=0.5)


def test_what_a_kind_can_stand_for():
    """Only windows are replaced by smaller kinds; a fire module needs a centre."""
    model = nn.Sequential(
        nn.Conv2d(4, 8, 3), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 2, padding=1), nn.Conv2d(8, 8, 3, padding=1)
    )
    x = torch.zeros(1, 4, 8, 8)

    assert [layer.name for layer in plan_replacements(model, x, kind="shift").layers] == ["0", "2", "3"]
    fire = plan_replacements(model, x, kind="fire", squeeze=0.5)
    assert sizes(fire) == {"3": (4,)}
    assert "no centre" in reasons(fire)["0"]
    with pytest.raises(SettingsError, match="must be 'depthwise-separable'"):
        plan_replacements(model, x, kind="ghost")
    with pytest.raises(SettingsError, match="squeeze"):
        plan_replacements(model, x, kind="fire", squeeze=0.0)
    with pytest.raises(NothingToCutError, match="is no 2-D convolution"):
        plan_replacements(nn.Sequential(nn.Linear(3, 3)), torch.zeros(1, 3), kind="shift")


def test_the_cost_ratio_of_a_separable_convolution():
    """Of D outputs and k x k positions 1/D + 1/k^2 of the multiply-adds are left."""
    model = nn.Sequential(nn.Conv2d(16, 32, 3, padding=1, bias=False))
    plan = plan_replacements(model, torch.zeros(1, 16, 12, 12), kind="depthwise-separable")

    assert plan.after.macs / plan.before.macs == pytest.approx(1 / 32 + 1 / 9)
    assert plan.after.parameters / plan.before.parameters == pytest.approx(1 / 32 + 1 / 9)
