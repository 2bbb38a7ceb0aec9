"""Recurrent layers and weights that are computed from others: what is cut together, how fast, and that training goes on."""

import time
import warnings

import pytest
import torch
from tests.strategies import random_plan
from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import secateur
from secateur.testing import Wired, check_cut, randomise


def widths(channels):
    return {group.name: group.width for group in channels.groups}


def lstm(**options):
    return Wired(
        lambda m, x: m.head(m.rnn(x)[0].mean(1)),
        rnn=nn.LSTM(6, 8, num_layers=2, bidirectional=True, batch_first=True, **options),
        head=nn.Linear(2 * options.get("proj_size", 8), 5),
    )


def test_unit_owns_its_place_in_every_gate_layer_and_direction():
    """A hidden unit is four rows of each weight and bias of an LSTM, a column of what reads its state, two of what follows."""
    group = secateur.watch(lstm(), torch.zeros(2, 4, 6)).group("rnn")

    owned = {(m.tensor, m.axis): (m.role, m.indices[3].tolist()) for m in group.members}

    assert len(owned) == 2 * 2 * 5 + 2 + 1
    assert owned["rnn.weight_ih_l0", 0] == ("write", [3, 11, 19, 27])
    assert owned["rnn.weight_hh_l1_reverse", 0] == ("write", [3, 11, 19, 27])
    assert owned["rnn.bias_hh_l0", 0] == ("carry", [3, 11, 19, 27])
    assert owned["rnn.weight_hh_l0_reverse", 1] == ("read", [3])
    assert owned["rnn.weight_ih_l1", 1] == ("read", [3, 11])
    assert owned["head.weight", 1] == ("read", [3, 11])


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN, nn.LSTMCell])
def test_training_goes_on_after_the_cut(kind: type[nn.Module], inplace: bool):
    """Sizes and the list of weights that a recurrent layer keeps are those of the cut one, and three steps move each weight."""
    cell = issubclass(kind, nn.RNNCellBase)
    model = Wired(
        (lambda m, x: m.head(m.rnn(x[:, 1], m.rnn(x[:, 0]))[0]))
        if cell
        else (lambda m, x: m.head(m.rnn(x)[0][:, -1])),
        rnn=kind(6, 8, **({} if cell else {"batch_first": True})),
        head=nn.Linear(8, 3),
    )
    x = torch.randn(4, 5, 6)
    channels = secateur.watch(model, x)
    optimizer = torch.optim.Adam(model.parameters())
    small = secateur.apply(
        model, random_plan(channels, ratio=0.5, seed=0), optimizer=optimizer, inplace=inplace
    )
    left = small.head.in_features
    before = {name: parameter.detach().clone() for name, parameter in small.named_parameters()}

    assert left < 8
    assert (small.rnn.input_size, small.rnn.hidden_size) == (6, left)
    if not cell:
        assert [id(w) for w in small.rnn._flat_weights] == [id(w) for w in small.rnn.parameters()]
    for _ in range(3):
        optimizer.zero_grad()
        small.train()(x).square().mean().backward()
        optimizer.step()
    for name, parameter in small.named_parameters():
        assert not torch.equal(parameter, before[name]), name


def test_projections_can_be_cut_and_the_cells_behind_them_stay():
    """What an LSTM's cells are projected to can go; the cells stay, for PyTorch tells the two by their widths."""
    model, x = randomise(lstm(proj_size=4)), torch.randn(2, 5, 6)
    channels = secateur.watch(model, x)

    assert widths(channels) == {"rnn": 4}
    assert "is the width of the cells behind a projection" in str(
        [f.reason for f in channels.fixed if f.tensor == "rnn.weight_hr_l0"]
    )
    plan = random_plan(channels, ratio=0.5, seed=0)
    with warnings.catch_warnings():  # PyTorch remarks that oneDNN has none
        warnings.filterwarnings("ignore", message="LSTM with projections is not supported with oneDNN")
        check_cut(model, x, plan)
        small = secateur.apply(model, plan)
    assert (small.rnn.hidden_size, small.rnn.proj_size) == (8, small.head.in_features // 2)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_packed_sequences_are_cut_exactly(kind: type[nn.RNNBase]):
    """Sequences of several lengths, packed, run through a recurrent layer of any width."""

    def wiring(m, x):
        packed = pack_padded_sequence(
            m.embed(x), torch.tensor([3, 5]), batch_first=True, enforce_sorted=False
        )
        return m.head(pad_packed_sequence(m.rnn(packed)[0], batch_first=True)[0])

    rnn = kind(8, 7, 2, batch_first=True)
    model = randomise(Wired(wiring, embed=nn.Linear(6, 8), rnn=rnn, head=nn.Linear(7, 5)))
    x = torch.randn(2, 5, 6)
    channels = secateur.watch(model, x)

    assert widths(channels) == {"embed": 8, "rnn": 7}
    check_cut(model, x, random_plan(channels, ratio=0.4, seed=0))


def test_long_sequences_are_watched_as_fast_as_short_ones():
    """A recurrent layer is one operator however long the sequence: 60,000 calls would take ten seconds."""
    model = lstm()
    secateur.watch(model, torch.zeros(2, 3, 6))

    started = time.process_time()
    channels = secateur.watch(model, torch.zeros(2, 1000, 6))

    assert time.process_time() - started < 1
    assert widths(channels) == {"rnn": 8}


def test_state_of_fixed_numbers_keeps_the_width():
    """A recurrence that starts from the network's input, or from numbers of its own, cannot lose units."""
    model = Wired(lambda m, x: m.head(m.rnn(x, x[:1])[0]), rnn=nn.GRU(8, 8), head=nn.Linear(8, 5))

    channels = secateur.watch(model, torch.zeros(3, 2, 8))

    assert widths(channels) == {}
    assert "is the hidden state that somebody's code starts from" in {f.reason for f in channels.fixed}


def test_sizes_that_zeros_pin_are_told_with_their_line():
    """Zeros of a size written into the code leave the recurrence whole, with file and line."""

    def wiring(m, x):
        state = torch.zeros(len(x), 8)
        return m.head(torch.tanh(m.old(torch.tanh(m.old(state) + m.new(x))) + m.new(x)))

    model = Wired(wiring, new=nn.Linear(6, 8), old=nn.Linear(8, 8), head=nn.Linear(8, 5))

    channels = secateur.watch(model, torch.zeros(3, 6))

    assert widths(channels) == {}
    assert "test_recurrent.py" in str([f.reason for f in channels.fixed if f.tensor == "old.weight"])


@pytest.mark.parametrize("made", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_columns_that_a_norm_runs_over_are_a_statistic(made):
    """A column of a weight that is divided by its norm changes the others by its going: it may, and the group is not exact."""
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), made(nn.Linear(8, 8)), nn.ReLU(), nn.Linear(8, 5))

    channels = secateur.watch(model, torch.zeros(2, 6))

    assert {group.name: (group.width, group.exact) for group in channels.groups}["0"] == (8, False)
    assert not channels.unknown_ops


def test_hooked_weight_norm_has_the_sizes_of_the_cut_weight():
    """The weight that the old weight norm computes before each forward is computed anew, so sizes follow."""
    with pytest.warns(FutureWarning, match="weight_norm"):
        layer = nn.utils.weight_norm(nn.Linear(6, 8))
    model = nn.Sequential(layer, nn.ReLU(), nn.Linear(8, 5))
    x = torch.randn(2, 6)
    with torch.no_grad():
        model(x)  # PyTorch copies a network with such a layer only once its weight has no graph
    channels = secateur.watch(model, x)
    plan = random_plan(channels, ratio=0.5, seed=0)

    small = secateur.apply(model, plan)

    check_cut(model, x, plan)
    assert small[0].out_features == small[2].in_features < 8
