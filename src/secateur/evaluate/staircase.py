"""How time grows with the width of layers: not in proportion, but in steps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal, TypeAlias, get_args

import numpy as np
import torch
from torch import Tensor, nn

from secateur.errors import SettingsError
from secateur.evaluate.processes import silent

Kind: TypeAlias = Literal["pointwise", "conv3"]
WIDTHS: Final = (32, 33, 34, 36, 40, 48, 49, 52, 56, 60, 63, 64, 65, 72, 80)
_LAYERS: Final = 4
_SIDE: Final = 16
_TURNS: Final = 20
_JUMP: Final = 1.15
"""Growth beyond that of the multiply-adds from which on a step begins; less is noise where other things run, too."""


@dataclass(frozen=True, slots=True)
class Tread:
    """One width of the staircase.

    Attributes:
        width: Channels of each layer.
        cpu: Milliseconds of processor time of a pass, the 10th percentile: what it costs undisturbed.
        wall: Milliseconds on the clock, likewise.
        macs: Multiply-adds of a pass.
        step: Whether its time grew by 15 % more than its multiply-adds did, against the next smaller width.
    """

    width: int
    cpu: float
    wall: float
    macs: int
    step: bool


def stack(kind: Kind, width: int) -> nn.Sequential:
    """Four layers of a width on a map of 16x16, and an answer of as many classes.

    Args:
        kind: ``pointwise``: a 1x1 convolution and a depthwise 3x3 each, as in MobileNets; ``conv3``: a 3x3 convolution each.
        width: Channels everywhere.

    Raises:
        SettingsError: No such kind.

    Example:
        >>> stack("conv3", 8)(torch.zeros(1, 8, 16, 16)).shape
        torch.Size([1, 8])
    """
    if kind not in get_args(Kind):
        raise SettingsError(f"kind={kind!r} is no stack of layers; take {' or '.join(get_args(Kind))}")
    layers: list[nn.Module] = []
    for _ in range(_LAYERS):
        if kind == "pointwise":
            layers += [nn.Conv2d(width, width, 1), nn.ReLU()]
            layers += [nn.Conv2d(width, width, 3, padding=1, groups=width), nn.ReLU()]
        else:
            layers += [nn.Conv2d(width, width, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(1))


def staircase(
    deploy: Callable[[nn.Module, Tensor], nn.Module],
    *,
    kind: Kind = "pointwise",
    widths: Sequence[int] = WIDTHS,
    seconds: float = 0.1,
    clocks: tuple[Callable[[], float], Callable[[], float]] = (time.process_time, time.perf_counter),
    on_step: Callable[[str], None] | None = None,
) -> tuple[Tread, ...]:
    """Measure a stack of layers at several widths, in turns.

    A width of 33 costs about what 48 does where a register holds 16 numbers: channels between two steps are as good as free,
    and those just above a step are the dearest. What comes out is the grain that ``round_to`` of `secateur.plan` and
    `secateur.reduce` should have on this machine.

    Args:
        deploy: Makes of a network and an example what is to be timed: `secateur.export.export` and ``open_file``, say.
        kind: See :func:`stack`.
        widths: At which widths.
        seconds: For how long each is timed in all.
        clocks: Processor and wall clock, in seconds.
        on_step: Told what begins.

    Returns:
        One entry a width, ascending.

    Raises:
        SettingsError: No such kind, no width, or one below 1.

    Example:
        >>> found = staircase(lambda model, _: model, widths=(4, 8), seconds=0.02)
        >>> [(tread.width, tread.macs) for tread in found]
        [(4, 53248), (8, 139264)]
    """
    if not widths or min(widths) < 1:
        raise SettingsError(f"widths {tuple(widths)} must be whole numbers from 1 on, at least one")
    tell = on_step or silent
    ready: dict[int, tuple[nn.Module, Tensor]] = {}
    for width in sorted(set(widths)):
        tell(f"width {width}")
        network = stack(kind, width).eval()
        example = torch.randn(1, width, _SIDE, _SIDE, generator=torch.Generator().manual_seed(0))
        ready[width] = deploy(network, example), example
    tell("timing in turns")
    times = _timed(ready, seconds=seconds, clocks=clocks)
    treads: list[Tread] = []
    for width, (cpu, wall) in times.items():
        macs = _macs(kind, width)
        below = treads[-1] if treads else None
        # A clock may be too coarse for the smaller width: from no time at all nothing can be said to have grown.
        known = None if below is None or below.cpu == 0 else below
        step = known is not None and 1000 * cpu / known.cpu > _JUMP * macs / known.macs
        treads.append(Tread(width, 1000 * cpu, 1000 * wall, macs, step))
    return tuple(treads)


def grain_of(treads: Sequence[Tread]) -> int | None:
    """The largest number of which all widths just below a step are multiples: what to round widths to; None without a step.

    Args:
        treads: Of :func:`staircase`. Only widths that were measured count: measure both sides of where steps may be.

    Example:
        >>> grain_of([Tread(w, 1.0, 1.0, 1, step=w in (33, 49)) for w in (32, 33, 48, 49)])
        16
    """
    below = [before.width for before, tread in pairwise(treads) if tread.step]
    return math.gcd(*below) if below else None


def _macs(kind: Kind, width: int) -> int:
    each = width * (width + 9) if kind == "pointwise" else 9 * width * width
    return _LAYERS * _SIDE * _SIDE * each


def _timed(
    ready: Mapping[int, tuple[nn.Module, Tensor]],
    *,
    seconds: float,
    clocks: tuple[Callable[[], float], Callable[[], float]],
) -> dict[int, tuple[float, float]]:
    """The 10th percentile of a pass's time by both clocks, for each width."""
    taken: dict[int, list[tuple[float, float]]] = {width: [] for width in ready}
    with torch.inference_mode():
        for model, example in ready.values():
            model(example)
        for _ in range(_TURNS):
            for width, (model, example) in ready.items():
                until = time.perf_counter() + seconds / _TURNS
                while True:
                    began = [clock() for clock in clocks]
                    model(example)
                    taken[width].append((clocks[0]() - began[0], clocks[1]() - began[1]))
                    if time.perf_counter() >= until:
                        break
    return {
        width: (float(low[0]), float(low[1]))
        for width, pairs in taken.items()
        for low in [np.quantile(np.array(pairs), 0.1, axis=0)]
    }
