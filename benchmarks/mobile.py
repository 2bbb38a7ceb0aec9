"""MobileNets on CIFAR-10, quantised, pruned, coded and all of it: the matrix of studies/mobile.toml, and whether its goals are met.

usage: python benchmarks/mobile.py [--study mobile] [--networks NAME ...] [--out runs/mobile] [--collect] [--time-again]     # needs CIFAR-10 (SECATEUR_DATA)

Every figure is of the deployed file, on test examples, read once a cell. What is done in the folder stays done. `--collect` runs nothing and takes
what the folder holds into benchmarks/results/mobile.json (or, of `--study mobile-collapse`, into mobile_collapse.json). `--time-again` times all
files of a network side by side and takes these times, in page and tables, too, for a machine that did other things while the matrix ran.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from _results import ROOT, Results
from secateur.evaluate import Runnable, measure_processes
from secateur.export import runtimes_of
from secateur.report import write_matrix
from secateur.store import read_description
from secateur.studies import (
    Matrix,
    MatrixWatcher,
    Measurement,
    fell_most_of,
    measure,
    measurements_in,
    write_matrix_tables,
)

STUDIES = ROOT / "studies"
UNTREATED, INT8, CODED, PHYSICAL = (
    "trained",
    "int8",
    "pruned 90 %, coded, int8",
    "60 % of the units cut, int8",
)


class Printing(MatrixWatcher):
    """A line for what happens."""

    def step(self, cell, what, epochs):
        """Something begins."""
        print(
            f"{cell.network}, {cell.treatment.name}: {what}{f', {epochs} epochs' if epochs else ''}",
            flush=True,
        )

    def epoch(self, record):
        """An epoch is done."""
        print(
            f"  epoch {record.epoch}: {record.validation_accuracy:.2f} % on validation, {record.seconds:.0f} s",
            flush=True,
        )

    def ended(self, result):
        """A cell is done."""
        print(result.reason or f"  {result.row['accuracy']:.2f} % on test", flush=True)


def asked_for(study: str, networks: Sequence[str]) -> Matrix:
    """The study, of all its networks or of some."""
    whole = Matrix.read(STUDIES / f"{study}.toml")
    if not networks:
        return whole
    options = whole.model_dump()
    options["networks"] = list(networks)
    tables = [options, *options["treatment"]]
    for table in [
        one.get(name, {}) for one in tables for name in ("train", "pruning", "reduction", "coding")
    ]:
        if "networks" in table:
            table["networks"] = {name: own for name, own in table["networks"].items() if name in networks}
    options["printed"] = {name: rows for name, rows in options["printed"].items() if name in networks}
    return Matrix(**options)


def row_of(result: Measurement, folder: Path) -> dict[str, Any]:
    """What the results file keeps of a cell."""
    cell, worst = result.cell, fell_most_of(result)
    base: Any = read_description(folder / "bases" / cell.base_key / "model.safetensors").evaluation
    return {
        "network": cell.network,
        "data": cell.data,
        "seed": cell.seed,
        "treatment": cell.treatment.name,
        "target": cell.deployment.target,
        "mode": cell.treatment.mode,
        "epochs": cell.training.epochs,
        "epochs_after": 0 if cell.pruning is None else cell.pruning.length,
        "base_test_accuracy": round(base["test_accuracy"], 3),
        **{name: round(value, 4) for name, value in result.row.items()},
        "fell_most": None if worst is None else worst[0],
        "fell_most_points": None if worst is None else round(worst[1], 3),
        "class_points": {name: round(change["points"], 3) for name, change in result.classes.items()},
        "threads": torch.get_num_threads(),
        "seconds": result.seconds,
    }


def timed_again(results: Sequence[Measurement], folder: Path) -> dict[str, dict[str, float]]:
    """By cell the times of its file, all files of a network and seed in turns, the untreated one first."""
    found: dict[str, dict[str, float]] = {}
    groups: dict[str, list[Measurement]] = {}
    for result in results:
        if result.done:
            groups.setdefault(result.cell.base_key, []).append(result)
    for own in groups.values():
        if not own[0].cell.untreated:
            raise SystemExit(
                f"the untreated network of {own[0].cell.base_key} is not done; ratios have nothing to be of"
            )
        files = [next((folder / "cells" / one.cell.key).glob("model-*.tflite")) for one in own]
        runnable = [Runnable(file, "secateur.export:open_file", {}, runtimes_of(file)) for file in files]
        cell = own[0].cell
        for one, time in zip(
            own, measure_processes(runnable, warmup=cell.warmup, runs=4 * cell.runs), strict=True
        ):
            found[one.cell.key] = {
                "milliseconds": round(time.wall[0.5], 4),
                "cpu_milliseconds": round(time.cpu[0.5], 4),
                "time_ratio": round(time.cpu_ratio, 4),
                "memory": time.peak,
                "own_memory": time.memory,
            }
    return found


def goals(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Each goal, whether it is met, and by which figures."""
    said: list[str] = []
    by = {(row["network"], row["seed"], row["treatment"]): row for row in rows}
    for network, seed in dict.fromkeys((row["network"], row["seed"]) for row in rows):
        of = {name: by.get((network, seed, name)) for name in (UNTREATED, INT8, CODED, PHYSICAL)}
        first = of[UNTREATED]
        if first is None:
            continue
        if (row := of[INT8]) is not None:
            said.append(
                verdict(network, "int8 loses at most 0.5 points", row["drop"] <= 0.5, f"{row['drop']:.2f}")
            )
            said.append(
                verdict(
                    network,
                    "int8 takes at most 0.6 of the time",
                    row["time_ratio"] <= 0.6,
                    f"{row['time_ratio']:.2f}",
                )
            )
        if (row := of[CODED]) is not None:
            factor = first["bytes"] / row["coded"]
            met = factor >= 30 and row["drop"] <= 2
            said.append(
                verdict(
                    network,
                    "pruned 90 %, int8, coded: 1/30 at 2 points",
                    met,
                    f"1/{factor:.1f} at {row['drop']:.2f}",
                )
            )
        if (row := of[PHYSICAL]) is not None:
            factor = first["bytes"] / row["bytes"]
            met = factor >= 10 and row["time_ratio"] <= 1 / 3 and row["drop"] <= 1
            figures = (
                f"1/{factor:.1f} of the size, {row['time_ratio']:.2f} of the time, {row['drop']:.2f} points"
            )
            said.append(
                verdict(network, "units cut, int8: 1/10 of the size, 1/3 of the time, 1 point", met, figures)
            )
    return said


def verdict(network: str, goal: str, met: bool, figures: str) -> str:
    """A line."""
    return f"{'met   ' if met else 'MISSED'} {network}: {goal}: {figures}"


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--study", choices=["mobile", "mobile-collapse"], default="mobile")
    parser.add_argument("--networks", nargs="+", default=[])
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "mobile")
    parser.add_argument("--collect", action="store_true")
    parser.add_argument("--time-again", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if not asked.collect:
        measure(
            asked_for(asked.study, asked.networks),
            out=asked.out,
            resume=(asked.out / "run.toml").exists(),
            watcher=Printing(),
        )
    matrix, found = measurements_in(asked.out)
    if asked.time_again:
        times = timed_again(found, asked.out)
        found = tuple(replace(one, row={**one.row, **times.get(one.cell.key, {})}) for one in found)
    write_matrix_tables(matrix, found, asked.out)
    write_matrix(matrix, found, asked.out)
    results = Results(asked.study.replace("-", "_"), keys=("network", "seed", "treatment"))
    for result in found:
        if result.done:
            results.add(row_of(result, asked.out))
    for row in results.rows:
        print(
            f"{row['network']:42s} {row['treatment']:26s} {row['accuracy']:6.2f} % {row['drop']:6.2f} {row['bytes']:>10,}"
            f" {row['gzip']:>10,} {row.get('coded', 0):>9,.0f} {row['milliseconds']:.3f} ms {row['time_ratio']:.2f}"
        )
    print("\n".join(goals(results.rows)))


if __name__ == "__main__":
    main()
