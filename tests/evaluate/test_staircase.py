"""Time in steps of width."""

import pytest
import torch
from torch import nn

import secateur
from secateur.errors import SettingsError
from secateur.evaluate import Tread, grain_of, stack, staircase
from secateur.plan import GRAINS
from secateur.testing import macs_of


class Register:
    """A clock on which a pass of a width takes as long as its next multiple of a grain."""

    def __init__(self, grain):
        self.now, self.grain = 0.0, grain

    def __call__(self):
        return self.now

    def deploy(self, model, example):
        clock, width = self, example.shape[1]

        class Timed(nn.Module):
            def forward(self, x):
                clock.now += -(-width // clock.grain) * 1e-4
                return x

        return Timed()


@pytest.mark.parametrize("grain", [8, 16])
def test_the_grain_is_found(grain):
    """On a machine that works in registers of so many numbers, steps are just above their multiples and give the grain."""
    clock = Register(grain)
    widths = [times * grain + more for times in (1, 2, 3) for more in (0, 1)]

    found = staircase(clock.deploy, widths=widths, seconds=0.002, clocks=(clock, clock))

    assert [t.width for t in found if t.step] == [grain + 1, 2 * grain + 1, 3 * grain + 1]
    assert grain_of(found) == grain
    assert found[0].cpu == pytest.approx(0.1)


def test_a_clock_too_coarse_for_a_pass_sees_no_steps():
    """A pass that ends within one tick takes no time, and the next width is no step from it."""
    clock = Register(8)
    plain = clock.deploy

    def deploy(model, example):
        return plain(model, example) if example.shape[1] > 8 else nn.Identity()

    found = staircase(deploy, widths=(7, 8, 9), seconds=0.002, clocks=(clock, clock))

    assert [(tread.cpu > 0, tread.step) for tread in found] == [(False, False), (False, False), (True, False)]


def test_without_steps_there_is_no_grain():
    """Where time grows as the multiply-adds do, no step is seen."""
    assert grain_of([Tread(width, width**2, 1.0, width**2, step=False) for width in (8, 9, 16)]) is None


@pytest.mark.parametrize("kind", ["pointwise", "conv3"])
def test_multiply_adds_are_those_of_the_stack(kind):
    """The multiply-adds beside a time are those of the layers that were timed."""
    (tread,) = staircase(lambda model, _: model, kind=kind, widths=(6,), seconds=0.001)

    assert tread.macs == macs_of(stack(kind, 6), torch.zeros(1, 6, 16, 16))


def test_targets_have_a_grain():
    """Every export target for which widths matter has one, and a plan takes it by the target's name."""
    assert {"litert", "onnx", "executorch"} <= set(GRAINS)
    net = stack("conv3", 48)
    channels = secateur.watch(net, torch.zeros(1, 48, 16, 16))
    scores = secateur.score(net, channels, "l1")

    small = secateur.apply(net, secateur.plan(channels, scores, remove=0.5, round_to="litert"))

    assert [small[place].out_channels for place in (0, 2, 4)] == [32, 32, 32]


@pytest.mark.parametrize("options", [{"kind": "dense"}, {"widths": ()}, {"widths": (0,)}])
def test_bad_options_are_refused(options):
    """No such stack, or no width, is refused."""
    with pytest.raises(SettingsError):
        staircase(lambda model, _: model, **options)
