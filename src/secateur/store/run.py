"""A run folder: what was asked, what was done, and every state on the way."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError
from torch import Tensor

from secateur._files import TEMPORARY_SUFFIX, sync_folder, write_atomic
from secateur.errors import RunError, StoreError
from secateur.store.documents import to_toml
from secateur.store.journal import Journal
from secateur.store.lock import Lock
from secateur.store.records import Strict, first_problem
from secateur.store.snapshots import Snapshots

FORMAT = 1
"""The version of run folders that this library writes and reads."""

SETTINGS_FILE = "run.toml"
JOURNAL_FILE = "journal.jsonl"
LOCK_FILE = "lock"
SNAPSHOTS = "snapshots"

SNAPSHOT_KEY = "snapshot"
"""The key by which a line of the journal names the snapshot of its step."""


class _RunDocument(Strict):
    """The content of ``run.toml``."""

    format: int
    kind: str
    settings: dict[str, Any]


class RunFolder:
    """A folder that one process writes and that can be reopened after any interruption.

    - ``run.toml``: what was asked, written once;
    - ``journal.jsonl``: one line a step, on the disk before the step counts;
    - ``snapshots/``: tensors and documents, written before the line that names them under ``"snapshot"``.

    A step is `put`, then `append`. Made with `create`, gone on with by `open`; a context manager, or `close` it.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with RunFolder.create(f"{folder}/run", {"max_drop": 0.5}, kind="reduce") as run:
        ...         run.put("step-0", {"w": torch.ones(2)}, {"loss": 0.1})
        ...         run.append({"step": 0, "snapshot": "step-0"})
        ...     with RunFolder.open(f"{folder}/run") as run:
        ...         last = list(run.entries())[-1]
        ...         run.settings, last["step"], run.get(last["snapshot"])
        ({'max_drop': 0.5}, 0, ({'w': tensor([1., 1.])}, {'loss': 0.1}))
    """

    def __init__(self, path: Path, document: _RunDocument, lock: Lock | None) -> None:
        """Use `create` or `open`."""
        self.path = path
        self.kind = document.kind
        self.settings = document.settings
        self._lock = lock
        self._snapshots = Snapshots(path / SNAPSHOTS)
        self._journal = Journal(path / JOURNAL_FILE, read_only=lock is None)

    @classmethod
    def create(cls, path: str | PathLike[str], settings: Mapping[str, Any], *, kind: str = "reduce") -> Self:
        """Start a run in a new or empty folder.

        Args:
            path: The folder; it and its parents are made where missing.
            settings: What was asked: text, numbers, truth values, lists and tables. TOML has no null: leave such a key
                out.
            kind: What kind of run it is.

        Raises:
            RunError: The folder holds a run or other files, or is in use.
            SettingsError: A setting has no TOML form.
            StoreError: The folder cannot be written.
        """
        folder = Path(path)
        document: dict[str, Any] = {"format": FORMAT, "kind": kind, "settings": dict(settings)}
        text = to_toml(document).encode()
        _check_free(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            sync_folder(folder.parent)
        except OSError as error:
            raise StoreError(
                f"cannot make the folder {folder}: {error.strerror}; check the path and its permissions"
            ) from error
        lock = Lock(folder / LOCK_FILE)
        try:
            _check_free(folder)  # another process may have been faster
            _delete_temporaries(folder)
            write_atomic(folder / SETTINGS_FILE, [text], size=len(text))
            # Read back, so that a new run and a resumed one see the very same settings.
            return cls(folder, _read_settings(folder), lock)
        except BaseException:
            lock.release()
            raise

    @classmethod
    def open(cls, path: str | PathLike[str], *, kind: str | None = None, read_only: bool = False) -> Self:
        """Go on with a run, or read it.

        Whatever a crash left behind is put in order: a cut-off last line, unfinished files, and snapshots that no line
        names and no named one needs.

        Args:
            path: The folder.
            kind: The kind of run that is wanted; None takes any.
            read_only: Only read: nothing is put in order, and a run in use can be read too.

        Raises:
            RunError: There is no run, or one of another version or kind, or it is in use or damaged.
        """
        folder = Path(path)
        document = _read_settings(folder)
        if kind is not None and document.kind != kind:
            raise RunError(
                f"{folder} holds a run of the kind {document.kind!r}, not {kind!r}; name another folder"
            )
        if read_only:
            return cls(folder, document, None)
        lock = Lock(folder / LOCK_FILE)
        try:
            run = cls(folder, document, lock)
            _delete_temporaries(folder)
            run._snapshots.keep_only(entry[SNAPSHOT_KEY] for entry in run.entries() if SNAPSHOT_KEY in entry)
        except BaseException:
            lock.release()
            raise
        return run

    def entries(self) -> Iterator[dict[str, Any]]:
        """The lines of the journal, first to last."""
        return self._journal.entries()

    def append(self, entry: Mapping[str, Any]) -> None:
        """Add a line to the journal; when this returns, the step counts. If it raises, the line is not there.

        Args:
            entry: JSON values. Under the key ``"snapshot"`` it may name a snapshot that was `put` before.

        Raises:
            RunError: It names a snapshot that does not exist, or the run is closed or read only.
            SettingsError: The entry has no JSON form.
            StoreError: The disk is full or failed.
        """
        self._check_writable()
        name = entry.get(SNAPSHOT_KEY)
        if name is not None and not self._snapshots.path(str(name)).is_file():
            raise RunError(
                f"the journal's entry names the snapshot {name!r}, which does not exist; put it first"
            )
        self._journal.append(entry)

    def put(
        self, name: str, tensors: Mapping[str, Tensor], document: object, *, parent: str | None = None
    ) -> None:
        """Store a snapshot; of its tensors only those that differ from every one of the parent's. See `Snapshots.put`."""
        self._check_writable()
        self._snapshots.put(name, tensors, document, parent=parent)

    def get(self, name: str) -> tuple[dict[str, Tensor], Any]:
        """The tensors and the document of a snapshot. See `Snapshots.get`."""
        return self._snapshots.get(name)

    def close(self) -> None:
        """Give the folder free; the run can still be read."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_writable(self) -> None:
        if self._lock is None:
            raise RunError(
                f"{self.path} is closed or was opened for reading only; open it again to go on with it"
            )


def _check_free(folder: Path) -> None:
    if (folder / SETTINGS_FILE).exists():
        raise RunError(f"{folder} already holds a run; go on with it with --resume, or choose another --out")
    if folder.is_dir():
        # A run that was killed while it was made leaves these, and nothing is lost with them.
        strange = sorted(
            file.name
            for file in folder.iterdir()
            if file.name != LOCK_FILE and not file.name.endswith(TEMPORARY_SUFFIX)
        )
        if strange:
            raise RunError(
                f"{folder} is not empty and holds no run (there is {strange[0]!r}); choose another --out, or empty it"
            )


def _read_settings(folder: Path) -> _RunDocument:
    path = folder / SETTINGS_FILE
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RunError(
            f"{folder} holds no run ({path} is missing); check the path, or start a run there"
        ) from error
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}; check its permissions") from error
    except ValueError as error:
        raise RunError(
            f"{path} is damaged ({error}); restore it from a copy, or start the run again"
        ) from error
    version = found.get("format")
    if isinstance(version, int) and version != FORMAT:
        raise RunError(
            f"{folder} holds a run of format {version}, and this version of Secateur works with {FORMAT};"
            " go on with it in the version that made it, or start again in another folder"
        )
    try:
        return _RunDocument.model_validate(found)
    except ValidationError as error:
        raise RunError(
            f"{path} is damaged ({first_problem(error)}); restore it from a copy, or start the run again"
        ) from error


def _delete_temporaries(folder: Path) -> None:
    """Remove files that a killed process did not finish; the lock says that nobody is writing them now."""
    for path in (*folder.glob(f".*{TEMPORARY_SUFFIX}"), *folder.glob(f"{SNAPSHOTS}/.*{TEMPORARY_SUFFIX}")):
        path.unlink()
