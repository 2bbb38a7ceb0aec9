"""A journal: one JSON line a step, on the disk before the step counts."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from secateur._files import sync_folder, write_all, write_failure
from secateur.errors import RunError
from secateur.store.documents import canonical_json


class Journal:
    """Lines of JSON that are only ever appended.

    A last line without its line end was cut off by a crash: its step did not count, and opening for writing removes it.

    Args:
        path: The file; made where missing, unless `read_only`.
        read_only: Change nothing, not even a cut-off line.

    Raises:
        RunError: A complete line is not a JSON object.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     journal = Journal(Path(folder) / "journal.jsonl")
        ...     journal.append({"step": 1, "accepted": True})
        ...     list(journal.entries())
        [{'accepted': True, 'step': 1}]
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self._path = path
        self._read_only = read_only
        if not path.exists() and not read_only:
            path.touch()
            sync_folder(path.parent)
        self._end = sum(size for _, size in self._lines())
        if not read_only and path.stat().st_size > self._end:
            self._cut()

    def entries(self) -> Iterator[dict[str, Any]]:
        """The complete lines, first to last, read from the file as they are asked for."""
        for entry, _ in self._lines():
            yield entry

    def append(self, entry: Mapping[str, Any]) -> None:
        """Add a line and flush it to the disk; when this returns, the step counts. If it raises, the line is not there.

        Raises:
            SettingsError: The entry has no JSON form.
            StoreError: The disk is full or failed.
            RunError: The journal was opened for reading only.
        """
        if self._read_only:
            raise RunError(
                f"{self._path} was opened for reading only; open the run for writing to go on with it"
            )
        line = canonical_json(entry, what="the journal's entry").encode() + b"\n"
        try:
            self._write(line)
        except OSError as error:
            raise write_failure(self._path, size=len(line), error=error) from error
        self._end += len(line)

    def _write(self, line: bytes) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND)
        try:
            write_all(descriptor, line)
            os.fsync(descriptor)
        except BaseException:
            os.ftruncate(descriptor, self._end)
            raise
        finally:
            os.close(descriptor)

    def _lines(self) -> Iterator[tuple[dict[str, Any], int]]:
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    return
                yield self._parsed(number, line), len(line)

    def _parsed(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise RunError(
                f"line {number} of {self._path} is damaged ({error}); restore the file from a copy, or cut it before"
                " that line to go on from the step before"
            ) from error
        if not isinstance(entry, dict):
            raise RunError(
                f"line {number} of {self._path} is damaged (it is not a JSON object); restore the file from a copy, or"
                " cut it before that line to go on from the step before"
            )
        return cast("dict[str, Any]", entry)

    def _cut(self) -> None:
        with self._path.open("r+b") as file:
            file.truncate(self._end)
            os.fsync(file.fileno())
