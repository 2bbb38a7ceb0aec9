"""Which networks can be cut, exactly and how fast: torchvision's, timm's and Hugging Face's, beside Torch-Pruning.

Every model is built with random weights and random norms. Half of all removable channels go (L1 norm, every group by
itself). Then the cut network must run, return the shapes it returned before, compute in double precision what the full one
does whose readers do not read (to 1e-9 of the largest output), cost what the plan forecast, and come back from a file with
equal outputs. Every model and arm has a process, a thread and a time limit of its own: a crash is a row with its reason.

    python benchmarks/coverage.py                                     # all that is not in the results yet
    python benchmarks/coverage.py --models 'resnet*' timm:vgg11       # names or patterns
    python benchmarks/coverage.py --family timm --limit 20 --jobs 2
    python benchmarks/coverage.py --arm secateur --again failed       # after the engine was mended
    python benchmarks/coverage.py --list | --choose                   # what would run; write the list of models anew
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _coverage_models import Entry
    from _results import Results

ARMS = ("secateur", "torch-pruning")
CELL = Path(__file__).with_name("_coverage_cell.py")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
FOLDERS = re.compile(r"(?<![\w.:/])/(?:[\w.+-]+/)+")
OF_MEMORY = 0.8
"""The share of the machine's memory that all processes together may take."""

Row = dict[str, Any]


def row_of(entry: Entry, arm: str, *, limit: float, memory: int | None = None) -> Row:
    """The row of one model and arm, from a process of its own, whatever happens to it.

    Args:
        entry: A model of the list.
        arm: What cuts it.
        limit: Seconds after which the process is ended.
        memory: Bytes that it may take.
    """
    with tempfile.TemporaryDirectory() as folder:
        out, errors = Path(folder) / "row.json", Path(folder) / "errors.txt"
        command = [sys.executable, str(CELL), entry.line, arm, str(out)]
        command += ["--memory", str(memory)] if memory else []
        with errors.open("w", encoding="utf-8") as stderr:
            process = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=stderr, env={**os.environ, **ONE_THREAD}
            )
            try:
                code: int | None = process.wait(timeout=limit)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                code = None
        row: Row = json.loads(without_folders(out)) if out.exists() else {"stage": "start"}
        stage = row.pop("stage")
        if code is None:
            row |= {"status": "time", "reason": f"{stage}: took longer than {limit:g} s"}
        elif "status" not in row:
            said = without_folders(errors).strip().splitlines()
            row |= {"status": "raises", "reason": f"{stage}: {ended(code)}{': ' + said[-1] if said else ''}"}
    return row


def without_folders(file: Path) -> str:
    """A file's text with the names of files, but not of this machine's folders."""
    return FOLDERS.sub("", file.read_text(encoding="utf-8", errors="replace"))


def ended(code: int) -> str:
    """How a process ended that did not end well."""
    if code >= 0:
        return f"the process ended with code {code}"
    number = signal.Signals(-code)
    hint = ", as when memory runs out" if number is signal.SIGKILL else ""
    return f"the process was ended by {number.name}{hint}"


def wanted(entries: Iterable[Entry], options: argparse.Namespace) -> Iterator[Entry]:
    """The models that were asked for by name or family."""
    for entry in entries:
        name = entry.spec.partition(":")[2]
        if options.family and not any(entry.family.startswith(family) for family in options.family):
            continue
        if not options.models or any(
            fnmatch(entry.spec if ":" in pattern else name, pattern) for pattern in options.models
        ):
            yield entry


def cells_of(
    entries: Iterable[Entry], rows: Sequence[Row], options: argparse.Namespace
) -> list[tuple[Entry, str]]:
    """Models and arms that are to be run, of as many models as were asked for."""
    cells: dict[str, list[tuple[Entry, str]]] = {}
    for entry in wanted(entries, options):
        open_arms = [arm for arm in options.arm if due(rows, entry.spec, arm, options.again)]
        if open_arms:
            cells[entry.spec] = [(entry, arm) for arm in open_arms]
    return [cell for model in list(cells.values())[: options.limit] for cell in model]


def due(rows: Sequence[Row], model: str, arm: str, again: str) -> bool:
    """Whether a cell is to be run: it is not there, or is asked for again."""
    found = [row for row in rows if row["model"] == model and row["arm"] == arm]
    return not found or again == "all" or (again == "failed" and found[0]["status"] != "ok")


def told(row: Row) -> str:
    """A row in a line."""
    line = f"{row['model']:50s} {row['arm']:14s} {row['status']:14s}"
    if "seconds" in row:
        line += f" {row['seconds']:7.3f} s, {row['params_before']:,} -> {row['params_after']:,}"
    if "removable_share" in row:
        line += f", {row['removable_share']:.0%} can go"
    return line + (f"  {row['reason']}" if row.get("reason") else "")


def show(rows: Sequence[Row]) -> None:
    """Print what tables.py makes of the rows: what is not whole, then the summary."""
    from tables import exceptions, families

    for heads, lines in (exceptions(rows), families(rows)):
        widths = [
            min(max(len(str(line[column])) for line in (heads, *lines)), 100) for column in range(len(heads))
        ]
        print()
        for line in (heads, *lines):
            print("  ".join(f"{cell:{width}s}" for cell, width in zip(line, widths, strict=True)).rstrip())


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--models", nargs="+", metavar="PATTERN", help="names, with * and ?; library:name for one library's"
    )
    parser.add_argument("--family", nargs="+", help="torchvision, torchvision.video, timm, timm.vgg, hf, ...")
    parser.add_argument("--limit", type=int, help="so many models at most")
    parser.add_argument("--arm", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--time", type=float, default=900, help="seconds that one process may take")
    parser.add_argument("--again", choices=("none", "failed", "all"), default="none")
    parser.add_argument("--name", default="coverage", help="name of the results file")
    parser.add_argument("--list", action="store_true", help="only say what would be run")
    parser.add_argument("--choose", action="store_true", help="write the list of models anew")
    return parser.parse_args(arguments)


def run(cells: Sequence[tuple[Entry, str]], options: argparse.Namespace, results: Results) -> None:
    """Run the cells, some at a time, and write each row as it comes."""
    memory = int(OF_MEMORY * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / options.jobs)
    with ThreadPoolExecutor(options.jobs) as pool:
        work = {
            pool.submit(row_of, entry, arm, limit=options.time, memory=memory): (entry, arm)
            for entry, arm in cells
        }
        for number, done in enumerate(as_completed(work), 1):
            entry, arm = work[done]
            row = {
                "model": entry.spec,
                "family": entry.family,
                "arm": arm,
                "input": list(entry.shape),
                **done.result(),
            }
            results.add(row)
            print(f"{number}/{len(cells)} {told(row)}", flush=True)
    results.write(note=f"{options.jobs} processes at a time, one thread each")


def main(arguments: Sequence[str]) -> None:
    """Run the cells that were asked for and are not there yet, and show what the results say."""
    from _coverage_models import choose, listed
    from _results import Results

    options = parsed(arguments)
    if options.choose:
        choose()
        return
    results = Results(options.name, keys=("model", "arm"))
    cells = cells_of(listed(), results.rows, options)
    if options.list:
        for entry, arm in cells:
            print(f"{arm:14s} {entry.line}")
        return
    if cells:
        run(cells, options, results)
    if results.rows:
        show(results.rows)


if __name__ == "__main__":
    main(sys.argv[1:])
