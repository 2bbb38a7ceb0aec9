"""Which weights go: the lowest, to the number."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import secateur
from secateur.criteria import WeightScores
from secateur.errors import NothingToCutError, PlanError, SettingsError
from secateur.surgery import Masks


def convolutional():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3, groups=1), nn.Flatten(), nn.Linear(3, 5)
    )


def flat(tensors):
    return torch.cat([tensor.flatten() for tensor in tensors])


@settings(deadline=None, max_examples=80)
@given(
    share=st.floats(0, 1) | st.integers(0, 195).map(lambda n: n / 195),
    granularity=st.sampled_from(["weight", "kernel"]),
    scope=st.sampled_from(["layer", "global"]),
    levels=st.integers(1, 50),
    seed=st.integers(0, 99),
)
def test_exactly_the_share_goes_and_none_that_goes_scores_more(share, granularity, scope, levels, seed):
    """Of n exactly floor(share * n) go, by layer or in all, whatever ties; what stays scores no less than what goes."""
    model = convolutional()
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        name: p.shape[:2] if granularity == "kernel" else p.shape
        for name, p in model.named_parameters()
        if p.dim() > 1
    }
    values = {
        name: torch.randint(levels, shape, generator=generator).double() for name, shape in shapes.items()
    }
    scores = WeightScores("test", granularity, values)

    masks = secateur.plan_weights(model, scores, remove=share, scope=scope)

    masks.check(model)
    stay = {
        name: kept.flatten(2).all(2) if granularity == "kernel" and kept.dim() > 2 else kept
        for name, kept in masks.kept.items()
    }
    for name, kept in masks.kept.items():  # a kernel stays or goes as a whole
        if kept.shape != stay[name].shape:
            assert torch.equal(kept.flatten(2).any(2), stay[name])
    sets = [list(values)] if scope == "global" else [[name] for name in values]
    for names in sets:
        score, kept = flat(values[name] for name in names), flat(stay[name] for name in names)
        gone = int((~kept).sum())
        assert gone == math.floor(share * len(kept) + 1e-6) or share * len(kept) == pytest.approx(
            gone, abs=1e-6
        )
        if 0 < gone < len(kept):
            assert score[~kept].max() <= score[kept].min()


@settings(deadline=None, max_examples=40)
@given(counts=st.lists(st.integers(0, 195), min_size=1, max_size=6), seed=st.integers(0, 9))
def test_what_is_cut_stays_cut(counts, seed):
    """Step by step with other scores each time, exactly so many are gone in all, and none comes back."""
    model, masks = convolutional(), None
    for step, count in enumerate(sorted(counts)):
        scores = secateur.score_weights(model, "random", seed=10 * seed + step)
        after = secateur.plan_weights(model, scores, remove=count / 195, scope="global", within=masks)
        assert after.total - after.left == count
        assert masks is None or (after & masks).digest == after.digest
        masks = after


def test_ties_go_in_order():
    """Of equal scores the first goes first: by tensor, then by number."""
    model = convolutional()
    scores = WeightScores(
        "test", "weight", {"0.weight": torch.ones(4, 2, 3, 3).double(), "4.weight": torch.ones(5, 3).double()}
    )
    masks = secateur.plan_weights(model, scores, remove=74 / 87, scope="global")

    assert masks.kept["0.weight"].sum() == 0
    assert masks.kept["4.weight"].flatten().tolist() == [False, False] + [True] * 13


def test_normalised_scores_compete():
    """A layer of scores ten times as large loses its share where each is divided by its norm, and nothing otherwise."""
    model = convolutional()
    small, large = torch.rand(5, 3).double() + 1, torch.rand(3, 4, 3, 3).double() + 1
    scores = WeightScores("test", "weight", {"4.weight": small, "2.weight": 1000 * large})
    gone = {
        norm: int(
            (
                ~secateur.plan_weights(model, scores, remove=0.1, scope="global", normalise=norm).kept[
                    "2.weight"
                ]
            ).sum()
        )
        for norm in ("none", "l1", "l2")
    }

    assert gone["none"] == 0
    assert gone["l1"] == 12  # of 123, since a layer of more weights has the lower ones
    assert gone["l2"] == 12


def test_a_share_by_name_and_parameters_left_out():
    """Parameters that are not named, or excluded, lose nothing; what holds already counts."""
    model = convolutional()
    scores = secateur.score_weights(model, "magnitude")
    named = secateur.plan_weights(model, scores, remove={"4.weight": 0.4, "2.weight": 1.0})
    assert [int((~kept).sum()) for kept in named.kept.values()] == [0, 108, 6]
    without = secateur.plan_weights(model, scores, remove=0.5, exclude=["4.weight"])
    assert {name: int(kept.sum()) for name, kept in without.kept.items()} == {"0.weight": 36, "2.weight": 54}
    held = Masks({"4.weight": torch.zeros(5, 3, dtype=torch.bool)})
    both = secateur.plan_weights(model, scores, remove=0.5, exclude=["4.weight"], within=held)
    assert both.kept["4.weight"].sum() == 0
    less = secateur.plan_weights(model, scores, remove=0.1, within=held)
    assert less.kept["4.weight"].sum() == 0


def test_bad_options_are_told():
    """Shares, names and scores that cannot be are refused with the nearest that can."""
    model = convolutional()
    scores = secateur.score_weights(model, "magnitude")
    for remove in (-0.1, 1.1, {"0.weight": 2.0}):
        with pytest.raises(SettingsError, match="from 0 to 1"):
            secateur.plan_weights(model, scores, remove=remove)
    with pytest.raises(SettingsError, match=r"remove= names '0\.weights'.*did you mean '0\.weight'"):
        secateur.plan_weights(model, scores, remove={"0.weights": 0.5})
    with pytest.raises(SettingsError, match=r"exclude= names '5'"):
        secateur.plan_weights(model, scores, remove=0.5, exclude=["5"])
    with pytest.raises(SettingsError, match="scope='all'"):
        secateur.plan_weights(model, scores, remove=0.5, scope="all")
    with pytest.raises(SettingsError, match="normalise='l3'"):
        secateur.plan_weights(model, scores, remove=0.5, normalise="l3")
    with pytest.raises(NothingToCutError):
        secateur.plan_weights(model, scores, remove=0.5, exclude=list(scores.values))
    with pytest.raises(PlanError, match="another network"):
        secateur.plan_weights(nn.Linear(2, 2), scores, remove=0.5)
    other = secateur.score_weights(nn.Sequential(nn.Linear(2, 2)), "magnitude")
    with pytest.raises(PlanError, match=r"\(2, 2\) of them"):
        secateur.plan_weights(convolutional(), other, remove=0.5)
