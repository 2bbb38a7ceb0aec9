"""What a training step takes with depthwise convolutions on tiny maps computed by kernel, and position by position.

usage: python benchmarks/small_maps.py [--networks NAME ...] [--turns 9]     # needs CIFAR-10 (SECATEUR_DATA)

Both ways take turns on the same batch of 128 images, with channels last; the processor's time of one step, one thread: median, and the middle half.
"""

from __future__ import annotations

import argparse
import statistics
import time
from contextlib import nullcontext

import torch
import torch.nn.functional as F

from _results import Results
from secateur import data, networks
from secateur.train import SmallMaps

NETWORKS = ("timm:mobilenetv2_100", "timm:mobilenetv3_small_100", "timm:tf_mobilenetv3_small_minimal_100")
BATCH = 128


def compare(results: Results, name: str, *, turns: int) -> None:
    """One row."""
    images = data.load("cifar10").train.take(BATCH, seed=0)
    model = networks.build(name, num_classes=10, seed=0).train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    inputs = images.inputs.to(memory_format=torch.channels_last)
    seconds: dict[str, list[float]] = {"kernels": [], "by position": []}
    for turn in range(turns + 1):  # the first allocates
        for way, context in (("kernels", nullcontext()), ("by position", SmallMaps())):
            started = time.process_time()
            with context:
                optimizer.zero_grad()
                F.cross_entropy(model(inputs), images.targets).backward()
                optimizer.step()
            if turn:
                seconds[way].append(time.process_time() - started)
    ratios = [b / a for a, b in zip(*seconds.values(), strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    results.add(
        {
            "network": name,
            "data": "cifar10",
            "batch": BATCH,
            "turns": turns,
            "by_kernels_s": round(statistics.median(seconds["kernels"]), 4),
            "by_position_s": round(statistics.median(seconds["by position"]), 4),
            "ratio_median": round(middle, 3),
            "ratio_from": round(low, 3),
            "ratio_to": round(high, 3),
        }
    )
    print(f"{name}: {middle:.2f} [{low:.2f}, {high:.2f}] of the time", flush=True)


def main() -> None:
    """Every network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--turns", type=int, default=9)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    results = Results("small_maps", keys=("network",))
    for name in asked.networks:
        compare(results, name, turns=asked.turns)


if __name__ == "__main__":
    main()
