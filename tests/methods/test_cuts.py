"""Cuts that are looked at before they are made."""

from __future__ import annotations

import pytest
import torch

import secateur
from secateur import data, networks
from secateur.data import Splits
from secateur.evaluate import evaluate
from secateur.methods import ReduceSettings
from secateur.methods import cuts as cuts_file
from secateur.methods.cuts import Cuts
from secateur.methods.judge import Judge


@pytest.fixture(scope="module")
def digits() -> Splits:
    return data.load("digits", limit=300)


def cuts_of(digits: Splits) -> Cuts:
    model = networks.build("digits-net", seed=0).eval()
    settings = ReduceSettings(max_drop=2.0)
    channels = secateur.watch(model, digits.train.inputs[:1])
    judge = Judge(model, digits, settings)
    groups = [group.name for group in channels.groups]
    return Cuts(
        model, channels, settings, groups=groups, judge=judge, sample=digits.train.take(100, seed=0), number=0
    )


def test_a_shock_is_how_much_the_loss_rises(digits: Splits) -> None:
    """The loss of the network cut by the plan, less that of the network, on the validation examples."""
    cuts = cuts_of(digits)

    cut = cuts.of(cuts.channels.groups[0], 0.5)

    after = evaluate(secateur.apply(cuts.model, cut.plan), digits.validation).loss
    assert cut.loss == evaluate(cuts.model, digits.validation).loss
    assert cut.shock == after - cut.loss
    assert cut.width_after == cut.group.width // 2


def test_what_is_observed_together_does_not_matter(digits: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    """With memory for one layer at a time, the cuts are the same."""
    together = cuts_of(digits)
    plans = [together.of(group, 0.5).plan for group in together.channels.groups]

    monkeypatch.setattr(cuts_file, "_ENTRIES", 1)
    alone = cuts_of(digits)

    for group, plan in zip(alone.channels.groups, plans, strict=True):
        mine = secateur.apply(alone.model, alone.of(group, 0.5).plan).state_dict()
        theirs = secateur.apply(together.model, plan).state_dict()
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)
