"""One way to load any data set by name."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from secateur.data.cifar10 import load_cifar10
from secateur.data.digits import load_digits
from secateur.data.hapt import load_hapt, load_uci_har
from secateur.data.mnist import load_mnist
from secateur.data.splits import Splits
from secateur.data.user import load_factory, load_folder
from secateur.errors import DataError, SettingsError


class Loader(Protocol):
    """Loads a registered data set."""

    def __call__(
        self, *, data_dir: Path | None, seed: int, validation: float | None, limit: int | None
    ) -> Splits:
        """Load it; the arguments are those of `load`."""
        ...


LOADERS: Mapping[str, Loader] = MappingProxyType(
    {
        "cifar10": load_cifar10,
        "digits": load_digits,
        "hapt": load_hapt,
        "mnist": load_mnist,
        "uci-har": load_uci_har,
    }
)
"""The data sets that this library can read, by name."""


def names() -> tuple[str, ...]:
    """The names of the registered data sets, sorted.

    Example:
        >>> names()
        ('cifar10', 'digits', 'hapt', 'mnist', 'uci-har')
    """
    return tuple(sorted(LOADERS))


def load(
    name: str | Path,
    *,
    data_dir: Path | str | None = None,
    seed: int = 0,
    validation: float | None = None,
    limit: int | None = None,
) -> Splits:
    """Load a data set into memory, split and normalised.

    Args:
        name: A registered name (see `names`), with `:COUNT` for a limit (`cifar10:10000`); a folder with `train.npz`
            and `test.npz`; or `package.module:factory`, your function that returns `Splits` or (train, validation,
            test).
        data_dir: The folder of data sets; None takes the environment variable `SECATEUR_DATA`.
        seed: Draws the validation split and the limit. The test split and the normalisation do not depend on it.
        validation: Examples for validation: an int is a count, a float a share of what is not test. `hapt` and
            `uci-har` count persons. None takes the data set's own.
        limit: Keep this many training examples, the same number of each class.

    Raises:
        MissingDataError: The data are not where they were looked for.
        DataError: No data set has that name, or the data cannot be used.
        SettingsError: validation or limit is out of its range.

    Example:
        >>> load("digits", validation=0.1, limit=500)
        Splits('digits': 500 train, 144 validation, 360 test x [1, 8, 8], 10 classes)
    """
    base, _, count = str(name).rpartition(":")
    if base not in LOADERS:
        base = str(name)
    elif limit is not None:
        raise SettingsError(f"{name!r} and limit={limit} both limit the training examples; give one of them")
    else:
        limit = _count(str(name), count)
    if base in LOADERS:
        folder = Path(data_dir) if data_dir is not None else None
        return LOADERS[base](data_dir=folder, seed=seed, validation=validation, limit=limit)
    if isinstance(name, Path) or Path(name).exists() or "/" in base or "\\" in base:
        return load_folder(Path(name), seed=seed, validation=validation, limit=limit)
    if ":" in base:
        return load_factory(base, seed=seed, validation=validation, limit=limit)
    near = difflib.get_close_matches(base, names(), n=3, cutoff=0.5)
    hint = f"the nearest are: {', '.join(near)}" if near else f"known are: {', '.join(names())}"
    raise DataError(
        f"no data set is named {base!r}; {hint}; your own are named by their folder or package.module:factory"
    )


def _count(name: str, text: str) -> int:
    if not text.isdecimal():
        raise SettingsError(
            f"{name!r} does not end in a number of training examples; write, for example, cifar10:10000"
        )
    return int(text)
