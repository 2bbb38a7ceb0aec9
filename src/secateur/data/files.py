"""Finding and reading the files of a data set, with errors that name the file."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from secateur.errors import DataError, MissingDataError

VARIABLE = "SECATEUR_DATA"
"""The environment variable that names the folder of data sets."""


def locate(name: str, expected: Sequence[str], *, data_dir: Path | None, source: str) -> Path:
    """The folder of data sets, once the expected files have been seen in it.

    Args:
        name: The data set, for the error.
        expected: The files it needs, relative to the folder.
        data_dir: The folder; None takes it from the environment variable `SECATEUR_DATA`.
        source: Where the data set can be had.

    Raises:
        MissingDataError: No folder was given, or files are missing in it.
    """
    given = data_dir if data_dir is not None else os.environ.get(VARIABLE)
    advice = f"get it from {source} and name the folder that holds it: --data-dir, data_dir= or {VARIABLE}"
    if not given:
        raise MissingDataError(
            f"the data set {name!r} was looked for nowhere, since no folder of data sets is given; it needs "
            f"{_listed(expected)} there; {advice}"
        )
    root = Path(given)
    missing = [file for file in expected if not (root / file).is_file()]
    if missing:
        raise MissingDataError(
            f"the data set {name!r} is not in {root.absolute()}: missing {_listed(missing)}; {advice}"
        )
    return root


def read_bytes(path: Path, *, expected: int | None = None) -> bytes:
    """The content of a file, unpacked if its name ends in `.gz`.

    Args:
        path: The file.
        expected: How many bytes it must hold, where that is known.

    Raises:
        DataError: It cannot be read, is damaged, or has another length.
    """
    try:
        if path.suffix == ".gz":
            with gzip.open(path) as file:
                content = file.read()
        else:
            content = path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error}); fetch the file again") from error
    if expected is not None and len(content) != expected:
        raise DataError(f"{path} holds {len(content)} bytes instead of {expected}; fetch the file again")
    return content


def read_table(path: Path, *, columns: int | None = None) -> NDArray[np.float64]:
    """A text file of numbers separated by blanks.

    Args:
        path: The file.
        columns: How many numbers each line must hold, where that is known.

    Returns:
        The numbers, `[lines, columns]`.

    Raises:
        DataError: It cannot be read, is empty, holds NaN or infinity, or has another number of columns.
    """
    try:
        empty = not path.read_bytes().strip()
        table = np.zeros((0, 0)) if empty else np.loadtxt(path, dtype=np.float64, ndmin=2)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read as a table of numbers ({error}); fetch the file again"
        ) from error
    if table.size == 0 or not np.isfinite(table).all():
        raise DataError(f"{path} is empty or holds values that are not finite; fetch the file again")
    if columns is not None and table.shape[1] != columns:
        raise DataError(f"{path} has {table.shape[1]} columns instead of {columns}; fetch the file again")
    return table


def _listed(files: Sequence[str], most: int = 4) -> str:
    more = f" and {len(files) - most} more" if len(files) > most else ""
    return ", ".join(files[:most]) + more
