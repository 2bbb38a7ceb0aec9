"""What a thesis found about strategies, beside what the study of the same questions answers.

usage: python benchmarks/findings.py

Reads studies/results/strategies/answers.csv (`secateur compare studies/strategies.toml`) and writes
benchmarks/results/findings.json. A finding that one value is better is confirmed where the study found so (Holm's procedure,
5 %), refuted where it found the opposite, or where the whole interval lies within a point of zero; else it is open.
A finding that two values do not differ is confirmed where the whole interval lies within a point of zero, refuted where a larger
difference was found.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from typing import Any

from _results import ROOT, Results

ANSWERS = ROOT / "studies" / "results" / "strategies" / "answers.csv"
NEAR = 1.0
"""Points: differences below do not matter here."""

CURVE = "mean accuracy over the curve"
TEST = "test accuracy of the kept network"


@dataclass(frozen=True)
class Finding:
    """One claim of the source, and the comparison that answers it.

    Attributes:
        number: Its number in the source's list.
        claim: In words.
        experiment: The study's question.
        first: Said to be better, or to be no different.
        second: Than this, or from this.
        within: In which setting; empty for all.
        alike: Whether it is said that they do not differ.
        what: What is compared.
    """

    number: int
    claim: str
    experiment: str
    first: str
    second: str
    within: str = ""
    alike: bool = False
    what: str = CURVE


BEST = "taylor is best without retraining, layer by layer"
RANDOM = "without retraining, the whole network, unnormalised scores are worse than random"
RECOVER = "with l2 all criteria recover, taylor best"
ENOUGH = "with retraining, layer by layer, criteria hardly differ, random included"
NETWORK = "with retraining, the whole network: taylor is best"
NORM = "normalisation still matters with retraining, except for weight magnitude"
LAYER = "when only the pruned layer is retrained, random is no longer good enough"
ONCE = "scores taken once do for a layer, and are worse for the whole network"
SCRATCH = "the best protocol's network is better than the same one from scratch (there by 0.6 points)"

FINDINGS = (
    Finding(1, BEST, "4.1 layers", "taylor", "activation"),
    Finding(1, BEST, "4.1 layers", "taylor", "l1"),
    Finding(1, BEST, "4.1 layers", "taylor", "random"),
    Finding(2, RANDOM, "4.1 network", "random", "taylor", "normalise none"),
    Finding(2, RANDOM, "4.1 network", "random", "activation", "normalise none"),
    Finding(2, RANDOM, "4.1 network", "random", "l1", "normalise none"),
    Finding(2, RECOVER, "4.1 normalisation", "normalise l2", "normalise none"),
    Finding(2, RECOVER, "4.1 network", "taylor", "activation", "normalise l2"),
    Finding(2, RECOVER, "4.1 network", "taylor", "l1", "normalise l2"),
    Finding(2, RECOVER, "4.1 network", "taylor", "random", "normalise l2"),
    Finding(3, "more retraining helps much at first", "4.2", "iterations 40", "iterations 10"),
    Finding(3, "and little then", "4.2", "iterations 80", "iterations 40", alike=True),
    Finding(4, ENOUGH, "4.3 layers", "taylor", "activation", alike=True),
    Finding(4, ENOUGH, "4.3 layers", "taylor", "l1", alike=True),
    Finding(4, ENOUGH, "4.3 layers", "taylor", "random", alike=True),
    Finding(4, NETWORK, "4.3 network", "taylor", "activation"),
    Finding(4, NETWORK, "4.3 network", "taylor", "l1"),
    Finding(4, NETWORK, "4.3 network", "taylor", "random"),
    Finding(5, NORM, "4.4", "normalise l2", "normalise none", "criterion taylor"),
    Finding(5, NORM, "4.4", "normalise l2", "normalise none", "criterion activation"),
    Finding(5, NORM, "4.4", "normalise l2", "normalise none", "criterion l1", alike=True),
    Finding(6, LAYER, "4.5 criteria", "taylor", "random"),
    Finding(6, LAYER, "4.5 criteria", "activation", "random"),
    Finding(6, LAYER, "4.5 criteria", "l1", "random"),
    Finding(7, ONCE, "4.6 layers", "recompute 1", "recompute 0", alike=True),
    Finding(7, ONCE, "4.6 network", "recompute 1", "recompute 0"),
    Finding(8, SCRATCH, "best", "taylor", "the same network trained from scratch", what=TEST),
)


def answered(finding: Finding, answers: list[dict[str, str]]) -> dict[str, Any]:
    """The row of a finding."""
    for answer in answers:
        if (answer["experiment"], answer["within"], answer["what"]) != (
            finding.experiment,
            finding.within,
            finding.what,
        ):
            continue
        pair = answer["first"], answer["second"]
        if pair in ((finding.first, finding.second), (finding.second, finding.first)):
            sign = 1 if pair[0] == finding.first else -1
            return _row(finding, answer, sign)
    raise SystemExit(f"{ANSWERS} answers nothing about {finding}; run the study, or mend the finding")


def _row(finding: Finding, answer: dict[str, str], sign: int) -> dict[str, Any]:
    points = sign * float(answer["points"])
    seeds = int(answer["seeds"])
    row = {
        "finding": finding.number,
        "what_it_says": finding.claim,
        "question": " ".join([finding.experiment, finding.within]).strip(),
        "difference": f"{finding.first} less {finding.second}",
        "points": f"{points:+.2f}",
        "interval": "–",
        "seeds": seeds,
        "answer": "open: a single seed",
    }
    if seeds < 2:
        return row
    low, high = sorted((sign * float(answer["low"]), sign * float(answer["high"])))
    found, near = answer["found"] == "True", max(abs(low), abs(high)) <= NEAR
    if finding.alike:
        said = "confirmed" if near else "refuted" if found and abs(points) > NEAR else "open"
    elif found:
        said = "confirmed" if points > 0 else "refuted"
    else:
        said = f"refuted: less than {NEAR:g} point" if near else "open"
    return {**row, "interval": f"{low:+.2f} to {high:+.2f}", "answer": said}


def main() -> None:
    """Write a row for each comparison that answers a finding."""
    with ANSWERS.open(encoding="utf-8") as stream:
        answers = list(csv.DictReader(stream))
    results = Results("findings", fresh=True)
    for finding in FINDINGS:
        row = answered(finding, answers)
        results.add(row)
        print(
            f"{row['finding']} {row['what_it_says']}: {row['difference']} {row['points']} [{row['interval']}]: {row['answer']}"
        )


if __name__ == "__main__":
    main()
