"""From where to where activations go, by watching a network work on calibration examples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from secateur._model import left_as_found
from secateur.errors import DataError, ModelError, SettingsError
from secateur.quantise.clip import BINS, best_clip
from secateur.quantise.flow import Pass, placed, tensors_given
from secateur.quantise.grid import Range
from secateur.quantise.scheme import INNER, Scheme

Observer = Literal["minmax", "ema", "percentile", "histogram"]
"""How a range is made of what was seen.

``minmax``: all that was seen. ``ema``: the running average, at 0.95, of each example's ends, as LiteRT's own calibration does; it cuts off
what is rare. ``percentile``: what lies outside 99.99 % of the values other than zero is cut off, half of it at each end. ``histogram``: the ends
for which the squared error, of rounding and of cutting off, is least (:func:`best_clip`).
"""

_DECAY = 0.95
_OUTSIDE = 1e-4


def calibrate(
    network: nn.Module,
    scheme: Scheme,
    inputs: Tensor,
    *,
    observer: Observer = "minmax",
    batch_size: int = 128,
) -> tuple[Range, ...]:
    """The range at each place, from the float network's activations on examples.

    Args:
        network: The network that the scheme is of; it is left as found.
        scheme: Where activations are rounded.
        inputs: Calibration examples, ``[n, ...]``.
        observer: How ranges are made of what is seen.
        batch_size: Examples a pass.

    Raises:
        SettingsError: There is no such observer.
        DataError: There are no examples.
        ModelError: An activation is not finite.
    """
    if observer not in get_args(Observer):
        raise SettingsError(f"there is no observer {observer!r}; there are: {', '.join(get_args(Observer))}")
    if not len(inputs):
        raise DataError("there are no calibration examples; give about a hundred training examples")
    ends = _Ends(len(scheme.places))
    _watched(network, scheme, batches_of(inputs, batch_size), ends.add)
    limits = [
        ends.smoothed(place) if observer == "ema" else ends.outermost(place)
        for place in range(len(scheme.places))
    ]
    if observer in ("percentile", "histogram"):
        seen = _Counts(limits)
        _watched(network, scheme, batches_of(inputs, batch_size), seen.add)
        choose = _percentile if observer == "percentile" else best_clip
        limits = [choose(counts, *ends) for counts, ends in zip(seen.counts, seen.limits, strict=True)]
    return tuple(scheme.fixed.get(place, Range(*limits[place])) for place in range(len(limits)))


def activations(network: nn.Module, scheme: Scheme, inputs: Tensor) -> tuple[tuple[Tensor, ...], ...]:
    """What is at each place in floating point: all tensors that are rounded there, before they are.

    Args:
        network: The network that the scheme is of; it is left as found.
        scheme: Where activations are rounded.
        inputs: Examples, ``[n, ...]``.
    """
    found: list[list[Tensor]] = [[] for _ in scheme.places]
    _watched(network, scheme, [inputs], lambda place, x: found[place].append(x.detach().clone()))
    return tuple(tuple(tensors) for tensors in found)


def batches_of(inputs: Tensor, size: int) -> Iterator[Tensor]:
    """The examples in their order, so many at a time."""
    for start in range(0, len(inputs), size):
        yield inputs[start : start + size]


def _watched(
    network: nn.Module, scheme: Scheme, batches: Iterable[Tensor], see: Callable[[int, Tensor], None]
) -> None:
    """Show what is at each place, batch by batch."""
    with left_as_found(network), torch.no_grad():
        network.eval()
        for batch in batches:
            ready = placed(network, batch)
            see(0, ready)
            _Seeing(network, scheme, see).run(ready)


class _Seeing(Pass):
    """Shows what is at each place, and changes nothing."""

    def __init__(self, network: nn.Module, scheme: Scheme, see: Callable[[int, Tensor], None]) -> None:
        super().__init__(network)
        self._scheme, self._see = scheme, see

    def step(
        self, key: str, function: str, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        inner = self._scheme.inner.get(key)
        if inner is not None:  # before the function itself, which may write into what it takes
            self._see(inner, INNER[function][0](args[0] if args else kwargs["input"]))
        given = super().step(key, function, call, args, kwargs)
        place = self._scheme.rounds.get(key)
        if place is not None:
            for one in tensors_given(given):
                if one.is_floating_point():
                    self._see(place, one)
        return given


class _Ends:
    """Each example's least and greatest value at each place."""

    def __init__(self, places: int) -> None:
        self.lows: list[list[Tensor]] = [[] for _ in range(places)]
        self.highs: list[list[Tensor]] = [[] for _ in range(places)]

    def add(self, place: int, x: Tensor) -> None:
        rows = x.detach().reshape(len(x), -1) if x.dim() else x.detach().reshape(1, 1)
        if not bool(torch.isfinite(rows).all()):
            raise ModelError(
                f"an activation (place {place} of those that are rounded) is not finite on the calibration examples; check the"
                " network's weights and the data's values"
            )
        self.lows[place].append(rows.amin(1).double().cpu())
        self.highs[place].append(rows.amax(1).double().cpu())

    def outermost(self, place: int) -> tuple[float, float]:
        return float(torch.cat(self.lows[place]).min()), float(torch.cat(self.highs[place]).max())

    def smoothed(self, place: int) -> tuple[float, float]:
        low, high = torch.cat(self.lows[place]).numpy(), torch.cat(self.highs[place]).numpy()
        return _average(low), _average(high)


def _average(values: Any) -> float:
    average = float(values[0])
    for value in values[1:]:
        average = _DECAY * average + (1 - _DECAY) * float(value)
    return average


class _Counts:
    """How many values, zeros left out, fell into each of many bins between the ends, at each place; zero is between them."""

    def __init__(self, limits: list[tuple[float, float]]) -> None:
        self.limits = [(min(low, 0.0), max(high, 0.0)) for low, high in limits]
        self.counts = [np.zeros(BINS) for _ in limits]

    def add(self, place: int, x: Tensor) -> None:
        low, high = self.limits[place]
        if high > low:  # zeros lie on every grid, and cost nothing
            values = x.detach().float().cpu()
            self.counts[place] += torch.histc(values[values != 0], BINS, low, high).double().numpy()


def _percentile(counts: Any, low: float, high: float) -> tuple[float, float]:
    if not counts.sum():
        return low, high
    share = np.cumsum(counts) / counts.sum()
    edges = np.linspace(low, high, BINS + 1)
    first = int(np.searchsorted(share, _OUTSIDE / 2, side="right"))
    last = int(np.searchsorted(share, 1 - _OUTSIDE / 2))
    return float(edges[first]), float(edges[min(last, BINS - 1) + 1])
