"""Single weights on MNIST: what each way to choose them costs without retraining, and how few are enough with it.

usage: python benchmarks/weights.py [--part shares] [--part retrained] [--part fewest] [--seeds 0,1,2]    # needs MNIST (SECATEUR_DATA)

shares     the same share of each layer goes, and nothing is trained: magnitude, Taylor, optimal brain damage, random, and layer-wise
           optimal brain surgeon, on LeNet-300-100 and LeNet-5; accuracy on validation data.
retrained  one weight in 50 and in 90 of LeNet-300-100 left after the same short training: gradual magnitude pruning, dynamic network
           surgery (the same with regrowth), and sizes weighed by gradients.
fewest     LeNet-300-100 with at most 2,957 of its 266,200 weights: a longer training with augmentation and the dense network as teacher.

Rows that are in benchmarks/results/weights.json already are left alone. Decisions were made on validation data; where a row has a test
error, test data were read once, for it. Base networks are kept in runs/bench.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

import secateur
from _results import ROOT, Results
from secateur import data, networks, store
from secateur.data import Splits
from secateur.evaluate import evaluate
from secateur.methods import SpliceSettings, Surgeon, splice
from secateur.train import TrainSettings, fit

BASES = ROOT / "runs" / "bench"
SHARES = (0.5, 0.7, 0.8, 0.9, 0.95)
CRITERIA = ("random", "magnitude", "taylor", "obd")
SURGEON = "layer-wise OBS"
SCORED = 2000
"""Examples of the training split that scores and second moments are computed on."""
WEIGHTS, FEWEST = 266_200, 2_957


def adam(epochs: int, **options: Any) -> TrainSettings:
    """Large batches, a cosine rate, weights averaged."""
    defaults: dict[str, Any] = {
        "optimizer": "adam", "batch_size": 256, "lr": 5e-3, "schedule": "cosine", "warmup_epochs": 0.5, "ema": 0.97,
        "keep": "last", "clip": 1.0, "distil_weight": 0.7, "distil_temperature": 2.0,
    }  # fmt: skip
    return TrainSettings(epochs=epochs, **(defaults | options))


def sgd(epochs: int) -> TrainSettings:
    """Steps in proportion to the gradient, as splicing was published with."""
    return TrainSettings(
        epochs=epochs, batch_size=128, lr=0.05, nesterov=True, schedule="cosine", clip=1.0, keep="last"
    )


NETWORKS: dict[str, tuple[dict[str, Any], TrainSettings]] = {
    "lenet300-100": ({"activation": "relu"}, adam(15, lr=3e-3, augment="shift", shift=1)),
    "lenet5": ({}, adam(3)),
}
RETRAINED: dict[str, dict[str, Any]] = {
    "gradual magnitude": {"regrow": False},
    "splicing": {"regrow": True},
    "gradual, sizes x gradient^0.5": {"regrow": False, "sensitivity": 0.5},
}


def base_of(name: str, splits: Splits, seed: int) -> nn.Module:
    """The trained network of a seed, from runs/bench or trained now."""
    BASES.mkdir(parents=True, exist_ok=True)
    path = BASES / f"weights-{name}-{seed}.safetensors"
    if path.exists():
        return store.load(path)
    arguments, training = NETWORKS[name]
    model = networks.build(name, seed=seed, **arguments)
    fit(model, splits.train, splits.validation, training, seed=seed)
    store.save(model.eval(), path)
    return model


def shares(results: Results, name: str, splits: Splits, seed: int) -> None:
    """Remove the same share of each layer in every way, and evaluate without retraining."""
    base = base_of(name, splits, seed)
    sample = splits.train.take(SCORED, seed=seed)
    whole = evaluate(base, splits.validation).accuracy
    for method in (*CRITERIA, SURGEON):
        if all(results.has(network=name, method=method, removed=share, seed=seed) for share in SHARES):
            continue
        began = time.process_time()
        if method == SURGEON:
            cut_at = Surgeon(base, sample, examples=SCORED, seed=seed)
        else:
            scores = secateur.score_weights(base, method, data=sample, seed=seed)
        once = time.process_time() - began
        for share in SHARES:
            keys = {"network": name, "method": method, "removed": share, "seed": seed}
            began = time.process_time()
            if method == SURGEON:
                cut = cut_at.cut(share).model
            else:
                cut = secateur.mask(base, secateur.plan_weights(base, scores, remove=share))
            seconds = once + time.process_time() - began
            accuracy = evaluate(cut, splits.validation).accuracy
            results.add(
                {**keys, "data": "mnist", "accuracy_before": whole, "accuracy": accuracy,
                 "cpu_seconds": round(seconds, 2)}
            )  # fmt: skip
            print(f"{name} {method:15s} {share:.0%} seed {seed}: {whole:.2f} -> {accuracy:.2f} %", flush=True)


def retrained(results: Results, splits: Splits, seed: int, *, epochs: int) -> None:
    """The same short training with each way to choose; validation data only."""
    for left in (WEIGHTS // 50, FEWEST):
        for method, options in RETRAINED.items():
            settings = SpliceSettings(
                remove=1 - left / WEIGHTS, until=0.6, every=20, gamma=0.0, training=sgd(epochs), seed=seed, **options
            )  # fmt: skip
            spliced(results, method, splits, settings, seed, test=False)


def fewest(results: Results, splits: Splits, seed: int) -> None:
    """The goal: test data are read once, at the end."""
    settings = SpliceSettings(
        remove=1 - FEWEST / WEIGHTS, regrow=False, sensitivity=0.5, until=0.7, every=20, gamma=0.0,
        training=adam(40, augment="shift", shift=1), seed=seed,
    )  # fmt: skip
    spliced(results, "gradual, sizes x gradient^0.5; distilled, shifted", splits, settings, seed, test=True)


def spliced(
    results: Results, method: str, splits: Splits, settings: SpliceSettings, seed: int, *, test: bool
) -> None:
    """One network, and its row."""
    shared = settings.remove
    left = WEIGHTS - round(float(shared) * WEIGHTS)
    keys = {"network": "lenet300-100", "method": method, "weights_left": left, "seed": seed}
    if results.has(**keys):
        return
    base = base_of("lenet300-100", splits, seed)
    began = time.process_time()
    found = splice(base, splits, settings, teacher=base if test else None)
    seconds = time.process_time() - began
    counted = sum(int(p.count_nonzero()) for p in found.model.parameters() if p.dim() > 1)
    if counted > left:
        raise RuntimeError(f"{counted} weights are not zero where {left} were to be left")
    row = {
        **keys,
        "data": "mnist",
        "weights_before": WEIGHTS,
        "weights_not_zero": counted,
        "by_layer": {name: int(kept.sum()) for name, kept in found.masks.kept.items()},
        "returned": found.returned,
        "epochs": settings.training.epochs,
        "validation_error_before": round(evaluate(base, splits.validation).error, 3),
        "validation_error_after": round(evaluate(found.model, splits.validation).error, 3),
        "test_error_before": round(evaluate(base, splits.test).error, 3) if test else None,
        "test_error_after": round(evaluate(found.model, splits.test).error, 3) if test else None,
        "settings": settings.model_dump(mode="json", exclude_defaults=True),
        "cpu_seconds": round(seconds, 1),
    }
    results.add(row)
    print(
        f"{method:50s} seed {seed}: {counted:,} weights ({WEIGHTS / counted:.1f}x), validation error"
        f" {row['validation_error_after']:.2f} %, test error {row['test_error_after']}, {seconds:.0f} s",
        flush=True,
    )


def main() -> None:
    """Run what was asked for and is not there yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = ("shares", "retrained", "fewest")
    parser.add_argument("--part", action="append", choices=parts, help="all by default")
    parser.add_argument("--network", action="append", choices=[*NETWORKS], help="of shares; all by default")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--epochs", type=int, default=15, help="of retrained")
    parser.add_argument("--name", default=Path(__file__).stem, help="name of the results file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = Results(options.name, keys=("network", "method", "removed", "weights_left", "seed"))
    for seed in (int(seed) for seed in options.seeds.split(",")):
        splits = data.load("mnist", seed=seed)
        for part in options.part or parts:
            if part == "shares":
                for name in options.network or NETWORKS:
                    shares(results, name, splits, seed)
            elif part == "retrained":
                retrained(results, splits, seed, epochs=options.epochs)
            else:
                fewest(results, splits, seed)


if __name__ == "__main__":
    main()
