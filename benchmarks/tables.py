"""Writes the tables of README.md, docs/results.md and docs/coverage.md from benchmarks/results/, so that no figure is typed by hand.

usage: python benchmarks/tables.py [--check]        (or: make results)

A page marks where a table goes:

    <!-- results:snare method=ours -->
    <!-- /results -->

`snare` names benchmarks/results/snare.json; `key=value` keeps only the rows that say so; `table=NAME` asks for one of the
tables in FORMS where the rows' own is not wanted. While there is no such file the
place stays empty. `--check` writes nothing and fails if a page is out of date.
"""

import json
import re
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "docs/results.md", "docs/coverage.md")
REGION = re.compile(r"(<!-- results:([\w-]+)((?: [\w-]+=[^\s]+)*) -->\n).*?(<!-- /results -->)", re.DOTALL)

Row = Mapping[str, Any]
Table = tuple[Sequence[str], list[Sequence[str]]]


def number(value: float) -> str:
    """A number with three or four digits that matter; counts in full."""
    if isinstance(value, int) or float(value).is_integer():
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def spread(values: Sequence[float], form: Callable[[float], str] = number) -> str:
    """Mean ± standard deviation of a sample; the value itself where there is one."""
    if len(values) == 1:
        return form(values[0])
    return f"{form(statistics.fmean(values))} ± {form(statistics.stdev(values))}"


def fixed(digits: int) -> Callable[[float], str]:
    """A form with so many decimals, thousands apart."""
    return lambda value: f"{value:,.{digits}f}"


def grouped(rows: Iterable[Row], *keys: str) -> dict[tuple[str, ...], list[Row]]:
    """The rows by what they say under the keys, in the order in which they come."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(str(row[key]) for key in keys), []).append(row)
    return groups


def seeds(rows: Sequence[Row]) -> str:
    """Which seeds, where they are few; else how many."""
    names = sorted({row["seed"] for row in rows})
    return ", ".join(map(str, names)) if len(names) <= 5 else f"{len(names)} seeds"


def ratio(rows: Sequence[Row], what: str) -> str:
    """How many times smaller, mean and spread over the runs."""
    factors = [row[f"{what}_before"] / row[f"{what}_after"] for row in rows]
    return spread(factors, fixed(1 if min(factors) < 100 else 0))


def reductions(rows: Sequence[Row]) -> Table:
    """One line for each network, data set and method."""
    heads = [
        "network",
        "data",
        "method",
        "seeds",
        "test error before, %",
        "after, %",
        "parameters",
        "parameters ÷",
        "MACs ÷",
    ]
    bounded = all(row.get("max_drop") is not None for row in rows)
    lines: list[Sequence[str]] = []
    for names, runs in grouped(rows, "network", "data", "method").items():
        line = [
            *names,
            seeds(runs),
            spread([run["error_before"] for run in runs], fixed(2)),
            spread([run["error_after"] for run in runs], fixed(2)),
            spread([run["params_after"] for run in runs], fixed(0)),
            ratio(runs, "params"),
            ratio(runs, "macs"),
        ]
        if bounded:
            # figures are rounded decimals: 3.1 - 2.2 is a little above 0.9
            held = sum(run["error_after"] - run["error_before"] <= run["max_drop"] + 1e-9 for run in runs)
            line.append(f"{held} of {len(runs)}")
        lines.append(line)
    return [*heads, *(["bound held on test data"] if bounded else [])], lines


def models(rows: Sequence[Row]) -> Table:
    """One line for each model that was cut."""
    keys = {
        "model": "model",
        "arm": "with",
        "status": "status",
        "removable_share": "share of parameters that can go",
        "watch_s": "watch, s",
        "score_s": "score, s",
        "plan_s": "plan, s",
        "apply_s": "apply, s",
        "build_s": "find groups, s",
        "prune_s": "score and cut, s",
        "seconds": "in all, s",
        "ratio": "share of the other's time",
        "turns": "median of",
        "law_error": "largest error against the law",
        "reason": "note",
    }
    shown = {key: head for key, head in keys.items() if any(row.get(key) not in (None, "") for row in rows)}
    return list(shown.values()), [[cell(row.get(key)) for key in shown] for row in rows]


def cell(value: object) -> str:
    """A value as a cell."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value).replace("|", "\\|")
    return f"{value:.1e}" if 0 < abs(value) < 1e-3 else number(value)


def timings(rows: Sequence[Row]) -> Table:
    """One line for each arm of a comparison."""
    others = [key for key in ("model", "network", "data") if all(key in row for row in rows)]
    measures = {"seconds": "seconds", "macs": "MACs", "error": "test error, %"}
    shown = [key for key in measures if all(row.get(key) is not None for row in rows)]
    lines = [
        [*names, str(len(runs)), *(spread([run[key] for run in runs]) for key in shown)]
        for names, runs in grouped(rows, *others, "arm").items()
    ]
    return [*others, "arm", "runs", *(measures[key] for key in shown)], lines


def retrained(rows: Sequence[Row]) -> Table:
    """One line for each way to make a network smaller: accuracy as it was made, and after retraining."""
    measures = {
        "parameters": ("parameters", fixed(0)),
        "macs": ("MACs", fixed(0)),
        "accuracy_at_once": ("accuracy at once, %", fixed(2)),
        "accuracy_retrained": ("after retraining, %", fixed(2)),
    }
    groups = grouped(rows, "network", "data", "method")
    order = sorted(
        groups, key=lambda names: (names[:2], -statistics.fmean(run["parameters"] for run in groups[names]))
    )
    lines = [
        [
            *names,
            seeds(groups[names]),
            *(spread([run[key] for run in groups[names]], form) for key, (_, form) in measures.items()),
        ]
        for names in order
    ]
    return ["network", "data", "method", "seeds", *(head for head, _ in measures.values())], lines


def plain(rows: Sequence[Row]) -> Table:
    """One line for each row, with all that the first one says."""
    keys = list(rows[0])
    heads = [UNIT.sub(lambda unit: UNITS[unit[1]], key).replace("_", " ") for key in keys]
    return heads, [[cell(row.get(key)) for key in keys] for row in rows]


OURS, PEER = "secateur", "torch-pruning"
LARGE_MB = 500
"""In smaller models, what the process itself takes hides what the model does."""
FAMILIES = {
    "torchvision.classification": "torchvision, classification",
    "torchvision.segmentation": "torchvision, segmentation",
    "torchvision.video": "torchvision, video",
    "torchvision.detection": "torchvision, detection",
    "timm": "timm",
    "hf": "Hugging Face",
    "": "all",
}


def families(rows: Sequence[Row]) -> Table:
    """One line for each family of models: how many can be cut, how exactly, how fast, beside the peer."""
    heads = [
        "models",
        "number",
        "cut, and every law held",
        "by Torch-Pruning",
        "parameters that can go, %: median",
        "lowest",
        "largest error against the law",
        "seconds: median",
        "worst",
        "share of its time where both cut: median",
        "worst",
        f"most memory of models over {LARGE_MB} MB, × the model's",
    ]
    lines: list[Sequence[str]] = []
    for start, name in FAMILIES.items():
        family = [row for row in rows if row["family"].startswith(start)]
        if family:
            lines.append([name, *family_line(family)])
    return heads, lines


def family_line(rows: Sequence[Row]) -> list[str]:
    """The cells of one family behind its name."""
    mine, other = ([row for row in rows if row["arm"] == arm] for arm in (OURS, PEER))
    peer_of = {row["model"]: row for row in other}
    ratios = [r for row in mine if (r := time_ratio(row, peer_of.get(row["model"]))) is not None]
    shares = [100 * share for share in figures(mine, "removable_share")]
    seconds = figures(mine, "seconds")
    large = [row for row in mine if row.get("model_mb", 0) >= LARGE_MB]
    return [
        str(len({row["model"] for row in rows})),
        good_of(mine),
        good_of(other),
        of_all(statistics.median, shares, fixed(1)),
        of_all(min, shares, fixed(1)),
        of_all(max, figures(mine, "law_error"), cell),
        of_all(statistics.median, seconds, fixed(3)),
        of_all(max, seconds, fixed(2)),
        of_all(statistics.median, ratios, fixed(2)),
        of_all(max, ratios, fixed(2)),
        of_all(max, figures(large, "memory_ratio"), fixed(2)),
    ]


def good_of(rows: Sequence[Row]) -> str:
    """How many are ok."""
    good = sum(row["status"] == "ok" for row in rows)
    return f"{good} of {len(rows)} ({100 * good / len(rows):.1f} %)" if rows else ""


def of_all(what: Callable[[list[float]], Any], values: list[float], form: Callable[[Any], str]) -> str:
    """One figure of a list, nothing of an empty one."""
    return form(what(values)) if values else ""


def figures(rows: Iterable[Row], key: str) -> list[float]:
    """What the rows say under a key, where they say it."""
    return [row[key] for row in rows if row.get(key) is not None]


def time_ratio(mine: Row | None, other: Row | None) -> float | None:
    """Our processor time as a share of the peer's, where both cut the model."""
    if mine is None or other is None or not mine["status"] == other["status"] == "ok":
        return None
    return mine["seconds"] / other["seconds"]


def exceptions(rows: Sequence[Row]) -> Table:
    """One line for each model that ours did not cut as it should."""
    lines = [
        [row["model"], row["status"], cell(row.get("reason"))]
        for row in rows
        if row["arm"] == OURS and row["status"] != "ok"
    ]
    return ["model", "status", "reason"], lines


def side_by_side(rows: Sequence[Row]) -> Table:
    """One line for each model: ours, what it left alone, and the peer."""
    keys = {
        "status": "status",
        "params_before": "parameters",
        "params_after": "after",
        "removable_share": "share that can go",
        "watch_s": "watch, s",
        "score_s": "score, s",
        "plan_s": "plan, s",
        "apply_s": "apply, s",
        "law_error": "error against the law",
        "memory_ratio": "memory, × the model's",
    }
    lines: list[Sequence[str]] = []
    for (model,), arms in grouped(rows, "model").items():
        by_arm = {row["arm"]: row for row in arms}
        mine, other = by_arm.get(OURS), by_arm.get(PEER)
        ratio_of = time_ratio(mine, other)
        lines.append(
            [
                model,
                *(cell((mine or {}).get(key)) for key in keys),
                *(cell((other or {}).get(key)) for key in ("status", "seconds")),
                "" if ratio_of is None else fixed(2)(ratio_of),
                left_alone(mine or {}),
            ]
        )
    heads = [
        "model",
        *keys.values(),
        "Torch-Pruning",
        "its time, s",
        "our share of it",
        "parameters left whole, and why",
    ]
    return heads, lines


def left_alone(row: Row) -> str:
    """What no axis of can go, with the reasons that hold most parameters."""
    whole = [entry for entry in row.get("left", ()) if entry["parameters"]][:2]
    said = "; ".join(f"{entry['parameters']:,}: {entry['reason']}" for entry in whole)
    return cell(said)


NETWORK = "network"


def retraining(rows: Sequence[Row]) -> Table:
    """One line for each arm of a comparison of what is retrained; times also beside the network's, seed by seed."""
    heads = [
        "network",
        "data",
        "retrained",
        "seeds",
        "processor time, s: median",
        "share of the network's: median",
        "candidates",
        "accepted",
        "seconds a candidate",
        "parameters ÷",
        "MACs ÷",
        "validation error, %",
        "test error before, %",
        "after, %",
    ]
    whole = {(row["network"], row["seed"]): row for row in rows if row["arm"] == NETWORK}
    lines: list[Sequence[str]] = []
    for names, runs in grouped(rows, "network", "data", "arm").items():
        beside = [
            run["cpu_seconds"] / whole[run["network"], run["seed"]]["cpu_seconds"]
            for run in runs
            if (run["network"], run["seed"]) in whole
        ]
        lines.append(
            [
                *names,
                seeds(runs),
                number(statistics.median(run["cpu_seconds"] for run in runs)),
                of_all(statistics.median, beside, fixed(2)),
                number(statistics.median(run["candidates"] for run in runs)),
                number(statistics.median(run["accepted"] for run in runs)),
                fixed(2)(statistics.median(run["cpu_seconds"] / run["candidates"] for run in runs)),
                ratio(runs, "params"),
                ratio(runs, "macs"),
                spread([run["validation_error_after"] for run in runs], fixed(2)),
                spread([run["error_before"] for run in runs], fixed(2)),
                spread([run["error_after"] for run in runs], fixed(2)),
            ]
        )
    return heads, lines


def shares(rows: Sequence[Row]) -> Table:
    """One line for each network and way to choose weights, one column for each share of them that went."""
    rows = [row for row in rows if row.get("removed") is not None]
    removed = sorted({row["removed"] for row in rows})
    lines: list[Sequence[str]] = []
    for names, runs in grouped(rows, "network", "data", "method").items():
        by_share = {share: [run for run in runs if run["removed"] == share] for share in removed}
        before = {run["seed"]: run["accuracy_before"] for run in runs}
        lines.append(
            [
                *names,
                seeds(runs),
                spread(list(before.values()), fixed(2)),
                *(
                    of_all(spread_of_two, [run["accuracy"] for run in found], str)
                    for found in by_share.values()
                ),
            ]
        )
    heads = ["network", "data", "weights chosen by", "seeds", "accuracy, %: all weights"]
    return [*heads, *(f"without {100 * share:g} %" for share in removed)], lines


def spread_of_two(values: list[float]) -> str:
    """Mean and deviation with two digits behind the point."""
    return spread(values, fixed(2))


def sparse(rows: Sequence[Row]) -> Table:
    """One line for each network, way to reduce it, and number of weights left."""
    rows = [row for row in rows if row.get("weights_left") is not None]
    errors = {
        "validation_error_before": "validation error before, %",
        "validation_error_after": "after, %",
        "test_error_before": "test error before, %",
        "test_error_after": "after, %",
    }
    shown = [key for key in errors if any(row.get(key) is not None for row in rows)]
    lines: list[Sequence[str]] = []
    for (network, name, method, left), runs in grouped(
        rows, "network", "data", "method", "weights_left"
    ).items():
        smaller = min(run["weights_before"] / run["weights_not_zero"] for run in runs)
        cells = [of_all(spread_of_two, figures(runs, key), str) for key in shown]
        lines.append(
            [
                network,
                name,
                method,
                str(runs[0]["epochs"]),
                seeds(runs),
                f"{int(left):,}",
                fixed(1)(smaller),
                *cells,
            ]
        )
    heads = [
        "network",
        "data",
        "method",
        "epochs",
        "seeds",
        "weights left",
        "÷",
        *(errors[key] for key in shown),
    ]
    return heads, lines


def coded(rows: Sequence[Row]) -> Table:
    """One line for each network, what was pruned by itself, and way to code it."""
    lines: list[Sequence[str]] = []
    for (network, name, scope, method), runs in grouped(rows, "network", "data", "scope", "method").items():
        sizes = [[run["sizes"][key] for run in runs] for key in ("raw", "gzip", "xz")]
        errors = [[run[key] for run in runs] for key in ("error_before", "error_pruned", "error_after")]
        coded_bytes = [run["bytes_after"] for run in runs]
        ratios = [run["bytes_before"] / run["bytes_after"] for run in runs]
        lines.append(
            [
                network,
                name,
                scope,
                method,
                seeds(runs),
                *(spread(one) for one in sizes),
                spread(coded_bytes),
                spread(ratios),
                *(spread(one, fixed(2)) for one in errors),
            ]
        )
    heads = ["network", "data", "share of", "method", "seeds", "pruned file, bytes", "gzip -9", "xz", "coded"]
    return [*heads, "÷", "test error before, %", "pruned", "coded"], lines


def treated(rows: Sequence[Row]) -> Table:
    """One line for each network and treatment, the untreated one first; sizes also beside its file."""
    first = {(row["network"], row["seed"]): row for row in rows if row["treatment"] == "trained"}
    lines: list[Sequence[str]] = []
    groups = grouped(rows, "network", "data", "treatment")
    order = sorted(
        groups, key=lambda names: (names[:2], -statistics.fmean(run["gzip"] for run in groups[names]))
    )
    for names in order:
        runs = groups[names]
        sent = [run.get("coded") or run["gzip"] for run in runs]
        smaller = [
            first[run["network"], run["seed"]]["bytes"] / one for run, one in zip(runs, sent, strict=True)
        ]
        fell = sorted({run["fell_most"] for run in runs if run["fell_most"]})
        worst = [run["fell_most_points"] for run in runs if run["fell_most"]]
        lines.append(
            [
                *names,
                seeds(runs),
                *(
                    spread([run[key] for run in runs], fixed(2))
                    for key in ("accuracy", "top3", "drop", "sparsity")
                ),
                spread([run["bytes"] for run in runs], fixed(0)),
                spread([run["gzip"] for run in runs], fixed(0)),
                of_all(spread, figures(runs, "coded"), str),
                spread(smaller, fixed(1)),
                spread([run["milliseconds"] for run in runs], fixed(3)),
                spread([run["time_ratio"] for run in runs], fixed(2)),
                spread([run["own_memory"] / 1e6 for run in runs], fixed(1)),
                f"{', '.join(fell)} {of_all(spread, worst, str)}".strip() or "none",
            ]
        )
    heads = [
        "network",
        "data",
        "treatment",
        "seeds",
        "top-1, %",
        "top-3, %",
        "points lost",
        "zeros, %",
        "file, bytes",
        "gzip -9",
        "coded",
    ]
    return [
        *heads,
        "untreated file ÷ what is sent",
        "one example, ms",
        "processor time, ratio",
        "memory of the file, MB",
        "class that fell most, points",
    ], lines


def exported(rows: Sequence[Row]) -> Table:
    """One line for each network, one column for each target: the deviation, or why there is no file."""
    targets = list(dict.fromkeys(row["target"] for row in rows))
    lines = [
        [
            network,
            *(
                next(
                    (
                        cell(float(row["deviation"])) if row["status"] == "ok" else cell(row["reason"])
                        for row in own
                        if row["target"] == target
                    ),
                    "",
                )
                for target in targets
            ),
        ]
        for (network,), own in grouped(rows, "network").items()
    ]
    return ["network", *targets], lines


def in_turns(rows: Sequence[Row]) -> Table:
    """One line for each thing that was timed beside another in turns: everything a row says, ratios with their middle half."""
    left_out = {"commit", "turns"}
    bases = [key.removesuffix("_median") for key in rows[0] if key.endswith("_median")]
    parts = {f"{base}_{part}" for base in bases for part in ("median", "from", "to")}
    plain_keys = sorted(
        (key for key in rows[0] if key not in parts | left_out), key=lambda key: key != "network"
    )
    heads = [
        *(key.replace("_", " ") for key in plain_keys),
        *(f"{base.replace('_', ' ')}: median [middle half]" for base in bases),
    ]
    lines = [
        [
            *(cell(row.get(key)) for key in plain_keys),
            *(
                f"{row[f'{base}_median']:.2f} [{row[f'{base}_from']:.2f}, {row[f'{base}_to']:.2f}]"
                for base in bases
            ),
        ]
        for row in rows
    ]
    return heads, lines


def claims(rows: Sequence[Row]) -> Table:
    """One line for each comparison by which a claim is answered; a claim is said once."""
    lines: list[Sequence[str]] = []
    said = ""
    for row in rows:
        claim = f"{row['finding']}. {row['what_it_says']}"
        comparison = f"{row['question']}: {row['difference']}"
        figures_of = [row["points"], row["interval"], str(row["seeds"]), row["answer"]]
        lines.append([claim if claim != said else "", comparison, *figures_of])
        said = claim
    return ["finding", "comparison", "points", "95 % interval", "seeds", "answer"], lines


UNITS = {"mb": ", MB", "s": ", s", "ms": ", ms"}
UNIT = re.compile(r"_(mb|s|ms)$")
KINDS = {
    "family": families,
    "finding": claims,
    "error_after": reductions,
    "accuracy_retrained": retrained,
    "status": models,
    "turns": models,
    "arm": timings,
}
"""What a file's rows are about, by a key that all of them carry; the first that fits is taken."""
FORMS = {
    "coded": coded,
    "exported": exported,
    "families": families,
    "in-turns": in_turns,
    "exceptions": exceptions,
    "models": side_by_side,
    "retraining": retraining,
    "shares": shares,
    "sparse": sparse,
    "treated": treated,
}
"""Tables that a page asks for by name."""
GATHERED = {coded, reductions, retrained, timings, retraining, shares, sparse, treated}
"""The tables whose lines gather several runs."""


def tables_of(rows: Sequence[Row]) -> Iterator[Table]:
    """The table that fits the rows; where they are of no known kind a plain one for each set of keys."""
    kind = kind_of(rows)
    if kind is not plain:
        yield kind(rows)
        return
    alike: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        alike.setdefault(tuple(row), []).append(row)
    yield from map(plain, alike.values())


def kind_of(rows: Sequence[Row]) -> Callable[[Sequence[Row]], Table]:
    """What makes the table of such rows."""
    return next((kind for key, kind in KINDS.items() if all(key in row for row in rows)), plain)


def conditions_of(document: Mapping[str, Any]) -> str:
    """In what conditions it was measured, in a line."""
    said = document["conditions"]
    versions = said["versions"]
    named = (
        ", ".join(f"{name} {version}" for name, version in versions.items())
        if isinstance(versions, dict)
        else versions
    )
    machine = said["machine"]
    machine = (
        ", ".join(f"{key} {value}" for key, value in machine.items())
        if isinstance(machine, dict)
        else machine
    )
    note = f" Note: {said['note']}." if said.get("note") else ""
    return (
        f"{machine}; {named}; `{said['command']}` at commit {str(said['commit'])[:10]}, {str(said['started'])[:10]},"
        f" {said['seconds'] / 60:.0f} minutes in all.{note}"
    )


def markdown(document: Mapping[str, Any], wanted: Mapping[str, str]) -> str:
    """The table of a results file, with its conditions, or nothing where no row is wanted."""
    keys = {key: value for key, value in wanted.items() if key != "table"}
    rows = [row for row in document["rows"] if all(str(row.get(key)) == value for key, value in keys.items())]
    if not rows:
        raise SystemExit(f"{document['name']} has no rows with {dict(wanted)}; mend the mark on the page")
    parts: list[str] = []
    for heads, lines in [FORMS[wanted["table"]](rows)] if "table" in wanted else tables_of(rows):
        parts.append("\n".join(f"| {' | '.join(line)} |" for line in (heads, ["---"] * len(heads), *lines)))
    gathered = FORMS.get(wanted.get("table", ""), kind_of(rows)) in GATHERED
    spread_said = "Mean ± standard deviation over the runs. " if gathered else ""
    parts.append(f"*{spread_said}{conditions_of(document)}*")
    return "\n" + "\n\n".join(parts) + "\n\n"


def rewritten(page: str, results: Path) -> str:
    """A page with the tables of its marked places as the results say."""

    def fill(match: re.Match[str]) -> str:
        opening, name, filters, closing = match.groups()
        file = results / f"{name}.json"
        if not file.is_file():
            return opening + closing
        wanted = dict(entry.split("=", 1) for entry in filters.split())
        return opening + markdown(json.loads(file.read_text(encoding="utf-8")), wanted) + closing

    return REGION.sub(fill, page)


def main(arguments: Sequence[str], root: Path = ROOT) -> int:
    """Rewrite the pages, or only say which are out of date."""
    stale: list[str] = []
    for name in PAGES:
        page = root / name
        text = page.read_text(encoding="utf-8")
        fresh = rewritten(text, root / "benchmarks" / "results")
        if fresh != text:
            stale.append(name)
            if "--check" not in arguments:
                page.write_text(fresh, encoding="utf-8")
    if "--check" in arguments and stale:
        print(f"out of date: {', '.join(stale)}; run: make results", file=sys.stderr)
        return 1
    print(f"rewritten: {', '.join(stale)}" if stale else "every table is up to date")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
