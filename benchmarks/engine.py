"""Watch, score, plan and cut half of all channels: CPU time against Torch-Pruning, in one process, turn by turn.

Both score by the L1 norm of each unit's own weights and remove half of every group's units, the classifier left alone.
A turn is one run of each on a fresh copy of the same network; the figure is the median of the turns.

    python benchmarks/engine.py [--turns 5] [--networks resnet50 densenet121]
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn

import secateur
from secateur.testing import check_cut, cost_of, randomise

NETWORKS = ("resnet50", "densenet121")
EXAMPLE = (1, 3, 224, 224)


def build(name: str) -> nn.Module:
    """Torchvision's network of that name, every norm random."""
    from torchvision import models

    return randomise(getattr(models, name)(), seed=0).eval()


def ours(model: nn.Module, x: torch.Tensor) -> dict[str, Any]:
    """Seconds of each stage, and the network that comes out."""
    clock = [time.process_time()]
    channels = secateur.watch(model, x)
    clock.append(time.process_time())
    scores = secateur.score(model, channels, "l1")
    clock.append(time.process_time())
    plan = secateur.plan(channels, scores, remove=0.5)
    clock.append(time.process_time())
    small = secateur.apply(model, plan)
    clock.append(time.process_time())
    stages = [after - before for before, after in pairwise(clock)]
    return {
        **dict(zip(("watch_s", "score_s", "plan_s", "apply_s"), stages, strict=True)),
        "seconds": sum(stages),
        "model": small,
        "plan": plan,
    }


def theirs(model: nn.Module, x: torch.Tensor) -> dict[str, Any]:
    """The same with Torch-Pruning."""
    import torch_pruning

    classifier = [module for module in model.modules() if isinstance(module, nn.Linear)][-1:]
    start = time.process_time()
    pruner = torch_pruning.pruner.BasePruner(
        model,
        x,
        importance=torch_pruning.importance.MagnitudeImportance(p=1),
        pruning_ratio=0.5,
        ignored_layers=classifier,
    )
    built = time.process_time()
    pruner.step()
    end = time.process_time()
    return {"build_s": built - start, "prune_s": end - built, "seconds": end - start, "model": model}


def parameters(model: nn.Module) -> int:
    """Numbers that are trained."""
    return sum(parameter.numel() for parameter in model.parameters())


def medians(turns: list[dict[str, Any]]) -> dict[str, float]:
    """The median of every figure in seconds."""
    keys = [key for key in turns[0] if key.endswith("_s") or key == "seconds"]
    return {key: round(statistics.median(turn[key] for turn in turns), 4) for key in keys}


def compare(name: str, turns: int) -> list[dict[str, Any]]:
    """The rows of one network: one of each arm, the ratio on ours."""
    model, x = build(name), torch.zeros(EXAMPLE)
    arms: dict[str, Callable[[nn.Module, torch.Tensor], dict[str, Any]]] = {
        "secateur": ours,
        "torch-pruning": theirs,
    }
    runs: dict[str, list[dict[str, Any]]] = {arm: [] for arm in arms}
    for turn in range(turns + 1):
        for arm, run in arms.items():
            result = run(copy.deepcopy(model), x)
            if turn:  # the first of each warms caches up
                runs[arm].append(result)
    rows = [
        {
            "model": name,
            "arm": arm,
            "turns": turns,
            "params_before": parameters(model),
            "params_after": parameters(runs[arm][-1]["model"]),
            **medians(runs[arm]),
        }
        for arm in arms
    ]
    last = runs["secateur"][-1]
    rows[0]["law_error"] = check_cut(model, torch.randn(EXAMPLE), last["plan"], forecast=False)
    rows[0]["forecast_equal"] = cost_of(last["model"], x) == last["plan"].after
    rows[0]["ratio"] = round(rows[0]["seconds"] / rows[1]["seconds"], 3)
    engine = rows[0]["seconds"] - rows[0]["score_s"]
    rows[0]["ratio_without_scoring"] = round(engine / rows[1]["seconds"], 3)
    return rows


def main() -> None:
    """Measure, print, write."""
    from _results import Results

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    settings = parser.parse_args()
    torch.set_num_threads(1)
    results = Results(Path(__file__).stem, keys=("model", "arm"))
    for name in settings.networks:
        mine, peer = compare(name, settings.turns)
        for row in (mine, peer):
            results.add(row)
        stages = ", ".join(
            f"{key[:-2]} {mine[key]:.3f}" for key in ("watch_s", "score_s", "plan_s", "apply_s")
        )
        print(
            f"{name}: secateur {mine['seconds']:.3f} s ({stages}), torch-pruning {peer['seconds']:.3f} s:"
            f" {mine['ratio']:.2f} of its CPU time ({mine['ratio_without_scoring']:.2f} without scoring);"
            f" {mine['params_after']:,} and {peer['params_after']:,} parameters left, law error {mine['law_error']:.1e}"
        )


if __name__ == "__main__":
    main()
