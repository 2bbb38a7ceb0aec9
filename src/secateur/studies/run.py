"""Run a study: the unreduced networks, then cell by cell, each in a folder of its own, so that nothing is done twice."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel
from torch import nn

from secateur.data import Splits
from secateur.data import load as load_data
from secateur.errors import RunError, SecateurError, StoreError
from secateur.evaluate import evaluate
from secateur.methods import MODEL_FILE, Point, stepwise
from secateur.methods.seeds import seed_for
from secateur.methods.stepwise import StepwiseResult, fresh, fresh_masked
from secateur.scale import Workers
from secateur.store import RunFolder, save, save_masks
from secateur.studies.bases import built, trained
from secateur.studies.cells import Cell
from secateur.studies.check import check
from secateur.studies.study import Study
from secateur.surgery import Masks
from secateur.train import EpochRecord, fit

KIND: Final = "study"
CELL: Final = "cell"
BASES, CELLS = "bases", "cells"
MASKS_FILE: Final = "masks.safetensors"


@dataclass(frozen=True, eq=False)
class CellResult:
    """What became of a cell.

    Attributes:
        cell: The cell.
        points: The curve; as far as it came, if it failed.
        reason: Why it failed; empty if it did not.
        figures: Of the unreduced network (``base_..``), the one that was kept (``kept_..``), and the same small architecture
            trained from scratch (``scratch_..``): parameters, macs, validation and test accuracy in percent.
        seconds: Wall time, the unreduced network's training not counted.
        notes: What was done otherwise than asked, and why.
    """

    cell: Cell
    points: tuple[Point, ...]
    reason: str = ""
    figures: Mapping[str, float] = field(default_factory=dict[str, float])
    seconds: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def done(self) -> bool:
        """Whether it came to its end."""
        return not self.reason


class Watcher:
    """Told of what a study does; every method may be left as it is."""

    def planned(self, cells: Sequence[Cell], left: Sequence[Cell]) -> None:
        """Which cells there are, and which of them are to be run."""

    def training(self, cell: Cell) -> None:
        """An unreduced network is about to be trained."""

    def epoch(self, record: EpochRecord) -> None:
        """An epoch of its training is done."""

    def started(self, cell: Cell) -> None:
        """A cell begins."""

    def point(self, point: Point) -> None:
        """A step of it was judged."""

    def ended(self, result: CellResult) -> None:
        """A cell is done, or failed."""


def compare(
    study: Study,
    *,
    out: str | Path,
    resume: bool = False,
    data_dir: str | Path | None = None,
    watcher: Watcher | None = None,
    workers: Workers | None = None,
) -> tuple[CellResult, ...]:
    """Run every cell of a study that is not done yet.

    Args:
        study: What to run.
        out: A new or empty folder, or, with ``resume``, that of the study.
        resume: Go on with the study in ``out``: cells that are done stay, those that failed are tried again.
        data_dir: The folder of data sets.
        watcher: Told of progress.
        workers: Carry out the cells (`secateur.scale.RayWorkers`); by default this process does, one after the other.

    Returns:
        The results of all cells, in the study's order. A cell that failed says why, and does not stop the others.

    Raises:
        SettingsError, ModelError, DataError: The study cannot be run, see `check`. Nothing has run then.
        RunError: The folder is in use, or holds another study.

    Example:
        >>> import tempfile
        >>> study = Study(networks="digits-net", data="digits", seeds=[0], train={"epochs": 2}, experiment=[
        ...     {"name": "1", "criterion": "l1", "step": 0.3}])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     [(result.cell.settings.criterion, len(result.points)) for result in compare(study, out=folder)]
        [('l1', 4), ('random', 4)]
    """
    watcher = watcher or Watcher()
    cells = study.cells()
    data = check(study, data_dir=data_dir)
    document = {"study": study.model_dump(mode="json", exclude_none=True)}
    with study_folder(Path(out), document, resume=resume) as folder:
        runner = _Runner(folder.path, data, watcher)
        found = {cell.key: runner.known(cell) for cell in cells}
        left = [cell for cell in cells if not ((known := found[cell.key]) and known.done)]
        watcher.planned(cells, left)
        if workers is None:
            found |= {cell.key: runner.run(cell) for cell in left}
        else:
            found |= {result.cell.key: result for result in _shared(runner, left, workers, data_dir)}
        return tuple(result for result in found.values() if result is not None)


def _shared(
    runner: _Runner, cells: Sequence[Cell], workers: Workers, data_dir: str | Path | None
) -> Iterator[CellResult]:
    """The unreduced networks, then the cells, carried out by others."""
    path, folder = runner.path.resolve(), None if data_dir is None else str(Path(data_dir).resolve())
    firsts = {cell.base_key: cell for cell in reversed(cells)}
    untrained = [cell for cell in firsts.values() if not (path / BASES / cell.base_key / MODEL_FILE).exists()]
    for cell in untrained:
        runner.watcher.training(cell)
    failed: dict[str, str] = {}
    for task, reason in workers.each(_train_for, [_Task(path, cell, folder) for cell in untrained]):
        if reason:
            failed[task.cell.base_key] = reason
    for cell in cells:
        if cell.base_key in failed:
            yield runner.failed(cell, failed[cell.base_key])
    tasks = [_Task(path, cell, folder) for cell in cells if cell.base_key not in failed]
    for _, result in workers.each(_run_for, tasks):
        runner.watcher.ended(result)
        yield result


@dataclass(frozen=True)
class _Task:
    """A cell for another process: where the study is, and where the data are."""

    path: Path
    cell: Cell
    data_dir: str | None


def _train_for(task: _Task) -> str:
    """Train the network that a cell starts from; why it failed, or nothing."""
    try:
        _runner_for(task).unreduced(task.cell)
    except StoreError:
        raise
    except Exception as error:
        return reason_of(error)
    return ""


def _run_for(task: _Task) -> CellResult:
    return _runner_for(task).run(task.cell)


def _runner_for(task: _Task) -> _Runner:
    cell = task.cell
    return _Runner(task.path, {cell.data: _data_for(cell.data, task.data_dir, cell.validation)}, Watcher())


@lru_cache(maxsize=4)
def _data_for(name: str, data_dir: str | None, validation: float | None) -> Splits:
    """Data that a process loads once."""
    return load_data(name, data_dir=data_dir, validation=validation)


def _curve(points: Iterable[Point]) -> tuple[Point, ...]:
    """Points by what was removed; a bisection looks at them in another order."""
    return tuple(sorted(points, key=lambda point: point.step))


def reason_of(error: Exception) -> str:
    """Why something failed, in one line."""
    said = str(error) if isinstance(error, SecateurError) else f"{type(error).__name__}: {error}"
    return " ".join(said.split()) or type(error).__name__


def results_in(path: str | Path) -> tuple[Study, tuple[CellResult, ...]]:
    """A study and the results that its folder holds, whether or not it came to its end.

    Raises:
        RunError: There is no study.
    """
    with RunFolder.open(path, kind=KIND, read_only=True) as folder:
        study = Study(**folder.settings["study"])
        runner = _Runner(folder.path, {}, Watcher())
        known = (runner.known(cell) for cell in study.cells())
        return study, tuple(result for result in known if result is not None)


def study_folder(
    path: Path,
    document: Mapping[str, Any],
    *,
    resume: bool,
    kind: str = KIND,
    form: type[BaseModel] = Study,
) -> RunFolder:
    """A new folder for a study, or, on resuming, the one that holds it.

    Raises:
        RunError: The folder is in use, or holds another study.
    """
    if not resume:
        return RunFolder.create(path, document, kind=kind)
    folder = RunFolder.open(path, kind=kind)
    if form(**folder.settings[kind]).model_dump() != form(**document[kind]).model_dump():
        folder.close()
        raise RunError(
            f"{path} holds another study; run this one into another folder, or go on with the study that is kept there"
        )
    return folder


class _Runner:
    """Runs cells in a study's folder, and reads those that were run."""

    def __init__(self, path: Path, data: Mapping[str, Splits], watcher: Watcher) -> None:
        self.path, self.data, self.watcher = path, data, watcher
        self._base: tuple[str, nn.Module, Mapping[str, Any]] | None = None

    def known(self, cell: Cell) -> CellResult | None:
        """What the folder says of a cell."""
        try:
            with RunFolder.open(self.path / CELLS / cell.key, kind=CELL, read_only=True) as folder:
                entries = list(folder.entries())
        except RunError:
            return None
        points = _curve(Point(**entry["point"]) for entry in entries if "point" in entry)
        end = next((entry for entry in entries if "seconds" in entry), None)
        if end is None:
            return None
        notes = tuple(end.get("notes", ()))
        return CellResult(cell, points, end["reason"], end["figures"], end["seconds"], notes)

    def _emptied(self, cell: Cell) -> Path:
        """A cell's folder. One that was interrupted, or failed, begins anew: it is short."""
        path = self.path / CELLS / cell.key
        if path.exists():
            shutil.rmtree(path)
        return path

    def failed(self, cell: Cell, reason: str) -> CellResult:
        """Note of a cell that it could not be run."""
        with RunFolder.create(self._emptied(cell), _document(cell), kind=CELL) as folder:
            folder.append({"reason": reason, "figures": {}, "seconds": 0.0})
        result = CellResult(cell, (), reason)
        self.watcher.ended(result)
        return result

    def run(self, cell: Cell) -> CellResult:
        """Run a cell; whatever it raises is its result."""
        try:
            model, about = self.unreduced(cell)
        except Exception as error:
            return self.failed(cell, f"the unreduced network: {reason_of(error)}")
        path = self._emptied(cell)
        points: list[Point] = []
        figures: dict[str, float] = {}
        notes: tuple[str, ...] = ()
        reason, began = "", time.perf_counter()
        with RunFolder.create(path, _document(cell), kind=CELL) as folder:
            self.watcher.started(cell)

            def told(point: Point) -> None:
                points.append(point)
                folder.append({"point": asdict(point)})
                self.watcher.point(point)

            try:
                result = stepwise(
                    model, self.data[cell.data], cell.settings, keep_within=cell.within, on_point=told
                )
                figures, notes = self._figures(cell, about, result, path), result.notes
            except StoreError:
                raise  # a full disk is not the cell's fault
            except Exception as error:
                reason = reason_of(error)
            seconds = round(time.perf_counter() - began, 2)
            folder.append({"reason": reason, "figures": figures, "seconds": seconds, "notes": list(notes)})
        found = CellResult(cell, _curve(points), reason, figures, seconds, notes)
        self.watcher.ended(found)
        return found

    def unreduced(self, cell: Cell) -> tuple[nn.Module, Mapping[str, Any]]:
        """The trained network that a cell starts from, and its figures; trained once for all cells that share it."""
        if self._base is not None and self._base[0] == cell.base_key:
            return self._base[1:]
        model, found = trained(
            cell.network, self.data[cell.data], cell.training,
            path=self.path / BASES / cell.base_key, seed=cell.seed,
            on_start=lambda: self.watcher.training(cell), on_epoch=self.watcher.epoch,
        )  # fmt: skip
        self._base = cell.base_key, model, found
        return model, found

    def _figures(
        self, cell: Cell, about: Mapping[str, Any], result: StepwiseResult, path: Path
    ) -> dict[str, float]:
        """The figures of a cell, and its network in a file. Test examples are read here, once, at the end."""
        data = self.data[cell.data]
        kept, point, masks = result.within, result.within_point, result.within_masks
        if kept is None or point is None:
            kept, point, masks = result.model, result.points[-1], result.masks
        found: dict[str, float] = {f"base_{name}": about[name] for name in _FIGURES}
        found |= _of(kept, data, point)
        if cell.scratch and point.step:  # the unreduced network needs no control
            found |= _from_scratch(cell, kept, masks, data, point)
        if masks is not None:
            save_masks(masks, path / MASKS_FILE)
        save(kept, path / MODEL_FILE, evaluation={"test_accuracy": found["kept_test_accuracy"]})
        return found


def _document(cell: Cell) -> dict[str, Any]:
    return {"base": cell.base_key, "settings": cell.settings.model_dump(mode="json", exclude_none=True)}


_FIGURES: Final = ("parameters", "macs", "validation_accuracy", "test_accuracy")


def _of(model: nn.Module, data: Splits, point: Point, name: str = "kept") -> dict[str, float]:
    return {
        f"{name}_parameters": point.parameters,
        f"{name}_macs": point.macs,
        f"{name}_validation_accuracy": evaluate(model, data.validation).accuracy,
        f"{name}_test_accuracy": evaluate(model, data.test).accuracy,
    }


def _from_scratch(
    cell: Cell, kept: nn.Module, masks: Masks | None, data: Splits, point: Point
) -> dict[str, float]:
    """The same small architecture with new weights, trained on as many examples as the reduced one was in all."""
    seen = point.iterations * cell.settings.training.batch_size
    epochs = cell.training.epochs + -(-seen // len(data.train))

    def anew() -> nn.Module:
        return built(cell.network, data, seed=seed_for(cell.seed, "scratch") % 2**31)

    model = fresh(kept, anew, data.train.inputs[:1]) if masks is None else fresh_masked(anew, masks)
    fit(
        model,
        data.train,
        data.validation,
        cell.training.but(epochs=epochs),
        seed=seed_for(cell.seed, "scratch"),
        masks=masks,
    )
    return _of(model.eval(), data, point, "scratch")
