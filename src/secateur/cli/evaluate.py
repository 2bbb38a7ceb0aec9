"""``secateur evaluate``: what a saved network reaches on data, and how that differs from another."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from secateur.channels import watch
from secateur.cli import options as o
from secateur.cli import show
from secateur.cli.progress import doing
from secateur.cli.sources import Source, data_options, open_data, open_deployed, open_network, trusted
from secateur.cost import Cost, CostModel
from secateur.data import Split, Splits
from secateur.errors import SettingsError
from secateur.evaluate import Evaluation, paired_drop
from secateur.evaluate import evaluate as evaluate_on
from secateur.export import Deployed
from secateur.report import (
    Change,
    Comparison,
    Data,
    accuracy_of,
    changes_of,
    check_place,
    confusions_of,
    differences_line,
    evaluation,
    fell_most_line,
    identified_of,
    text,
    write_comparison,
)


def evaluate(
    *,
    network: Annotated[Path, typer.Argument(metavar="FILE", help="A saved network.", show_default=False)],
    data: o.DataName = None,
    against: Annotated[
        Path | None, typer.Option(help="Another saved network to compare with.", show_default=False)
    ] = None,
    split: Annotated[str, typer.Option(help="test or validation.")] = "test",
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="With --against: write the comparison as a page.", show_default=False
        ),
    ] = None,
    data_dir: o.DataDir = None,
    data_seed: o.DataSeed = None,
    validation: o.Validation = None,
    allow: o.Allow = None,
) -> None:
    """Measure a saved network: accuracy, for each class, and size; with --against the change, and where it is."""
    asked = o.given(**locals())
    if data is None:
        raise SettingsError("--data is missing; name a data set (`secateur data` lists those that are known)")
    if split not in ("test", "validation"):
        raise SettingsError(f"--split {split} is no split to judge by; take test or validation")
    if report is not None:
        if against is None:
            raise SettingsError("--report is the page of a comparison; name the other network with --against")
        check_place(report)
    trust = trusted(allow, data)
    sources = [
        open_deployed(str(file), allow=trust) or open_network(str(file), allow=trust)
        for file in (network, against)
        if file is not None
    ]
    splits = open_data(data, **data_options(asked))
    measured = [_measured(source, splits, split) for source in sources]
    found, cost = measured[0]
    out = show.console()
    figures = _figures(sources[0], cost, found)
    title = f"{network} on {splits.name}"
    accuracy = accuracy_of(found)
    out.print(evaluation(accuracy, title=title, split=split, figures=figures, classes=show.class_rows(found)))
    if against is None:
        return
    other_cost = measured[1][1]
    compared = _comparison(sources, splits, split, measured)
    out.print(_table(str(against), compared))
    out.print(Text(f"\n{fell_most_line(compared.fell_most, split)}"))
    out.print(Text(differences_line(compared.identified, compared.confusions)))
    if cost is not None and other_cost is not None:
        for name, now, was in (
            ("parameters", cost.parameters, other_cost.parameters),
            ("MACs", cost.macs, other_cost.macs),
        ):
            out.print(f"{name}: {text.integer(was)} → {text.integer(now)} (÷ {text.factor(was, now)})")
    if report is not None:
        written = write_comparison(compared, report)
        out.print(f"The page: {written}", markup=False, soft_wrap=True)


def _measured(source: Source | Deployed, data: Splits, split: str) -> tuple[Evaluation, Cost | None]:
    """What a network reaches, and what it costs; the cost of a deployed file is not known."""
    examples: Split = data.parts()[split]
    if isinstance(source, Deployed):
        with doing(f"evaluating {source.path}"):
            return evaluate_on(source, examples, classes=data.classes), None
    with doing(f"evaluating {source.file}"):
        found = evaluate_on(source.model, examples, classes=data.classes)
    return found, CostModel(watch(source.model, examples.inputs[:1])).total()


def _figures(source: Source | Deployed, cost: Cost | None, found: Evaluation) -> dict[str, str]:
    file = source.path if isinstance(source, Deployed) else source.file
    size: Any = "" if file is None else text.size(file.stat().st_size)
    if isinstance(source, Deployed):
        return {"file": size, "run by": source.target}
    if cost is None:
        return {"file": size}
    return {
        "parameters": text.integer(cost.parameters),
        "MACs per example": text.integer(cost.macs),
        "file": size,
        "measured with": f"{found.conditions['device']}, {found.conditions['dtype']}, torch {found.conditions['torch']}",
    }


def _comparison(
    sources: Sequence[Source | Deployed],
    data: Splits,
    split: str,
    measured: Sequence[tuple[Evaluation, Cost | None]],
) -> Comparison:
    """The change, and that of each class, with intervals of 95 %, and what is behind it."""
    (now, cost), (was, other_cost) = measured
    examples = data.parts()[split]
    # each limit at 97.5 %, both together at 95 %
    drop = paired_drop(was, now, confidence=0.975, groups=examples.groups)
    after, before = (_file_of(source) for source in sources)
    amounts = {"File size": (before.stat().st_size, after.stat().st_size)}
    if cost is not None and other_cost is not None:
        amounts = {
            "Parameters": (other_cost.parameters, cost.parameters),
            "MACs per example": (other_cost.macs, cost.macs),
            **amounts,
        }
    return Comparison(
        title=f"{after} against {before} on {data.name}",
        created=datetime.now(UTC),
        network=str(after),
        against=str(before),
        data=Data(name=data.name, splits={split: len(examples)}, notes=data.notes),
        before=accuracy_of(was),
        after=accuracy_of(now),
        change=Change.of_drop(drop.points, upper=drop.upper, confidence=drop.confidence),
        amounts=amounts,
        classes=changes_of(was, now, examples.groups),
        classes_split=split,
        confusions=confusions_of(was, now),
        identified=identified_of(was, now, examples),
        conditions={str(key): str(value) for key, value in now.conditions.items()},
    )


def _file_of(source: Source | Deployed) -> Path:
    """Where a network was read from."""
    file = source.path if isinstance(source, Deployed) else source.file
    if file is None:
        raise SettingsError("a comparison is of saved networks; name their files")
    return file


def _table(name: str, compared: Comparison) -> Table:
    """The change of everything, and of each class; the least favourable first."""
    grid = Table(title=f"\nChange against {name}", title_justify="left", title_style="bold", box=None)
    for heading in ("", "before", "after", "change", "95 % interval", "examples"):
        grid.add_column(heading, justify="left" if not heading else "right")
    was, now, change = compared.before, compared.after, compared.change
    everything = ("all", was.accuracy, now.accuracy, change.points, change.low, change.high, now.count)
    classes = sorted(compared.classes, key=lambda one: one.change)
    rows = [everything]
    rows += [(one.name, one.before, one.after, one.change, one.low, one.high, one.count) for one in classes]
    for label, before, after, moved, lower, upper, count in rows:
        grid.add_row(
            Text(text.plain(label)),
            text.percent(before),
            text.percent(after),
            text.points(moved),
            f"{text.points(lower)} to {text.points(upper)}",
            text.integer(count),
        )
    return grid
