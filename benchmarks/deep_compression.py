"""Deep Compression on MNIST: nine weights in ten pruned gradually, the others clustered to 5 bits, and coded.

usage: python benchmarks/deep_compression.py [--networks lenet300-100,lenet5] [--seeds 0]    # needs MNIST (SECATEUR_DATA)

A network is trained, pruned to 90 % by the cubic schedule (each layer by itself, and all layers together), and compressed by both methods:
k-means with Huffman's code, as published, and levels for so much error a bit with asymmetric numeral systems. Sizes are those of the whole file.
Decisions were made on validation data; each row's test errors were read once, for it. Base and pruned networks are kept in runs/bench.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from torch import nn

from _results import ROOT, Results
from secateur import data, networks, store
from secateur.data import Splits
from secateur.evaluate import evaluate
from secateur.methods import CompressSettings, GradualSettings, deep_compression, gradual
from secateur.train import TrainSettings, fit

BASES = ROOT / "runs" / "bench"
SPARSITY = 0.9
EPOCHS = 8
ARGUMENTS = {"lenet300-100": {"activation": "relu"}, "lenet5": {}}
TRAINING = TrainSettings(
    epochs=6, optimizer="adam", lr=3e-3, schedule="cosine", batch_size=256, ema=0.97, keep="last"
)
PRUNING = TrainSettings(optimizer="adam", lr=2e-3, lr_end=1e-4, schedule="linear", batch_size=256)
METHODS = {
    "as published": CompressSettings(start="linear"),
    "deep-compression": CompressSettings(),
    "entropy": CompressSettings(method="entropy"),
}


def base_of(name: str, splits: Splits, seed: int) -> nn.Module:
    """The trained network of a seed."""
    path = BASES / f"compression-{name}-{seed}.safetensors"
    if path.exists():
        return store.load(path)
    model = networks.build(name, seed=seed, **ARGUMENTS[name])
    fit(model, splits.train, splits.validation, TRAINING, seed=seed)
    store.save(model.eval(), path)
    return model


def pruned_of(name: str, model: nn.Module, splits: Splits, *, scope: str, seed: int) -> nn.Module:
    """The pruned one."""
    path = BASES / f"compression-{name}-{scope}-{seed}.safetensors"
    if path.exists():
        return store.load(path)
    settings = GradualSettings(
        sparsity=SPARSITY, scope=scope, epochs=EPOCHS, training=PRUNING, distil=True, seed=seed
    )
    pruned = gradual(model, splits, settings).model
    store.save(pruned, path)
    return pruned


def error_of(model: nn.Module, splits: Splits) -> float:
    """Test error in percent."""
    return round(100 - evaluate(model, splits.test).accuracy, 4)


def compare(results: Results, name: str, splits: Splits, *, scope: str, seed: int) -> None:
    """One row for each method."""
    base = base_of(name, splits, seed)
    pruned = pruned_of(name, base, splits, scope=scope, seed=seed)
    for method, settings in METHODS.items():
        key = {"network": name, "seed": seed, "scope": scope, "method": method}
        if results.has(**key):
            continue
        started = time.perf_counter()
        found = deep_compression(pruned, settings, data=splits)
        sizes = dict(found.sizes)
        coded = sizes[settings.coder]
        row = {
            **key,
            "data": splits.name,
            "sparsity": SPARSITY,
            "bits": settings.bits,
            "coder": settings.coder,
            "bytes_before": found.size_before,
            "bytes_after": coded,
            "ratio": round(found.size_before / coded, 2),
            "sizes": sizes,
            "entropy": {one.name: round(one.entropy, 4) for one in found.layers},
            "levels": {one.name: one.levels for one in found.layers},
            "error_before": error_of(base, splits),
            "error_pruned": error_of(pruned, splits),
            "error_after": error_of(found.model, splits),
            "seconds": round(time.perf_counter() - started, 1),
        }
        results.add(row)
        print(
            f"{name} seed {seed}, {scope}, {method}: {found.size_before:,} to {coded:,} bytes (1/{row['ratio']}), test error"
            f" {row['error_before']} %, pruned {row['error_pruned']} %, compressed {row['error_after']} %",
            flush=True,
        )


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", default=",".join(ARGUMENTS))
    parser.add_argument("--seeds", default="0")
    asked = parser.parse_args()
    Path(BASES).mkdir(parents=True, exist_ok=True)
    results = Results("deep_compression", keys=("network", "seed", "scope", "method"))
    for name in asked.networks.split(","):
        for seed in map(int, asked.seeds.split(",")):
            splits = data.load("mnist", seed=seed)
            for scope in ("layer", "global"):
                compare(results, name, splits, scope=scope, seed=seed)


if __name__ == "__main__":
    main()
