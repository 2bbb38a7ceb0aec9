"""Limits that a user sets: minima and grains, for all groups or by pattern."""

import re

import numpy as np
import pytest
import torch
from torch import nn

import secateur
from secateur.errors import BudgetError, NothingToCutError, SettingsError
from secateur.plan import GRAINS, Macs

NET = nn.Sequential(
    nn.Linear(4, 40), nn.ReLU(), nn.Linear(40, 48), nn.ReLU(), nn.Linear(48, 20), nn.Linear(20, 2)
)
CHANNELS = secateur.watch(NET, torch.zeros(1, 4))
SCORES = secateur.score(NET, CHANNELS, "random")


def widths(**options) -> dict[str, int]:
    """What is left of each group."""
    made = secateur.plan(CHANNELS, SCORES, **options)
    left = {change.group: len(change.take) for change in made.changes}
    return {group.name: left.get(group.name, group.width) for group in CHANNELS.groups}


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"minimum": 30}, {"0": 30, "2": 30, "4": 20}),
        ({"minimum": {"2": 7}}, {"0": 4, "2": 7, "4": 2}),
        ({"minimum": {"2": 7, "*": 3}}, {"0": 4, "2": 7, "4": 3}),
        ({"minimum": {"[02]": 9}, "round_to": 4}, {"0": 12, "2": 12, "4": 4}),
        ({"round_to": "xnnpack"}, {"0": 16, "2": 16, "4": 16}),
        ({"round_to": {"0": "litert", "4": 3}}, {"0": 16, "2": 5, "4": 3}),
    ],
)
def test_limits_hold_by_layer(options, wanted):
    """Nine tenths go, but no more than the limits of each group allow."""
    assert widths(remove=0.9, **options) == wanted


@pytest.mark.parametrize("how", [{"remove": 0.9, "scope": "global"}, {"budget": Macs(at_most=0.5)}])
def test_limits_hold_when_groups_compete(how):
    """Neither a global ranking nor a budget goes below a minimum or off the grain."""
    left = widths(minimum={"0": 12, "*": 5}, round_to=4, **how)

    assert left["0"] >= 12
    assert min(left.values()) >= 5
    assert all(width % 4 == 0 for width in left.values())


def test_a_ranking_without_free_units_removes_nothing():
    """Minima at or above every width leave all groups whole, and say so."""
    for scope in ("layer", "global"):
        with pytest.raises(NothingToCutError, match=r"0: 40 units, .* round up to 40 \(minimum=48\)"):
            secateur.plan(CHANNELS, SCORES, remove=0.5, scope=scope, minimum=48)


def test_a_budget_below_the_limits_is_refused():
    """The error says what the network costs at its limits, and that they could be lowered."""
    with pytest.raises(BudgetError, match=r"lower minimum= and round_to="):
        secateur.plan(CHANNELS, SCORES, budget=Macs(at_most=0.1), minimum=30)


def test_whole_blocks_count_as_positions():
    """The grain is counted in positions of an axis: heads of 16 need no rounding, halves of a gate do each."""

    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v = (nn.Linear(8, 96) for _ in range(3))
            self.out = nn.Linear(96, 8)

        def forward(self, x):
            q, k, v = (layer(x).unflatten(-1, (-1, 16)).transpose(1, 2) for layer in (self.q, self.k, self.v))
            return self.out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    for model, x, share, wanted in (
        (Heads(), torch.zeros(1, 5, 8), 0.5, 3),
        (nn.Sequential(nn.Linear(8, 96), nn.GLU(), nn.Linear(48, 2)), torch.zeros(1, 8), 0.5, 32),
    ):
        channels = secateur.watch(model, x)
        made = secateur.plan(
            channels, secateur.score(model, channels, "l1"), remove=share, round_to="xnnpack"
        )
        assert [len(change.take) for change in made.changes] == [wanted]


def test_every_target_has_a_grain():
    """The table names targets in order, with whole numbers."""
    assert list(GRAINS) == sorted(GRAINS)
    assert all(np.issubdtype(type(grain), np.integer) and grain >= 1 for grain in GRAINS.values())


REFUSED = {
    "unknown target": (
        {"round_to": "abacus"},
        "round_to='abacus' is no export target; give one of executorch, ",
    ),
    "target by pattern": ({"round_to": {"0": "abacus"}}, "round_to='abacus' is no export target"),
    "zero": ({"minimum": 0}, "minimum=0 must be at least 1"),
    "no whole number": ({"minimum": 2.5}, "minimum=2.5 must be a whole number"),
    "a yes": ({"round_to": True}, "round_to=True must be a whole number"),
    "text as a minimum": ({"minimum": {"0": "8"}}, "minimum='8' must be a whole number"),
    "a pattern for nothing": (
        {"minimum": {"conv*": 8}},
        "minimum= speaks of 'conv*', and no group is named so; the groups are 0, 2, 4",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_limits_are_refused(name):
    """Each is told with its value, and what may be given."""
    options, message = REFUSED[name]

    with pytest.raises(SettingsError, match=re.escape(message)):
        secateur.plan(CHANNELS, SCORES, remove=0.5, **options)
