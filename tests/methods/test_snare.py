"""The search: its order, its sizes, its bound."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from secateur.channels import watch
from secateur.cost import CostModel
from secateur.data import Split, Splits
from secateur.errors import NothingToCutError, SettingsError
from secateur.evaluate import evaluate
from secateur.methods import ReduceSettings, Search, SearchState
from secateur.methods.potential import potentials
from secateur.train import TrainSettings

QUICK = TrainSettings(epochs=1, lr=0.02, batch_size=64, ema=0.9, keep="last", clip=1.0)


def run(search: Search) -> list:
    steps = []
    while made := search.step():
        steps += made
    return steps


def test_the_potential_is_the_formula() -> None:
    """The score is n/N + beta p/P + gamma f/F, by hand on a dense network."""
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    channels = watch(model, torch.zeros(1, 6))

    found = potentials(channels, channels.groups, beta=2.0, gamma=3.0)

    parameters, macs = 28 + 40 + 18, 24 + 32 + 16
    first = 4 / 12 + 2.0 * 4 * (7 + 8) / parameters + 3.0 * 4 * (6 + 8) / macs
    second = 8 / 12 + 2.0 * 8 * (5 + 2) / parameters + 3.0 * 8 * (4 + 2) / macs
    assert math.isclose(found["0"].score, first)
    assert math.isclose(found["2"].score, second)


def test_an_impossible_bound_halves_every_layer_until_it_closes(digits: Splits, net: nn.Module) -> None:
    """As printed: 64, 32, 16, 8 %, then closed; nothing is accepted and the network is what it was."""
    worse = TrainSettings(epochs=1, lr=1e-6, momentum=0.0, batch_size=400)
    settings = ReduceSettings.as_printed(0.0, retrain=worse, criterion="l1", layers=("conv3",))
    broken = Search(net, digits, settings)
    broken.state.best = 200.0  # no network reaches it

    shares = [round(step.share, 2) for step in run(broken)]

    assert shares == [0.64, 0.32, 0.16, 0.08]
    assert broken.state.closed == ["conv3"]
    assert broken.model is net


@pytest.mark.parametrize("learned", [False, True])
def test_the_same_number_of_units_is_not_cut_again_after_a_rejection(digits: Splits, learned: bool) -> None:
    """Of 4 units, 32, 16 and 8 % are one unit each: with sizes learned it is tried once, as printed three times."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.ReLU(), nn.Linear(4, 10))
    worse = TrainSettings(epochs=1, lr=1e-6, momentum=0.0, batch_size=400)
    settings = ReduceSettings.as_printed(0.0, retrain=worse, criterion="l1", learn_shares=learned)
    search = Search(model, digits, settings)
    search.state.best = 200.0  # no network reaches it

    tried = [step.width_after for step in run(search)]

    assert tried == ([2, 3] if learned else [2, 3, 3, 3])


def test_the_layer_with_the_greatest_potential_times_size_is_taken(digits: Splits, net: nn.Module) -> None:
    """argmax, as the potential means it, not argmin as the source's pseudocode prints."""
    search = Search(
        net, digits, ReduceSettings.as_printed(50.0, retrain=QUICK, criterion="l1", max_iterations=1)
    )
    ranked = potentials(search.channels, search.channels.groups, beta=1.0, gamma=1.0)
    greatest = max(ranked.values(), key=lambda entry: entry.score).group.name

    (step,) = search.step()

    assert step.group == greatest


def test_a_wide_bound_reduces_and_the_step_says_what_the_network_has(digits: Splits, net: nn.Module) -> None:
    """Accepted steps shrink the network, and the last one's figures are the network's."""
    search = Search(net, digits, ReduceSettings(max_drop=20.0, retrain=QUICK, max_iterations=6, rounds=1))

    steps = run(search)

    accepted = [step for step in steps if step.accepted]
    assert accepted
    assert sum(p.numel() for p in search.model.parameters()) == accepted[-1].parameters < 40_618
    found = evaluate(search.model, digits.validation)
    assert math.isclose(found.accuracy, accepted[-1].accuracy)
    assert type(search.model) is type(net)


def test_every_accepted_step_is_within_the_bound(digits: Splits, net: nn.Module) -> None:
    """With a confidence the upper limit of the drop is within the bound, without it the measured drop is."""
    for confidence in (0.95, 0.0):
        settings = ReduceSettings(
            max_drop=6.0, confidence=confidence, retrain=QUICK, max_iterations=5, rounds=1
        )
        for step in run(Search(net, digits, settings)):
            held = step.upper if confidence else step.drop
            assert step.accepted == (held <= 6.0 + 1e-9)


def test_the_training_never_sees_the_validation_or_test_split(digits: Splits, net: nn.Module) -> None:
    """A validation split that says the opposite changes decisions, not what a candidate learns from."""
    upside_down = Split(digits.validation.inputs, (digits.validation.targets + 1) % 10)
    absurd = Splits(
        digits.name, digits.train, digits.validation, upside_down, digits.classes, dict(digits.notes)
    )
    settings = ReduceSettings(max_drop=20.0, retrain=QUICK, max_iterations=2, rounds=1)

    one, two = Search(net, digits, settings), Search(net, absurd, settings)
    run(one)
    run(two)

    for a, b in zip(one.model.parameters(), two.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_layers_and_kinds_choose(digits: Splits, net: nn.Module) -> None:
    """Only what was chosen is cut; a choice that matches nothing is refused with the names there are."""
    settings = ReduceSettings(max_drop=30.0, retrain=QUICK, max_iterations=3, rounds=1, kinds=("Linear",))
    assert {step.group for step in run(Search(net, digits, settings))} == {"dense1"}

    with pytest.raises(NothingToCutError, match=r"no group matches.*conv1 \(Conv2d\)"):
        Search(net, digits, ReduceSettings(max_drop=1.0, layers=("nothing*",)))


def test_the_state_survives_json(digits: Splits, net: nn.Module) -> None:
    """What is written down is what goes on, infinities included."""
    state = SearchState(iteration=3, shares={"a": 0.16}, closed=["b"], best=97.5, accepted_shock=0.2)

    assert SearchState.from_dict(state.as_dict()) == state


def test_costs_in_the_history_are_those_of_the_candidates(digits: Splits, net: nn.Module) -> None:
    """The forecast of an accepted step equals the cost of the network that came of it."""
    search = Search(net, digits, ReduceSettings(max_drop=30.0, retrain=QUICK, max_iterations=1, rounds=1))
    (step,) = search.step()

    assert step.accepted
    total = CostModel(watch(search.model, digits.train.inputs[:1])).total()
    assert (total.parameters, total.macs) == (step.parameters, step.macs)


def test_what_is_hopeless_is_counted_as_the_bound_is(digits: Splits, net: nn.Module) -> None:
    """Where drops count from the best accuracy so far, a candidate that is within the bound of the first is given up, too."""
    steady = TrainSettings(epochs=4, lr=1e-6, momentum=0.0, batch_size=400)
    settings = ReduceSettings.as_printed(
        90.0, retrain=steady, criterion="l1", layers=("dense1",), max_iterations=1, give_up_early=True
    )
    from_first, from_best = Search(net, digits, settings), Search(net, digits, settings)
    from_best.state.best = 1000.0  # no network comes near

    (kept,), (given_up,) = from_first.step(), from_best.step()

    assert (kept.accepted, kept.epochs) == (True, 4)
    assert (given_up.accepted, given_up.epochs) == (False, 2)
    beyond = float(given_up.reason.split()[0])
    assert beyond == pytest.approx(1000.0 - given_up.accuracy, abs=0.01)


def test_widths_keep_to_a_minimum_and_to_multiples(digits: Splits, net: nn.Module) -> None:
    """Each cut stops at the next allowed width, and a layer that may become no narrower is left alone."""
    settings = ReduceSettings(
        max_drop=90.0, retrain=QUICK, rounds=1, criterion="l1", round_to={"conv*": 8}, minimum={"dense1": 20}
    )

    search = Search(net, digits, settings)
    steps = run(search)

    widths = {group.name: group.width for group in search.channels.groups}
    assert {step.width_after % 8 for step in steps if step.group.startswith("conv")} == {0}
    assert widths["dense1"] == 20
    assert all(widths[name] == 8 for name in ("conv1", "conv2", "conv3"))


def test_layers_that_may_become_no_narrower_are_refused(digits: Splits, net: nn.Module) -> None:
    """Before anything runs, with the widths and the limits; so is a limit of a layer that there is not."""
    with pytest.raises(NothingToCutError, match=r"conv1 16.*round_to=64"):
        Search(net, digits, ReduceSettings(max_drop=5.0, criterion="l1", round_to=64))
    with pytest.raises(SettingsError, match="speaks of 'convolution'"):
        Search(net, digits, ReduceSettings(max_drop=5.0, criterion="l1", minimum={"convolution": 4}))
