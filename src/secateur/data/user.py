"""A user's own data: arrays, a folder of `.npz` files, or a function that returns them."""

from __future__ import annotations

import json
import pkgutil
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from secateur.data.sampling import draw, held_out
from secateur.data.splits import Split, Splits
from secateur.errors import DataError, MissingDataError, SecateurError, SettingsError

Arrays = tuple[ArrayLike | Tensor, ArrayLike | Tensor]
"""Inputs `[n, ...]` and targets `[n]`."""

_SHARE = 0.2
_INPUTS = ("x", "inputs")
_TARGETS = ("y", "targets")


def from_arrays(
    train: Arrays | Split,
    test: Arrays | Split,
    *,
    validation: Arrays | Split | float | None = None,
    classes: Sequence[str] | None = None,
    name: str = "arrays",
    seed: int = 0,
    limit: int | None = None,
    notes: Mapping[str, str] | None = None,
) -> Splits:
    """Make a data set from arrays in memory; the arrays are copied, and used as they are, not normalised.

    Args:
        train: Inputs `[n, ...]` (numbers) and targets `[n]` (integers from 0).
        test: As `train`.
        validation: As `train`; or a count or share of the training examples to draw by seed, the classes in proportion;
            None draws a fifth.
        classes: Names in label order; None numbers them up to the highest training label.
        name: What to call the data set.
        seed: Draws validation and limit.
        limit: Keep this many training examples, the same number of each class.
        notes: What the report should say about the data.

    Raises:
        DataError: A split is empty, lengths or shapes differ, a value is NaN or infinite, or a label is no integer or
            has no class.
        SettingsError: validation or limit is out of its range.

    Example:
        >>> x, y = np.random.default_rng(0).normal(size=(10, 3)), np.arange(10) % 2
        >>> from_arrays((x, y), (x, y), name="toy")
        Splits('toy': 8 train, 2 validation, 10 test x [3], 2 classes)
    """
    learning = _split(f"{name}: train", train)
    named = _class_names(name, learning, classes)
    if validation is None or isinstance(validation, int | float):
        learning, deciding, how = _carve(name, learning, validation, seed=seed)
    else:
        deciding, how = _split(f"{name}: validation", validation), "validation as given"
    if limit is not None:
        learning = learning.take(limit, seed=seed)
        how += f"; training limited to {limit}, the classes even"
    said = {"normalisation": "none, values as given", **(notes or {}), "split": how}
    return Splits(name, learning, deciding, _split(f"{name}: test", test), named, said)


def load_folder(
    folder: Path, *, seed: int = 0, validation: float | None = None, limit: int | None = None
) -> Splits:
    """Read `train.npz`, `test.npz` and, where it is there, `validation.npz` and `classes.json` from a folder.

    Each `.npz` holds the arrays `x` and `y` (or `inputs` and `targets`); `classes.json` is a list of names. Nothing is
    unpickled.

    Args:
        folder: Where the files are.
        seed: Draws validation and limit.
        validation: A count or share of `train.npz`, where there is no `validation.npz`; default a fifth.
        limit: Keep this many training examples, the same number of each class.

    Raises:
        MissingDataError: The folder or a file is missing.
        DataError: A file is damaged, or its arrays do not make a data set.
        SettingsError: validation or limit is out of its range, or both a file and an option give the validation.
    """
    if not folder.is_dir():
        raise MissingDataError(f"{folder} is not a folder; name one that holds train.npz and test.npz")
    missing = [file for file in ("train.npz", "test.npz") if not (folder / file).is_file()]
    if missing:
        raise MissingDataError(
            f"{folder.absolute()} has no {' and no '.join(missing)}; put train.npz and test.npz there, each with the "
            "arrays x and y"
        )
    own = folder / "validation.npz"
    if own.is_file() and validation is not None:
        raise SettingsError(
            f"{own} gives the validation split, so validation={validation} cannot be met; leave one out"
        )
    return from_arrays(
        _read_npz(folder / "train.npz"),
        _read_npz(folder / "test.npz"),
        validation=_read_npz(own) if own.is_file() else validation,
        classes=_read_classes(folder / "classes.json"),
        name=folder.resolve().name,
        seed=seed,
        limit=limit,
        notes={"source": f"the folder {folder.resolve().name}"},
    )


def load_factory(
    spec: str, *, seed: int = 0, validation: float | None = None, limit: int | None = None
) -> Splits:
    """Import `package.module:factory`, call it without arguments and take what it returns as data.

    Args:
        spec: The function. It returns `Splits`, or (train, validation, test), each a pair of inputs and targets;
            validation may be None and is then drawn from train.
        seed: Draws validation and limit.
        validation: A count or share of train, where the function gives no validation; default a fifth.
        limit: Keep this many training examples, the same number of each class.

    Raises:
        DataError: The function cannot be imported, failed, or returned something else.
        SettingsError: validation or limit is out of its range, or both the function and an option give the validation.
    """
    returned = _call(spec)
    parts = None if isinstance(returned, Splits) else _sequence(returned, 3)
    if not isinstance(returned, Splits) and parts is None:
        raise DataError(
            f"{spec} returned a {type(returned).__name__}; return Splits or (train, validation, test), each a pair of "
            "inputs and targets"
        )
    if validation is not None and (parts is None or parts[1] is not None):
        raise SettingsError(
            f"{spec} gives the validation split, so validation={validation} cannot be met; leave it out"
        )
    if isinstance(returned, Splits):
        return returned if limit is None else replace(returned, train=returned.train.take(limit, seed=seed))
    train, given, test = cast("tuple[Arrays, Arrays | None, Arrays]", parts)
    return from_arrays(
        train, test, validation=validation if given is None else given, name=spec, seed=seed, limit=limit,
        notes={"source": f"the function {spec}"},
    )  # fmt: skip


def _call(spec: str) -> object:
    try:
        factory = pkgutil.resolve_name(spec)
    except (ImportError, AttributeError, ValueError) as error:
        raise DataError(
            f"the data {spec!r} cannot be imported ({error}); write it as package.module:factory and see that the package "
            "is installed or its folder is on PYTHONPATH"
        ) from error
    try:
        return factory()
    except DataError as error:
        raise type(error)(f"{spec}: {error}") from error
    except SecateurError:
        raise
    except Exception as error:
        raise DataError(f"calling {spec} failed with {type(error).__name__}: {error}") from error


def _sequence(given: object, length: int) -> Sequence[object] | None:
    """A tuple or list of that length, else None."""
    if not isinstance(given, tuple | list):
        return None
    items = cast("Sequence[object]", given)
    return items if len(items) == length else None


def _split(where: str, given: object) -> Split:
    """Arrays as a split; every complaint says which part of which data set it is about."""
    if isinstance(given, Split):
        return given
    pair = _sequence(given, 2)
    if pair is None:
        raise DataError(f"{where} is a {type(given).__name__}; give a pair of inputs and targets")
    try:
        return Split(_inputs(pair[0]), _targets(pair[1]))
    except DataError as error:
        raise DataError(f"{where}: {error}") from error


def _inputs(given: object) -> Tensor:
    array = _array(given)
    if array.dtype.kind not in "biuf":
        raise DataError(f"the inputs are {array.dtype}; give real numbers")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite and is reported as such
        return torch.as_tensor(np.array(array, np.float32))


def _targets(given: object) -> Tensor:
    array = _array(given)
    if array.dtype.kind not in "iu":
        raise DataError(f"the labels are {array.dtype}; give integers, classes counted from 0")
    return torch.as_tensor(np.array(array, np.int64))


def _array(given: object) -> NDArray[np.generic]:
    try:
        return np.asarray(given.detach().cpu() if isinstance(given, Tensor) else given)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"a {type(given).__name__} cannot be read as an array ({error}); give a numpy array"
        ) from error


def _carve(name: str, train: Split, asked: float | None, *, seed: int) -> tuple[Split, Split, str]:
    """Draw the validation split from the training examples."""
    if len(train) < 2:
        raise DataError(
            f"{name}: one training example cannot be split into training and validation; give more examples"
        )
    count = held_out(len(train), asked, default=max(1, round(_SHARE * len(train))))
    chosen = draw(train.targets.numpy(), count, seed=seed)
    rest = np.setdiff1d(np.arange(len(train)), chosen, assume_unique=True)
    how = f"{count} of {len(train)} training examples drawn for validation, by class, seed {seed}"
    return train.select(torch.as_tensor(rest)), train.select(torch.as_tensor(chosen)), how


def _class_names(name: str, train: Split, classes: Sequence[str] | None) -> tuple[str, ...]:
    highest = int(train.targets.max())
    if classes is None and highest >= len(train):
        raise DataError(
            f"{name}: {len(train)} training labels go up to {highest}; count classes from 0 without gaps, or name them"
        )
    return tuple(classes) if classes is not None else tuple(str(label) for label in range(highest + 1))


def _read_npz(path: Path) -> Arrays:
    """The inputs and targets of one file."""
    try:
        # numpy leaves a file that it opened itself open when it turns out to be damaged.
        with path.open("rb") as file:
            return _arrays_of(path, np.load(file, allow_pickle=False))
    except DataError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} cannot be read as arrays ({error}); save it with numpy.savez") from error


def _arrays_of(path: Path, archive: Any) -> Arrays:
    if isinstance(archive, np.ndarray):
        raise DataError(f"{path} holds one bare array; save it with numpy.savez(path, x=..., y=...)")
    held: list[str] = archive.files
    inputs, targets = (next((key for key in keys if key in held), None) for keys in (_INPUTS, _TARGETS))
    if inputs is None or targets is None:
        raise DataError(
            f"{path} holds the arrays {', '.join(held) or '(none)'}; name them x and y, or inputs and targets"
        )
    return archive[inputs], archive[targets]


def _read_classes(path: Path) -> tuple[str, ...] | None:
    if not path.is_file():
        return None
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON ({error}); write a list of class names") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in cast("list[object]", names)):
        raise DataError(f"{path} is not a list of names; write one name for each class, in label order")
    return tuple(cast("list[str]", names))
