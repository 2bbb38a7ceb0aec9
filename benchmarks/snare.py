"""SNARE on the networks of its source and on ResNet-20: how small within which bound, and what each extension is worth.

usage: python benchmarks/snare.py [--task NAME ...] [--arm NAME ...] [--seeds 0,1,2] [--threads 1] [--list]

Cells (task x arm x seed) that are in benchmarks/results/snare.json already are left alone, so that it can be stopped and
started again; base networks are kept in runs/bench. Decisions are made on validation data; the test split is read once a
cell, at the end. Reduced networks under 200 KB are written beside the results.
"""

from __future__ import annotations

import argparse
import copy
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

import secateur
from _results import RESULTS, ROOT, Results
from secateur import data, networks, store
from secateur.data import Splits
from secateur.evaluate import evaluate
from secateur.methods import ReduceResult, ReduceSettings
from secateur.train import TrainSettings, fit

BASES = ROOT / "runs" / "bench"
KEEP_BELOW = 200_000


@dataclass(frozen=True)
class Task:
    """A network on its data: how the base is trained, and the arms in which it is reduced."""

    network: str
    data: str
    base: TrainSettings
    arms: dict[str, ReduceSettings]
    arguments: dict[str, Any] = field(default_factory=dict)
    validation: float | None = None


def sgd(epochs: int, **options: Any) -> TrainSettings:
    """The base recipe: Nesterov momentum, cosine rate, weights averaged, the last epoch kept."""
    defaults: dict[str, Any] = {
        "lr": 0.05, "nesterov": True, "schedule": "cosine", "warmup_epochs": 1, "weight_decay": 5e-4,
        "ema": 0.99, "keep": "last",
    }  # fmt: skip
    return TrainSettings(epochs=epochs, **(defaults | options))


def plain(max_drop: float, **changes: Any) -> ReduceSettings:
    """SNARE as its source prints it."""
    return ReduceSettings.as_printed(max_drop, **changes)


def without(ours: ReduceSettings) -> dict[str, ReduceSettings]:
    """Ours with one extension taken away at a time."""
    return {
        "ours": ours,
        "ours without distillation": ours.but(distil=False),
        "ours without compensation": ours.but(compensate="none"),
        "ours without early acceptance": ours.but(accept_early=False),
        "ours without giving up early": ours.but(give_up_early=False),
        "ours without learned sizes": ours.but(learn_shares=False),
        "ours by potential": ours.but(choose="potential"),
        "ours without the sampling error": ours.but(confidence=0.0),
    }


def adam(epochs: int, **options: Any) -> TrainSettings:
    """What trains very small networks best here: large batches, a high rate, weights averaged."""
    defaults: dict[str, Any] = {
        "optimizer": "adam", "batch_size": 256, "lr": 7e-3, "schedule": "cosine", "warmup_epochs": 0.5,
        "ema": 0.97, "keep": "last", "clip": 1.0, "distil_temperature": 2.0,
    }  # fmt: skip
    return TrainSettings(epochs=epochs, **(defaults | options))


DIGITS = ReduceSettings(max_drop=2.0, confidence=0.99)  # measured on as few test as validation images
MNIST = ReduceSettings(
    max_drop=0.9,
    gamma=0.0,
    beta=2.0,
    retrain=adam(5, schedule="linear", warmup_epochs=0, distil_weight=0.0, augment="shift", shift=1),
    retrain_examples=20_000,
    rounds=3,
    patience=1.6,
    finish=adam(40, distil_weight=0.7, augment="shift", shift=1),
)
DENSE = MNIST.but(
    inputs=True,
    retrain=adam(5, schedule="linear", warmup_epochs=0, augment="shift", shift=1),
    rounds=3,
    patience=3,
    finish=adam(60, augment="shift", shift=1),
)
PHONE = ReduceSettings(
    max_drop=2.25,
    retrain=TrainSettings(
        epochs=5, lr=0.05, nesterov=True, schedule="linear", ema=0.99, keep="last", clip=1.0, augment="signal"
    ),
    rounds=2,
    patience=2,
    finish=sgd(60, weight_decay=0.0, clip=1.0, augment="signal"),
)
RESNET = ReduceSettings(
    max_drop=2.5,
    beta=0.0,
    gamma=2.0,
    first_share=0.4,
    retrain=TrainSettings(
        epochs=3,
        lr=0.02,
        nesterov=True,
        schedule="linear",
        ema=0.99,
        keep="last",
        clip=1.0,
        precision="bf16",
        augment="flip-shift",
        shift=4,
    ),
    retrain_examples=4_000,
    rounds=1,
    max_iterations=24,
    finish=sgd(15, lr=0.05, precision="bf16", augment="flip-shift", shift=4),
)

TASKS: dict[str, Task] = {
    "digits": Task(
        "digits-net",
        "digits",
        sgd(40, batch_size=64, augment="shift", shift=1),
        {**without(DIGITS), "as printed": plain(2.0)},
    ),
    "lenet5": Task(
        "lenet5",
        "mnist",
        sgd(20, augment="shift", shift=1),
        {
            "ours, 0.95 points": MNIST.but(max_drop=0.95),
            "ours, 1.05 points": MNIST.but(max_drop=1.05),
            "ours, 1.15 points": MNIST.but(max_drop=1.15),
            "as printed": plain(0.5),
        },
    ),
    "lenet300-100": Task(
        "lenet300-100",
        "mnist",
        sgd(30, augment="shift", shift=1),
        {
            "ours, 1 point": DENSE.but(max_drop=1.0),
            "ours, 1.35 points": DENSE.but(max_drop=1.35),
            "as printed": plain(0.5),
        },
        arguments={"activation": "relu"},
    ),
    "uci-custom": Task(
        "uci-custom",
        "hapt",
        sgd(30, augment="signal", label_smoothing=0.1),
        {"ours, 2.25 points": PHONE, "as printed": plain(0.5)},
        validation=7,
    ),
    "resnet20": Task(
        "resnet20",
        "cifar10:10000",
        sgd(30, lr=0.1, precision="bf16", augment="flip-shift", shift=4),
        {"ours, 2.5 points": RESNET, "ours, 3.5 points": RESNET.but(max_drop=3.5)},
    ),
}


def base_of(name: str, task: Task, splits: Splits, seed: int) -> tuple[nn.Module, float]:
    """The trained base network of a seed, from runs/bench or trained now, and the seconds its training took."""
    BASES.mkdir(parents=True, exist_ok=True)
    path = BASES / f"{name}-{seed}.safetensors"
    if path.exists():
        kept = store.load(path).to(memory_format=torch.channels_last)
        return kept, float(dict(store.read_description(path).evaluation or {})["seconds"])
    model = networks.build(task.network, seed=seed, **task.arguments).to(memory_format=torch.channels_last)
    started = time.perf_counter()
    fit(model, splits.train, splits.validation, task.base, seed=seed)
    seconds = time.perf_counter() - started
    store.save(model.eval(), path, evaluation={"seconds": seconds})
    return model, seconds


def row_of(
    name: str, arm: str, seed: int, result: ReduceResult, *, base_seconds: float, splits: Splits
) -> dict[str, Any]:
    """One line of the results: architecture.md's keys of a reduction, and what else a reader asks."""
    before, after = result.cost_before, result.cost_after
    cuts = [step for step in result.history if step.kind == "cut"]
    row = {
        "network": name,
        "data": TASKS[name].data,
        "method": arm,
        "seed": seed,
        "params_before": before.parameters,
        "params_after": after.parameters,
        "macs_before": before.macs,
        "macs_after": after.macs,
        "bytes_before": before.bytes,
        "bytes_after": after.bytes,
        "error_before": round(result.test_before.error, 3),
        "error_after": round(result.test_after.error, 3),
        "validation_error_before": round(result.evaluation_before.error, 3),
        "validation_error_after": round(result.evaluation_after.error, 3),
        "max_drop": result.settings.max_drop,
        "confidence": result.settings.confidence,
        "validation_drop_upper": round(result.validation_drop.upper, 3),
        "test_drop": round(result.test_drop.points, 3),
        "held": result.held,
        "iterations": len(cuts),
        "accepted": sum(step.accepted for step in cuts),
        "epochs": sum(step.epochs for step in result.history),
        "seconds": round(result.seconds, 1),
        "base_seconds": round(base_seconds, 1),
        "threads": torch.get_num_threads(),
        "settings": result.settings.model_dump(mode="json", exclude_defaults=True),
        "file": None,
    }
    if (
        after.bytes < KEEP_BELOW
        and arm.startswith("ours")
        and (name != "digits" or (arm, seed) == ("ours", 0))
    ):
        row["file"] = f"{name}-{arm.replace(', ', '-').replace(' ', '-')}-{seed}.safetensors"
        kept = RESULTS / "networks" / row["file"]
        kept.parent.mkdir(parents=True, exist_ok=True)
        store.save(result.model, kept, evaluation={"test_error": row["error_after"], "data": row["data"]})
        again = evaluate(store.load(kept), splits.validation).error
        if again != result.evaluation_after.error:
            raise RuntimeError(
                f"{kept} gives {again} % on validation, the network it was made of {result.evaluation_after.error}"
            )
    if name == "resnet20":
        row["curve"] = [[s.macs, round(s.accuracy, 2), s.accepted] for s in result.history]
    return row


def cell(results: Results, name: str, arm: str, seed: int) -> None:
    """Reduce one network in one arm with one seed, and write its row."""
    task = TASKS[name]
    splits = data.load(task.data, seed=seed, validation=task.validation)
    base, seconds = base_of(name, task, splits, seed)
    started = time.process_time()
    result = secateur.reduce(copy.deepcopy(base), splits, settings=task.arms[arm].but(seed=seed))
    spent = time.process_time() - started
    row = row_of(name, arm, seed, result, base_seconds=seconds, splits=splits)
    row["cpu_seconds"] = round(spent, 1)
    results.add(row)
    print(
        f"{name:13s} {arm:32s} seed {seed}: parameters /{row['params_before'] / row['params_after']:.1f},"
        f" MACs /{row['macs_before'] / row['macs_after']:.1f}, test error {row['error_before']:.2f} ->"
        f" {row['error_after']:.2f} %, bound {row['max_drop']:g}: {'held' if row['held'] else 'BROKEN'},"
        f" {row['seconds']:.0f} s",
        flush=True,
    )


def main() -> None:
    """Run the cells that were asked for and are not there yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", nargs="+", choices=[*TASKS], default=[*TASKS])
    parser.add_argument("--arm", nargs="+", help="all arms by default")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--name", default="snare", help="name of the results file")
    parser.add_argument("--list", action="store_true", help="only say what is to be done")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results = Results(options.name, keys=("network", "method", "seed"))
    for name in options.task:
        for arm in TASKS[name].arms:
            for seed in (int(seed) for seed in options.seeds.split(",")):
                if (options.arm and arm not in options.arm) or results.has(
                    network=name, method=arm, seed=seed
                ):
                    continue
                if options.list:
                    print(name, arm, seed)
                else:
                    cell(results, name, arm, seed)


if __name__ == "__main__":
    main()
