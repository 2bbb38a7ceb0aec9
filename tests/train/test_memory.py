"""What a step keeps, the largest batch that fits, and the line that foretells it."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from secateur.errors import SettingsError
from secateur.networks import ResNet
from secateur.train import fit_line, fixed_bytes, kept_bytes, largest_batch, snapshot
from secateur.train.memory import repeated, runs, within_memory


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        ResNet(stages=2, blocks=1, convolutions=2, bottleneck=False, width=4, channels=1), nn.Dropout(0.5)
    )


def images(count: int) -> torch.Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def test_every_example_keeps_as_much():
    """What is kept grows in proportion to the batch, but for the few numbers that norms keep for all of it."""
    net = network()
    two, four, eight = (kept_bytes(net, images(count)) for count in (2, 4, 8))

    assert eight - four == 2 * (four - two)
    assert 0 <= 2 * two - four < 1000


def test_of_a_batch_that_is_a_part_of_many_examples_the_part_is_counted():
    """The others are there without the step."""
    net = nn.Linear(4, 2)

    assert kept_bytes(net, torch.zeros(1000, 4)[:3]) == kept_bytes(net, torch.zeros(3, 4)) == 3 * 4 * 4


def test_asking_leaves_no_trace():
    """Running statistics, gradients, modes and the caller's random numbers are as before."""
    net = network().eval()
    before, state = snapshot(net), torch.get_rng_state()

    kept_bytes(net, images(4))
    assert runs(net, images(2))(5)

    assert all(torch.equal(tensor, before[name]) for name, tensor in snapshot(net).items())
    assert torch.equal(torch.get_rng_state(), state)
    assert not net.training
    assert all(parameter.grad is None for parameter in net.parameters())


MEASURED = """
import torch
from torch import nn
from secateur.train import kept_bytes
torch.set_num_threads(1)
net = nn.Sequential(*(layer for _ in range(4) for layer in (nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Sigmoid())))
x = torch.randn(64, 8, 96, 96)
net(x[:1]).sum().backward()
count = kept_bytes(net, x[:2]) * 32
def peak():  # of this process alone; what getrusage says begins with the parent's
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))
before = peak()
net(x).sum()
print(count, peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone tells a process's peak so")
def test_it_is_what_a_process_takes():
    """The count is near to by how much a process's peak rises in the pass."""
    said = subprocess.run(
        [sys.executable, "-c", MEASURED], capture_output=True, text=True, check=True
    ).stdout.split()
    counted, measured = map(int, said)

    assert counted > 150e6
    assert 0.85 < measured / counted < 1.6  # kernels have work space, too


def test_what_is_taken_whatever_the_batch():
    """Weights and gradients, buffers, the optimiser's memory once it has any, averages."""
    net = nn.Sequential(nn.Linear(10, 10, bias=False), nn.BatchNorm1d(10))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    weights, buffers = 4 * 120, 4 * 20 + 8
    assert fixed_bytes(net, [optimizer]) == 2 * weights + buffers

    net(torch.zeros(4, 10)).sum().backward()
    optimizer.step()

    assert fixed_bytes(net, [optimizer], [net]) == 2 * weights + buffers + weights + weights + buffers


@settings(deadline=None, max_examples=200)
@given(
    most=st.integers(0, 300),
    multiple=st.integers(1, 20),
    first=st.integers(1, 400),
    limit=st.integers(1, 300),
)
def test_the_largest_that_fits_is_found(most, multiple, first, limit):
    """Wherever the search begins; in few tries."""
    tried: list[int] = []

    def fits(batch: int) -> bool:
        tried.append(batch)
        return batch <= most

    found = largest_batch(fits, first=first, limit=limit, multiple=multiple)

    assert found == min(most, limit) // multiple * multiple
    assert all(0 < batch <= limit for batch in tried)
    assert len(tried) <= 2 * max(limit, 2).bit_length()


@settings(deadline=None, max_examples=15)
@given(memory=st.integers(30_000, 2_000_000))
def test_what_is_found_fits_and_the_next_does_not(memory):
    """By the count of a real network."""
    net = network()
    fits = within_memory(net, images(3), memory, fixed=fixed_bytes(net))

    found = largest_batch(fits, first=8, limit=64)

    assert found == 0 or fits(found)
    assert found == 64 or not fits(found + 1)


def test_a_batch_that_exhausts_a_device_is_told():
    """The error that a GPU raises ends a try; everything is as before, and the largest is found."""

    class Full(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(3, 2)

        def forward(self, x):
            if len(x) > 37:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return self.inner(x)

    net = Full()
    net.inner.weight.grad = torch.ones_like(net.inner.weight)

    assert largest_batch(runs(net, torch.zeros(2, 3)), first=8, limit=512) == 37
    assert torch.equal(net.inner.weight.grad, torch.ones_like(net.inner.weight))
    assert net.inner.bias.grad is None


def test_examples_are_repeated_wherever_they_are():
    """In whatever an input is made of."""
    found = repeated({"a": torch.arange(2), "b": [torch.zeros(3, 4), "word"]}, 5)

    assert found["a"].tolist() == [0, 1, 0, 1, 0]
    assert found["b"][0].shape == (5, 4)
    assert found["b"][1] == "word"


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(st.integers(1, 100), st.integers(1, 512)), min_size=3, max_size=12))
def test_the_line_is_that_of_least_squares(points):
    """As numpy has it; with its share of the variance."""
    x, y = [float(a) for a, _ in points], [float(b) for _, b in points]
    if len(set(x)) < 2:
        with pytest.raises(SettingsError, match="two places"):
            fit_line(x, y)
        return

    line = fit_line(x, y)

    slope, intercept = np.polyfit(x, y, 1)
    assert (line.slope, line.intercept) == pytest.approx((slope, intercept), rel=1e-6, abs=1e-6)
    rest = np.sum((np.array(y) - [line.at(one) for one in x]) ** 2)
    if len(set(y)) > 1:
        assert line.r2 == pytest.approx(1 - rest / np.sum((np.array(y) - np.mean(y)) ** 2), abs=1e-9)


def test_two_points_are_no_line():
    """They would leave nothing for a test."""
    with pytest.raises(SettingsError, match="three points"):
        fit_line([1.0, 2.0], [3.0, 4.0])
