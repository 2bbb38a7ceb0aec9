"""Latency."""

import pytest
import torch
from torch import nn

from secateur.errors import SettingsError
from secateur.evaluate import measure_latency


def ticking(times):
    """A clock that shows these seconds one after the other."""
    return iter(times).__next__


def test_quantiles_are_those_of_the_timed_passes():
    """With a clock that says 1, 2, 3, 4 and 5 ms, the quantiles are of these, the warm-up not among them."""
    calls = []
    model = nn.Linear(2, 2)
    model.register_forward_hook(lambda *_: calls.append(model.training))
    clock = ticking([0, 0.003, 0, 0.001, 0, 0.005, 0, 0.002, 0, 0.004])
    latency = measure_latency(
        model, torch.zeros(3, 2), warmup=2, repeats=5, quantiles=(0.0, 1.0), clock=clock
    )

    assert latency.quantiles == pytest.approx({0.0: 1.0, 0.5: 3.0, 1.0: 5.0})
    assert latency.median == pytest.approx(3.0)
    assert calls == [False] * 7
    assert model.training
    assert (latency.input_shape, latency.repeats, latency.warmup, latency.dtype) == ((3, 2), 5, 2, "float32")


def test_more_work_takes_longer():
    """A layer of 25 million times the multiply-adds takes longer on the real clock, in the quickest of its passes."""
    small = measure_latency(nn.Linear(2, 2), torch.zeros(1, 2), warmup=2, repeats=20, quantiles=(0.0,))
    large = measure_latency(
        nn.Linear(1000, 1000), torch.zeros(100, 1000), warmup=2, repeats=20, quantiles=(0.0,)
    )

    assert 0 < small.quantiles[0.0] < large.quantiles[0.0]


def test_threads_are_stated_and_set_back():
    """The threads asked for are used and stated, and what was set before comes back, also after an error."""
    before = torch.get_num_threads()
    used = []
    model = nn.Linear(2, 2)
    model.register_forward_hook(lambda *_: used.append(torch.get_num_threads()))
    latency = measure_latency(model, torch.zeros(1, 2), warmup=0, repeats=1, threads=before + 1)

    assert used == [before + 1]
    assert latency.threads == before + 1
    assert torch.get_num_threads() == before
    with pytest.raises(RuntimeError):
        measure_latency(model, torch.zeros(1, 3), threads=before + 1)
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("options", [{"repeats": 0}, {"warmup": -1}, {"threads": 0}, {"quantiles": (1.5,)}])
def test_bad_numbers_are_refused(options):
    """Repeats, warm-up, threads and quantiles out of their range are refused."""
    with pytest.raises(SettingsError):
        measure_latency(nn.Linear(2, 2), torch.zeros(1, 2), **options)
