"""Run a matrix: networks are trained, treated and written as files, and each file is measured beside that of the untreated network."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, cast

from torch import Tensor, nn

from secateur._libraries import installed
from secateur._options import about
from secateur.channels import watch
from secateur.cost import CostModel
from secateur.data import Splits
from secateur.data import load as load_data
from secateur.errors import RunError, SettingsError, StoreError
from secateur.evaluate import (
    Evaluation,
    Measured,
    Runnable,
    class_changes,
    evaluate,
    measure_file,
    measure_processes,
    paired_drop,
)
from secateur.export import Exported, export, open_file, runtimes_of, suffix_of
from secateur.methods import MODEL_FILE, deep_compression, gradual, reduce
from secateur.methods.gradual import MASKS_FILE
from secateur.methods.prepared import layers_left_float, prepare_for_file
from secateur.observe import weights_of
from secateur.quantise import Observer, Simulated, train_aware
from secateur.store import RunFolder, load_masks, write_atomic
from secateur.studies.bases import built, opened, trained
from secateur.studies.matrix.matrix import Matrix
from secateur.studies.matrix.treatment import MatrixCell
from secateur.studies.run import BASES, CELL, CELLS, reason_of, study_folder
from secateur.surgery import Masks
from secateur.train import EpochRecord

MATRIX: Final = "matrix"
CUTS: Final = "cuts"
CODED_FILE: Final = "model.secateur"
NOTES_FILE: Final = "notes.json"
_CONVERTERS: Final = {"litert": "litert_torch", "onnx": "onnxruntime", "executorch": "executorch"}
_COMPARED: Final = 4


@dataclass(frozen=True, eq=False)
class Measurement:
    """What became of a cell.

    Attributes:
        cell: The cell.
        row: What was measured, see `FIGURES`; empty if it failed.
        classes: By class: percent right of the untreated network (``before``) and of the file (``after``), their difference in points and
            its limits at 95 % (``points``, ``low``, ``high``).
        reason: Why it failed; empty if it did not.
        seconds: Wall time, trainings of others' use included where this cell was the first to need them.
        notes: What a reader should know.
    """

    cell: MatrixCell
    row: Mapping[str, float] = field(default_factory=dict[str, float])
    classes: Mapping[str, Mapping[str, float]] = field(default_factory=dict[str, Mapping[str, float]])
    reason: str = ""
    seconds: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def done(self) -> bool:
        """Whether it came to its end."""
        return not self.reason


class MatrixWatcher:
    """Told of what a matrix does; every method may be left as it is."""

    def planned(self, cells: Sequence[MatrixCell], left: Sequence[MatrixCell]) -> None:
        """Which cells there are, and which of them are to be run."""

    def step(self, cell: MatrixCell, what: str, epochs: int) -> None:
        """Something begins for a cell, which trains for so many epochs, or for none."""

    def epoch(self, record: EpochRecord) -> None:
        """An epoch of it is done."""

    def ended(self, result: Measurement) -> None:
        """A cell is done, or failed."""


def measure(
    matrix: Matrix,
    *,
    out: str | Path,
    resume: bool = False,
    data_dir: str | Path | None = None,
    watcher: MatrixWatcher | None = None,
) -> tuple[Measurement, ...]:
    """Run every cell of a matrix that is not done yet, one after the other, since time is measured.

    Test examples are read once a cell, for its file, when it is at its end.

    Args:
        matrix: What to run.
        out: A new or empty folder, or, with ``resume``, that of the matrix.
        resume: Go on with the matrix in ``out``: cells that are done stay, trainings go on where they stopped.
        data_dir: The folder of data sets.
        watcher: Told of progress.

    Returns:
        The results of all cells, in the matrix's order. A cell that failed says why, and does not stop the others.

    Raises:
        SettingsError, ModelError, DataError: The matrix cannot be run. Nothing has run then.
        RunError: The folder is in use, or holds another matrix.

    Example:
        >>> import tempfile
        >>> matrix = Matrix(networks="digits-net", data="digits", train={"epochs": 2}, runs=5, target="torch", treatment=[
        ...     {"name": "trained"}, {"name": "half", "sparsity": 0.5, "pruning": {"epochs": 2}}])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     [(one.cell.treatment.name, one.row["nonzero"] < one.row["parameters"]) for one in measure(matrix, out=folder)]
        [('trained', False), ('half', True)]
    """
    watcher = watcher or MatrixWatcher()
    cells = matrix.cells()
    data = check_matrix(matrix, data_dir=data_dir)
    document = {MATRIX: matrix.model_dump(mode="json", exclude_none=True)}
    with study_folder(Path(out), document, resume=resume, kind=MATRIX, form=Matrix) as folder:
        runner = _Runner(folder.path, cells, data, watcher)
        found = {cell.key: known_in(folder.path, cell) for cell in cells}
        left = [cell for cell in cells if not ((known := found[cell.key]) and known.done)]
        watcher.planned(cells, left)
        for cell in left:
            found[cell.key] = runner.run(cell)
        return tuple(result for result in found.values() if result is not None)


def check_matrix(matrix: Matrix, *, data_dir: str | Path | None = None) -> Splits:
    """Refuse what would stop a matrix: unknown networks and data, and networks that do not fit their data.

    Returns:
        The data.

    Raises:
        SettingsError: A library that the matrix needs is not installed.
        ModelError: A network is unknown, or cannot be built.
        DataError: The data set is unknown or not on this machine, or a network does not take it.
    """
    _check_installed(matrix)
    with about(f"data set {matrix.data!r}"):
        data = load_data(matrix.data, data_dir=data_dir, validation=matrix.validation)
    for network in matrix.networks:
        with about(f"network {network!r}"):
            evaluate(built(network, data, seed=0).eval(), data.validation.take(1), classes=data.classes)
    return data


def _check_installed(matrix: Matrix) -> None:
    """Miss libraries now, not when networks were trained for hours."""
    needed = {_CONVERTERS[matrix.target]: matrix.target} if matrix.target in _CONVERTERS else {}
    if any(one.compress == "entropy" for one in matrix.treatment):
        needed["constriction"] = "compress"
    for name, extra in needed.items():
        if not installed(name):
            raise SettingsError(
                f"this matrix needs {name}, which is not installed; pip install 'secateur[{extra}]'"
            )


def measurements_in(path: str | Path) -> tuple[Matrix, tuple[Measurement, ...]]:
    """A matrix and the results that its folder holds, whether or not it came to its end.

    Raises:
        RunError: There is no matrix.
    """
    with RunFolder.open(path, kind=MATRIX, read_only=True) as folder:
        matrix = Matrix(**folder.settings[MATRIX])
        known = (known_in(folder.path, cell) for cell in matrix.cells())
        return matrix, tuple(result for result in known if result is not None)


def known_in(path: Path, cell: MatrixCell) -> Measurement | None:
    """What a matrix's folder says of a cell."""
    try:
        with RunFolder.open(path / CELLS / cell.key, kind=CELL, read_only=True) as folder:
            end = next((entry for entry in folder.entries() if "seconds" in entry), None)
    except RunError:
        return None
    if end is None:
        return None
    return Measurement(cell, end["row"], end["classes"], end["reason"], end["seconds"], tuple(end["notes"]))


@dataclass(frozen=True, eq=False)
class _Made:
    """A treated network and its files."""

    network: nn.Module
    file: Path
    exported: Exported
    coded: Path | None
    notes: tuple[str, ...]


class _Runner:
    """Runs cells in a matrix's folder."""

    def __init__(self, path: Path, cells: Sequence[MatrixCell], data: Splits, watcher: MatrixWatcher) -> None:
        self.path, self.data, self.watcher = path, data, watcher
        self.firsts = {cell.base_key: cell.key for cell in reversed(cells)}
        self._judged: tuple[str, Evaluation] | None = None

    def run(self, cell: MatrixCell) -> Measurement:
        """Run a cell; whatever it raises is its result."""
        path = self.path / CELLS / cell.key
        if path.exists():
            shutil.rmtree(path)
        row: dict[str, float] = {}
        classes: dict[str, dict[str, float]] = {}
        notes: tuple[str, ...] = ()
        reason, began = "", time.perf_counter()
        with RunFolder.create(path, {"base": cell.base_key, "cut": cell.cut_key}, kind=CELL) as folder:
            try:
                row, classes, notes = self._measured(cell, path)
            except Exception as error:
                if isinstance(error, StoreError) and isinstance(error.__cause__, OSError):
                    raise  # a full disk is not the cell's fault; a file that cannot be opened or run is
                reason = reason_of(error)
            seconds = round(time.perf_counter() - began, 2)
            folder.append(
                {"row": row, "classes": classes, "reason": reason, "seconds": seconds, "notes": list(notes)}
            )
        result = Measurement(cell, row, classes, reason, seconds, notes)
        self.watcher.ended(result)
        return result

    def _measured(
        self, cell: MatrixCell, path: Path
    ) -> tuple[dict[str, float], dict[str, dict[str, float]], tuple[str, ...]]:
        base = self._base(cell)
        network, masks, notes = self._cut(cell, base)
        made = self._written(cell, network, masks, path)
        self.watcher.step(cell, "measuring", 0)
        before = self._before(cell, base)
        after = evaluate(open_file(made.file, allow=["torch"]), self.data.test, classes=self.data.classes)
        drop = paired_drop(before, after, confidence=0.975, groups=self.data.test.groups)
        own = self._times(cell, made.file)
        sizes = measure_file(made.file)
        cost = CostModel(watch(made.network, self.data.train.inputs[:1])).total()
        row: dict[str, float] = {
            "accuracy": after.accuracy,
            "top3": after.top_k.get(3, math.nan),
            "drop": drop.points,
            "drop_upper": drop.upper,
            "drop_lower": -paired_drop(after, before, confidence=0.975, groups=self.data.test.groups).upper,
            "parameters": cost.parameters,
            "nonzero": sum(int(one.count_nonzero()) for one in made.network.parameters()),
            "sparsity": _sparsity(made.network),
            "macs": cost.macs,
            "bytes": sizes.raw,
            "gzip": sizes.gzip,
            "xz": sizes.xz,
            "milliseconds": own.wall[0.5],
            "cpu_milliseconds": own.cpu[0.5],
            "time_ratio": own.cpu_ratio,
            "memory": own.peak,
            "own_memory": own.memory,
            "agreement": made.exported.agreement,
            "sqnr": min(made.exported.sqnr, _LOUD),
        }
        if made.coded is not None:
            row["coded"] = made.coded.stat().st_size
        changes = {
            one.name: {
                "before": one.before,
                "after": one.after,
                "points": one.points,
                "low": one.low,
                "high": one.high,
            }
            for one in class_changes(before, after)
        }
        return row, changes, (*notes, *made.notes)

    def _base(self, cell: MatrixCell) -> nn.Module:
        model, _ = trained(
            cell.network, self.data, cell.training,
            path=self.path / BASES / cell.base_key, seed=cell.seed,
            on_start=lambda: self.watcher.step(cell, "training", cell.training.epochs),
            on_epoch=self.watcher.epoch,
        )  # fmt: skip
        return model

    def _before(self, cell: MatrixCell, base: nn.Module) -> Evaluation:
        """The untreated network's answers on test examples; the same for all its cells."""
        if self._judged is None or self._judged[0] != cell.base_key:
            self._judged = cell.base_key, evaluate(base, self.data.test, classes=self.data.classes)
        return self._judged[1]

    def _cut(self, cell: MatrixCell, base: nn.Module) -> tuple[nn.Module, Masks | None, tuple[str, ...]]:
        """The network pruned or reduced, in a folder that other cells may share."""
        if cell.pruning is None and cell.reduction is None:
            return base, None, ()
        path = self.path / CUTS / cell.cut_key
        if not (path / MODEL_FILE).exists():
            begun = (path / "run.toml").exists()
            if cell.pruning is not None:
                self.watcher.step(cell, "pruning", cell.pruning.length)
                found = gradual(
                    base, self.data, None if begun else cell.pruning,
                    out=path, resume=begun, on_epoch=self.watcher.epoch,
                )  # fmt: skip
            else:
                self.watcher.step(cell, "reducing", 0)
                found = reduce(
                    base, self.data, settings=None if begun else cell.reduction, out=path, resume=begun
                )
            said = json.dumps(list(found.notes)).encode()
            write_atomic(path / NOTES_FILE, [said], size=len(said))
        masks = path / MASKS_FILE
        kept = path / NOTES_FILE
        notes: list[str] = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else []
        model = opened(path / MODEL_FILE, cell.network)
        return model, load_masks(masks) if masks.exists() else None, tuple(notes)

    def _written(self, cell: MatrixCell, network: nn.Module, masks: Masks | None, path: Path) -> _Made:
        """The file that is deployed, and the coded one, if there is to be one."""
        coded: Path | None = None
        if cell.coding is not None:
            count = 0 if cell.coding.training is None else cell.coding.training.epochs
            self.watcher.step(cell, "clustering and coding", count)
            coded = path / CODED_FILE
            network = deep_compression(
                network, cell.coding, data=self.data, out=coded, on_epoch=self.watcher.epoch
            ).model
        asked = cell.deployment
        examples = self.data.train.take(min(asked.calibration, len(self.data.train)), seed=cell.seed).inputs
        ready = self._ready(cell, network, masks, examples)
        self.watcher.step(cell, "writing the file", 0)
        exported = export(
            ready.model, examples[:_COMPARED], path / f"model-{cell.treatment.mode}{suffix_of(asked.target)}",
            target=asked.target, mode=asked.mode, calibration=examples, observer=asked.observer,
            keep_float=ready.keep_float, ranges=ready.ranges, held_out=self.data.validation.inputs,
        )  # fmt: skip
        return _Made(
            network if ready.trained is None else ready.trained, exported.path, exported, coded, ready.notes
        )

    def _ready(self, cell: MatrixCell, network: nn.Module, masks: Masks | None, examples: Tensor) -> _Ready:
        observer = cell.deployment.observer
        if cell.aware is not None:
            self.watcher.step(cell, "training in int8", cell.aware.epochs)
            aware = train_aware(
                network, self.data, cell.aware,
                calibration=len(examples), observer=cast("Observer", observer), masks=masks, seed=cell.seed,
                on_epoch=self.watcher.epoch,
            )  # fmt: skip
            return _Ready(aware.model, aware.simulated, trained=aware.model)
        if not cell.treatment.prepare:
            return _Ready(network)
        self.watcher.step(cell, "equalising and correcting biases", 0)
        found = prepare_for_file(network, self.data, examples, mode=cell.deployment.mode, observer=observer)
        kept = [one.step for one in found.steps if one.kept and one.step != "plain"]
        note = f"Before int8: {' and '.join(kept) or 'nothing'} kept, of {', '.join(one.step for one in found.steps[1:])}."
        return _Ready(found.model, found.simulated, layers_left_float(found.simulated), notes=(note,))

    def _times(self, cell: MatrixCell, file: Path) -> Measured:
        """How long a file takes, beside the untreated network's, in turns."""
        first = self.path / CELLS / self.firsts[cell.base_key] / f"model-float32{file.suffix}"
        if not first.exists():
            raise RunError(
                "the untreated network's file, beside which times are taken, is not there: its cell failed"
            )
        pair = [file] if first == file else [first, file]
        options = {"allow": ["torch"]} if cell.deployment.target == "torch" else {}
        found = measure_processes(
            [Runnable(one, "secateur.export:open_file", options, runtimes_of(one)) for one in pair],
            warmup=cell.warmup, runs=cell.runs,
        )  # fmt: skip
        return found[-1]


_LOUD: Final = 200.0
"""Decibels that stand for outputs that are equal, which no JSON number says."""


def _sparsity(network: nn.Module) -> float:
    """Percent of the layers' weights that are zero."""
    weights = [network.get_parameter(name) for name in weights_of(network).values()]
    left = sum(int(weight.count_nonzero()) for weight in weights)
    return 100 * (1 - left / sum(weight.numel() for weight in weights))


@dataclass(frozen=True, eq=False)
class _Ready:
    """What is exported."""

    model: nn.Module
    ranges: Simulated | None = None
    keep_float: tuple[str, ...] = ()
    trained: nn.Module | None = None
    notes: tuple[str, ...] = ()
