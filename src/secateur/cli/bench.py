"""``secateur bench``: what files cost to run, side by side, or how time grows with width on this machine."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.table import Table
from rich.text import Text
from torch import Tensor, nn

from secateur.cli import options as o
from secateur.cli import show
from secateur.cli.progress import BenchProgress
from secateur.cli.sources import open_network
from secateur.errors import SettingsError
from secateur.evaluate import (
    FileSize,
    Measured,
    Runnable,
    ToolLatency,
    Tread,
    grain_of,
    litert_benchmark,
    measure_file,
    measure_processes,
    staircase,
)
from secateur.export import export, is_deployed, open_file, runtimes_of, suffix_of
from secateur.methods import MODEL_FILE
from secateur.report import conditions, text


def bench(
    *,
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[FILE]...",
            help="Saved networks or deployed files (.tflite, .onnx, .pte, .pt2).",
            show_default=False,
        ),
    ] = None,
    warmup: Annotated[int, typer.Option(help="Passes that are not timed.", min=1)] = 1,
    runs: Annotated[int, typer.Option(help="Timed passes of one example.", min=1)] = 50,
    threads: Annotated[
        list[int] | None,
        typer.Option(help="Threads; may be repeated (default 1).", min=1, show_default=False),
    ] = None,
    input_shape: Annotated[
        str | None, typer.Option(help="One example's shape, such as 3,32,32, where a file does not say.")
    ] = None,
    widths: Annotated[
        bool, typer.Option("--widths", help="In place of files: how time grows with the width of layers.")
    ] = False,
    kind: Annotated[
        str, typer.Option(help="With --widths: pointwise (as in MobileNets) or conv3.")
    ] = "pointwise",
    target: Annotated[
        str, typer.Option(help="With --widths: what runs them: litert, onnx, executorch, torch.")
    ] = "litert",
    as_json: Annotated[bool, typer.Option("--json", help="The same for programs.")] = False,
    allow: o.Allow = None,
) -> None:
    """Time files side by side, each in a process of its own: clock, processor, memory, and size raw and packed."""
    if widths:
        if files:
            raise SettingsError("--widths measures layers of its own; leave the files out")
        _widths(kind, target, as_json=as_json)
        return
    if not files:
        raise SettingsError("name a file to measure, or ask for --widths")
    runnable = [_runnable(file, input_shape, allow or ()) for file in files]
    with BenchProgress() as progress:
        sizes: dict[Path, FileSize] = {}
        for one in runnable:
            progress.step(f"packing {one.path}")
            sizes[one.path] = measure_file(one.path)
        found = measure_processes(
            runnable, threads=threads or (1,), warmup=warmup, runs=runs, on_step=progress.step
        )
        told: dict[tuple[Path, int], ToolLatency] = {}
        for one in found:
            if one.path.suffix == suffix_of("litert"):
                progress.step(f"litert-benchmark {one.path}")
                said = litert_benchmark(one.path, threads=one.threads, warmup=warmup, runs=runs)
                if said is not None:
                    told[one.path, one.threads] = said
    if as_json:
        print(json.dumps(_document(found, sizes, told), indent=2))
        return
    _shown(found, sizes, told)


def _runnable(file: Path, input_shape: str | None, allow: Sequence[str]) -> Runnable:
    """A file, with what opens it and the shape of its example."""
    path = file / MODEL_FILE if file.is_dir() else file
    if is_deployed(path):
        if not path.is_file():
            raise SettingsError(f"{path} is not there; name a file")
        shape = o.shape(input_shape) if input_shape else None
        return Runnable(path, "secateur.export:open_file", {"allow": list(allow)}, runtimes_of(path), shape)
    source = open_network(str(file), allow=allow)
    if source.file is None:
        raise SettingsError(f"{file} is a network's name, not a file; `secateur train` makes one")
    shape = o.shape(input_shape) if input_shape else source.input_shape
    if shape is None:
        raise SettingsError(
            f"which inputs {file} takes is not known; say one example's shape: --input-shape 3,32,32"
        )
    library = source.origin.spec.partition(":")[0]
    return Runnable(
        source.file,
        "secateur.store:load",
        {"allow": list(allow)},
        (library,) if library in ("timm", "torchvision") else (),
        shape,
    )


def _document(
    found: Sequence[Measured],
    sizes: Mapping[Path, FileSize],
    told: Mapping[tuple[Path, int], ToolLatency],
) -> dict[str, Any]:
    """Everything that was measured, and where."""
    rows: list[dict[str, Any]] = []
    for one in found:
        said = told.get((one.path, one.threads))
        tool = None if said is None else asdict(said)
        rows.append({**one.as_dict(), "size_bytes": asdict(sizes[one.path]), "litert_benchmark_ms": tool})
    return {"conditions": conditions.here(), "rows": rows}


def _shown(
    found: Sequence[Measured],
    sizes: Mapping[Path, FileSize],
    told: Mapping[tuple[Path, int], ToolLatency],
) -> None:
    out = show.console()
    for count in dict.fromkeys(one.threads for one in found):
        here = [one for one in found if one.threads == count]
        of = f"{count} thread{'' if count == 1 else 's'}, milliseconds"
        grid = _grid(f"{of} on the clock", "median", "10 %", "90 %", "ratio", "first", "opening")
        for one in here:
            grid.add_row(*_times(one, one.wall, one.wall_ratio), f"{one.first:.2f}", f"{one.opening:.1f}")
        out.print(grid)
        out.print()
        grid = _grid(f"{of} of the processor", "median", "10 %", "90 %", "ratio")
        for one in here:
            grid.add_row(*_times(one, one.cpu, one.cpu_ratio))
        out.print(grid)
        own = {one.path: told[one.path, count] for one in here if (one.path, count) in told}
        if own:
            out.print()
            grid = _grid(f"{of}, by litert-benchmark", "median", "5 %", "95 %", "mean", "first", "opening")
            for path, said in own.items():
                values = (said.median, said.low, said.high, said.mean, said.first, said.opening)
                grid.add_row(Text(text.plain(str(path))), *(f"{value:.3f}" for value in values))
            out.print(grid)
        out.print()
    grid = _grid("Memory in a process of its own", "with the file", "without it", "the file's")
    for one in found:
        name = f"{one.path} ({one.threads})" if len({other.threads for other in found}) > 1 else str(one.path)
        grid.add_row(Text(text.plain(name)), *map(text.size, (one.peak, one.empty, one.memory)))
    out.print(grid)
    out.print()
    grid = _grid("Size", "raw", "gzip -9", "xz -9e", "zstd -19")
    for path, size in sizes.items():
        zstd = "–" if size.zstd is None else text.size(size.zstd)
        grid.add_row(Text(text.plain(str(path))), *map(text.size, (size.raw, size.gzip, size.xz)), zstd)
    out.print(grid)
    first = found[0]
    warm = f"{first.warmup} that {'is' if first.warmup == 1 else 'are'} not timed"
    out.print(
        f"\n{first.runs} passes of one example, after {warm}; 10 % and 90 %: percentiles. Ratios are to the first file, turn by"
        " turn. What else runs on the machine disturbs the processor's time less than the clock's.",
        soft_wrap=True,
    )


def _times(one: Measured, times: Mapping[float, float], ratio: float) -> list[Text | str]:
    """A file's name, its median time, its percentiles and its ratio to the first file."""
    return [
        Text(text.plain(str(one.path))),
        *(f"{times[quantile]:.3f}" for quantile in (0.5, 0.1, 0.9)),
        f"{ratio:.2f}",
    ]


def _grid(title: str, *headings: str) -> Table:
    grid = Table(title=title, title_justify="left", title_style="bold", box=None)
    grid.add_column("", overflow="fold")
    for heading in headings:
        grid.add_column(heading, justify="right")
    return grid


def _widths(kind: str, target: str, *, as_json: bool) -> None:
    """The staircase of a target on this machine."""
    suffix = suffix_of(target)
    with tempfile.TemporaryDirectory() as folder, BenchProgress() as progress:

        def deploy(model: nn.Module, example: Tensor) -> nn.Module:
            file = Path(folder) / f"{example.shape[1]}{suffix}"
            export(model, example, file, target=target)
            return open_file(file, allow=["torch"], threads=1)

        found = staircase(deploy, kind=cast("Any", kind), on_step=progress.step)
    grain = grain_of(found)
    if as_json:
        rows = [asdict(tread) for tread in found]
        print(
            json.dumps(
                {
                    "conditions": conditions.here(),
                    "kind": kind,
                    "target": target,
                    "grain": grain,
                    "rows": rows,
                },
                indent=2,
            )
        )
        return
    _stairs(found, f"Four layers ({kind}) on 16x16 with {target}, 1 thread")
    said = (
        "no step was seen"
        if grain is None
        else f"widths just below a step are multiples of {grain}: --round-to {grain}"
    )
    show.console().print(f"\nMilliseconds, 10th percentile; {said}.", soft_wrap=True)


def _stairs(found: Sequence[Tread], title: str) -> None:
    grid = _grid(title, "processor", "clock", "MACs", "per million MACs", "")
    for tread in found:
        each = 1e6 * tread.cpu / tread.macs
        grid.add_row(
            str(tread.width), f"{tread.cpu:.4f}", f"{tread.wall:.4f}", text.short(tread.macs), f"{each:.4f}",
            "step" if tread.step else "",
        )  # fmt: skip
    show.console().print(grid)
