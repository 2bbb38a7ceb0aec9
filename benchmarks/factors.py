"""Low rank and smaller kinds of layers beside cutting units to as many parameters: two LeNets on 5,000 images of MNIST.

Each network is judged on 2,000 validation images: as it is made, and after two epochs of the same retraining. Ranks are chosen by energy, by a
budget, or by a bound of one point on the same images (`secateur.methods.factor_within`); ``on data`` says that factors are made nearest to the layers
on what they read of 512 training images, of which cutting sees as many (Taylor scores, readers that make up by least squares).

    python benchmarks/factors.py [--networks lenet5 lenet300-100] [--seeds 3]    # needs MNIST (SECATEUR_DATA)
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from copy import deepcopy
from itertools import product
from pathlib import Path

from torch import nn

import secateur
from _results import Results
from secateur import data, networks
from secateur.cost import CostModel
from secateur.data import Split, Splits
from secateur.evaluate import evaluate
from secateur.methods import factor_within
from secateur.observe import Need, observe
from secateur.plan import Parameters, compensate
from secateur.train import TrainSettings, fit

NETWORKS = ("lenet5", "lenet300-100")
BASE = TrainSettings(epochs=5, lr=0.05, nesterov=True, schedule="cosine")
RETRAIN = TrainSettings(epochs=2, lr=0.02, nesterov=True, schedule="linear", keep="last", clip=1.0)
ENERGY = 0.6
BUDGET = 0.3
BOUND = 1.0


def cut(model: nn.Module, sample: Split, parameters: int) -> nn.Module:
    """Units cut to at most so many parameters, ranked over all layers; readers make up for what is gone."""
    channels = secateur.watch(model, sample.inputs[:1])
    scores = secateur.score(model, channels, "taylor", data=sample)
    plan = secateur.plan(channels, scores, budget=Parameters(at_most=parameters), normalise="l2")
    seen = observe(model, channels, sample.batches(128), needs={Need.COVARIANCE})
    return secateur.apply(model, compensate(plan, seen))


def arms(model: nn.Module, splits: Splits, sample: Split, seed: int) -> Iterator[tuple[str, nn.Module]]:
    """Each way to make the network smaller."""
    example = sample.inputs[:1]
    yield "the network itself", deepcopy(model)
    low = secateur.plan_factors(model, example, energy=ENERGY)
    yield f"low rank, energy {ENERGY:g}", secateur.factor(model, low)
    yield f"low rank, energy {ENERGY:g}, on data", secateur.factor(model, low, data=sample)
    yield f"units cut, as energy {ENERGY:g}", cut(model, sample, low.after.parameters)
    tenth = secateur.plan_factors(model, example, budget=Parameters(at_most=BUDGET))
    yield f"low rank, {BUDGET:g} of the parameters, on data", secateur.factor(model, tenth, data=sample)
    yield f"units cut to {BUDGET:g} of the parameters", cut(model, sample, tenth.after.parameters)
    bounded = factor_within(model, splits, max_drop=BOUND, confidence=0, seed=seed)
    yield f"low rank within {BOUND:g} point, on data", bounded.model
    yield f"units cut, as within {BOUND:g} point", cut(model, sample, bounded.plan.after.parameters)
    convolutions = [name for name, _ in model.named_modules() if name == "conv2"]
    for kind in ("depthwise-separable", "shift") if convolutions else ():
        plan = secateur.plan_replacements(model, example, kind=kind, layers=convolutions)
        yield f"conv2 by {kind}, on data", secateur.factor(model, plan, data=sample)


def main() -> None:
    """Train, make smaller in each way, retrain, judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    options = parser.parse_args()
    results = Results(Path(__file__).stem, keys=("network", "method", "seed"))
    splits = data.load("mnist", limit=5_000, validation=2_000)
    for network, seed in product(options.networks, range(options.seeds)):
        model = networks.build(network, seed=seed)
        fit(model, splits.train, None, BASE, seed=seed)
        model.eval()
        whole = evaluate(model, splits.validation).accuracy
        sample = splits.train.take(512, seed=seed)
        began = time.perf_counter()
        for method, small in arms(model, splits, sample, seed):
            cost = CostModel(secateur.watch(small, sample.inputs[:1])).total()
            at_once = evaluate(small, splits.validation).accuracy
            fit(small, splits.train, None, RETRAIN, seed=seed)
            retrained = evaluate(small.eval(), splits.validation).accuracy
            row = {
                "network": network,
                "data": "mnist",
                "method": method,
                "seed": seed,
                "parameters": cost.parameters,
                "macs": cost.macs,
                "accuracy_before": whole,
                "accuracy_at_once": at_once,
                "accuracy_retrained": retrained,
                "seconds": round(time.perf_counter() - began, 1),
            }
            results.add(row)
            print(
                f"{seed} {method:36} {row['parameters']:8,} {row['macs']:10,} {at_once:6.2f} {retrained:6.2f}"
            )
            began = time.perf_counter()


if __name__ == "__main__":
    main()
