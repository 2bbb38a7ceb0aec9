"""Several candidates at once: what is kept of them, and that it does not matter who tries them."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.killing import kill_second, one_thread, two_workers
from torch import nn

from secateur.data import Splits
from secateur.methods import ReduceSettings, Search, reduce
from secateur.scale import Here
from secateur.train import TrainSettings

QUICK = TrainSettings(epochs=1, lr=0.02, batch_size=64, ema=0.9, keep="last", clip=1.0)
SETTINGS = ReduceSettings(max_drop=20.0, retrain=QUICK, max_iterations=6, rounds=1, candidates=2)


def outcome(result) -> tuple:
    return result.history, {name: tensor.tolist() for name, tensor in result.model.state_dict().items()}


def test_of_several_within_the_bound_the_one_that_saves_most_is_kept(digits: Splits, net: nn.Module) -> None:
    """One of them is accepted; those that were within the bound, too, keep their size, and say what beat them."""
    search = Search(net, digits, SETTINGS.but(max_drop=99.0, confidence=0.0))
    first, second = sorted(search.step(), key=lambda step: step.parameters + step.macs)

    assert first.group != second.group
    assert (first.accepted, second.accepted) == (True, False)
    assert second.reason.endswith(f"but the cut of {first.group} saves more")
    assert search.state.shares == {}
    assert (search.state.iteration, search.state.accepted) == (2, 1)


def test_those_beyond_the_bound_are_halved(digits: Splits, net: nn.Module) -> None:
    """Each for itself."""
    search = Search(
        net, digits, SETTINGS.but(max_drop=0.0, confidence=0.0, first_share=0.8, accept_early=False)
    )
    steps = search.step()
    assert not any(step.accepted for step in steps)
    assert search.state.shares == {step.group: 0.4 for step in steps}


def test_no_more_are_tried_than_allowed(digits: Splits, net: nn.Module) -> None:
    """The last round of trials is as small as what is left."""
    result = reduce(net, digits, settings=SETTINGS.but(max_iterations=3))
    assert [step.iteration for step in result.history] == [1, 2, 3]


def test_one_at_a_time_is_what_it_was(digits: Splits, net: nn.Module) -> None:
    """With one candidate at once every step says so by itself."""
    search = Search(net, digits, SETTINGS.but(candidates=1))
    assert len(search.step()) == 1


def test_a_run_of_several_at_once_goes_on_where_it_stopped(
    digits: Splits, net: nn.Module, tmp_path: Path
) -> None:
    """What is tried at once stands in one line of the journal: a run that is stopped between two of them ends the same."""
    whole = reduce(net, digits, settings=SETTINGS, out=tmp_path / "whole")
    stopped = tmp_path / "stopped"

    class StoppedError(Exception):
        pass

    class Stopping:
        def __getattr__(self, name: str):
            return lambda *_: None

        def step(self, step) -> None:
            if step.iteration == 4:
                raise StoppedError

    with pytest.raises(StoppedError):
        reduce(net, digits, settings=SETTINGS, out=stopped, listener=Stopping())
    resumed = reduce(net, digits, out=stopped, resume=True)
    assert outcome(resumed) == outcome(whole)


class Doubtful(Here):
    """Carries out tasks in this process, from a copy of what is shared, last one first."""

    def each(self, function, tasks):
        return super().each(function, tasks[::-1])


def test_the_order_in_which_they_are_done_does_not_matter(digits: Splits, net: nn.Module) -> None:
    """The result is that of this process."""
    assert outcome(reduce(net, digits, settings=SETTINGS, workers=Doubtful())) == outcome(
        reduce(net, digits, settings=SETTINGS)
    )


@pytest.fixture(scope="module")
def two():
    with two_workers() as workers:
        yield workers


def test_a_reduction_on_two_workers_of_which_one_is_killed_has_the_same_result(
    two, digits: Splits, net: nn.Module, tmp_path: Path, monkeypatch
) -> None:
    """Bit by bit that of one process."""
    with one_thread():
        alone = reduce(net, digits, settings=SETTINGS)
    killed = tmp_path / "killed"
    kill_second(two, killed, monkeypatch)
    shared = reduce(net, digits, settings=SETTINGS, workers=two)

    assert killed.exists()
    assert outcome(shared) == outcome(alone)
