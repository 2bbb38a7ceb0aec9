"""What channel gating saves beside the union of channels: a network whose convolutions leave out a share of the channels they share, and the same network without gates.

usage: python benchmarks/gating.py [--network resnet20] [--shares 0.25 0.5 0.75] [--turns 15]

Of the channels that layers add up, each convolution of a block is done with a share of its own, drawn at random, so that nearly none goes for all and the union keeps them. Both ways take turns on the
same batch of random images; the processor's time of one step of training and of one forward pass, one thread: median, and the middle half.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time

import torch
from torch import nn

import secateur
from _results import Results
from secateur import networks
from secateur.cost import CostModel
from secateur.surgery import find_gates, gate

BATCH = 64


@torch.no_grad()
def done_with(model: nn.Module, share: float) -> None:
    """Let each convolution of a block have zero weights for a share of what it reads and writes."""
    generator = torch.Generator().manual_seed(0)
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and ".body." in name:
            for axis in (0, 1):
                count = module.weight.shape[axis]
                gone = torch.randperm(count, generator=generator)[: int(share * count)]
                module.weight.index_fill_(axis, gone, 0.0)


def compare(results: Results, name: str, share: float, *, turns: int) -> None:
    """One row."""
    images = torch.randn(BATCH, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    full = networks.build(name, seed=0)
    done_with(full, share)
    gated = copy.deepcopy(full)
    gates = find_gates(gated, secateur.watch(gated, images[:1]), images[:1])
    gate(gated, gates)
    seconds: dict[str, list[float]] = {}
    for turn in range(turns + 1):  # the first allocates
        for way, model in (("union", full), ("gated", gated)):
            started = time.process_time()
            model.train()(images).square().mean().backward()
            between = time.process_time()
            with torch.no_grad():
                model.eval()(images)
            if turn:
                seconds.setdefault(f"{way} training", []).append(between - started)
                seconds.setdefault(f"{way} forward", []).append(time.process_time() - between)
    costs = [CostModel(secateur.watch(model, images[:1])).total() for model in (full, gated)]
    row = {
        "network": name,
        "share": share,
        "batch": BATCH,
        "turns": turns,
        "gates": len(gates),
        "macs_before": costs[0].macs,
        "macs_after": costs[1].macs,
        "params_before": costs[0].parameters,
        "params_after": costs[1].parameters,
    }
    for what in ("training", "forward"):
        ratios = [b / a for a, b in zip(seconds[f"union {what}"], seconds[f"gated {what}"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        row |= {
            f"{what}_ratio_median": round(middle, 3),
            f"{what}_ratio_from": round(low, 3),
            f"{what}_ratio_to": round(high, 3),
        }
    results.add(row)
    print(
        f"{name}, {share:.0%} left out: {costs[1].macs / costs[0].macs:.2f} of the multiply-adds,"
        f" {row['training_ratio_median']:.2f} of the time of a step, {row['forward_ratio_median']:.2f} of a forward pass",
        flush=True,
    )


def main() -> None:
    """Every share."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="resnet20")
    parser.add_argument("--shares", nargs="+", type=float, default=[0.25, 0.5, 0.75])
    parser.add_argument("--turns", type=int, default=15)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    results = Results("gating", keys=("network", "share"))
    for share in asked.shares:
        compare(results, asked.network, share, turns=asked.turns)


if __name__ == "__main__":
    main()
