"""Activity data are cut as the authors do and split by person."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.data import load
from secateur.data.hapt import smooth
from secateur.errors import DataError, MissingDataError, SettingsError

TRAIN, TEST = (1, 2, 3, 5, 6), (4, 7)


def write_table(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savetxt(path, rows, fmt="%.6g")


@pytest.fixture
def hapt(tmp_path):
    """HAPT's layout with seven persons; sample t of person p's recording is (p, t, -t) on the three axes."""
    root = tmp_path / "HAPT Data Set"
    labels = []
    for person in (*TRAIN, *TEST):
        t = np.arange(700.0)
        write_table(
            root / f"RawData/acc_exp{person:02d}_user{person:02d}.txt",
            np.stack([np.full(700, person), t, -t], axis=1),
        )
        labels += [
            [person, person, 2, 11, 11 + 127],  # one window
            [person, person, 7, 140, 290],  # a change of posture: left out
            [person, person, 6, 301, 301 + 127 + 64],  # two windows
            [person, person, 1, 500, 600],  # too short
        ]
    write_table(root / "RawData/labels.txt", labels)
    write_table(root / "Train/subject_id_train.txt", TRAIN)
    write_table(root / "Test/subject_id_test.txt", TEST)
    return tmp_path


@pytest.fixture
def har(tmp_path):
    """UCI HAR's layout with five training persons of two windows each and one test person."""
    rng = np.random.default_rng(0)
    for part, persons in (("train", np.repeat(TRAIN, 2)), ("test", np.repeat(TEST[:1], 3))):
        root = tmp_path / "UCI HAR Dataset" / part
        for axis in "xyz":
            signal = rng.normal(size=(len(persons), 128))
            write_table(root / f"Inertial Signals/total_acc_{axis}_{part}.txt", signal)
        write_table(root / f"y_{part}.txt", np.arange(len(persons)) % 6 + 1)
        write_table(root / f"subject_{part}.txt", persons)
    return tmp_path


def persons_of(split, splits):
    """The person of each window of the written layout, read back from the first axis."""
    learning = torch.cat([splits.train.inputs, splits.validation.inputs])[:, 0, 0]
    levels = sorted(set(learning.tolist()))
    assert len(levels) == len(TRAIN)
    return [TRAIN[levels.index(value)] for value in split.inputs[:, 0, 0].tolist()]


def test_windows(hapt):
    """Windows lie inside their stretch, half overlapped; short stretches and changes of posture give none."""
    splits = load("hapt", data_dir=hapt)

    assert len(splits.test) == 2 * 3
    assert splits.test.targets.tolist() == [1, 5, 5] * 2
    time = splits.test.inputs[:3, 1]
    steps = torch.diff(time[:, 20])  # the same place in consecutive windows, in units of one sample's step
    unit = time[0, 21] - time[0, 20]
    assert (steps / unit).tolist() == pytest.approx([290, 64], rel=1e-4)
    torch.testing.assert_close(splits.test.inputs[:, 2], -splits.test.inputs[:, 1], rtol=1e-5, atol=1e-5)


def test_validation_is_by_person(hapt):
    """No person is in two splits, and the seed chooses who decides."""
    chosen = set()
    for seed in range(8):
        splits = load("hapt", data_dir=hapt, seed=seed, validation=2)
        learning, deciding = (set(persons_of(part, splits)) for part in (splits.train, splits.validation))
        assert len(deciding) == 2
        assert learning | deciding == set(TRAIN)
        assert not learning & deciding
        chosen.add(frozenset(deciding))
    assert len(chosen) > 1


def test_default_validation_is_a_fifth_of_the_persons(hapt):
    """Without a wish one person in five decides, and the notes say who."""
    splits = load("hapt", data_dir=hapt)

    (person,) = set(persons_of(splits.validation, splits))
    assert f"validation: persons [{person}] of 5, seed 0; test: 2 others" in splits.notes["split"]


def test_validation_counts_persons(hapt):
    """More validation persons than there are to train is refused."""
    with pytest.raises(SettingsError, match="validation=5 of 5 training persons is 5"):
        load("hapt", data_dir=hapt, validation=5)


def test_limit(hapt):
    """A limit thins the training windows only."""
    splits = load("hapt:4", data_dir=hapt)

    assert splits.train.targets.bincount().tolist() == [0, 2, 0, 0, 0, 2]
    assert len(splits.test) == 6


def replace_file(name, rows):
    def change(root):
        np.savetxt(root / name, np.array(rows), fmt="%g")

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (replace_file("RawData/labels.txt", [[1, 1, 5, 600, 800]]), "labels samples 600 to 800 of recording 1, which has 700"),
        (replace_file("RawData/labels.txt", [[1, 1, 0, 1, 200]]), "has activities from 0 to 0, but they go from 1 to 12"),
        (replace_file("RawData/labels.txt", [[1, 1, 5, 600]]), "has 4 columns instead of 5"),
        (replace_file("RawData/labels.txt", [[1, 1, 5, 1, 100]]), "has no labelled stretch of 128 samples"),
        (replace_file("RawData/acc_exp02_user02.txt", [[1, 2]]), r"acc_exp02_user02\.txt has 2 columns instead of 3"),
        (replace_file("RawData/acc_exp02_user02.txt", [[1, np.nan, 2]]), "holds values that are not finite"),
        (replace_file("RawData/acc_exp02_user02.txt", []), "is empty or holds values"),
        (lambda root: (root / "RawData/acc_exp02_user02.txt").write_text("1 2 x\n"), "cannot be read as a table"),
        (replace_file("Test/subject_id_test.txt", [4, 5, 7]), r"the persons \[5\] are listed for training and for test"),
        (replace_file("Test/subject_id_test.txt", [4]), r"the persons \[7\] are in no list"),
    ],
)  # fmt: skip
def test_damage(hapt, change, message):
    """Files that are damaged or contradict each other are refused with what is wrong."""
    change(hapt / "HAPT Data Set")

    with pytest.raises(DataError, match=message):
        load("hapt", data_dir=hapt)


def test_missing_recording(hapt):
    """A recording that the labels name but that is not there is named."""
    (hapt / "HAPT Data Set/RawData/acc_exp03_user03.txt").unlink()

    with pytest.raises(MissingDataError, match=r"missing HAPT Data Set/RawData/acc_exp03_user03\.txt;"):
        load("hapt", data_dir=hapt)


def test_uci_har(har):
    """UCI HAR's ready windows are split by person like HAPT's."""
    splits = load("uci-har", data_dir=har)

    assert [len(part) for part in splits.parts().values()] == [8, 2, 3]
    assert splits.input_shape == (3, 128)
    assert splits.test.targets.tolist() == [0, 1, 2]
    learning = torch.cat([splits.train.inputs, splits.validation.inputs])
    torch.testing.assert_close(learning.mean(dim=(0, 2)), torch.zeros(3), rtol=0, atol=1e-6)
    torch.testing.assert_close(learning.std(dim=(0, 2), correction=0), torch.ones(3), rtol=1e-5, atol=0)


def test_uci_har_axes_are_channels(har):
    """The x, y and z files become channels 0, 1 and 2."""
    splits = load("uci-har", data_dir=har)

    for channel, axis in enumerate("xyz"):
        raw = np.loadtxt(har / f"UCI HAR Dataset/test/Inertial Signals/total_acc_{axis}_test.txt")
        made = splits.test.inputs[:, channel].double().numpy()
        assert np.corrcoef(smooth(raw).ravel(), made.ravel())[0, 1] == pytest.approx(1)


def test_uci_har_lines_must_agree(har):
    """Files of different lengths are refused with their lengths."""
    np.savetxt(har / "UCI HAR Dataset/train/subject_train.txt", [1, 2, 3])

    with pytest.raises(DataError, match=r"have \[3, 10\] lines"):
        load("uci-har", data_dir=har)


def test_uci_har_missing(tmp_path):
    """Without the files the error names them and the folder searched."""
    with pytest.raises(
        MissingDataError, match=r"'uci-har' is not in .*missing UCI HAR Dataset/train/Inertial Signals"
    ):
        load("uci-har", data_dir=tmp_path)


@settings(deadline=None)
@given(st.lists(st.floats(-10, 10), min_size=1, max_size=30), st.integers(1, 12))
def test_smoothing_is_a_mean_over_what_is_there(values, width):
    """Each smoothed sample is the plain mean of the samples in its stretch."""
    signal = np.array(values)

    wanted = [
        signal[max(t - width // 2, 0) : min(t - width // 2 + width, len(signal))].mean()
        for t in range(len(signal))
    ]

    np.testing.assert_allclose(smooth(signal, width), wanted, rtol=0, atol=1e-12)


@pytest.mark.data
def test_hapt(data_dir):
    """The authors' files give the 7,415 and 2,996 windows that their own split has, class by class."""
    splits = load("hapt", data_dir=data_dir)

    learning = splits.train.targets.bincount() + splits.validation.targets.bincount()
    assert learning.tolist() == [1226, 1073, 987, 1293, 1423, 1413]
    assert len(splits.test) == 2_996
    assert splits.input_shape == (3, 128)
    assert min(splits.validation.targets.bincount().tolist()) > 100
