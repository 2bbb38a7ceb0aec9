"""Arguments of another kind than a public function takes are refused by name, never by an error from deep inside."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import secateur
from secateur.criteria import BlockScores
from secateur.errors import NothingToCutError, SettingsError, WatchError
from secateur.networks import build
from secateur.plan import Macs


@cache
def made() -> SimpleNamespace:
    """A small network and a residual one with all that is made of them on the way."""
    net, x = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2)), torch.zeros(1, 8)
    channels = secateur.watch(net, x)
    scores = secateur.score(net, channels, "l1")
    residual, image = build("resnet20", seed=0), torch.zeros(1, 3, 32, 32)
    whole = secateur.watch(residual, image)
    blocks = secateur.blocks(residual, whole, image, only="stages.0.*")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    return SimpleNamespace(
        net=net, x=x, channels=channels, scores=scores, plan=secateur.plan(channels, scores, remove=0.5),
        residual=residual, image=image, whole=whole, blocks=blocks,
        ranked=BlockScores("change", blocks, {block.name: 1.0 for block in blocks}), optimizer=optimizer,
        scheduler=torch.optim.lr_scheduler.StepLR(optimizer, 1), tokens=nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 2)),
    )  # fmt: skip


WRONG: dict[str, tuple[Callable[[SimpleNamespace], object], str]] = {
    "plan by a word": (lambda m: secateur.plan(m.channels, m.scores, remove="half"), "remove='half' for 0: it must be a number"),
    "plan by a word for a group": (lambda m: secateur.plan(m.channels, m.scores, remove={"0": "half"}), "remove='half' for 0"),
    "plan over all by a word": (
        lambda m: secateur.plan(m.channels, m.scores, remove="half", scope="global"), "remove='half' for the network",
    ),
    "plan within a number": (lambda m: secateur.plan(m.channels, m.scores, budget=0.5), "budget is of class float"),
    "plan swapped": (lambda m: secateur.plan(m.scores, m.channels, remove=0.5), "channels is of class Scores"),
    "plan_blocks by a word": (lambda m: secateur.plan_blocks(m.whole, m.ranked, remove="x"), "remove='x' must be a whole number"),
    "plan_blocks within a number": (lambda m: secateur.plan_blocks(m.whole, m.ranked, budget=0.5), "budget is of class float"),
    "plan_blocks swapped": (lambda m: secateur.plan_blocks(m.ranked, m.whole, remove=1), "channels is of class BlockScores"),
    "apply with a scheduler": (
        lambda m: secateur.apply(m.net, m.plan, optimizer=m.scheduler), "optimizer= holds something of class StepLR.*give scheduler.optimizer",
    ),
    "apply with a scheduler among others": (
        lambda m: secateur.apply(m.net, m.plan, optimizer=[m.optimizer, m.scheduler]), "optimizer= holds something of class StepLR",
    ),
    "apply with numbers for averages": (lambda m: secateur.apply(m.net, m.plan, averages=[3]), "averages= holds something of class int"),
    "apply swapped": (lambda m: secateur.apply(m.plan, m.net), r"model is of class Plan, and Module.*apply\(model, plan\)"),
    "score swapped": (lambda m: secateur.score(m.channels, m.net), "model is of class Channels"),
    "watch swapped": (lambda m: secateur.watch(m.x, m.net), r"model is of class Tensor.*watch\(model, example\)"),
    "blocks swapped": (lambda m: secateur.blocks(m.whole, m.residual, m.image), "model is of class Channels"),
    "blocks without channels": (lambda m: secateur.blocks(m.residual, m.image, m.whole), "channels is of class Tensor"),
    "score_blocks swapped": (lambda m: secateur.score_blocks(m.blocks, m.residual, data=[]), "model is of class tuple"),
    "score_blocks of names": (
        lambda m: secateur.score_blocks(m.residual, ["stages.0.0"], data=[]), "block is of class str, and Block",
    ),
    "reduce swapped": (lambda m: secateur.reduce("digits", m.net, max_drop=1.0), "model is of class str"),
    "save swapped": (lambda m: secateur.save("net.safetensors", m.net), "model is of class str"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_of_another_kind_is_named(name: str) -> None:
    """With the kind that is wanted."""
    call, words = WRONG[name]
    with pytest.raises(SettingsError, match=words):
        call(made())


@pytest.mark.parametrize(
    ("network", "example", "words"),
    [
        ("net", (1, 8), r"\(1, 8\) is a shape or numbers.*torch.zeros\(1, 8\)"),
        ("net", [1, 8], r"torch.zeros\(1, 8\)"),
        ("net", torch.Size([1, 8]), r"torch.zeros\(1, 8\)"),
        ("net", torch.zeros(1, 8).numpy(), "class ndarray.*torch.as_tensor"),
        ("tokens", [1, 2, 3], r"torch.tensor\(\[\[1, 2, 3\]\]\)"),
        ("tokens", [[1, 2, 3]], r"torch.tensor\(\[\[1, 2, 3\]\]\)"),
    ],
)
def test_what_is_no_example_is_told_what_to_pass(network: str, example: object, words: str) -> None:
    """A shape, numbers in lists, an array: the sentence has the tensor that is wanted."""
    with pytest.raises(WatchError, match=words):
        secateur.watch(getattr(made(), network), example)


def test_blocks_are_told_the_same_of_an_example() -> None:
    """A shape is none for them, too."""
    with pytest.raises(WatchError, match=r"torch.zeros\(1, 3, 32, 32\)"):
        secateur.blocks(made().residual, made().whole, (1, 3, 32, 32))


@pytest.mark.parametrize("options", [{"remove": 0}, {"remove": 0.5}, {"budget": Macs(at_most=1.0)}])
def test_scores_of_no_block_are_refused(options) -> None:
    """Whatever is asked for: nothing could ever go."""
    with pytest.raises(NothingToCutError, match="no block has a score"):
        secateur.plan_blocks(made().channels, BlockScores("change", (), {}), **options)
