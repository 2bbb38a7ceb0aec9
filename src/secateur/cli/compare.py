"""``secateur compare``: a study of strategies, from one file into tables and a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from secateur._options import about
from secateur.cli import matrices, show
from secateur.cli import options as o
from secateur.cli.progress import StudyProgress, doing
from secateur.cli.runs import study_asked, study_farewell
from secateur.cli.sources import again
from secateur.errors import DataError, ModelError, RunError, SettingsError
from secateur.report import notes_of, write_study
from secateur.studies import KEPT, CellResult, Study, check, results_in, verdicts, write_tables
from secateur.studies import compare as compare_in


def compare(
    *,
    study: Annotated[
        Path | None,
        typer.Argument(
            metavar="STUDY",
            help="A study's TOML file; with --resume or --report, its folder.",
            show_default=False,
        ),
    ] = None,
    out: o.Out = None,
    resume: o.Resume = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only check the study, and say how many cells there are.")
    ] = False,
    report: Annotated[
        bool, typer.Option("--report", help="Only write tables and page again, of what is done.")
    ] = False,
    workers: o.Workers = None,
    ray_address: o.RayAddress = None,
    data_dir: o.DataDir = None,
) -> None:
    """Compare strategies on reduced networks, with the statistics; or treatments of networks (quantised, pruned) as deployed files."""
    if study is None:
        raise SettingsError("name a study's TOML file first")
    if sum((plan, report, resume)) > 1:
        raise SettingsError("--plan, --report and --resume are three things; ask for one of them")
    if matrices.is_matrix(study, out, stored=resume or report):
        if workers is not None or ray_address is not None:
            raise SettingsError(
                "a matrix measures time, so its cells run one after the other; leave --workers and --ray-address out"
            )
        matrices.compare(study, out, resume=resume, plan=plan, report=report, data_dir=data_dir)
        return
    if plan:
        asked = Study.read(study)
        with about(study, SettingsError, ModelError, DataError):
            check(asked, data_dir=data_dir)
        _planned(asked)
        return
    if report:
        _reported(study)
        return
    folder, asked = study_asked(study, out, resume=resume, stored=results_in, read=Study.read)
    try:
        with (
            about(study, SettingsError, ModelError, DataError),
            o.started(workers, ray_address) as carrying,
            StudyProgress() as progress,
        ):
            compare_in(
                asked, out=folder, resume=resume, data_dir=data_dir, watcher=progress, workers=carrying
            )
    except KeyboardInterrupt:
        typer.echo(study_farewell(folder, results_in), err=True)
        raise typer.Exit(130) from None
    results = _reported(folder)
    failed = [result for result in results if not result.done]
    if failed and len(failed) == len(results):
        raise RunError(
            f"all {len(failed)} cells failed, the first ({failed[0].cell.key}) with: {failed[0].reason}"
        )
    if failed:
        raise RunError(
            f"{len(failed)} cells failed, the first ({failed[0].cell.key}) with: {failed[0].reason}; the others are done;"
            f" try them again with: {again(folder, kind='compare')}"
        )


def _planned(study: Study) -> None:
    cells = study.cells()
    console = show.console()
    for experiment in study.experiment:
        own = sum(experiment.name in cell.experiments for cell in cells)
        said = f"{experiment.name}: {experiment.question}" if experiment.question else experiment.name
        console.print(Text(f"{own:5d} cells  {said}"), soft_wrap=True)
    bases = len({cell.base_key for cell in cells})
    console.print(f"{len(cells):5d} cells in all, from {bases} trained networks")


def _reported(folder: Path) -> tuple[CellResult, ...]:
    """Write what there is, and show the answers."""
    study, results = results_in(folder)
    with doing("writing tables and page"):
        files = [*write_tables(study, results, folder), write_study(study, results, folder)]
    console = show.console()
    found = verdicts(study, results)
    for experiment in study.experiment:
        heading = f"{experiment.name}: {experiment.question}" if experiment.question else experiment.name
        console.print(Text(heading, style="bold"), soft_wrap=True)
        for note in notes_of(
            [one for one in results if experiment.name in one.cell.experiments and one.done]
        ):
            console.print(Text(f"  {note}"), soft_wrap=True)
        for what in dict.fromkeys(one.what for one in found if one.experiment == experiment.name):
            last = what == KEPT and experiment.max_drop is None
            console.print(
                Text(f"  {what}{' (without max_drop, the last of each cell)' if last else ''}:"),
                soft_wrap=True,
            )
            for one in found:
                if one.experiment == experiment.name and one.what == what:
                    console.print(Text(f"    {one}"), soft_wrap=True)
    done = sum(result.done for result in results)
    console.print(f"\n{done} of {len(study.cells())} cells done. Page: {files[-1]}", soft_wrap=True)
    console.print(f"Tables: {', '.join(str(file) for file in files[:-1])}", soft_wrap=True)
    return results
