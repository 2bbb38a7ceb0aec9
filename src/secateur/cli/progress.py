"""What is shown while a command works: live on a terminal, a line at a time elsewhere."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Generator, Hashable, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Final, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text
from torch import nn

from secateur.channels import watch
from secateur.cost import CostModel
from secateur.data import Splits
from secateur.evaluate import Drop
from secateur.methods import CutRecord, Point, Reconfiguration, ReduceSettings, Step
from secateur.methods.judge import too_narrow
from secateur.report import text
from secateur.studies import FACTORS, Cell, CellResult, MatrixCell, MatrixWatcher, Measurement, Watcher
from secateur.train import EpochRecord

_CHOOSING: Final = "trying the next cuts without retraining"


@contextmanager
def doing(words: str) -> Generator[None]:
    """Say what begins, so that nothing is silent: on a terminal for as long as it lasts, elsewhere as a line.

    Args:
        words: What begins, such as "loading mnist".
    """
    console = Console(stderr=True, highlight=False)
    said = Text(f"{text.plain(words)} …")
    if console.is_terminal:
        with console.status(said):
            yield
    else:
        console.print(said, soft_wrap=True)
        yield


class _Shown:
    """A block that stays at the bottom of a terminal; elsewhere only the lines are written."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(get_renderable=self.block, console=self._console, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def block(self) -> RenderableType:
        """What stays at the bottom."""
        raise NotImplementedError

    def line(self, words: str) -> None:
        """Write a line above the block."""
        self._console.print(Text(words), soft_wrap=True)


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(compact=True)
    )


class TrainProgress(_Shown):
    """A training: epochs, steps, validation accuracy, time left."""

    _ending = "testing and writing …"

    def __init__(self, epochs: int, *, done: int = 0) -> None:
        """Prepare to show a training of so many epochs, some of which are done."""
        super().__init__()
        self._epochs, self._done = epochs, done
        self._started, self._first = time.perf_counter(), float(done)
        self._warm = False
        self._accuracy = ""
        self._progress = _bar()
        self._task = self._progress.add_task("", total=None)
        self._describe()
        if done:
            self.line(f"going on after epoch {done} of {epochs}")

    def batch(self, done: int, total: int) -> None:
        """A step is done."""
        self._progress.update(self._task, completed=done, total=total)
        if not self._warm and done < total:
            # The first step also pays for what is made ready once, so the time left is told by the others.
            self._started, self._first, self._warm = time.perf_counter(), self._first + done / total, True

    def epoch(self, record: EpochRecord) -> None:
        """An epoch is done."""
        self._warm = True
        self._done = record.epoch
        reached = ""
        if record.validation_accuracy is not None:
            reached = f"validation {text.percent(record.validation_accuracy)}, "
        each = (time.perf_counter() - self._started) / (self._done - self._first)
        left = text.duration(each * (self._epochs - self._done))
        self._accuracy = reached
        self._describe()
        self.line(
            f"epoch {record.epoch} of {self._epochs}: {reached}loss {record.train_loss:.4f},"
            f" {text.duration(record.seconds)}, about {left} left"
        )
        if self._done == self._epochs:
            self.line(self._ending)

    def block(self) -> RenderableType:
        """The bar of all steps."""
        return self._progress

    def _describe(self) -> None:
        number = min(self._done + 1, self._epochs)
        self._progress.update(self._task, description=f"{self._accuracy}epoch {number} of {self._epochs}")


class CutProgress(TrainProgress):
    """A training that may cut its network meanwhile."""

    def cut(self, record: Reconfiguration) -> None:
        """It was looked for what is dead, and cut."""
        gone = [f"{text.integer(record.units)} unit{'' if record.units == 1 else 's'} gone"]
        gone += (
            [f"block{'' if len(record.blocks) == 1 else 's'} {', '.join(record.blocks)} gone"]
            if record.blocks
            else []
        )
        gone += (
            [f"{record.gated} convolution{'' if record.gated == 1 else 's'} gated"] if record.gated else []
        )
        batch = "" if record.batch_size is None else f"; {text.integer(record.batch_size)} examples a step"
        near = (
            ""
            if record.nearest is None
            else f"; of what lives, the least has weights up to {record.nearest:.2g}"
        )
        self.line(
            f"after epoch {record.epoch}: {', '.join(gone)}; {text.integer(record.cost.parameters)} parameters,"
            f" {text.integer(record.cost.macs)} MACs are left{batch}{near}"
        )


class PruneProgress(TrainProgress):
    """Gradual pruning: a training with cuts."""

    _ending = "judging and writing …"

    def cut(self, record: CutRecord) -> None:
        """A cut was made."""
        gone = record.total - record.left
        self.line(
            f"after epoch {record.epoch}: {text.integer(gone)} of {text.integer(record.total)} gone"
            f" ({text.share(gone / record.total)})"
        )


class BenchProgress(_Shown):
    """A measurement: what it does just now."""

    def __init__(self) -> None:
        """Prepare to show a measurement."""
        super().__init__()
        self._words = ""

    def step(self, words: str) -> None:
        """Something begins."""
        self._words = words
        if not self._console.is_terminal:
            self.line(f"{text.plain(words)} …")

    def block(self) -> RenderableType:
        """What it does."""
        return Text(f"{text.plain(self._words)} …")


class MatrixProgress(_Shown, MatrixWatcher):
    """A matrix: the cell, what is done with it, and how many cells are left."""

    def __init__(self) -> None:
        """Prepare to show a matrix."""
        super().__init__()
        self._cells = self._done = self._epochs = 0
        self._title = self._step = ""
        self._progress = Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        self._task = self._progress.add_task("cells", total=None)

    def planned(self, cells: Sequence[MatrixCell], left: Sequence[MatrixCell]) -> None:
        """Which cells there are, and which of them are to be run."""
        self._cells, self._done = len(cells), len(cells) - len(left)
        self._progress.update(self._task, total=self._cells, completed=self._done)
        bases = len({cell.base_key for cell in cells})
        self.line(f"{len(cells)} cells from {bases} trained networks; {self._done} are done")

    def step(self, cell: MatrixCell, what: str, epochs: int) -> None:
        """Something begins for a cell."""
        self._step = self._title = f"{_named(cell)}: {what}"
        self._epochs = epochs
        if epochs:
            self.line(f"{self._step}, {epochs} epoch{'' if epochs == 1 else 's'}")

    def epoch(self, record: EpochRecord) -> None:
        """An epoch of it is done."""
        accuracy = record.validation_accuracy
        reached = "" if accuracy is None else f", validation {text.percent(accuracy)}"
        self._title = (
            f"{self._step}: epoch {record.epoch} of {self._epochs}{reached}, {text.duration(record.seconds)}"
        )

    def ended(self, result: Measurement) -> None:
        """A cell is done, or failed."""
        self._done += result.done
        self._progress.update(self._task, completed=self._done)
        if not result.done:
            self.line(f"{_named(result.cell)} failed: {result.reason}")
            return
        row = result.row
        self.line(
            f"{self._done} of {self._cells}  {_named(result.cell)}: {text.percent(row['accuracy'])}, {row['drop']:.2f} points lost,"
            f" {text.size(int(row['bytes']))}, {row['milliseconds']:.3f} ms; {text.duration(result.seconds)}"
        )

    def block(self) -> RenderableType:
        """The cell, and the bar of all cells."""
        return Group(Text(self._title, style="bold"), self._progress)


def _named(cell: MatrixCell) -> str:
    return f"{cell.network}, {cell.treatment.name}, seed {cell.seed}"


class StudyProgress(_Shown, Watcher):
    """A study: the cell, its curve so far, how many are left and how long that takes."""

    def __init__(self) -> None:
        """Prepare to show a study."""
        super().__init__()
        self._cells = self._done = 0
        self._varied: set[str] = set()
        self._left = TimeLeft(())
        self._title = self._cell = self._trained = ""
        self._epochs = 0
        self._went = "units"
        self._progress = Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        self._task = self._progress.add_task("cells", total=None)

    def planned(self, cells: Sequence[Cell], left: Sequence[Cell]) -> None:
        """Which cells there are, and which of them are to be run."""
        self._cells, self._done = len(cells), len(cells) - len(left)
        self._left = TimeLeft(left)
        self._varied = {name for name in FACTORS if len({getattr(cell.settings, name) for cell in cells}) > 1}
        self._progress.update(self._task, total=self._cells, completed=self._done)
        bases = len({cell.base_key for cell in cells})
        self.line(f"{len(cells)} cells from {bases} trained networks; {self._done} are done")

    def training(self, cell: Cell) -> None:
        """An unreduced network is about to be trained."""
        self._cell = self._title = f"training {cell.network} on {cell.data}, seed {cell.seed}"
        self._epochs = cell.training.epochs
        self.line(f"{self._title}: {self._epochs} epochs")

    def epoch(self, record: EpochRecord) -> None:
        """An epoch of its training is done: told in the block, as lines of their own would bury the cells."""
        accuracy = record.validation_accuracy
        reached = "" if accuracy is None else f", validation {text.percent(accuracy)}"
        self._trained = f"{self._cell}: epoch {record.epoch} of {self._epochs}{reached}"
        self._title = self._trained

    def started(self, cell: Cell) -> None:
        """A cell begins."""
        self._training_ended()
        self._title = self._cell = self._in_words(cell)
        self._went = f"{cell.settings.granularity}s"

    def point(self, point: Point) -> None:
        """A step of it was judged."""
        self._title = f"{self._cell}: {text.share(point.share)} of the {self._went} removed, {text.percent(point.accuracy)}"

    def ended(self, result: CellResult) -> None:
        """A cell is done, or failed."""
        self._training_ended()
        self._done += result.done
        self._progress.update(self._task, completed=self._done)
        left = text.duration(self._left.after(result))
        last = result.points[-1] if result.points else None
        reached = result.reason or (
            ""
            if last is None
            else f"{text.percent(last.accuracy)} with {text.integer(last.parameters)} parameters"
        )
        state = "" if result.done else "failed: "
        self.line(
            f"{self._done} of {self._cells}  {self._in_words(result.cell)}: {state}{reached},"
            f" {text.duration(result.seconds)}; about {left} left"
        )

    def block(self) -> RenderableType:
        """The cell, and the bar of all cells."""
        return Group(Text(self._title, style="bold"), self._progress)

    def _training_ended(self) -> None:
        """One line says how a training ended."""
        if self._trained:
            self.line(self._trained)
            self._trained = ""

    def _in_words(self, cell: Cell) -> str:
        """A cell in a few words: what it does, and of what else differs within the study, which."""
        settings = cell.settings
        went = [f"{settings.granularity}s"] if settings.granularity != "unit" else []
        said = [*went, settings.criterion, settings.scope]
        said += [f"normalised by {settings.normalise}"] if settings.normalise != "none" else []
        said += (
            [f"retraining the {settings.retrain} for {settings.iterations}"] if settings.iterations else []
        )
        said += [
            f"{name} {getattr(settings, name)}"
            for name in ("recompute", "step", "cost_weight")
            if name in self._varied
        ]
        return f"{cell.network} seed {cell.seed}, {', '.join(said)}"


class TimeLeft:
    """How long the cells of a study still take.

    A cell takes as long as those of its kind did. Of kinds that none was run of yet, the examples that will run through the network
    are counted: cells that retrain take many times as long as those that do not, and often come last.

    Args:
        cells: Those that are to be run.
    """

    def __init__(self, cells: Sequence[Cell]) -> None:
        """Begin to count."""
        self._left = {cell.key: cell for cell in cells}
        self._seconds: defaultdict[Hashable, list[float]] = defaultdict(list)
        self._spent = self._counted = 0.0
        self._began: float | None = None

    def after(self, result: CellResult) -> float:
        """Seconds left after a cell, whoever runs them, and however many at a time."""
        now = time.perf_counter()
        if self._began is None:
            self._began = now - result.seconds  # what was trained before is not the cells' time
        self._left.pop(result.cell.key, None)
        if result.done:
            self._seconds[_kind(result.cell)].append(result.seconds)
            self._spent += result.seconds
            self._counted += _examples(result.cell)
        if not self._spent:
            return 0.0
        alone = sum(self._alone(cell) for cell in self._left.values())
        return alone * (now - self._began) / self._spent

    def _alone(self, cell: Cell) -> float:
        """Seconds of one cell by itself."""
        known = self._seconds.get(_kind(cell))
        if known:
            return sum(known) / len(known)
        return _examples(cell) * self._spent / self._counted


def _kind(cell: Cell) -> Hashable:
    """What a cell's time depends on most."""
    settings = cell.settings
    return (
        cell.network, cell.data, cell.scratch, settings.granularity, settings.scope, settings.retrain, settings.iterations,
        settings.step, settings.recompute,
    )  # fmt: skip


_DATA: Final = 10_000
_UNITS: Final = 100
"""Examples of a data set and units of a network: a study does not say how many there are."""


def _examples(cell: Cell) -> float:
    """About how many examples run forward in a cell; a backward pass counts twice."""
    settings = cell.settings
    steps = settings.until / settings.step if settings.step < 1 else settings.until * _UNITS / settings.step
    judged = (settings.judge_examples or _DATA) / settings.judge
    scored = 3 * settings.score_examples / settings.recompute if settings.recompute else 0.0
    trained = 3 * settings.iterations * settings.training.batch_size
    again = 3 * _DATA * cell.training.epochs if cell.scratch else 0
    return steps * (judged + scored + trained) + again


class ReduceProgress(_Shown):
    """A reduction: the candidate, its retraining, the bound, and what has been reached so far."""

    def __init__(
        self,
        model: nn.Module,
        data: Splits,
        settings: ReduceSettings,
        *,
        steps: Sequence[dict[str, Any]] = (),
    ) -> None:
        """Prepare to show a reduction of a network; ``steps`` are those that an interrupted run has done."""
        super().__init__()
        with doing("looking at the network"):
            cost = CostModel(watch(model, data.train.inputs[:1])).total()
        self._settings = settings
        self._before = self._now = (cost.parameters, cost.macs)
        self._tried = len(steps)
        accepted = [step for step in steps if step["accepted"]]
        self._accepted = len(accepted)
        if accepted:
            self._now = (int(accepted[-1]["parameters"]), int(accepted[-1]["macs"]))
        self._title = _CHOOSING
        self._judged = ""
        self._progress = _bar()
        self._task = self._progress.add_task("", total=None, visible=False)
        narrow = too_narrow(len(data.validation), settings)
        if narrow is not None:
            self.line(f"note: {narrow}")
        if steps:
            self.line(f"going on after {len(steps)} candidates, {self._accepted} of them accepted")

    def remark(self, words: str) -> None:
        """Something is to be known at once."""
        self.line(f"note: {words}")

    def candidate(self, iteration: int, group: str, before: int, after: int, epochs: int) -> None:
        """A candidate is about to be retrained."""
        what = f"{group} {before} → {after}" if group else "training on"
        self._title = f"iteration {iteration} of at most {self._settings.max_iterations}: {what}"
        self._judged = ""
        self._progress.reset(
            self._task, total=None, visible=True, description=f"retraining, at most {epochs} epochs"
        )

    def epoch(self, record: EpochRecord, drop: Drop) -> None:
        """An epoch of retraining is done."""
        accuracy = record.validation_accuracy or 0.0
        limit = self._settings.limit(drop)
        self._judged = (
            f"epoch {record.epoch}: {text.percent(accuracy)} on validation, "
            f"{limit:.2f} points lost{' at most' if self._settings.confidence else ''}; "
            f"the bound is {self._settings.max_drop:g}"
        )

    def batch(self, done: int, total: int) -> None:
        """A step of retraining is done."""
        self._progress.update(self._task, completed=done, total=total)

    def step(self, step: Step) -> None:
        """A candidate was accepted or rejected."""
        self._tried += 1
        self._title, self._judged = _CHOOSING, ""
        self._progress.update(self._task, visible=False)
        if step.accepted:
            self._accepted += 1
            self._now = (step.parameters, step.macs)
        what = f"{step.group} {step.width_before} → {step.width_after}" if step.group else "training on"
        self.line(
            f"{step.iteration:4d}  {'accepted' if step.accepted else 'rejected'}  {what}: "
            f"{text.percent(step.accuracy)}, {text.integer(step.parameters)} parameters,"
            f" {text.integer(step.macs)} MACs, {text.duration(step.seconds)} ({step.reason})"
        )

    def block(self) -> RenderableType:
        """The candidate, its bar, the bound, and the figures so far."""
        reached = ", ".join(
            f"{text.short(was)} → {text.short(now)} {unit} (÷ {text.factor(was, now)})"
            for was, now, unit in zip(self._before, self._now, ("parameters", "MACs"), strict=True)
        )
        return Group(
            Text(self._title, style="bold"),
            self._progress,
            Text(self._judged),
            Text(f"{self._accepted} of {self._tried} candidates accepted; {reached}", style="dim"),
        )
