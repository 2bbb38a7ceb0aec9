"""Activities from a phone's accelerometer: HAPT's raw signals cut into windows, and UCI HAR's ready windows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from secateur.data.files import locate, read_table
from secateur.data.sampling import held_out
from secateur.data.splits import Split, Splits
from secateur.errors import DataError

CLASSES = ("walking", "walking upstairs", "walking downstairs", "sitting", "standing", "laying")
WINDOW = 128
STEP = 64
SMOOTHING = 10

_HAPT = "HAPT Data Set"
_HAR = "UCI HAR Dataset"
_SITE = "https://archive.ics.uci.edu/dataset"


@dataclass(frozen=True, eq=False)
class _Windows:
    """Windows `[n, 3, 128]` in g, their classes `[n]` and the person `[n]` whom each is from."""

    signals: NDArray[np.float64]
    labels: NDArray[np.int64]
    persons: NDArray[np.int64]


def load_hapt(
    *, data_dir: Path | None = None, seed: int = 0, validation: float | None = None, limit: int | None = None
) -> Splits:
    """Six activities of 30 persons: 7,415 windows of 21 persons to learn from, 2,996 test windows of the 9 others.

    Three accelerometer axes at 50 Hz are the channels; windows of 128 samples (2.56 s) overlap by half and lie inside
    one labelled stretch. Each window is smoothed by a moving average of width 10, then each axis is standardised with
    the learning windows' mean and deviation. Some of the learning *persons* go to validation, so no window of a person
    who trains decides anything.

    Args:
        data_dir: The folder that holds `HAPT Data Set`; None takes the environment variable `SECATEUR_DATA`.
        seed: Draws the validation persons and the limit.
        validation: Persons for validation, a count or a share of the 21; default 4.
        limit: Keep this many training windows, the same number of each class.

    Raises:
        MissingDataError: The files are not there.
        DataError: A file is damaged or the files contradict each other.
        SettingsError: validation or limit is out of its range.

    Source:
        Reyes-Ortiz et al. 2015, "Transition-aware human activity recognition using smartphones"; smoothing and
        standardising as in the study of UCI-Custom (KIT, 2020).
    """
    lists = ["RawData/labels.txt", "Train/subject_id_train.txt", "Test/subject_id_test.txt"]
    source = f"{_SITE}/341"
    folder = locate("hapt", [f"{_HAPT}/{file}" for file in lists], data_dir=data_dir, source=source) / _HAPT
    stretches = read_table(folder / lists[0], columns=5).astype(np.int64)
    recordings = sorted({(int(recording), int(person)) for recording, person in stretches[:, :2]})
    signals = [f"{_HAPT}/{_signal_file(*key)}" for key in recordings]
    locate("hapt", signals, data_dir=data_dir, source=source)
    train, test = (np.unique(read_table(folder / file, columns=1).astype(np.int64)) for file in lists[1:])
    windows = _cut(folder, stretches, recordings)
    return _person_splits("hapt", windows, train, test, seed=seed, validation=validation, limit=limit)


def load_uci_har(
    *, data_dir: Path | None = None, seed: int = 0, validation: float | None = None, limit: int | None = None
) -> Splits:
    """Six activities of 30 persons as UCI HAR publishes them, its total acceleration as channels.

    The windows are the authors' (filtered by them); smoothing, standardising and the choice of validation persons are
    those of `load_hapt`.

    Args:
        data_dir: The folder that holds `UCI HAR Dataset`; None takes the environment variable `SECATEUR_DATA`.
        seed: Draws the validation persons and the limit.
        validation: Persons for validation, a count or a share of those in the training files; default a fifth.
        limit: Keep this many training windows, the same number of each class.

    Raises:
        MissingDataError: The files are not there.
        DataError: A file is damaged or the files contradict each other.
        SettingsError: validation or limit is out of its range.

    Source:
        Anguita et al. 2013, "A public domain dataset for human activity recognition using smartphones".
    """
    expected = [f"{_HAR}/{file}" for part in ("train", "test") for file in _har_files(part)]
    root = locate("uci-har", expected, data_dir=data_dir, source=f"{_SITE}/240") / _HAR
    train, test = _har_part(root, "train"), _har_part(root, "test")
    windows = _Windows(
        np.concatenate([train.signals, test.signals]),
        np.concatenate([train.labels, test.labels]),
        np.concatenate([train.persons, test.persons]),
    )
    return _person_splits(
        "uci-har", windows, np.unique(train.persons), np.unique(test.persons),
        seed=seed, validation=validation, limit=limit,
    )  # fmt: skip


def smooth(windows: NDArray[np.float64], width: int = SMOOTHING) -> NDArray[np.float64]:
    """The mean over the samples t - width/2 ... t + width/2 - 1 that lie inside the window.

    Args:
        windows: `[..., samples]`.
        width: Samples averaged.

    Returns:
        The same shape.

    Example:
        >>> smooth(np.array([0.0, 2.0, 4.0, 6.0]), width=2)
        array([0., 1., 3., 5.])
    """
    samples = windows.shape[-1]
    at = np.arange(samples, dtype=np.int64)
    first = np.maximum(at - width // 2, 0)
    last = np.minimum(at - width // 2 + width, samples)
    total = np.concatenate([np.zeros((*windows.shape[:-1], 1)), np.cumsum(windows, axis=-1)], axis=-1)
    return (total[..., last] - total[..., first]) / (last - first)


def _signal_file(recording: int, person: int) -> str:
    return f"RawData/acc_exp{recording:02d}_user{person:02d}.txt"


def _cut(folder: Path, stretches: NDArray[np.int64], recordings: list[tuple[int, int]]) -> _Windows:
    """Cut the labelled stretches of the six lasting activities into half-overlapped windows."""
    pieces: list[NDArray[np.float64]] = []
    labels: list[int] = []
    persons: list[int] = []
    signals = {key: read_table(folder / _signal_file(*key), columns=3) for key in recordings}
    _check_labels(folder / "RawData/labels.txt", stretches[:, 2], highest=2 * len(CLASSES))
    for recording, person, activity, first, last in stretches.tolist():
        signal = signals[recording, person]
        if not 1 <= first <= last <= len(signal):
            raise DataError(
                f"{folder / 'RawData/labels.txt'} labels samples {first} to {last} of recording {recording}, which has "
                f"{len(signal)}; fetch the files again"
            )
        if activity > len(CLASSES) or last - first + 1 < WINDOW:
            continue  # 7 to 12 are the short changes of posture
        every = np.lib.stride_tricks.sliding_window_view(signal[first - 1 : last], WINDOW, axis=0)
        pieces.append(every[::STEP])
        labels += [activity - 1] * len(pieces[-1])
        persons += [person] * len(pieces[-1])
    if not pieces:
        raise DataError(f"{folder} has no labelled stretch of {WINDOW} samples; fetch the files again")
    return _Windows(np.concatenate(pieces), np.array(labels), np.array(persons))


def _har_files(part: str) -> list[str]:
    axes = [f"{part}/Inertial Signals/total_acc_{axis}_{part}.txt" for axis in "xyz"]
    return [*axes, f"{part}/y_{part}.txt", f"{part}/subject_{part}.txt"]


def _har_part(root: Path, part: str) -> _Windows:
    *axes, labels, persons = (root / file for file in _har_files(part))
    signals = [read_table(axis, columns=WINDOW) for axis in axes]
    classes = read_table(labels, columns=1)[:, 0].astype(np.int64) - 1
    _check_labels(labels, classes + 1, highest=len(CLASSES))
    who = read_table(persons, columns=1)[:, 0].astype(np.int64)
    lengths = {len(rows) for rows in (*signals, classes, who)}
    if len(lengths) > 1:
        raise DataError(f"the files in {root / part} have {sorted(lengths)} lines; fetch the files again")
    return _Windows(np.stack(signals, axis=1), classes, who)


def _check_labels(path: Path, labels: NDArray[np.int64], *, highest: int) -> None:
    low, high = int(labels.min()), int(labels.max())
    if low < 1 or high > highest:
        raise DataError(
            f"{path} has activities from {low} to {high}, but they go from 1 to {highest}; fetch the file again"
        )


def _person_splits(
    name: str,
    windows: _Windows,
    learning: NDArray[np.int64],
    test: NDArray[np.int64],
    *,
    seed: int,
    validation: float | None,
    limit: int | None,
) -> Splits:
    """Split by person, smooth, standardise."""
    if both := set(learning.tolist()) & set(test.tolist()):
        raise DataError(
            f"{name}: the persons {sorted(both)} are listed for training and for test; fetch the files again"
        )
    if unknown := set(windows.persons.tolist()) - set(learning.tolist()) - set(test.tolist()):
        raise DataError(f"{name}: the persons {sorted(unknown)} are in no list; fetch the files again")
    count = held_out(len(learning), validation, default=max(1, len(learning) // 5), what="training persons")
    deciding = np.sort(np.random.default_rng(seed).permutation(learning)[:count])
    smoothed = smooth(windows.signals)
    known = smoothed[np.isin(windows.persons, learning)]
    mean, deviation = known.mean(axis=(0, 2)), known.std(axis=(0, 2))
    inputs = ((smoothed - mean[:, None]) / deviation[:, None]).astype(np.float32)

    def split(persons: NDArray[np.int64]) -> Split:
        chosen = np.isin(windows.persons, persons)
        who = torch.as_tensor(windows.persons[chosen].astype(np.int64))
        return Split(torch.as_tensor(inputs[chosen]), torch.as_tensor(windows.labels[chosen]), who)

    train = split(np.setdiff1d(learning, deciding))
    notes = {
        "source": f"{name}, accelerometer in g at 50 Hz, windows of {WINDOW} samples",
        "split": f"validation: persons {deciding.tolist()} of {len(learning)}, seed {seed}; test: {len(test)} others"
        + ("" if limit is None else f"; training limited to {limit}, the classes even"),
        "normalisation": f"moving average of {SMOOTHING}, then each axis: (value - mean) / deviation of the training and "
        f"validation windows, mean {_numbers(mean)}, deviation {_numbers(deviation)}",
    }
    train = train if limit is None else train.take(limit, seed=seed)
    return Splits(name, train, split(deciding), split(test), CLASSES, notes)


def _numbers(values: NDArray[np.float64]) -> str:
    return ", ".join(f"{value:.6g}" for value in values)
