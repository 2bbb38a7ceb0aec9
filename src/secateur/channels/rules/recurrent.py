"""Recurrent layers and cells, each seen as one operator: taken apart, a long sequence would be thousands of calls.

Shape letters: t steps, b examples, i inputs, h hidden units, p what a hidden state holds (h, or fewer where it is projected),
g gates (four in an LSTM, three in a GRU), l layers times directions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from secateur.channels.rules.conv import INPUT_READ, tie_across
from secateur.channels.ties import Call, Labels, Ties, Whole, vector

_STATE = "is the hidden state that somebody's code starts from"
_STEPS = "is run through step by step by a recurrent layer"
_CELLS = "is the width of the cells behind a projection, which must stay the wider one"

GATES = {"lstm": 4, "gru": 3, "rnn": 1}


@dataclass(frozen=True, slots=True)
class _Weights:
    """What one direction of one layer, or one cell, computes with: ``ih [gh, i]``, ``hh [gh, p]``, biases ``[gh]``, ``hr [p, h]``."""

    ih: torch.Tensor
    hh: torch.Tensor
    biases: tuple[torch.Tensor, ...]
    hr: torch.Tensor | None
    gates: int

    @property
    def hidden(self) -> int:
        """Hidden units."""
        return self.ih.shape[0] // self.gates

    @property
    def state(self) -> int:
        """Numbers that the hidden state holds."""
        return self.hidden if self.hr is None else self.hr.shape[0]


@dataclass(frozen=True, slots=True)
class _Layers:
    """One call of a recurrent layer.

    Attributes:
        x: ``[t, b, i]``, ``[b, t, i]`` or, packed, ``[n, i]``.
        states: Hidden states ``[l, b, p]`` and, in an LSTM, those of the cells ``[l, b, h]``.
        weights: Those of each layer, in each direction.
    """

    x: torch.Tensor
    states: tuple[torch.Tensor, ...]
    weights: tuple[tuple[_Weights, ...], ...]

    @classmethod
    def of(cls, args: Sequence[Any], gates: int) -> _Layers:
        """Read the arguments of ``torch.lstm`` and its like, plain or packed."""
        lstm = gates == GATES["lstm"]
        packed = isinstance(args[1] if lstm else args[2], torch.Tensor)
        states, flat, biased, layers = args[1 + packed : 5 + packed]
        directions = 2 if args[7 + packed] else 1
        states = tuple(states) if lstm else (states,)
        share = len(flat) // (int(layers) * directions)
        parts = [_weights(flat[at : at + share], bool(biased), gates) for at in range(0, len(flat), share)]
        rows = [tuple(parts[at : at + directions]) for at in range(0, len(parts), directions)]
        return cls(args[0], states, tuple(rows))


def _weights(flat: Sequence[torch.Tensor], biased: bool, gates: int) -> _Weights:
    """The weights of one direction of one layer as they stand in a row."""
    count = 4 if biased else 2
    return _Weights(flat[0], flat[1], tuple(flat[2:count]), flat[count] if len(flat) > count else None, gates)


# --- rules --------------------------------------------------------------------------------------------------------


def _step(
    ties: Ties, x: Labels | None, leading: Sequence[int], w: _Weights
) -> tuple[Labels | None, Labels | None]:
    """One direction of one layer: the labels of its hidden state and of its hidden units."""
    rows, columns = ties.axes(w.ih)
    recurrent, back = ties.axes(w.hh)
    tie_across(ties, rows, w.gates)
    ties.tie(rows, recurrent)
    for bias, weight in zip(w.biases, (w.ih, w.hh), strict=False):
        ties.tie(rows, ties.axes(bias)[0])
        ties.bias(weight, bias)
    unit = None if rows is None else rows[: w.hidden]
    out = unit
    if w.hr is not None:
        out, cells = ties.axes(w.hr)
        ties.tie(unit, cells)
        ties.fix(unit, _CELLS)
        ties.write(w.hr, 0)
        ties.macs(1.0, *((None, n) for n in leading), (out, w.state), (unit, w.hidden))
    ties.tie(out, back)
    ties.tie(x, columns, INPUT_READ)
    for weight in (w.ih, w.hh):
        ties.write(weight, 0)
        ties.read(weight, 1)
        axes = zip(ties.axes(weight), weight.shape, strict=True)
        ties.macs(1.0, *((None, n) for n in leading), *axes)
    return out, unit


def _start(ties: Ties, state: torch.Tensor, labels: Labels | None) -> None:
    """What a recurrence starts from has its units; zeros have as many as they are asked for."""
    axes = ties.axes(state)
    for other in axes[:-1]:
        ties.fix(other, _STEPS)
    if not ties.is_uniform(state):
        ties.tie(labels, axes[-1], _STATE)


def _layers(gates: int) -> Callable[[Ties, Call], None]:
    """The rule of ``torch.lstm`` and its like: layers and directions have one width, so they lose the same units."""

    def rule(ties: Ties, call: Call) -> None:
        run = _Layers.of(call.args, gates)
        *leading, x = ties.axes(run.x)
        for labels in leading:
            ties.fix(labels, _STEPS)
        found: list[tuple[Labels | None, Labels | None]] = []
        for layer in run.weights:
            ends = [_step(ties, x, run.x.shape[:-1], w) for w in layer]
            found += ends
            x = ends[0][0]
            if len(ends) > 1:
                x = np.concatenate([vector(out, w.state) for (out, _), w in zip(ends, layer, strict=True)])
        for out, unit in found[1:]:
            ties.tie(found[0][0], out)
            ties.tie(found[0][1], unit)
        ties.set(call.result, (*(None,) * len(leading), x))
        for start, end, labels in zip(run.states, call.out[1:], found[0], strict=False):
            _start(ties, start, labels)
            ties.set(end, (None, None, labels))

    return rule


def _cell(gates: int) -> Callable[[Ties, Call], None]:
    """The rule of ``torch.lstm_cell`` and its like: one step of one layer."""

    def rule(ties: Ties, call: Call) -> None:
        x, states, w = _cell_arguments(call.args, gates)
        *leading, columns = ties.axes(x)
        out, unit = _step(ties, columns, x.shape[:-1], w)
        for start, labels in zip(states, (out, unit), strict=False):
            _start(ties, start, labels)
        for end in (call.out,) if isinstance(call.out, torch.Tensor) else call.out:
            ties.set(end, (*leading, out))

    return rule


def _cell_arguments(
    args: Sequence[Any], gates: int
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...], _Weights]:
    states = tuple(args[1]) if gates == GATES["lstm"] else (args[1],)
    biases = tuple(bias for bias in args[4:6] if bias is not None)
    return args[0], states, _Weights(args[2], args[3], biases, None, gates)


def pack(ties: Ties, call: Call) -> None:
    """``[t, b, i]`` as the rows ``[n, i]`` that are no padding."""
    axes = ties.axes(call.tensor(0))
    for labels in axes[:2]:
        ties.fix(labels, _STEPS)
    ties.set(call.result, (None, *axes[2:]))


def unpack(ties: Ties, call: Call) -> None:
    """Rows ``[n, i]`` with padding among them as ``[t, b, i]``."""
    rows, *rest = ties.axes(call.tensor(0))
    ties.fix(rows, _STEPS)
    ties.set(call.result, (None, None, *rest))


# --- on meta tensors ----------------------------------------------------------------------------------------------


def _check(x: int, states: Sequence[torch.Tensor], w: _Weights) -> None:
    """What the operator itself refuses."""
    if x != w.ih.shape[1]:
        raise RuntimeError(f"a recurrent layer of {w.ih.shape[1]} inputs is given {x}")
    for state, size in zip(states, (w.state, w.hidden), strict=False):
        if state.shape[-1] != size:
            raise RuntimeError(f"a recurrent layer of {size} units starts from {state.shape[-1]}")


def _like_layers(gates: int) -> Callable[[Any, Any], Any]:
    """What recurrent layers give on meta tensors."""

    def made(args: Any, _kwargs: Any) -> Any:
        run = _Layers.of(args, gates)
        width = run.x.shape[-1]
        for layer in run.weights:
            for w in layer:
                _check(width, run.states, w)
            width = sum(w.state for w in layer)
        return run.x.new_empty((*run.x.shape[:-1], width)), *(torch.empty_like(state) for state in run.states)

    return made


def _like_cell(gates: int) -> Callable[[Any, Any], Any]:
    """What recurrent cells give on meta tensors."""

    def made(args: Any, _kwargs: Any) -> Any:
        x, states, w = _cell_arguments(args, gates)
        _check(x.shape[-1], states, w)
        first, *more = (x.new_empty((*x.shape[:-1], w.hidden)) for _ in states)
        return (first, *more) if more else first

    return made


aten = torch.ops.aten
RULES = {aten._pack_padded_sequence: pack}


def _whole(
    name: str, rule: Callable[[Ties, Call], None], on_meta: Callable[[Any, Any], Any] | None = None
) -> dict[Any, Whole]:
    return {getattr(torch, name): Whole(f"torch.{name}", rule, on_meta)}


WHOLE: dict[Any, Whole] = {
    **_whole("_pad_packed_sequence", unpack),
    **_whole("lstm", _layers(GATES["lstm"]), _like_layers(GATES["lstm"])),
    **_whole("gru", _layers(GATES["gru"]), _like_layers(GATES["gru"])),
    **_whole("rnn_tanh", _layers(GATES["rnn"]), _like_layers(GATES["rnn"])),
    **_whole("rnn_relu", _layers(GATES["rnn"]), _like_layers(GATES["rnn"])),
    **_whole("lstm_cell", _cell(GATES["lstm"]), _like_cell(GATES["lstm"])),
    **_whole("gru_cell", _cell(GATES["gru"]), _like_cell(GATES["gru"])),
    **_whole("rnn_tanh_cell", _cell(GATES["rnn"]), _like_cell(GATES["rnn"])),
    **_whole("rnn_relu_cell", _cell(GATES["rnn"]), _like_cell(GATES["rnn"])),
}
