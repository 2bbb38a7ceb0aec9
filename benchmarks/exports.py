"""Whether eight networks for telephones become float32 files that compute what the network does, for every target.

usage: python benchmarks/exports.py [--networks NAME ...] [--targets litert onnx executorch torch]

Networks are freshly drawn, with the statistics of their norms taken from CIFAR-10 images (SECATEUR_DATA); outputs are compared on 64 others.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from _results import Results
from secateur import data, networks
from secateur.errors import SecateurError
from secateur.export import TARGETS, export, suffix_of

NETWORKS = (
    "timm:mobilenetv1_100",
    "timm:mobilenetv2_100",
    "timm:mobilenetv3_large_100",
    "timm:mobilenetv3_small_100",
    "timm:tf_mobilenetv3_large_minimal_100",
    "timm:tf_mobilenetv3_small_minimal_100",
    "timm:efficientnet_b0",
    "timm:efficientnet_lite0",
)


def settled(name: str, images: torch.Tensor) -> nn.Module:
    """A new network whose norms know their inputs, so that outputs are neither zero nor enormous."""
    model = networks.build(name, num_classes=10, seed=0).train()
    with torch.no_grad():
        for _ in range(20):
            model(images)
    return model.eval()


def main() -> None:
    """Every pair that is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    splits = data.load("cifar10")
    images, held = splits.train.take(64, seed=0).inputs, splits.validation.take(64, seed=0).inputs
    results = Results("exports", keys=("network", "target"))
    for name in asked.networks:
        model = None
        for target in asked.targets:
            if results.has(network=name, target=target, status="ok"):
                continue
            model = settled(name, images) if model is None else model
            started = time.process_time()
            row = {"network": name, "target": target, "data": "cifar10", "examples": len(held)}
            with tempfile.TemporaryDirectory() as folder:
                try:
                    made = export(
                        model,
                        images[:2],
                        Path(folder) / f"model{suffix_of(target)}",
                        target=target,
                        held_out=held,
                    )
                except SecateurError as error:
                    row |= {"status": "failed", "reason": str(error)}
                else:
                    row |= {
                        "status": "ok",
                        "deviation": made.deviation,
                        "agreement": made.agreement,
                        "bytes": made.bytes,
                    }
            row["cpu_seconds"] = round(time.process_time() - started, 1)
            results.add(row)
            print(
                f"{name:42s} {target:12s} {row.get('deviation', row.get('reason'))}, {row['cpu_seconds']} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
