"""Trainings as values and as a page: what is counted, how arms are gathered and compared, what is drawn, and what is refused."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from secateur import data
from secateur.errors import FileFormatError, SettingsError, StoreError
from secateur.methods import PruneTrainSettings, train
from secateur.networks import build
from secateur.report import (
    Training,
    arms_of,
    compare_trainings,
    read_training,
    render_trainings,
    training_of,
    write_training,
)
from secateur.report.training import Arm, difference, ratio
from secateur.report.training_page import rows_of
from secateur.train import TrainSettings

EAGER = PruneTrainSettings(penalty_ratio=0.6, threshold=0.05, every=1, rest=1)
SETTINGS = TrainSettings(epochs=4, lr=0.1, batch_size=32, schedule="cosine")


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", limit=200)


@pytest.fixture(scope="module")
def result(digits, tmp_path_factory):
    return train(
        build("digits-net", seed=3), digits, SETTINGS, out=tmp_path_factory.mktemp("run") / "a", prunetrain=EAGER
    )  # fmt: skip


@pytest.fixture(scope="module")
def cut(result, digits) -> Training:
    return training_of(result, data=digits, name="cut-0", seed=0)


@pytest.fixture(scope="module")
def dense(cut) -> Training:
    """The same without cuts, as values."""
    before = cut.macs[0]
    return cut.model_copy(
        update={
            "name": "dense-0",
            "meanwhile": None,
            "changes": (),
            "widths": {},
            "macs": (before, before),
            "training_macs": (cut.training_macs[1], cut.training_macs[1]),
            "epochs": tuple(one.model_copy(update={"macs": before, "ratio": None}) for one in cut.epochs),
        }
    )


def seeded(one: Training, seed: int, *, accuracy: float, slower: float = 1.0) -> Training:
    return one.model_copy(
        update={
            "seed": seed,
            "name": f"{one.name[:-1]}{seed}",
            "test": one.test.model_copy(update={"accuracy": accuracy}),
            "epochs": tuple(e.model_copy(update={"seconds": e.seconds * slower}) for e in one.epochs),
        }
    )


def test_what_is_counted_is_what_the_training_counted(cut, result, digits):
    """Multiply-adds epoch by epoch, time with the reconfigurations, widths after each."""
    found = result.prunetrain

    assert cut.training_macs == (found.macs, found.macs_uncut)
    assert cut.saved == found.macs / found.macs_uncut < 1
    took = sum(one.seconds for one in found.reconfigurations)
    assert took > 0
    assert cut.seconds == pytest.approx(result.seconds + took)
    assert cut.macs == (found.cost_before.macs, result.cost.macs)
    for group, before in found.widths_before.items():
        assert cut.width_of(group)[0] == (0, before)
        assert cut.width_of(group)[-1] == (3, found.reconfigurations[-1].widths[group])


def test_a_training_is_read_as_it_was_written(cut, tmp_path):
    """And its page is the same again."""
    page = write_training(cut, tmp_path)

    again = read_training(tmp_path)

    assert again == cut
    assert page.read_text() == render_trainings([again])


def test_trainings_that_differ_in_their_seed_alone_are_one_arm(cut, dense):
    """And are called by what their names have in common."""
    runs = [seeded(one, seed, accuracy=90.0) for seed in (0, 1, 2) for one in (dense, cut)]

    arms = arms_of(runs)

    assert [(arm.name, arm.seeds) for arm in arms] == [("dense", (0, 1, 2)), ("cut", (0, 1, 2))]


@settings(deadline=None, max_examples=20)
@given(
    st.lists(st.tuples(st.integers(500, 990), st.integers(500, 990)), min_size=2, max_size=6).filter(
        lambda pairs: all(
            len(set(column)) > 1 for column in (*zip(*pairs, strict=True), [a - b for a, b in pairs])
        )
    )
)
def test_intervals_are_those_of_the_paired_t_test(cut, pairs):
    """And by Welch's where the seeds are not the same."""
    first = Arm("a", tuple(seeded(cut, seed, accuracy=a / 10) for seed, (a, _) in enumerate(pairs)))
    second = Arm("b", tuple(seeded(cut, seed, accuracy=b / 10) for seed, (_, b) in enumerate(pairs)))
    others = Arm("c", tuple(seeded(cut, 10 + seed, accuracy=b / 10) for seed, (_, b) in enumerate(pairs)))
    values = [a / 10 for a, _ in pairs], [b / 10 for _, b in pairs]

    found = difference(first, second, lambda one: one.test.accuracy)
    apart = difference(first, others, lambda one: one.test.accuracy)

    expected = stats.ttest_rel(*values).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    welch = stats.ttest_ind(*values, equal_var=False).confidence_interval(0.95)
    assert (apart.low, apart.high) == pytest.approx((welch.low, welch.high), rel=1e-6)


def test_a_ratio_of_times_is_that_of_every_pair(cut):
    """Where every pair has the same, it is that, and leaves no doubt; with one seed there is no interval."""
    first = Arm("a", tuple(seeded(cut, seed, accuracy=90, slower=2.0 * (seed + 1)) for seed in range(3)))
    second = Arm("b", tuple(seeded(cut, seed, accuracy=90, slower=4.0 * (seed + 1)) for seed in range(3)))
    alone = Arm("c", second.trainings[:1]), Arm("d", first.trainings[:1])

    found = ratio(first, second, lambda one: one.seconds)

    assert (found.mean, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))
    assert found.found
    single = ratio(*alone, lambda one: one.seconds)
    assert single.mean == pytest.approx(2.0)
    assert math.isnan(single.low)
    assert not single.found


def test_the_page_shows_arms_beside_the_first(cut, dense):
    """Their figures, what they differ in, their curves, and the widths of the one that was cut."""
    runs = [seeded(one, seed, accuracy=90.0 + seed + (one is cut) * (1 + seed / 10)) for seed in (0, 1) for one in (dense, cut)]  # fmt: skip

    page = render_trainings(runs)

    assert "cut: +1.05 points [" in page
    assert f"{cut.saved:.0%} of its multiply-adds" in page
    assert "prunetrain.penalty_ratio" in page
    assert page.count('class="band ') >= 5
    assert page.count("<rect") == sum(len(row.cells) for row in rows_of(cut))
    assert "http" not in page.split("<style>")[0].replace("http-equiv", "")


def test_the_picture_of_the_widths_covers_every_epoch_once(cut):
    """Stretch follows stretch; the shares are those of the widths."""
    for row in rows_of(cut):
        starts = [cell[0] for cell in row.cells]
        assert starts == pytest.approx([0.0, *(start + length for start, length, _, _ in row.cells[:-1])])
        assert sum(cell[1] for cell in row.cells) == pytest.approx(100.0)
        assert row.cells[-1][2] == pytest.approx(row.after / row.before, abs=1e-4)


def test_names_are_shown_as_text(cut):
    """Whatever a folder is called."""
    page = render_trainings([cut.model_copy(update={"name": "<script>x</script>"})])

    assert "<script>" not in page


def test_what_cannot_be_compared_is_refused(cut, dense, tmp_path):
    """Other data, the same training twice, a page that is somebody else's, a file that is no training."""
    with pytest.raises(SettingsError, match="different data"):
        render_trainings([cut, dense.model_copy(update={"data": "mnist"})])
    with pytest.raises(SettingsError, match="seed 0"):
        render_trainings([cut, cut])
    mine = tmp_path / "mine.html"
    mine.write_text("mine")
    with pytest.raises(StoreError, match=r"mine\.html"):
        compare_trainings([cut, dense], mine)
    assert mine.read_text() == "mine"
    with pytest.raises(StoreError, match="a training that has ended"):
        read_training(tmp_path)
    (tmp_path / "training.json").write_text('{"format": "secateur.report"}')
    with pytest.raises(FileFormatError, match="not a training"):
        read_training(tmp_path)
