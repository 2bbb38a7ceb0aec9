"""``secateur evaluate``: what a saved network reaches on data, and how that differs from another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text
from torch import Tensor

from secateur.channels import watch
from secateur.cli import options as o
from secateur.cli import show
from secateur.cli.progress import doing
from secateur.cli.sources import Source, data_options, open_data, open_deployed, open_network, trusted
from secateur.cost import Cost, CostModel
from secateur.data import Split, Splits
from secateur.errors import SettingsError
from secateur.evaluate import Evaluation, class_changes, paired_drop
from secateur.evaluate import evaluate as evaluate_on
from secateur.export import Deployed
from secateur.report import Change, accuracy_of, evaluation, text


def evaluate(
    *,
    network: Annotated[Path, typer.Argument(metavar="FILE", help="A saved network.", show_default=False)],
    data: o.DataName = None,
    against: Annotated[
        Path | None, typer.Option(help="Another saved network to compare with.", show_default=False)
    ] = None,
    split: Annotated[str, typer.Option(help="test or validation.")] = "test",
    data_dir: o.DataDir = None,
    data_seed: o.DataSeed = None,
    validation: o.Validation = None,
    allow: o.Allow = None,
) -> None:
    """Measure a saved network: accuracy, for each class, and size; with --against the change."""
    asked = o.given(**locals())
    if data is None:
        raise SettingsError("--data is missing; name a data set (`secateur data` lists those that are known)")
    if split not in ("test", "validation"):
        raise SettingsError(f"--split {split} is no split to judge by; take test or validation")
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
    for other, other_cost in measured[1:]:
        out.print(_compared(str(against), found, other, splits.parts()[split].groups))
        if cost is None or other_cost is None:
            continue
        for name, now, was in (
            ("parameters", cost.parameters, other_cost.parameters),
            ("MACs", cost.macs, other_cost.macs),
        ):
            out.print(f"{name}: {text.integer(was)} → {text.integer(now)} (÷ {text.factor(was, now)})")


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


def _compared(name: str, now: Evaluation, was: Evaluation, groups: Tensor | None) -> Table:
    """The change, and that of each class, with intervals of 95 %; the least favourable first."""
    drop = paired_drop(
        was, now, confidence=0.975, groups=groups
    )  # each limit at 97.5 %, both together at 95 %
    change = Change.of_drop(drop.points, upper=drop.upper, confidence=drop.confidence)
    grid = Table(title=f"\nChange against {name}", title_justify="left", title_style="bold", box=None)
    for heading in ("", "before", "after", "change", "95 % interval", "examples"):
        grid.add_column(heading, justify="left" if not heading else "right")
    everything = ("all", was.accuracy, now.accuracy, change.points, change.low, change.high, now.count)
    classes = sorted(class_changes(was, now, groups=groups), key=lambda one: one.points)
    rows = [everything]
    rows += [(one.name, one.before, one.after, one.points, one.low, one.high, one.count) for one in classes]
    for label, before, after, moved, lower, upper, count in rows:
        grid.add_row(
            Text(label),
            text.percent(before),
            text.percent(after),
            text.points(moved),
            f"{text.points(lower)} to {text.points(upper)}",
            text.integer(count),
        )
    return grid
