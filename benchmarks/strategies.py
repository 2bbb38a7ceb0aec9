"""How far two LeNets can be reduced when units are cut first and what is left is replaced by smaller kinds of layers.

usage: python benchmarks/strategies.py [--task NAME ...] [--arm NAME ...] [--seeds 0,1,2] [--threads 1] [--precision bf16]

Of a trained network units are cut in a few steps with short retraining between; then the convolution behind the first and the
first dense layer (written as a convolution over the whole map) become depthwise-separable, nearest to what they were on
training examples; then what is left learns from the unreduced network. Beside it the same small architecture is trained from
scratch on as many examples in all: from labels alone, as the studies have it, and with the unreduced network as its
teacher. Sizes were chosen once, by their counts; rates by the validation data of seed 0, where
such small networks were trained from scratch with the teacher; test data are read once a row.

Rows that are in benchmarks/results/strategies.json already are left alone; base networks are kept in
runs/strategies-bases, and their training is not in the seconds. Where the reduced network of a seed is there, training from
scratch takes its shape, and needs no base but as a teacher. `--precision 32` is for processors without bfloat16, where it
would be many times slower.
"""

from __future__ import annotations

import argparse
import copy
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import secateur
from _results import RESULTS, ROOT, Results
from secateur import data, networks, store
from secateur.cost import CostModel
from secateur.data import Splits
from secateur.evaluate import evaluate
from secateur.observe import Need, observe
from secateur.plan import compensate
from secateur.train import TrainSettings, fit

BASES = ROOT / "runs" / "strategies-bases"
ARMS = ("reduced", "from scratch", "from scratch, with the teacher")
SAMPLE = 1024
"""Training examples on which scores, compensation and replacements are computed."""


@dataclass(frozen=True)
class Task:
    """A network, and what becomes of it.

    Attributes:
        network: Its name.
        widths: Units that are left of each group, after each step.
        base_epochs: Epochs of its training.
        between: Epochs after each step.
        finish: Epochs at the end.
    """

    network: str
    widths: tuple[dict[str, int], ...]
    base_epochs: int
    between: int
    finish: int

    @property
    def epochs(self) -> int:
        """Epochs in all, which training from scratch has, too."""
        return self.base_epochs + self.between * len(self.widths) + self.finish


TASKS = {
    "lenet32-64-1024": Task(
        "lenet32-64-1024",
        (
            {"conv1": 16, "conv2": 40, "dense1": 256},
            {"conv1": 8, "conv2": 24, "dense1": 64},
            {"conv1": 8, "conv2": 24, "dense1": 34},
        ),
        base_epochs=12,
        between=1,
        finish=50,
    ),
    "lenet-caffe": Task(
        "lenet-caffe",
        (
            {"conv1": 12, "conv2": 36, "dense1": 128},
            {"conv1": 8, "conv2": 22, "dense1": 26},
        ),
        base_epochs=15,
        between=1,
        finish=50,
    ),
}
REPLACED = ("conv2", "dense1")


def base_settings(epochs: int) -> TrainSettings:
    """The unreduced network: Nesterov momentum, cosine rate, weights averaged."""
    return TrainSettings(
        epochs=epochs, lr=0.05, nesterov=True, schedule="cosine", warmup_epochs=1, weight_decay=5e-4, ema=0.99, keep="last",
        augment="shift", shift=1, precision="bf16",
    )  # fmt: skip


def small_settings(epochs: int, *, distil: float, schedule: str = "cosine") -> TrainSettings:
    """What trains very small networks: large batches, a high rate, weights averaged."""
    return TrainSettings(
        epochs=epochs, optimizer="adam", batch_size=256, lr=0.01 if schedule == "cosine" else 0.002, schedule=schedule,
        warmup_epochs=0.5, ema=0.98, keep="last", clip=1.0, augment="shift", shift=1, distil_weight=distil,
        distil_temperature=2.0, precision="bf16",
    )  # fmt: skip


def base_of(task: Task, splits: Splits, seed: int) -> nn.Module:
    """The trained network of a seed, from runs/strategies-bases or trained now."""
    BASES.mkdir(parents=True, exist_ok=True)
    path = BASES / f"{task.network}-{seed}.safetensors"
    if not path.exists():
        model = networks.build(task.network, seed=seed, convolutional=True)
        model = model.to(memory_format=torch.channels_last)
        fit(model, splits.train, splits.validation, base_settings(task.base_epochs), seed=seed)
        store.save(model.eval(), path)
    return store.load(path).to(memory_format=torch.channels_last)


def cut(model: nn.Module, splits: Splits, widths: dict[str, int]) -> nn.Module:
    """The network with so many units left, the lowest by Taylor gone, readers refitted."""
    sample = splits.train.take(SAMPLE, seed=0)
    channels = secateur.watch(model, sample.inputs[:1])
    remove = {
        group.name: 1 - widths[group.name] / group.width
        for group in channels.groups
        if group.name in widths and widths[group.name] < group.width
    }
    scores = secateur.score(model, channels, "taylor", data=sample, groups=list(remove))
    made = secateur.plan(channels, scores, remove=remove, groups=list(remove))
    seen = observe(model, channels, list(sample.batches(512)), needs={Need.COVARIANCE}, groups=list(remove))
    return secateur.apply(model, compensate(made, seen))


def reduced(task: Task, base: nn.Module, splits: Splits, seed: int, *, trained: bool = True) -> nn.Module:
    """Cut, replaced and trained; or, untrained, only of that shape."""
    model = copy.deepcopy(base)
    for number, widths in enumerate(task.widths):
        model = cut(model, splits, widths)
        if trained:
            short = small_settings(task.between, distil=0.0, schedule="constant")
            fit(model, splits.train, None, short, seed=1000 * seed + number)
    sample = splits.train.take(SAMPLE, seed=0)
    plan = secateur.plan_replacements(
        model, sample.inputs[:1], kind="depthwise-separable", layers=list(REPLACED)
    )
    model = secateur.factor(model, plan, data=sample)
    if trained:
        fit(
            model, splits.train, splits.validation, small_settings(task.finish, distil=0.7), seed=1000 * seed + 99,
            teacher=base,
        )  # fmt: skip
    return model.eval()


def scratch(
    model: nn.Module, task: Task, splits: Splits, seed: int, *, teacher: nn.Module | None, precision: str
) -> nn.Module:
    """A reduced network's architecture with new weights, trained on as many examples in all."""
    torch.manual_seed(1_000_000 + seed)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.reset_parameters()
    settings = small_settings(task.epochs, distil=0.7 if teacher else 0.0).but(precision=precision)
    fit(model, splits.train, splits.validation, settings, seed=1000 * seed + 99, teacher=teacher)
    return model.eval()


def scratch_row(results: Results, name: str, seed: int, *, precision: str) -> bool:
    """Train the kept reduced network's architecture from labels alone, and write its row; False where there is none."""
    found = [row for row in results.rows if row["file"] and row["network"] == name and row["seed"] == seed]
    if not found:
        return False
    splits, task = data.load("mnist"), TASKS[name]
    started, spent = time.perf_counter(), time.process_time()
    shape = store.load(RESULTS / "networks" / found[0]["file"]).to(memory_format=torch.channels_last)
    model = scratch(shape, task, splits, seed, teacher=None, precision=precision)
    error = round(evaluate(model, splits.test).error, 3)
    results.add(
        {
            **{key: value for key, value in found[0].items() if key != "commit"},
            "method": "from scratch",
            "file": None,
            "precision": precision,
            "validation_error_after": round(evaluate(model, splits.validation).error, 3),
            "error_after": error,
            "threads": torch.get_num_threads(),
            "seconds": round(time.perf_counter() - started, 1),
            "cpu_seconds": round(time.process_time() - spent, 1),
        }
    )
    print(f"{name} from scratch, seed {seed}: test error {error:.2f} %", flush=True)
    return True


def cell(results: Results, name: str, arm: str, seed: int, *, precision: str) -> None:
    """Reduce or train one network, and write its row."""
    if arm == "from scratch" and scratch_row(results, name, seed, precision=precision):
        return
    task = TASKS[name]
    splits = data.load("mnist")
    base = base_of(task, splits, seed)
    started, spent = time.perf_counter(), time.process_time()
    if arm == "reduced":
        model = reduced(task, base, splits, seed)
    else:
        shape = reduced(task, base, splits, seed, trained=False)
        taught = base if arm.endswith("teacher") else None
        model = scratch(shape, task, splits, seed, teacher=taught, precision=precision)
    example = splits.train.inputs[:1]
    before, after = (CostModel(secateur.watch(one, example)).total() for one in (base, model))
    row: dict[str, Any] = {
        "network": name,
        "data": "mnist",
        "method": arm,
        "seed": seed,
        "params_before": before.parameters,
        "params_after": after.parameters,
        "macs_before": before.macs,
        "macs_after": after.macs,
        "bytes_before": before.bytes,
        "bytes_after": after.bytes,
        "validation_error_before": round(evaluate(base, splits.validation).error, 3),
        "validation_error_after": round(evaluate(model, splits.validation).error, 3),
        "error_before": round(evaluate(base, splits.test).error, 3),
        "error_after": round(evaluate(model, splits.test).error, 3),
        "epochs": task.epochs,
        "threads": torch.get_num_threads(),
        "seconds": round(time.perf_counter() - started, 1),
        "cpu_seconds": round(time.process_time() - spent, 1),
        "file": None,
    }
    if arm == "reduced":
        row["file"] = f"strategies-{name}-{seed}.safetensors"
        kept = RESULTS / "networks" / row["file"]
        kept.parent.mkdir(parents=True, exist_ok=True)
        store.save(model, kept, evaluation={"test_error": row["error_after"], "data": "mnist"})
        again = round(evaluate(store.load(kept), splits.validation).error, 3)
        if again != row["validation_error_after"]:
            raise RuntimeError(
                f"{kept} gives {again} % on validation, what it was made of {row['validation_error_after']}"
            )
    results.add(row)
    print(
        f"{name:16s} {arm:30s} seed {seed}: parameters /{before.parameters / after.parameters:.0f}, MACs"
        f" /{before.macs / after.macs:.1f}, validation error {row['validation_error_before']:.2f} ->"
        f" {row['validation_error_after']:.2f}, test {row['error_before']:.2f} -> {row['error_after']:.2f} %,"
        f" {row['seconds']:.0f} s",
        flush=True,
    )


def main() -> None:
    """Run the cells that were asked for and are not there yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", nargs="+", choices=[*TASKS], default=[*TASKS])
    parser.add_argument("--arm", nargs="+", choices=[*ARMS], default=[*ARMS])
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=["bf16", "32"], default="bf16")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results = Results("strategies", keys=("network", "method", "seed"))
    for arm in options.arm:
        for seed in (int(seed) for seed in options.seeds.split(",")):
            for name in options.task:
                if not results.has(network=name, method=arm, seed=seed):
                    cell(results, name, arm, seed, precision=options.precision)


if __name__ == "__main__":
    main()
