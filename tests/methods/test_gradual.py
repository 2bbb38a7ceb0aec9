"""Gradual pruning: exact shares, masks that only grow, runs that go on to the bit."""

from __future__ import annotations

import copy
import importlib
import itertools
from pathlib import Path

import pytest
import torch
from torch import nn

import secateur
from secateur import data
from secateur.data import Split, Splits
from secateur.errors import NothingToCutError, RunError, SettingsError
from secateur.methods import CutRecord, GradualResult, GradualSettings, gradual
from secateur.networks import build
from secateur.store import load_masks
from secateur.testing import check_left_as_found
from secateur.train import TrainSettings

FAST = TrainSettings(optimizer="rmsprop", lr=1e-3, lr_end=1e-4, schedule="linear", batch_size=50)


@pytest.fixture(scope="module")
def digits() -> Splits:
    return data.load("digits", limit=200)


class StoppedError(Exception):
    """The run is interrupted."""


def settings(**options: object) -> GradualSettings:
    return GradualSettings(**{"sparsity": 0.9, "every": 1, "steps": 3, "training": FAST, **options})


def same(first: nn.Module, second: nn.Module) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return list(a) == list(b) and all(map(torch.equal, a.values(), b.values()))


@pytest.mark.parametrize(
    ("scope", "schedule"),
    [("layer", "cubic"), ("global", "cubic"), ("layer", "linear"), ("global", "one-shot")],
)
def test_the_share_is_met_to_one_weight(digits: Splits, net: nn.Module, scope: str, schedule: str) -> None:
    """Of every layer, or of all together, exactly floor(s n) weights are zero; the network given is as it was."""
    before = copy.deepcopy(net)

    found = gradual(net, digits, settings(sparsity=0.87, scope=scope, schedule=schedule))

    masks = found.masks
    assert masks is not None
    if scope == "layer":
        for kept in masks.kept.values():
            assert int((~kept).sum()) == int(0.87 * kept.numel())
    assert masks.total - masks.left == (
        int(0.87 * masks.total)
        if scope == "global"
        else sum(int(0.87 * kept.numel()) for kept in masks.kept.values())
    )
    for name, kept in masks.kept.items():
        weight = found.model.get_parameter(name)
        assert torch.equal(weight != 0, kept)
    assert sum(one.left for one in found.layers) == masks.left
    assert same(net, before)


def test_masks_only_grow_by_the_schedule(digits: Splits, net: nn.Module) -> None:
    """At each cut the share of the schedule is gone, to one weight of each layer, and what was gone stays gone."""
    seen: list[CutRecord] = []
    asked = settings(begin=1)

    found = gradual(net, digits, asked, on_cut=seen.append)

    assert [(one.epoch, one.share) for one in seen] == list(asked.course.cuts())
    assert tuple(seen) == found.cuts
    sizes = [kept.numel() for kept in found.masks.kept.values()]
    for one in seen:
        assert one.total - one.left == sum(int(one.share * size + 1e-9) for size in sizes)
    assert [one.epoch for one in found.history] == [1, 2, 3, 4, 5]


def test_what_was_cut_stays_cut(digits: Splits, net: nn.Module, tmp_path: Path) -> None:
    """The masks of each cut, as the run folder keeps them, lie within those of the cut before."""
    gradual(net, digits, settings(), out=tmp_path / "run")

    from secateur.store import RunFolder

    with RunFolder.open(tmp_path / "run", read_only=True) as folder:
        names = [entry["snapshot"] for entry in folder.entries() if "cut" in entry]
        kept = [{k: v for k, v in folder.get(name)[0].items() if k.startswith("mask/")} for name in names]
    assert len(kept) == 3
    for earlier, later in itertools.pairwise(kept):
        assert all(not bool((later[name] & ~earlier[name]).any()) for name in later)


def test_excluded_layers_are_not_touched_and_depthwise_ones_are_pruned(digits: Splits) -> None:
    """An expression fits whole names; every other layer loses its share, depthwise convolutions too."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ReLU(),
        nn.Flatten(), nn.Linear(512, 16), nn.ReLU(), nn.Linear(16, 10),
    )  # fmt: skip

    found = gradual(net, digits, settings(sparsity=0.5, exclude=("7",), training=FAST.but(lr=1e-3)))

    assert {one.name: one.total - one.left for one in found.layers} == {"0": 36, "2": 36, "5": 4096}
    assert bool((found.model[7].weight != 0).all())


def test_an_expression_that_fits_nothing_is_refused_with_the_nearest_names(
    digits: Splits, net: nn.Module
) -> None:
    """It is a slip, and would prune what was to be spared."""
    with pytest.raises(SettingsError, match=r"'conv9', which fits no layer; near are: conv\d"):
        gradual(net, digits, settings(exclude=("conv9",)))
    with pytest.raises(SettingsError, match="no regular expression"):
        gradual(net, digits, settings(exclude=("(",)))
    with pytest.raises(NothingToCutError, match="exclude fewer"):
        gradual(net, digits, settings(exclude=(".*",)))
    with pytest.raises(NothingToCutError, match="exclude fewer"):
        gradual(net, digits, settings(exclude=(".*",), granularity="units"))


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_units_are_cut_to_the_exact_share(digits: Splits, net: nn.Module, scope: str) -> None:
    """Of every group, or of all together, exactly floor(s n) units are gone for real, and the network computes."""
    found = gradual(net, digits, settings(sparsity=0.6, granularity="units", scope=scope, steps=2))

    channels = secateur.watch(net, digits.train.inputs[:1])
    assert found.masks is None
    left = {one.name: one.left for one in found.layers}
    if scope == "layer":
        assert left == {group.name: group.width - int(0.6 * group.width) for group in channels.groups}
    total = sum(group.width for group in channels.groups)
    assert sum(left.values()) == total - (
        int(0.6 * total) if scope == "global" else sum(int(0.6 * g.width) for g in channels.groups)
    )
    assert found.cost_after.parameters < found.cost_before.parameters
    assert found.cost_after.parameters == sum(p.numel() for p in found.model.parameters())


def test_units_spared_and_rounded(digits: Splits, net: nn.Module) -> None:
    """A group whose writer is excluded keeps its width; widths that stay are rounded up to the multiple."""
    asked = settings(sparsity=0.6, granularity="units", steps=2, exclude=("conv1",), round_to=8)

    found = gradual(net, digits, asked)

    assert found.model.conv1.out_channels == net.conv1.out_channels
    assert all(one.left % 8 == 0 or one.left == one.total for one in found.layers)
    assert any(one.left < one.total for one in found.layers)


@pytest.mark.parametrize(
    ("granularity", "after", "changes"),
    [
        ("weights", 1, {}),
        ("weights", 4, {}),
        ("units", 2, {}),
        ("weights", 3, {"channels_last": True, "optimizer": "adam"}),
        ("units", 3, {"channels_last": True, "optimizer": "adam"}),
    ],
)
def test_a_resumed_run_equals_an_unbroken_one(
    digits: Splits, net: nn.Module, tmp_path: Path, *, granularity: str, after: int, changes: dict
) -> None:
    """Stopped after any epoch and gone on with, a run ends in the same file, bit for bit."""
    asked = settings(
        sparsity=0.7,
        granularity=granularity,
        begin=1,
        steps=2,
        epochs=5,
        distil=True,
        training=FAST.but(ema=0.9, **changes),
    )
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    expected = gradual(net, digits, asked, out=whole)

    def stop(record: object) -> None:
        if record.epoch == after + 1:
            raise StoppedError

    with pytest.raises(StoppedError):
        gradual(net, digits, asked, out=broken, on_epoch=stop)
    found = gradual(build("digits-net", seed=9), digits, out=broken, resume=True)

    assert same(found.model, expected.model)
    assert found.history == expected.history
    assert found.cuts == expected.cuts
    assert (broken / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    if granularity == "weights":
        assert load_masks(broken / "masks.safetensors").digest == found.masks.digest
    again = gradual(net, digits, out=broken, resume=True)
    assert same(again.model, expected.model)


@pytest.mark.parametrize("after", [0, 3])
def test_a_run_that_gathers_relevance_goes_on_to_the_bit(
    digits: Splits, net: nn.Module, tmp_path: Path, after: int
) -> None:
    """Stopped after any epoch, between two cuts, a run still knows what it had gathered, and ends in the same file."""
    asked = settings(
        sparsity=0.5, granularity="units", criterion="relevance", subsets=0.75, begin=1, every=2, steps=1
    )
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    expected = gradual(net, digits, asked, out=whole)

    def stop(record: object) -> None:
        if record.epoch == after + 1:
            raise StoppedError

    with pytest.raises(StoppedError):
        gradual(net, digits, asked, out=broken, on_epoch=stop)
    found = gradual(build("digits-net", seed=9), digits, out=broken, resume=True)

    assert same(found.model, expected.model)
    assert found.history == expected.history
    assert (broken / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert all(one.left == one.total - one.total // 2 for one in found.layers)


def test_relevance_of_the_steps_decides_what_is_cut(
    digits: Splits, net: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each cut goes by the steps since the one before, and the epochs after the last cut are those of the whole network."""
    module = importlib.import_module(
        "secateur.methods.gradual"
    )  # the package gives the function of that name
    drawn: list[int] = []
    trained: list[int] = []

    def fit_subsets(*arguments: object, **options: object) -> object:
        found = kept(*arguments, **options)
        drawn.append(arguments[4].draws)
        return found

    def fit(*arguments: object, **options: object) -> object:
        trained.append(arguments[3].epochs)
        return plain(*arguments, **options)

    kept, plain = module.fit_subsets, module.fit
    monkeypatch.setattr(module, "fit_subsets", fit_subsets)
    monkeypatch.setattr(module, "fit", fit)
    asked = settings(granularity="units", criterion="relevance", subsets=0.8, sparsity=0.5, begin=1, steps=2)

    found = gradual(net, digits, asked)

    steps = len(digits.train) // 50
    assert drawn == [2 * steps, steps]
    assert trained == [1]
    assert [one.epoch for one in found.cuts] == [2, 3]


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize(("criterion", "quantile"), [("l1", 0.3), ("distance", 0.3), ("l1", 0.9)])
def test_only_units_below_the_threshold_go(
    digits: Splits, net: nn.Module, scope: str, criterion: str, quantile: float
) -> None:
    """As many as score below it, of each layer or of all, and no more than the share; what stays by the threshold is noted."""
    channels = secateur.watch(net, digits.train.inputs[:1])
    values = secateur.score(net, channels, criterion).values
    below = float(torch.cat(list(values.values())).quantile(quantile))
    asked = settings(
        granularity="units", criterion=criterion, below=below, sparsity=0.5, scope=scope,
        schedule="one-shot", epochs=1,
    )  # fmt: skip

    found = gradual(net, digits, asked)

    low = {name: min(int((each < below).sum()), len(each) - 1) for name, each in values.items()}
    gone = {one.name: one.total - one.left for one in found.layers}
    total = sum(len(each) for each in values.values())
    if scope == "layer":
        assert gone == {name: min(low[name], len(each) // 2) for name, each in values.items()}
        met = all(gone[name] == len(each) // 2 for name, each in values.items())
    else:
        assert sum(gone.values()) == min(sum(low.values()), total // 2)
        assert all(gone[name] <= low[name] for name in gone)
        met = sum(gone.values()) == total // 2
    assert met == (not any("scored below" in note for note in found.notes))


def test_where_nothing_scores_below_nothing_goes(digits: Splits, net: nn.Module) -> None:
    """The network keeps its shape, and the result says why."""
    asked = settings(granularity="units", criterion="l1", below=-1.0, sparsity=0.5, steps=1, epochs=2)

    found = gradual(net, digits, asked)

    assert found.cost_after == found.cost_before
    assert any("0 of " in note and "scored below -1" in note for note in found.notes)


def test_a_run_stopped_at_a_cut_goes_on(digits: Splits, net: nn.Module, tmp_path: Path) -> None:
    """Stopped between a cut and the first epoch after it, a run ends as an unbroken one."""
    expected = gradual(net, digits, settings(), out=tmp_path / "whole")

    def stop(record: CutRecord) -> None:
        if record.epoch == 2:
            raise StoppedError

    with pytest.raises(StoppedError):
        gradual(net, digits, settings(), out=tmp_path / "broken", on_cut=stop)
    found = gradual(net, digits, out=tmp_path / "broken", resume=True)

    assert same(found.model, expected.model)
    assert found.cuts == expected.cuts


def test_the_file_gives_the_network_back(digits: Splits, net: nn.Module, tmp_path: Path) -> None:
    """What is saved loads, with its zeros and figures."""
    found = gradual(net, digits, settings(), out=tmp_path / "run")

    again = secateur.load(tmp_path / "run" / "model.safetensors")
    described = secateur.store.read_description(tmp_path / "run" / "model.safetensors")

    assert same(again, found.model)
    assert described.evaluation["sparsity"] == pytest.approx(found.sparsity)
    assert described.history[-1]["event"] == "prune"


def test_a_run_is_not_gone_on_with_otherwise(digits: Splits, net: nn.Module, tmp_path: Path) -> None:
    """Other settings or data than those that a run was started with are refused."""
    gradual(net, digits, settings(epochs=4), out=tmp_path / "run")

    with pytest.raises(RunError, match="other settings"):
        gradual(net, digits, settings(epochs=5), out=tmp_path / "run", resume=True)
    fewer = Splits("digits", digits.train.take(100), digits.validation, digits.test, classes=digits.classes)
    with pytest.raises(RunError, match="other data"):
        gradual(net, fewer, out=tmp_path / "run", resume=True)
    with pytest.raises(SettingsError, match="needs out="):
        gradual(net, digits, resume=True)
    with pytest.raises(SettingsError, match="settings are missing"):
        gradual(net, digits)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sparsity": 1.0}, "less than 1"),
        ({"epochs": 2}, "the last cut is after 3 epochs"),
        ({"training": FAST.but(schedule="cosine")}, "cosine"),
        ({"round_to": 8}, "for units by layer"),
        ({"minimum": 2}, "for units"),
        ({"initial": 0.95}, "must grow"),
        ({"stepz": 2}, "did you mean 'steps'"),
        ({"below": 1.0}, "below is for units"),
        ({"below": 1.0, "granularity": "units", "normalise": "l2"}, "leave out normalise"),
        ({"subsets": 0.9, "granularity": "units"}, "criterion='relevance'"),
        ({"subsets": 1.0, "granularity": "units", "criterion": "relevance"}, "less than 1"),
    ],
)
def test_what_cannot_be_is_refused(options: dict, said: str) -> None:
    """Options that contradict each other are refused when they are set."""
    with pytest.raises(SettingsError, match=said):
        settings(**options)


@pytest.mark.parametrize(
    ("sparsity", "every", "steps"), [(0.3, 1, 2), (0.6, 2, 3), (0.5, 2, 3), (0.9, 6, 4), (0.8, 6, 4)]
)
def test_what_is_left_open_is_as_printed(sparsity: float, every: int, steps: int) -> None:
    """Without a word, cuts are as many and as far apart as the source prints for that share."""
    course = GradualSettings(sparsity=sparsity).course

    assert (course.every, course.steps) == (every, steps)
    assert GradualSettings(sparsity=sparsity).length == every * (steps + 1)


@pytest.mark.parametrize("epochs", range(1, 12))
def test_cuts_fit_into_any_number_of_epochs(epochs: int) -> None:
    """With a number of epochs alone, the cuts fit into it, and from two epochs on the network is trained after the last."""
    asked = GradualSettings(sparsity=0.9, epochs=epochs)

    assert asked.length == epochs
    assert asked.course.end < epochs or epochs == 1


@pytest.mark.parametrize("every", range(1, 12))
def test_cuts_fit_however_far_apart(every: int) -> None:
    """With epochs and every, the cuts are as many as fit, the printed number at most, and training follows the last."""
    asked = GradualSettings(sparsity=0.9, epochs=12, every=every)

    assert (asked.length, asked.course.every) == (12, every)
    assert asked.course.end < 12
    assert asked.course.steps == max(n for n in range(1, 5) if n * every < 12)


@pytest.mark.parametrize("steps", range(1, 12))
def test_cuts_fit_however_many(steps: int) -> None:
    """With epochs and steps, the cuts are so many, as far apart as lets training follow the last."""
    course = GradualSettings(sparsity=0.9, epochs=12, steps=steps, begin=0).course

    assert course.steps == steps
    assert course.every * (steps + 1) <= 12 < (course.every + 1) * (steps + 1)


@pytest.mark.parametrize(
    "options",
    [{"minimum": 9}, {"round_to": 8}, {"minimum": {"conv1": 7}}, {"scope": "global", "minimum": 10}],
)
def test_a_share_that_limits_keep_from_being_met_is_noted(
    digits: Splits, net: nn.Module, options: dict
) -> None:
    """Where fewer units go than were to, the result says how many were asked for and how many went; else it says nothing."""
    asked = settings(sparsity=0.8, granularity="units", steps=2, epochs=3, **options)

    found = gradual(net, digits, asked)

    total = sum(one.total for one in found.layers)
    gone = total - sum(one.left for one in found.layers)
    wanted = int(0.8 * total) if "scope" in options else sum(int(0.8 * one.total) for one in found.layers)
    assert gone < wanted
    (note,) = found.notes
    assert f"{gone} of {total} units are gone" in note
    assert f"{wanted} were to go (sparsity 0.8)" in note
    assert not gradual(net, digits, asked.model_copy(update={"minimum": 1, "round_to": 1})).notes


def test_the_rate_falls_over_the_whole_run(digits: Splits, net: nn.Module) -> None:
    """The rate goes from lr to lr_end in one line, whatever is cut between."""
    found = gradual(net, digits, settings(epochs=4, steps=3, every=1))

    steps = 4 * (len(digits.train) // 50)
    last = FAST.lr + (FAST.lr_end - FAST.lr) * (steps - 1) / steps
    assert found.history[-1].lr == pytest.approx(last)
    rates = [record.lr for record in found.history]
    gaps = [earlier - later for earlier, later in itertools.pairwise(rates)]
    assert gaps == pytest.approx([gaps[0]] * 3)


def test_no_training_after_the_last_cut_is_noted(digits: Splits, net: nn.Module) -> None:
    """As printed: the schedule's epochs and no more, which the result says."""
    found = gradual(net, digits, settings(epochs=3))

    assert found.cuts[-1].epoch == len(found.history) == 3
    assert "not trained after the last cut" in found.notes[0]
    assert found.sparsity == pytest.approx(0.9, abs=1e-3)


def test_the_network_and_random_state_are_left_as_found(digits: Splits, net: nn.Module) -> None:
    """Pruning works on a copy."""
    for granularity in ("weights", "units"):
        check_left_as_found(net, lambda g=granularity: gradual(net, digits, settings(steps=1, granularity=g)))


def test_a_result_says_what_it_reaches(digits: Splits, net: nn.Module) -> None:
    """The evaluations are those of the network as given and of the pruned one, on the validation split."""
    found: GradualResult = gradual(net, digits, settings(sparsity=0.3))

    from secateur.evaluate import evaluate

    assert found.before.accuracy == evaluate(net, digits.validation).accuracy
    assert found.after.accuracy == evaluate(found.model, digits.validation).accuracy
    assert found.cost_after.parameters == found.cost_before.parameters
    assert isinstance(digits.validation, Split)
