"""Retraining the block around a cut, or the network: what that saves, and what it loses.

Three protocols. `fixed`: every layer in turn loses the same share of its units, 64 % or more, and is retrained for the same number of
epochs, so that all arms end with the same widths; what differs is the time and the error. `mild`: the same with 30 %. `bound`: `secateur.reduce` under one bound, so that
what differs is the time and what is left. Times are processor times of one thread. Within a seed the arms take turns at being
first. Decisions are made on validation data; the test split is read once a row, at its end.

    python benchmarks/block_training.py [--task NAME ...] [--seeds 0,1,2] [--list]    # MNIST and HAPT in SECATEUR_DATA

Rows that are in benchmarks/results/block_training.json already are left alone, so that it can be stopped and started again.
"""

from __future__ import annotations

import argparse
import copy
import time
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import nn

import secateur
from _results import Results
from secateur import data, networks
from secateur.channels import Visits, visits
from secateur.cost import CostModel
from secateur.data import Splits
from secateur.evaluate import evaluate
from secateur.methods import ReduceSettings
from secateur.observe import Need, observe
from secateur.plan import compensate
from secateur.train import TrainSettings, block_around, fit, fit_block, teacher_logits

MILD = 0.3
FIXED = ("none", "network", "block", "block, on the unreduced network's inputs")
BOUND = ("network", "network, twice the epochs", "block", "block-then-network")


@dataclass(frozen=True)
class Task:
    """A network on its data: how it is trained, what goes from which layers, and the bound."""

    network: str
    data: str
    base: TrainSettings
    share: float
    bound: ReduceSettings
    validation: float | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    layers: str = "*"


def base(epochs: int, **options: Any) -> TrainSettings:
    """How unreduced networks are trained."""
    return TrainSettings(
        epochs=epochs,
        lr=0.05,
        nesterov=True,
        schedule="cosine",
        weight_decay=5e-4,
        ema=0.99,
        keep="last",
        **options,
    )


RETRAIN = TrainSettings(epochs=5, lr=0.02, nesterov=True, schedule="linear", ema=0.99, keep="last", clip=1.0)
"""How candidates are retrained: the defaults of `secateur.reduce`."""

TASKS = {
    "digits": Task(
        "digits-net", "digits", base(30, batch_size=64), 0.75,
        ReduceSettings(max_drop=2.0, retrain=RETRAIN.but(batch_size=64), rounds=1),
    ),
    "lenet5": Task(
        "lenet5", "mnist:10000", base(8), 0.64,
        ReduceSettings(
            max_drop=1.0, retrain=RETRAIN.but(epochs=3), retrain_examples=3_000, rounds=1, max_iterations=12
        ),
    ),
    "uci-custom": Task(
        "uci-custom", "hapt", base(8), 0.64,
        ReduceSettings(
            max_drop=3.0, retrain=RETRAIN.but(epochs=3), retrain_examples=2_000, rounds=1, max_iterations=12
        ),
        validation=7,
    ),
    "resnet20": Task(
        "resnet20", "digits", base(12, batch_size=64), 0.64,
        ReduceSettings(max_drop=2.0, retrain=RETRAIN.but(epochs=3, batch_size=64), layers=("*.body.conv1",), rounds=1),
        arguments={"channels": 1},
        layers="*.body.conv1",
    ),
}  # fmt: skip


def cut(model: nn.Module, splits: Splits, group: str, share: float, seed: int) -> nn.Module:
    """A network without a share of a layer's units, its readers refitted by least squares."""
    example, sample = splits.train.inputs[:1], splits.train.take(1024, seed=seed)
    channels = secateur.watch(model, example)
    scores = secateur.score(model, channels, "taylor", data=sample)
    plan = secateur.plan(channels, scores, remove={group: share}, groups=[group])
    seen = observe(model, channels, list(sample.batches(256)), needs={Need.COVARIANCE}, groups=[group])
    return secateur.apply(model, compensate(plan, seen))


def mild(unreduced: nn.Module, splits: Splits, task: Task, arm: str, seed: int) -> dict[str, Any]:
    """As :func:`fixed`, but less goes."""
    return fixed(unreduced, splits, replace(task, share=MILD), arm, seed)


def fixed(unreduced: nn.Module, splits: Splits, task: Task, arm: str, seed: int) -> dict[str, Any]:
    """Cut every layer in turn, retrain after each, and judge what is left at the end."""
    example = splits.train.inputs[:1]
    channels = secateur.watch(unreduced, example)
    settings = task.bound.retrain
    seen: Visits | None = None
    answers: torch.Tensor | None = None
    model, seconds = unreduced, 0.0
    groups = [group for group in channels.groups if fnmatchcase(group.name, task.layers)]
    for number, group in enumerate(groups):
        model = cut(model, splits, group.name, task.share, seed)
        began = time.process_time()
        if arm == "network":
            answers = teacher_logits(unreduced, splits.train) if answers is None else answers
            fit(model, splits.train, None, settings, seed=seed + number, teacher_answers=answers)
        elif arm != "none":
            seen = visits(unreduced, example) if seen is None else seen
            block = block_around(unreduced, channels, group.name, example, seen=seen)
            fit_block(
                model, unreduced, block, splits.train, settings, seed=seed + number,
                pairs_from="reduced" if arm == "block" else "unreduced",
            )  # fmt: skip
        seconds += time.process_time() - began
    before, after = CostModel(channels).total(), CostModel(secateur.watch(model, example)).total()
    return {
        "share": task.share,
        "candidates": len(groups),
        "accepted": len(groups),
        "epochs": 0 if arm == "none" else len(groups) * settings.epochs,
        "cpu_seconds": round(seconds, 2),
        "params_before": before.parameters,
        "params_after": after.parameters,
        "macs_before": before.macs,
        "macs_after": after.macs,
        "validation_error_before": round(evaluate(unreduced, splits.validation).error, 3),
        "validation_error_after": round(evaluate(model, splits.validation).error, 3),
        "error_before": round(evaluate(unreduced, splits.test).error, 3),
        "error_after": round(evaluate(model, splits.test).error, 3),
    }


def bound(unreduced: nn.Module, splits: Splits, task: Task, arm: str, seed: int) -> dict[str, Any]:
    """Reduce under the bound."""
    settings = task.bound.but(seed=seed)
    if arm == "network, twice the epochs":
        settings = settings.but(retrain=settings.retrain.but(epochs=2 * settings.retrain.epochs))
    else:
        settings = settings.but(retrain_scope=arm)
    began = time.process_time()
    result = secateur.reduce(copy.deepcopy(unreduced), splits, settings=settings)
    seconds = time.process_time() - began
    return {
        "candidates": len(result.history),
        "accepted": sum(step.accepted for step in result.history),
        "epochs": sum(step.epochs for step in result.history),
        "cpu_seconds": round(seconds, 2),
        "params_before": result.cost_before.parameters,
        "params_after": result.cost_after.parameters,
        "macs_before": result.cost_before.macs,
        "macs_after": result.cost_after.macs,
        "validation_error_before": round(result.evaluation_before.error, 3),
        "validation_error_after": round(result.evaluation_after.error, 3),
        "error_before": round(result.test_before.error, 3),
        "error_after": round(result.test_after.error, 3),
        "max_drop": settings.max_drop,
        "notes": list(result.notes),
    }


PROTOCOLS = {"fixed": (fixed, FIXED), "mild": (mild, FIXED), "bound": (bound, BOUND)}


def main() -> None:
    """Run the rows that were asked for and are not there yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", nargs="+", choices=[*TASKS], default=[*TASKS])
    parser.add_argument("--protocol", nargs="+", choices=[*PROTOCOLS], default=[*PROTOCOLS])
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--list", action="store_true", help="only say what is to be done")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keys = ("protocol", "network", "arm", "seed")
    results = Results(Path(__file__).stem, keys=keys)
    for name in options.task:
        task = TASKS[name]
        for seed in (int(seed) for seed in options.seeds.split(",")):
            wanted = [
                (protocol, arm)
                for protocol in options.protocol
                for arm in _in_turn(PROTOCOLS[protocol][1], seed)
                if not results.has(protocol=protocol, network=task.network, arm=arm, seed=seed)
            ]
            if options.list:
                print(*(f"{name} {seed} {protocol}: {arm}" for protocol, arm in wanted), sep="\n")
                continue
            if not wanted:
                continue
            splits = data.load(task.data, seed=seed, validation=task.validation)
            unreduced = networks.build(task.network, seed=seed, **task.arguments)
            fit(unreduced, splits.train, None, task.base, seed=seed)
            unreduced.eval()
            for protocol, arm in wanted:
                found = PROTOCOLS[protocol][0](unreduced, splits, task, arm, seed)
                results.add(
                    {
                        "protocol": protocol,
                        "network": task.network,
                        "data": task.data,
                        "arm": arm,
                        "seed": seed,
                        **found,
                    }
                )
                print(
                    f"{name:10s} {seed} {protocol}: {arm:42s} {found['cpu_seconds']:7.1f} s, {found['params_after']:7,} parameters,"
                    f" validation {found['validation_error_after']:.2f} %, test {found['error_before']:.2f} ->"
                    f" {found['error_after']:.2f} %, {found['accepted']} of {found['candidates']} accepted",
                    flush=True,
                )


def _in_turn(arms: tuple[str, ...], seed: int) -> tuple[str, ...]:
    """The arms, of which another one comes first with each seed."""
    first = seed % len(arms)
    return arms[first:] + arms[:first]


if __name__ == "__main__":
    main()
