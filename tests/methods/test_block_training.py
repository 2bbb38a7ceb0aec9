"""Block training within a reduction and within stepwise pruning."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

import secateur
from secateur.data import Splits
from secateur.errors import SettingsError
from secateur.methods import ReduceSettings, Search, Silent, StepSettings, stepwise
from secateur.studies import Study
from secateur.train import TrainSettings, fit

QUICK = TrainSettings(epochs=2, lr=0.02, batch_size=64, ema=0.9, keep="last", clip=1.0)
SETTINGS = ReduceSettings(
    max_drop=6.0, retrain=QUICK, max_iterations=4, rounds=1, score_examples=200, accept_early=False,
    retrain_scope="block",
)  # fmt: skip


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_a_candidate_differs_from_the_network_before_in_its_block_alone(
    digits: Splits, net: nn.Module
) -> None:
    """What was not in the block of the cut that was accepted last is, to the bit, what it was before."""
    search = Search(net, digits, SETTINGS.but(layers=("conv3",), max_drop=50.0))

    (step,) = search.step()

    assert step.accepted
    assert step.epochs == 2
    before = state(net)
    same = {
        name
        for name, tensor in search.model.state_dict().items()
        if tensor.shape == before[name].shape and torch.equal(tensor, before[name])
    }
    inside = ("conv3", "norm3", "dense1")
    assert same >= {name for name in before if not name.startswith(inside)}
    assert not {"conv3.weight", "norm3.weight", "dense1.weight"} & same


def test_a_reduction_by_blocks_resumes_to_the_same_result(
    digits: Splits, net: nn.Module, tmp_path: Path
) -> None:
    """A run stopped after two candidates and resumed ends as one that went through, also where some examples are drawn."""
    settings = SETTINGS.but(retrain_scope="block-then-network", retrain_examples=200)
    whole = secateur.reduce(net, digits, settings=settings, out=tmp_path / "whole")

    class Stop(Exception):  # noqa: N818
        pass

    class Stopper(Silent):
        def candidate(self, iteration: int, group: str, before: int, after: int, epochs: int) -> None:
            if iteration == 3:
                raise Stop

    with pytest.raises(Stop):
        secateur.reduce(net, digits, settings=settings, out=tmp_path / "part", listener=Stopper())
    resumed = secateur.reduce(net, digits, out=tmp_path / "part", resume=True)

    assert resumed.history == whole.history
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "part")]
    assert files[0] == files[1]


def test_a_run_from_before_the_option_is_resumed(digits: Splits, net: nn.Module, tmp_path: Path) -> None:
    """Its folder says nothing of what is retrained: that is the network, as it was."""
    settings = SETTINGS.but(retrain_scope="network")
    done = secateur.reduce(net, digits, settings=settings, out=tmp_path / "run")
    file = tmp_path / "run" / "run.toml"
    said = file.read_text()
    assert 'retrain_scope = "network"\n' in said
    file.write_text(said.replace('retrain_scope = "network"\n', ""))

    again = secateur.reduce(net, digits, settings=settings, out=tmp_path / "run", resume=True)

    assert again.history == done.history


def test_block_then_network_trains_the_network_only_where_the_block_is_not_enough(
    digits: Splits, net: nn.Module
) -> None:
    """A candidate that its block brings within the bound costs only that; another one both."""
    both = SETTINGS.but(retrain_scope="block-then-network", layers=("conv3",), max_iterations=1)

    (enough,) = Search(net, digits, both.but(max_drop=50.0)).step()
    (missing,) = Search(net, digits, both.but(max_drop=0.0, give_up_early=False)).step()

    assert (enough.epochs, missing.epochs) == (2, 4)


def test_where_there_is_no_block_the_network_is_retrained_and_the_result_says_so(digits: Splits) -> None:
    """With one hidden layer its block would be the whole network."""
    flat = nn.Sequential(nn.Flatten(1), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10))
    fit(flat, digits.train, None, TrainSettings(epochs=3, lr=0.1, batch_size=32), seed=0)

    results = [
        secateur.reduce(flat, digits, settings=SETTINGS.but(retrain_scope=scope, max_iterations=2))
        for scope in ("network", "block")
    ]

    assert results[0].history == results[1].history
    note = "Candidates were retrained whole: there is no block around 1 that is smaller than the network"
    assert any(line.startswith(note) for line in results[1].notes)
    assert not any("block" in line for line in results[0].notes)


def test_the_finishing_training_is_of_the_whole_network(digits: Splits, net: nn.Module) -> None:
    """It is the same whatever candidates are retrained by."""
    models = [copy.deepcopy(net) for _ in range(2)]

    for model, scope in zip(models, ("network", "block"), strict=True):
        search = Search(net, digits, SETTINGS.but(retrain_scope=scope))
        trained = search.trials.retrain(model, QUICK, ("finish", 1), best=100.0, listener=Silent())
        assert trained == 2

    block, network = (model.state_dict() for model in models)
    assert all(torch.equal(tensor, network[name]) for name, tensor in block.items())
    assert not torch.equal(network["conv1.weight"], state(net)["conv1.weight"])


def test_stepwise_trains_the_block_alone(net: nn.Module, digits: Splits) -> None:
    """Of the layer that is cut step by step; the rest is that of the cut network."""
    common = {"criterion": "l1", "scope": "conv2", "step": 8, "until": 0.5}
    trained = stepwise(net, digits, StepSettings(**common, retrain="block", iterations=4))
    plain = stepwise(net, digits, StepSettings(**common)).model

    before = state(plain)
    changed = {n for n, t in trained.model.state_dict().items() if not torch.equal(t, before[n])}
    assert changed == {
        "conv2.weight",
        "conv2.bias",
        "norm2.weight",
        "norm2.bias",
        "conv3.weight",
        "conv3.bias",
    }
    assert trained.points[-1].iterations == 8


def test_a_study_compares_blocks_with_the_others_and_keeps_its_cells() -> None:
    """What was run before the protocol existed keeps its name."""
    study = Study(
        networks="digits-net", data="digits", seeds=[0],
        experiment=[{"name": "1", "compare": "retrain", "criterion": "l1", "scope": "conv2", "step": 8,
                     "retrain": ["none", "network", "layer", "block"], "iterations": [0, 20]}],
    )  # fmt: skip
    old = Study(
        networks="digits-net", data="digits", seeds=[0],
        experiment=[{"name": "1", "compare": "retrain", "criterion": "l1", "retrain": ["none", "network", "layer"],
                     "iterations": [0, 20]}],
    )  # fmt: skip

    assert [cell.settings.retrain for cell in study.cells()] == ["none", "network", "layer", "block"]
    assert [cell.key for cell in old.cells()] == [
        "l1-network-seed0-f70986f3", "l1-network-seed0-ccc43337", "l1-network-seed0-cbae244d",
    ]  # fmt: skip


def test_an_unknown_scope_is_refused() -> None:
    """With the values that there are."""
    with pytest.raises(
        SettingsError, match=r"retrain_scope.*'blocks'.*'network', 'block' or 'block-then-network'"
    ):
        ReduceSettings(max_drop=1.0, retrain_scope="blocks")  # pyright: ignore[reportArgumentType]
    with pytest.raises(SettingsError, match="retrain"):
        StepSettings(retrain="blocks", iterations=3)  # pyright: ignore[reportArgumentType]
