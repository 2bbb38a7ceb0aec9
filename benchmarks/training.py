"""What saves time in training: cutting meanwhile (PruneTrain), batches that grow as the network shrinks, and what else is said to.

usage: python benchmarks/training.py [--network resnet20] [--examples 4000] [--epochs 10] [--arm NAME ...] [--seeds 0,1,2]
                                     [--device cpu] [--threads 1] [--runs runs/training] [--page]

All arms have the same examples, epochs and settings, and take turns seed by seed, so that what else the machine does falls on all
of them. Each run is a folder from which it goes on if it was stopped; runs that are done are left alone. Times are wall times of
all epochs, with validation and reconfigurations; beside them the processor's time. Test data are read once a run, at its end. At the end,
and with `--page`, a page with the curves of all arms is written into the folder of the runs. Ratio, threshold and interval were
chosen on the validation data of a seed that is not among those of the table.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from _results import Results
from secateur import data, networks
from secateur.data import Splits
from secateur.methods import PruneTrainSettings, train
from secateur.report import TRAINING_FILE, compare_trainings, read_training, training_of, write_training
from secateur.train import TrainSettings

ARMS: dict[str, dict[str, Any]] = {
    "dense": {},
    "prunetrain": {"prunetrain": {}},
    "growing": {"prunetrain": {"grow_batch": True}, "ghost_batch": True},
    "channels-first": {"channels_last": False},
    "bf16": {"precision": "bf16"},
    "inconsistent": {"inconsistent": 5},
    "sparse-gradients": {"sparse_gradients": 0.9},
}
"""What each arm does otherwise; a ghost batch is as large as the first batch. Those after the third are what else may save time, each alone."""
USUAL = ("dense", "prunetrain", "growing")
VALIDATION = 2000
"""Examples by which epochs are judged; judging takes time, too, and the same in all arms."""


def settings(epochs: int, batch: int) -> TrainSettings:
    """The same for all arms: Nesterov momentum, a cosine rate, images flipped and moved."""
    return TrainSettings(
        epochs=epochs, lr=0.1, batch_size=batch, nesterov=True, schedule="cosine", warmup_epochs=1, augment="flip-shift", shift=4,
        keep="last", channels_last=True,
    )  # fmt: skip


def part_of(splits: Splits, examples: int) -> Splits:
    """The first so many training examples of a fixed order, and fewer to judge by."""
    judged = splits.validation.take(min(VALIDATION, len(splits.validation)), seed=0)
    return replace(splits, train=splits.train.take(examples, seed=0), validation=judged)


def run(results: Results, splits: Splits, arm: str, seed: int, asked: argparse.Namespace) -> None:
    """One training, from where it stopped; one row."""
    folder = Path(asked.runs) / f"{arm}-{seed}"
    device = torch.device(asked.device)
    model = networks.build(asked.network, seed=seed).to(device)
    changes = dict(ARMS[arm])
    pruned = None
    if (own := changes.pop("prunetrain", None)) is not None:
        pruned = PruneTrainSettings(
            penalty_ratio=asked.ratio, threshold=asked.threshold, every=asked.every, rest=asked.rest, **own
        )
    if changes.get("ghost_batch"):
        changes["ghost_batch"] = asked.batch
    goes_on = (folder / "run.toml").exists()
    started = time.process_time()
    result = train(
        model, splits, None if goes_on else settings(asked.epochs, asked.batch).but(**changes), out=folder, seed=seed,
        prunetrain=None if goes_on else pruned, resume=goes_on,
    )  # fmt: skip
    made = training_of(result, data=splits, name=f"{arm}-{seed}", seed=seed)
    write_training(made, folder)
    row: dict[str, Any] = {
        "network": asked.network, "data": splits.name, "arm": arm, "seed": seed,
        "examples": len(splits.train), "epochs": asked.epochs, "batch": asked.batch,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu", "threads": asked.threads,
        "test_accuracy": round(result.test.accuracy, 2), "validation_accuracy": round(result.validation.accuracy, 2),
        "parameters": result.cost.parameters, "macs": result.cost.macs,
        "parameters_before": made.parameters[0], "macs_before": made.macs[0],
        "training_macs": made.training_macs[0], "training_macs_uncut": made.training_macs[1],
        "wall_s": round(made.seconds, 1),
        "cpu_s": None if goes_on else round(time.process_time() - started, 1),
        "batch_at_end": made.epochs[-1].batch_size,
        "prunetrain": None if pruned is None else pruned.model_dump(mode="json"),
    }  # fmt: skip
    results.add(row)
    print(
        f"{arm} {seed}: test {result.test.accuracy:.2f} %, MACs of training {made.saved:.1%}, {made.seconds:.0f} s", flush=True
    )  # fmt: skip


def page(runs: Path) -> None:
    """All trainings that are done, the dense ones first."""
    found = [
        read_training(folder)
        for arm in ARMS
        for folder in sorted(runs.glob(f"{arm}-*"))
        if (folder / TRAINING_FILE).exists()
    ]
    if found:
        print(f"the page: {compare_trainings(found, runs / 'comparison.html')}")


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", default="resnet20")
    parser.add_argument("--examples", type=int, default=4000)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--ratio", type=float, default=0.9)
    parser.add_argument("--threshold", type=float, default=2e-3)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--rest", type=int, default=2)
    parser.add_argument("--arm", nargs="*", choices=ARMS, default=list(USUAL))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", default="runs/training")
    parser.add_argument("--page", action="store_true", help="only the page, of what is done")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    if not asked.page:
        splits = part_of(data.load("cifar10"), asked.examples)
        results = Results("training", keys=("network", "examples", "epochs", "device", "arm", "seed"))
        for seed in map(int, asked.seeds.split(",")):
            for arm in asked.arm:
                if not results.has(
                    network=asked.network, examples=asked.examples, epochs=asked.epochs, arm=arm, seed=seed
                ):
                    run(results, splits, arm, seed, asked)
    page(Path(asked.runs))


if __name__ == "__main__":
    main()
