"""Writes the tables of README.md and docs/results.md from benchmarks/results/, so that no figure is typed by hand.

usage: python benchmarks/tables.py [--check]        (or: make results)

A page marks where a table goes:

    <!-- results:snare method=ours -->
    <!-- /results -->

`snare` names benchmarks/results/snare.json; `key=value` keeps only the rows that say so. While there is no such file the
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
PAGES = ("README.md", "docs/results.md")
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


def plain(rows: Sequence[Row]) -> Table:
    """One line for each row, with all that the first one says."""
    keys = list(rows[0])
    heads = [UNIT.sub(lambda unit: UNITS[unit[1]], key).replace("_", " ") for key in keys]
    return heads, [[cell(row.get(key)) for key in keys] for row in rows]


UNITS = {"mb": ", MB", "s": ", s", "ms": ", ms"}
UNIT = re.compile(r"_(mb|s|ms)$")
KINDS = {"error_after": reductions, "status": models, "turns": models, "arm": timings}
"""What a file's rows are about, by a key that all of them carry; the first that fits is taken."""
GATHERED = {reductions, timings}
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
    rows = [
        row for row in document["rows"] if all(str(row.get(key)) == value for key, value in wanted.items())
    ]
    if not rows:
        raise SystemExit(f"{document['name']} has no rows with {dict(wanted)}; mend the mark on the page")
    parts: list[str] = []
    for heads, lines in tables_of(rows):
        parts.append("\n".join(f"| {' | '.join(line)} |" for line in (heads, ["---"] * len(heads), *lines)))
    spread_said = "Mean ± standard deviation over the runs. " if kind_of(rows) in GATHERED else ""
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
