"""Scores of blocks say how much a block changes, or what its units are worth."""

import math

import pytest
import torch
from tests.strategies import Skip
from torch import Tensor, nn

import secateur
from secateur.channels import Block
from secateur.criteria import BlockScores, Scores
from secateur.errors import DataError, ModelError, SettingsError
from secateur.testing import check_left_as_found, randomise

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


EYE = torch.eye(4, dtype=torch.float64)


class Turn(nn.Module):
    """x + W x."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.matrix = nn.Parameter(matrix)

    def forward(self, x: Tensor) -> Tensor:
        return x + x @ self.matrix.T


def found_in(model: nn.Module, x: Tensor = X) -> tuple[Block, ...]:
    return secateur.blocks(model, secateur.watch(model, x), x)


def test_change_is_the_share_by_which_a_block_changes_its_input():
    """A block that adds a share w of its input changes it by w, in whichever batches; influence sees no turn in it."""
    net = nn.Sequential(Turn(0.25 * EYE), Turn(-0.5 * EYE), nn.Linear(4, 2).double())
    found = found_in(net)
    data = [(X, None), (5 * X[:1], None)]

    change = secateur.score_blocks(net, found, data=data)
    influence = secateur.score_blocks(net, found, "influence", data=data)

    assert change.values == pytest.approx({"0": 0.25, "1": 0.5})
    assert influence.values == pytest.approx({"0": 0.0, "1": 0.0}, abs=1e-12)
    assert str(change) == "Scores of blocks by change\n0  0.25\n1  0.5"


def test_influence_is_one_less_the_cosine():
    """A block that turns its input by an angle has an influence of one less its cosine, however long it makes it."""
    angle = 0.3
    turned = torch.tensor(
        [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]], dtype=torch.float64
    )
    net = nn.Sequential(Turn(3 * turned - torch.eye(2, dtype=torch.float64)), nn.Linear(2, 2).double())
    x = X[:, :2]

    ranked = secateur.score_blocks(net, found_in(net, x), "influence", data=[(x, None)])

    assert ranked.values["0"] == pytest.approx(1 - math.cos(angle))


def network() -> nn.Module:
    def branch() -> nn.Module:
        return nn.Sequential(nn.Conv2d(4, 6, 1), nn.ReLU(), nn.Conv2d(6, 4, 1))

    blocks = [Skip(kind, branch(), branch()) for kind in ("in place", "two branches")]
    return randomise(nn.Sequential(nn.Conv2d(4, 4, 1), *blocks, nn.Conv2d(4, 2, 1)))


IMAGES = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(1))


def test_a_block_that_writes_into_its_input_is_seen_all_the_same():
    """The change is against what went in, also where the block adds in place."""
    net = network()
    ranked = secateur.score_blocks(net, found_in(net, IMAGES), data=[(IMAGES, None)])

    with torch.no_grad():
        x = net[0](IMAGES)
        y = net[1](x.clone())
    assert ranked.values["1"] == pytest.approx(float((y - x).norm() / x.norm()))


def test_scores_of_channels_add_up():
    """The score of a block by scores of channels is the sum over the units of its inner groups."""
    net = network()
    channels = secateur.watch(net, IMAGES)
    scores = secateur.score(net, channels, "l1")

    ranked = secateur.score_blocks(net, secateur.blocks(net, channels, IMAGES), scores)

    assert ranked.criterion == "sum of l1"
    expected = float(scores.values["2.branch.0"].sum() + scores.values["2.other.0"].sum())
    assert ranked.values["2"] == pytest.approx(expected)
    with pytest.raises(SettingsError, match="block '1' has no inner group with a score by 'l1'"):
        secateur.score_blocks(net, ranked.blocks, Scores("l1", {"2.branch.0": scores.values["2.branch.0"]}))


def test_batches_are_counted_and_the_network_left_as_found():
    """No more batches are looked at than asked for, anything with .batches is data, and the network is as it was."""
    net = network().train()
    found = found_in(net, IMAGES)

    class Split:
        def batches(self, size: int) -> list:
            return [(IMAGES, None), (3 * IMAGES + 1, None)]

    first = secateur.score_blocks(net, found, data=[(IMAGES, None)])
    check_left_as_found(net, lambda: secateur.score_blocks(net, found, data=Split()))

    assert secateur.score_blocks(net, found, data=Split(), batches=1).values == first.values
    assert secateur.score_blocks(net, found, data=Split()).values != first.values


def test_what_cannot_be_scored_is_refused():
    """Unknown criteria, missing data, foreign blocks and numbers that are not finite are told."""
    net = network()
    found = found_in(net, IMAGES)

    with pytest.raises(SettingsError, match="none for blocks; give change, influence"):
        secateur.score_blocks(net, found, "l1", data=[(IMAGES, None)])
    with pytest.raises(SettingsError, match="needs data"):
        secateur.score_blocks(net, found)
    with pytest.raises(SettingsError, match="at least 1"):
        secateur.score_blocks(net, found, data=[(IMAGES, None)], batches=0)
    with pytest.raises(DataError, match="no batch"):
        secateur.score_blocks(net, found, data=[])
    channels = secateur.watch(net, IMAGES)
    small = secateur.apply(net, secateur.plan_blocks(channels, found[:1]))
    with pytest.raises(ModelError, match="no block '1'"):
        secateur.score_blocks(small, found, data=[(IMAGES, None)])
    with pytest.raises(ModelError, match="gives block '1' the score"):
        secateur.score_blocks(net, found, data=[(IMAGES * float("nan"), None)])
    with pytest.raises(SettingsError, match="there are scores of"):
        BlockScores("mine", found, {"1": 1.0})
