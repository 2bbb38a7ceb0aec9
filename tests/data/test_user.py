"""A user's own arrays, folders and functions become checked splits."""

import json
import pickle
import sys

import numpy as np
import pytest
import torch

from secateur.data import Split, Splits, from_arrays, load
from secateur.errors import DataError, MissingDataError, SettingsError


def arrays(count=20, classes=4, features=3, seed=0):
    x = np.random.default_rng(seed).normal(size=(count, features))
    return x, np.arange(count) % classes


@pytest.fixture
def folder(tmp_path):
    for name in ("train", "validation", "test"):
        x, y = arrays()
        np.savez(tmp_path / f"{name}.npz", x=x, y=y)
    (tmp_path / "classes.json").write_text(json.dumps(["a", "b", "c", "d"]), encoding="utf-8")
    return tmp_path


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module of the user's with functions that return data in several forms."""
    (tmp_path / "user_data_for_test.py").write_text(
        """
import numpy as np, torch
from secateur.data import from_arrays

x, y = np.zeros((20, 3), np.float32), np.arange(20) % 4

def three(): return (x, y), (x, y), (x, y)
def carved(): return [(x, torch.from_numpy(y)), None, (x, y)]
def ready(): return from_arrays((x, y), (x, y), name="ready")
def two(): return (x, y), (x, y)
def broken(): raise KeyError("train")
def flat(): return x, y, x
""",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield "user_data_for_test"
    sys.modules.pop("user_data_for_test", None)


def test_folder(folder):
    """A folder of .npz files becomes splits with its values, labels and class names."""
    splits = load(folder)

    assert splits.classes == ("a", "b", "c", "d")
    assert [len(part) for part in splits.parts().values()] == [20, 20, 20]
    torch.testing.assert_close(splits.train.inputs, torch.as_tensor(arrays()[0], dtype=torch.float32))
    assert splits.train.targets.tolist() == arrays()[1].tolist()
    assert splits.name == folder.name


def test_folder_by_string(folder, monkeypatch):
    """A folder can be named by a string, also relative to the current one."""
    monkeypatch.chdir(folder.parent)

    assert load(f"./{folder.name}").classes == load(folder.name).classes == ("a", "b", "c", "d")


def test_folder_without_validation(folder):
    """Without validation.npz a fifth of the training examples decides, drawn by seed and class."""
    (folder / "validation.npz").unlink()

    one, other = load(folder, seed=0), load(folder, seed=1)

    assert [len(part) for part in one.parts().values()] == [16, 4, 20]
    assert one.validation.targets.bincount().tolist() == [1, 1, 1, 1]
    assert not torch.equal(one.validation.inputs, other.validation.inputs)
    assert len(load(folder, validation=0.5).validation) == 10
    assert "4 of 20 training examples drawn for validation" in one.notes["split"]


def test_folder_with_long_names(folder):
    """The arrays may be called inputs and targets, and classes be left unnamed."""
    x, y = arrays()
    for part in ("train", "test"):
        np.savez(folder / f"{part}.npz", inputs=x, targets=y)
    (folder / "classes.json").unlink()

    assert load(folder).classes == ("0", "1", "2", "3")


def test_validation_given_twice(folder):
    """A validation file and a wish for another split contradict each other."""
    with pytest.raises(
        SettingsError, match=r"validation\.npz gives the validation split, so validation=0\.3"
    ):
        load(folder, validation=0.3)


@pytest.mark.parametrize("missing", ["train", "test"])
def test_missing_file(folder, missing):
    """A missing file is named with what belongs there."""
    (folder / f"{missing}.npz").unlink()

    with pytest.raises(MissingDataError, match=rf"has no {missing}\.npz; put train\.npz and test\.npz there"):
        load(folder)


def test_missing_folder(tmp_path):
    """A path that is no folder is named."""
    with pytest.raises(MissingDataError, match="nowhere is not a folder"):
        load(tmp_path / "nowhere")


class Attack:
    def __reduce__(self):
        return (print, ("unpickled!",))


def test_nothing_is_unpickled(folder, capsys):
    """Pickles, bare or inside .npz, are refused without being executed."""
    (folder / "train.npz").write_bytes(pickle.dumps(Attack()))
    with pytest.raises(DataError, match=r"train\.npz cannot be read as arrays"):
        load(folder)

    np.savez(folder / "train.npz", x=np.array([Attack()], dtype=object), y=np.zeros(1, np.int64))
    with pytest.raises(DataError, match=r"train\.npz cannot be read as arrays"):
        load(folder)

    assert "unpickled" not in capsys.readouterr().out


def cut(path):
    path.write_bytes(path.read_bytes()[:-40])


def flip(path):
    content = bytearray(path.read_bytes())
    content[200] ^= 255
    path.write_bytes(content)


def bare(path):
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, "cannot be read as arrays"),
        (flip, "cannot be read as arrays"),
        (lambda path: path.write_bytes(b""), "cannot be read as arrays"),
        (bare, "holds one bare array"),
        (
            lambda path: np.savez(path, a=np.zeros(3)),
            "holds the arrays a; name them x and y, or inputs and targets",
        ),
    ],
)
def test_damaged_npz(folder, damage, message):
    """A damaged or foreign .npz is refused by name."""
    damage(folder / "test.npz")

    with pytest.raises(DataError, match=rf"test\.npz {message}"):
        load(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as JSON"),
        ('{"a": 0}', "is not a list of names"),
        ("[1, 2]", "is not a list of names"),
    ],
)
def test_damaged_classes(folder, text, message):
    """A classes.json that names no classes is refused."""
    (folder / "classes.json").write_text(text, encoding="utf-8")

    with pytest.raises(DataError, match=rf"classes\.json {message}"):
        load(folder)


def with_nan(x, y):
    x[3, 1] = np.nan
    return x, y


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_nan, "train: 1 input values are NaN or infinite, the first in example 3"),
        (lambda x, y: (x * 1e300, y), "train: .* input values are NaN or infinite"),
        (lambda x, y: (x, y.astype(float)), "train: the labels are float64; give integers"),
        (lambda x, y: (x, y - 1), "train: label -1 is negative"),
        (lambda x, y: (x, y + 1), "the train labels go up to 4, but there are 4 classes"),
        (lambda x, y: (x, y[:-1]), "train: there are 20 inputs but 19 labels"),
        (lambda x, y: (x[:0], y[:0]), "train: there are no examples"),
        (
            lambda x, y: (x[:, :2], y),
            r"differ in shape \(\[2\] in train, \[3\] in validation, \[3\] in test\)",
        ),
        (lambda x, y: (x.astype("U"), y), "train: the inputs are <U.*; give real numbers"),
        (lambda x, y: (x * 1j, y), "train: the inputs are complex128; give real numbers"),
        (lambda x, y: (x, y[:, None]), r"train: the labels are torch.int64 of shape \[20, 1\]"),
    ],
)
def test_unusable_arrays(folder, change, message):
    """Arrays that make no data set are refused with the part and the fact."""
    x, y = change(*arrays())
    np.savez(folder / "train.npz", x=x, y=y)

    with pytest.raises(DataError, match=message):
        load(folder)


def test_gaps_in_unnamed_classes():
    """Labels far beyond the number of examples are refused before anything is made for each class."""
    x, y = arrays()

    with pytest.raises(DataError, match="toy: 20 training labels go up to 1000000000000000"):
        from_arrays((x, y + (y == 3) * (10**15 - 3)), (x, y), name="toy")


def test_arrays_are_copied():
    """What happens to the arrays later does not reach the splits."""
    x, y = arrays()
    splits = from_arrays((x.astype(np.float32), y), (x, y), validation=(x, y))

    before = splits.validation.inputs.clone()
    x[:] = 0

    assert torch.equal(splits.validation.inputs, before)


def test_arrays_may_be_splits_tensors_or_lists():
    """Splits, tensors and nested lists are all taken."""
    x, y = arrays()
    ready = Split(torch.as_tensor(x, dtype=torch.float32), torch.as_tensor(y))

    splits = from_arrays(ready, (x.tolist(), y.tolist()), validation=(torch.as_tensor(x), torch.as_tensor(y)))

    assert splits.train is ready
    torch.testing.assert_close(splits.test.inputs, splits.validation.inputs)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((3, 2)), "toy: train is a ndarray; give a pair of inputs and targets"),
        (([[1.0], [2.0, 3.0]], [0, 1]), "toy: train: a list cannot be read as an array"),
        (([[1.0]], [0]), "toy: one training example cannot be split"),
    ],
)
def test_unusable_pairs(given, message):
    """What is not a pair of arrays is refused."""
    with pytest.raises(DataError, match=message):
        from_arrays(given, ([[1.0]], [0]), name="toy")


def test_limit():
    """A limit thins the training examples evenly and is noted."""
    x, y = arrays(40)

    splits = from_arrays((x, y), (x, y), limit=8)

    assert splits.train.targets.bincount().tolist() == [2, 2, 2, 2]
    assert len(splits.validation) == 8
    assert splits.notes["split"].endswith("training limited to 8, the classes even")


def test_function_returning_three_pairs(module):
    """A function's three pairs become train, validation and test."""
    splits = load(f"{module}:three")

    assert isinstance(splits, Splits)
    assert [len(part) for part in splits.parts().values()] == [20, 20, 20]
    assert splits.name == f"{module}:three"


def test_function_without_validation(module):
    """A function that gives no validation gets it drawn, as large as asked."""
    assert len(load(f"{module}:carved").validation) == 4
    assert len(load(f"{module}:carved", validation=8).validation) == 8


def test_function_returning_splits(module):
    """A function's own Splits are taken as they are, but for the limit."""
    assert load(f"{module}:ready").name == "ready"
    assert len(load(f"{module}:ready", limit=8).train) == 8


@pytest.mark.parametrize("function", ["three", "ready"])
def test_function_and_wish_contradict(module, function):
    """A function that gives the validation split and a wish for another contradict each other."""
    with pytest.raises(SettingsError, match="gives the validation split, so validation=5 cannot be met"):
        load(f"{module}:{function}", validation=5)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("two", "returned a tuple; return Splits or"),
        ("flat", "train is a ndarray; give a pair"),
        ("broken", "failed with KeyError: 'train'"),
        ("nothing", "cannot be imported .*has no attribute 'nothing'"),
        ("x", "failed with TypeError"),
    ],
)
def test_unusable_functions(module, function, message):
    """A function that gives no data is refused with what it did instead."""
    with pytest.raises(DataError, match=message):
        load(f"{module}:{function}")


def test_module_that_is_not_there():
    """A module that cannot be found says how to make it importable."""
    with pytest.raises(DataError, match=r"No module named 'nowhere_at_all'.*PYTHONPATH"):
        load("nowhere_at_all:data")
