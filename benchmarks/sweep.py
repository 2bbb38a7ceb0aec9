"""The network without each of its units, one at a time: all 1,120 of LeNet 32-64-1024, on 10,000 images of MNIST.

`secateur.methods.ablate` computes once what runs before a unit is read. Beside it the naive way: the whole network is evaluated
anew, with the columns that read the unit at zero. Of that, every 40th unit of each layer is run, and its time taken times 40; on
these units the figures of both ways are compared.

    python benchmarks/sweep.py [--examples 10000] [--every 40] [--epochs 2]    # needs MNIST (SECATEUR_DATA)
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

import secateur
from _results import Results
from secateur import data, networks
from secateur.channels import Channels
from secateur.data import Split
from secateur.evaluate import evaluate
from secateur.methods import Ablation, ablate
from secateur.train import TrainSettings, fit

NETWORK = "lenet32-64-1024"


def naive(
    model: nn.Module, split: Split, channels: Channels, every: int
) -> tuple[dict[tuple[str, int], Any], float]:
    """Loss and accuracy without every so-manieth unit, and the seconds that all units would take."""
    found: dict[tuple[str, int], Any] = {}
    seconds = 0.0
    for group in channels.groups:
        units = range(every // 2, group.width, every)
        began = time.perf_counter()
        for unit in units:
            found[group.name, unit] = without(model, split, group, unit)
        seconds += (time.perf_counter() - began) * group.width / len(units)
    return found, seconds


@torch.no_grad()
def without(model: nn.Module, split: Split, group: Any, unit: int) -> tuple[float, float]:
    """Evaluate the whole network with the columns that read a unit at zero."""
    weights = [(model.get_parameter(member.tensor), member) for member in group.by_role("read")]
    before = [weight.clone() for weight, _ in weights]
    for weight, member in weights:
        weight.index_fill_(member.axis, torch.as_tensor(member.indices[unit]), 0)
    found = evaluate(model, split)
    for (weight, _), values in zip(weights, before, strict=True):
        weight.copy_(values)
    return found.loss, found.accuracy


def apart(found: Ablation, wanted: dict[tuple[str, int], Any]) -> tuple[float, float]:
    """The greatest difference in loss (nats) and in accuracy (points)."""
    pairs = [
        (abs(float(found.loss[name][unit]) - loss), abs(float(found.accuracy[name][unit]) - accuracy))
        for (name, unit), (loss, accuracy) in wanted.items()
    ]
    return max(loss for loss, _ in pairs), max(accuracy for _, accuracy in pairs)


def main() -> None:
    """Time both ways and compare what they say."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=10_000)
    parser.add_argument("--every", type=int, default=40, help="of the naive way, one unit in so many is run")
    parser.add_argument("--epochs", type=int, default=2)
    options = parser.parse_args()
    results = Results(Path(__file__).stem, keys=("arm",))

    splits = data.load("mnist")
    split = splits.train.take(options.examples, seed=0)
    model = networks.build(NETWORK, seed=0)
    fit(
        model,
        splits.train.take(10_000, seed=1),
        None,
        TrainSettings(epochs=options.epochs, lr=0.05, nesterov=True, schedule="cosine"),
        seed=0,
    )
    model.eval()
    channels = secateur.watch(model, split.inputs[:1])

    began = time.perf_counter()
    found = ablate(model, split, channels=channels)
    quick = time.perf_counter() - began
    wanted, slow = naive(model, split, channels, options.every)
    loss, accuracy = apart(found, wanted)
    common = {
        "network": NETWORK,
        "data": "mnist",
        "examples": len(split),
        "units": channels.units(),
        "seed": 0,
    }
    results.add({**common, "arm": "ablate", "seconds": round(quick, 1), "units_run": channels.units(),
                 "largest_difference_in_loss": loss, "largest_difference_in_points": accuracy})  # fmt: skip
    results.add({**common, "arm": "naive", "seconds": round(slow, 1), "units_run": len(wanted)})
    print(
        f"accuracy of the network {found.whole_accuracy:.2f} %, {channels.units()} units, {len(split)} images"
    )
    print(
        f"ablate {quick:8.1f} s    naive {slow:8.1f} s ({len(wanted)} units run)    {quick / slow:.4f} of it"
    )
    print(f"largest difference: loss {loss:.2g} nats, accuracy {accuracy:.2g} points")


if __name__ == "__main__":
    main()
