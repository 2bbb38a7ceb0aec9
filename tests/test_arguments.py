"""Arguments of another kind than a public function takes are refused by name, never by an error from deep inside."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import secateur
from secateur import data
from secateur.criteria import BlockScores
from secateur.errors import (
    DataError,
    FileFormatError,
    NothingToCutError,
    PlanError,
    SettingsError,
    StoreError,
    WatchError,
)
from secateur.methods import (
    ReduceSettings,
    SpliceSettings,
    StepSettings,
    ablate,
    factor_within,
    layerwise_obs,
    splice,
    stepwise,
    train,
)
from secateur.networks import build
from secateur.plan import Macs
from secateur.store import load_masks, save_masks
from secateur.surgery import Masks, holding
from secateur.train import TrainSettings, block_around, block_outputs, fit, fit_block


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
    digits, pictures = data.load("digits", limit=100), build("digits-net", seed=0)
    picture = digits.train.inputs[:1]
    seen = secateur.watch(pictures, picture)
    return SimpleNamespace(
        digits=digits, pictures=pictures, picture=picture, seen=seen, block=block_around(pictures, seen, "dense1", picture),
        weights=secateur.score_weights(net, "magnitude"), masks=secateur.plan_weights(net, secateur.score_weights(net), remove=0.5),
        settings=TrainSettings(epochs=1),
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
    "mask by a dict": (lambda m: secateur.mask(m.net, dict(m.masks.kept)), r"masks is of class dict, and Masks.*Masks\(\{"),
    "mask by a plan": (lambda m: secateur.mask(m.net, m.plan), "masks is of class Plan"),
    "holding a dict": (lambda m: holding(m.net, m.masks.kept, m.optimizer).__enter__(), "masks is of class dict"),
    "save_masks swapped": (lambda m: save_masks("masks.safetensors", m.masks), "masks is of class str"),
    "save_masks of a dict": (lambda m: save_masks(m.masks.kept, "masks.safetensors"), "masks is of class dict"),
    "plan_weights by a word": (lambda m: secateur.plan_weights(m.net, m.weights, remove="0.5"), "remove is of class str"),
    "plan_weights by a list": (lambda m: secateur.plan_weights(m.net, m.weights, remove=[0.5]), "remove is of class list"),
    "plan_weights by a word for one": (
        lambda m: secateur.plan_weights(m.net, m.weights, remove={"0.weight": "half"}), "remove='half' for 0.weight must be a number",
    ),
    "plan_weights without a number": (lambda m: secateur.plan_weights(m.net, m.weights, remove=0.5, exclude=3), "exclude is of class int"),
    "plan_weights without one name": (
        lambda m: secateur.plan_weights(m.net, m.weights, remove=0.5, exclude="2.weight"), r"write exclude=\['2.weight'\]",
    ),
    "plan_weights of units' scores": (
        lambda m: secateur.plan_weights(m.net, m.scores, remove=0.5), r"scores are of units.*secateur.plan\(channels, scores",
    ),
    "plan_weights within a dict": (
        lambda m: secateur.plan_weights(m.net, m.weights, remove=0.5, within=m.masks.kept), "within is of class dict",
    ),
    "score_weights of a number": (lambda m: secateur.score_weights(m.net, layers=3), r"layers is of class int.*layers=\['name'"),
    "score_weights of numbers": (lambda m: secateur.score_weights(m.net, layers=[0]), "layers holds something of class int"),
    "score_weights of one name": (lambda m: secateur.score_weights(m.net, layers="0"), r"write layers=\['0'\]"),
    "score_weights on all splits": (
        lambda m: secateur.score_weights(m.pictures, "taylor", data=m.digits), "data is of class Splits.*such as data.train",
    ),
    "score_weights on a number": (lambda m: secateur.score_weights(m.net, "taylor", data=3), "data is of class int"),
    "score on a tensor": (lambda m: secateur.score(m.net, m.channels, data=m.x), r"data is of class Tensor.*\[\(inputs, targets\)\]"),
    "score of one name": (lambda m: secateur.score(m.net, m.channels, "l1", groups="0"), r"write groups=\['0'\]"),
    "score_blocks on a tensor": (lambda m: secateur.score_blocks(m.residual, m.blocks, data=m.image), "data is of class Tensor"),
    "plan_factors of a class": (lambda m: secateur.plan_factors(nn.Linear, m.x, rank=2), "model is the class Linear itself"),
    "plan_factors within a number": (
        lambda m: secateur.plan_factors(m.net, m.x, budget=0.5), r"budget is of class float, and Macs or Parameters or Bytes",
    ),
    "plan_factors by a word": (lambda m: secateur.plan_factors(m.net, m.x, energy="high"), "energy='high' must be a share"),
    "plan_factors of one name": (lambda m: secateur.plan_factors(m.net, m.x, rank=1, layers="0"), r"write layers=\['0'\]"),
    "plan_replacements of one name": (
        lambda m: secateur.plan_replacements(m.pictures, m.picture, kind="shift", layers="conv1"), r"write layers=\['conv1'\]",
    ),
    "factor by a plan of units": (lambda m: secateur.factor(m.net, m.plan), "plan is of class Plan, and FactorPlan.*plan_factors"),
    "factor on all splits": (
        lambda m: secateur.factor(m.pictures, secateur.plan_factors(m.pictures, m.picture, rank=2), data=m.digits),
        "data is of class Splits.*such as data.train",
    ),
    "fit under a dict": (
        lambda m: fit(m.pictures, m.digits.train, None, m.settings, masks={}), "masks is of class dict, and Masks",
    ),
    "fit on all splits": (lambda m: fit(m.pictures, m.digits, None, m.settings), "train is of class Splits.*give data.train"),
    "fit judged by all splits": (
        lambda m: fit(m.pictures, m.digits.train, m.digits, m.settings), "validation is of class Splits.*give data.validation",
    ),
    "fit by a number": (lambda m: fit(m.pictures, m.digits.train, None, 3), "settings is of class int, and TrainSettings"),
    "evaluate on all splits": (lambda m: secateur.evaluate.evaluate(m.pictures, m.digits), "split is of class Splits.*data.train"),
    "fit_block of a name": (
        lambda m: fit_block(m.pictures, m.pictures, "dense1", m.digits.train, m.settings), "block is of class str.*block_around",
    ),
    "fit_block by a number": (
        lambda m: fit_block(m.pictures, m.pictures, m.block, m.digits.train, 3), "settings is of class int",
    ),
    "fit_block on all splits": (
        lambda m: fit_block(m.pictures, m.pictures, m.block, m.digits, m.settings), "train is of class Splits",
    ),
    "block_around a number": (lambda m: block_around(m.pictures, m.seen, 3, m.picture), "groups is of class int"),
    "block_around numbers": (lambda m: block_around(m.pictures, m.seen, [3], m.picture), "groups holds something of class int"),
    "ablate on all splits": (lambda m: ablate(m.pictures, m.digits), r"split is of class Splits.*data.validation"),
    "factor_within one split": (
        lambda m: factor_within(m.pictures, m.digits.train, max_drop=1.0), "data is of class Split, and Splits is wanted",
    ),
    "factor_within of one name": (
        lambda m: factor_within(m.pictures, m.digits, max_drop=1.0, layers="dense1"), r"write layers=\['dense1'\]",
    ),
    "layerwise_obs on a tensor": (lambda m: layerwise_obs(m.pictures, m.picture, remove=0.5), "data is of class Tensor"),
    "layerwise_obs by a word": (lambda m: layerwise_obs(m.pictures, m.digits, remove="half"), "remove is of class str"),
    "layerwise_obs of one name": (
        lambda m: layerwise_obs(m.pictures, m.digits, remove=0.5, layers="dense1"), r"write layers=\['dense1'\]",
    ),
    "splice by a number": (lambda m: splice(m.pictures, m.digits, 0.9), r"settings is of class float, and SpliceSettings"),
    "splice on one split": (
        lambda m: splice(m.pictures, m.digits.train, SpliceSettings(remove=0.9)), "data is of class Split, and Splits is wanted",
    ),
    "score on lone tensors": (
        lambda m: secateur.score(m.net, m.channels, data=[torch.zeros(2, 8)]), r"a batch of data is one tensor, and a pair \(inputs",
    ),
    "plan of one name": (lambda m: secateur.plan(m.channels, m.scores, remove=0.5, groups="0"), r"write groups=\['0'\]"),
    "plan_factors by a list": (
        lambda m: secateur.plan_factors(m.pictures, m.picture, rank={"conv3": [4, 4]}), r"one, or a pair such as \(4, 8\)",
    ),
    "masks of a list": (lambda _: Masks([True]), "kept is of class list, and Mapping is wanted"),
    "masks of lists": (lambda _: Masks({"w": [True]}), "the mask of 'w' is of class list, and Tensor is wanted"),
    "fit with a number for a teacher": (
        lambda m: fit(m.pictures, m.digits.train, None, m.settings, teacher=3), "teacher is of class int",
    ),
    "block_outputs of a name": (lambda m: block_outputs(m.pictures, "dense1", m.picture), "block is of class str"),
    "factor_within a word": (
        lambda m: factor_within(m.pictures, m.digits, max_drop="one"), "max_drop='one' must be points of accuracy",
    ),
    "stepwise by a number": (lambda m: stepwise(m.pictures, m.digits, 3), "settings is of class int, and StepSettings"),
    "stepwise on one split": (lambda m: stepwise(m.pictures, m.digits.train, StepSettings()), "data is of class Split, and Splits"),
    "train on one split": (lambda m: train(m.pictures, m.digits.train, out="nowhere"), "data is of class Split, and Splits"),
    "settings of one name": (lambda _: ReduceSettings(max_drop=1, layers="conv*"), r"several are wanted; write layers=\['conv\*'\]"),
    "settings by a list": (
        lambda _: SpliceSettings(remove=[0.5]), r"option 'remove' cannot be \[0.5\]: input should be a valid number or a valid dictionary",
    ),
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


def test_a_file_of_masks_is_told_from_a_network(tmp_path) -> None:
    """Who loads it as a network hears what reads it; a folder that is not there is named."""
    masks = Masks({"weight": torch.tensor([[True, False]])})
    save_masks(masks, tmp_path / "masks.safetensors")

    with pytest.raises(FileFormatError, match=r"holds masks and no network.*secateur.store.load_masks"):
        secateur.load(tmp_path / "masks.safetensors")
    with pytest.raises(StoreError, match=r"there is no folder .*nowhere\. Make it") as caught:
        save_masks(masks, tmp_path / "nowhere" / "masks.safetensors")
    assert "command" not in str(caught.value)
    assert load_masks(tmp_path / "masks.safetensors").digest == masks.digest


def test_ranks_are_refused_in_their_own_words() -> None:
    """How many numbers there are, what a layer's rank can be, and what was left out."""
    m = made()
    for options, words in (
        ({"rank": {"conv3": (4, 4, 4)}}, "has 3 numbers; give one, or two: of inputs and of outputs"),
        (
            {"rank": {"dense1": 8}, "layers": ["conv3"]},
            "'dense1', which layers= leaves out; ranks can be given for conv3",
        ),
        ({"rank": {"nothing": 8}}, "no layer is named so"),
    ):
        with pytest.raises(SettingsError, match=words):
            secateur.plan_factors(m.pictures, m.picture, **options)
    with pytest.raises(
        NothingToCutError, match="would not have fewer parameters at rank 64 of 64; it would at 51"
    ):
        secateur.plan_factors(m.pictures, m.picture, rank={"dense1": 65})
    assert secateur.plan_factors(m.pictures, m.picture, rank={"dense1": 51}).layers
    with pytest.raises(NothingToCutError, match="is no 2-D convolution; take other layers") as caught:
        secateur.plan_replacements(m.pictures, m.picture, kind="shift", layers=["dense1"])
    assert "rank" not in str(caught.value)


def test_a_plan_of_factors_says_where_a_network_differs() -> None:
    """By the layer that is not there, or is of another size; no digests."""
    plan = secateur.plan_factors(made().pictures, made().picture, rank={"dense1": 8})
    for other, words in (
        (made().net, "no layer 'dense1'"),
        (build("lenet5", seed=0), "'dense1' had 16,448 parameters in it and has 48,120 here"),
        (
            build("digits-net", seed=0, classes=9),
            "is as large in this one, and the rest of the structure differs",
        ),
    ):
        with pytest.raises(PlanError, match=words) as caught:
            secateur.factor(other, plan)
        assert plan.digest not in str(caught.value)


def test_less_than_is_cut_already_is_refused() -> None:
    """With both shares, of the network and of a parameter; as much, or more, is not."""
    m = made()
    for remove in (0.3, {"2.weight": 0.3}):
        for scope in ("layer", "global"):
            with pytest.raises(SettingsError, match=r"remove=0.3 for .* has cut 0.5 of it already"):
                secateur.plan_weights(m.net, m.weights, remove=remove, scope=scope, within=m.masks)
    same = secateur.plan_weights(m.net, m.weights, remove=0.5, within=m.masks)
    assert same.digest == m.masks.digest


def test_inputs_of_another_shape_are_told() -> None:
    """By what observes a network on data, as by what evaluates it."""
    m = made()
    other = build("lenet5", seed=0)
    channels = secateur.watch(other, torch.zeros(1, 1, 28, 28))
    for call in (
        lambda: layerwise_obs(other, m.digits, remove=0.5),
        lambda: secateur.score(other, channels, "taylor", data=m.digits.train),
        lambda: secateur.score_weights(other, "taylor", data=m.digits.train),
        lambda: secateur.score_weights(other, "obd", data=m.digits.train),
    ):
        with pytest.raises(
            DataError,
            match=r"does not take inputs of shape \(\d+, 1, 8, 8\).*give it the data it was built for",
        ):
            call()


def test_results_print_in_a_few_lines() -> None:
    """What was done and what it cost, and not the network."""
    m = made()
    trained = fit(build("digits-net", seed=0), m.digits.train, m.digits.validation, m.settings)
    lighter = layerwise_obs(m.pictures, m.digits, remove=0.5, layers=["out"])
    smaller = factor_within(
        m.pictures, m.digits, max_drop=99, confidence=0, layers=["dense1"], fit_examples=None
    )

    assert str(trained).startswith("1 epoch, ended by epochs; weights of epoch 1: train loss ")
    assert str(lighter).startswith("320 of 640 weights removed\n  out.weight: 320 of 640; error ")
    assert str(smaller).splitlines()[1].startswith("1 layer replaced: 40,618 -> ")
    for result in (trained, lighter, smaller):
        assert "Conv2d" not in str(result)
        assert "Conv2d" not in repr(result)
        assert "SGD" not in repr(result)
