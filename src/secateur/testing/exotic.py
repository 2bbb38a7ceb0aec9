"""Constructs that a channel analysis must not get wrong: what it does not understand is left whole.

Shape letters: b examples, c channels, h and w height and width, n tokens, d numbers a head.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from secateur.testing.models import Construct, Wired, Wiring

_IMAGE = (2, 3, 8, 8)
_TOKENS = (2, 5, 6)


def _conv(inside: int, outside: int, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inside, outside, 3, padding=1, **options)


def _head(width: int) -> nn.Linear:
    return nn.Linear(width, 5)


def _between(change: Callable[[Any], Any], *, width: int = 8, after: int = 8) -> Callable[[], nn.Module]:
    """A convolution, something between, a convolution that reads what is left."""
    return lambda: Wired(
        lambda m, x: m.head(m.second(change(m.stem(x).relu())).relu().mean((2, 3))),
        stem=_conv(3, width), second=_conv(after, 6), head=_head(6),
    )  # fmt: skip


def _with(wiring: Wiring, **layers: nn.Module | nn.Parameter) -> Callable[[], nn.Module]:
    """A convolution, what ``wiring`` does to its result, the mean over the image, a head of the same width."""
    return lambda: Wired(
        lambda m, x: m.head(wiring(m, m.stem(x).relu()).mean((2, 3))),
        stem=_conv(3, 8),
        head=_head(8),
        **layers,
    )


def _recurrent(kind: type[nn.RNNBase], layers: int, *, both: bool = False) -> Callable[[], nn.Module]:
    make: Any = kind
    return lambda: Wired(
        lambda m, x: m.head(m.rnn(m.embed(x).relu())[0][:, -1]),
        embed=nn.Linear(6, 8), rnn=make(8, 7, num_layers=layers, batch_first=True, bidirectional=both),
        head=_head(14 if both else 7),
    )  # fmt: skip


def _steps(kind: type[nn.RNNCellBase]) -> Callable[[], nn.Module]:
    def wiring(m: Any, x_bnc: Any) -> Any:
        state: Any = None
        for x_bc in x_bnc.unbind(1):
            state = m.cell(x_bc, state)
        return m.head(state[0] if isinstance(state, tuple) else state)

    make: Any = kind
    return lambda: Wired(wiring, cell=make(6, 8), head=_head(8))


def _by_hand(start: Callable[[Any, Any], Any]) -> Callable[[], nn.Module]:
    def wiring(m: Any, x_bnc: Any) -> Any:
        state = start(m, x_bnc)
        for x_bc in x_bnc.unbind(1):
            state = torch.tanh(m.new(x_bc) + m.old(state))
        return m.head(state)

    return lambda: Wired(wiring, new=nn.Linear(6, 8), old=nn.Linear(8, 8, bias=False), head=_head(8))


def _attention(*, key_heads: int) -> Callable[[], nn.Module]:
    def heads(x_bnc: Any, count: int) -> Any:
        return x_bnc.unflatten(-1, (count, -1)).transpose(1, 2)

    def wiring(m: Any, x: Any) -> Any:
        x = m.embed(x)
        q, k, v = heads(m.q(x), 4), heads(m.k(x), key_heads), heads(m.v(x), key_heads)
        k, v = (y.repeat_interleave(4 // key_heads, 1) for y in (k, v))
        mixed = ((q @ k.transpose(-1, -2)) * 0.5).softmax(-1) @ v
        return m.head((x + m.out(mixed.transpose(1, 2).flatten(2))).mean(1))

    return lambda: Wired(
        wiring, embed=nn.Linear(6, 8), q=nn.Linear(8, 16), k=nn.Linear(8, 4 * key_heads), v=nn.Linear(8, 4 * key_heads),
        out=nn.Linear(16, 8), head=_head(8),
    )  # fmt: skip


def _multihead() -> nn.Module:
    return Wired(
        lambda m, x: m.head((y := m.embed(x)) + m.attention(y, y, y, need_weights=False)[0]).mean(1),
        embed=nn.Linear(6, 8), attention=nn.MultiheadAttention(8, 2, batch_first=True), head=_head(8),
    )  # fmt: skip


def _tied_embeddings(norm: nn.Module) -> nn.Module:
    return Wired(
        lambda m, x: F.linear(m.body(m.norm(m.table((x[..., 0] > 0).long()))).relu(), m.table.weight),
        table=nn.Embedding(7, 8), norm=norm, body=nn.Linear(8, 8),
    )  # fmt: skip


def _tied_autoencoder() -> nn.Module:
    return Wired(lambda m, x: F.linear(m.code(x).sigmoid(), m.code.weight.t()), code=nn.Linear(6, 4))


def _cbam(m: Any, y: Tensor) -> Tensor:
    pooled = torch.cat([y.mean(1, keepdim=True), y.amax(1, keepdim=True)], 1)
    return m.after(y * m.where(pooled).sigmoid()).relu()


def _response_norm(m: Any, y: Any) -> Any:
    size = y.norm(dim=(2, 3), keepdim=True)
    return m.after(y * (size / (size.mean(1, keepdim=True) + 1e-6)) * m.scale + y).relu()


def _standardised(m: Any, y: Tensor) -> Tensor:
    weight = m.after.weight
    weight = (weight - weight.mean((1, 2, 3), keepdim=True)) / weight.std((1, 2, 3), keepdim=True)
    return F.conv2d(y, weight, m.after.bias, padding=1).relu()


def _windows(y: Tensor) -> Tensor:
    return y.unfold(2, 3, 1).amax(-1)


def _standardised_by_norm(m: Any, y: Tensor) -> Tensor:
    weight = m.after.weight
    rows = F.batch_norm(weight.reshape(1, len(weight), -1), None, None, training=True, momentum=0.0)
    return F.conv2d(y, rows.reshape_as(weight), m.after.bias, padding=1).relu()


def _own_kernel(m: Any, y: Tensor) -> Tensor:
    return F.conv2d(y, m.kernel, padding=1).relu()


def _einsum(m: Any, y: Tensor) -> Tensor:
    return torch.einsum("bchw,oc->bohw", y, m.matrix).relu()


def _in_place(m: Any, y: Tensor) -> Tensor:
    out = torch.zeros(y.shape[0], 12, *y.shape[2:], dtype=y.dtype)
    out[:, 2:10] = y
    return m.after(out).relu()


def _rows_set(y: Tensor, values: Tensor | float) -> Tensor:
    out = y.clone()
    out[:, :, torch.tensor([0, 3])] = values
    return out


def _parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape))


def _normed(norm: Callable[[nn.Module], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(
        _conv(3, 8), nn.ReLU(), norm(_conv(8, 8)), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), _head(8)
    )


EXOTIC: dict[str, Construct] = {
    "split at sizes": Construct(
        _between(lambda y: y.split([2, 6], 1)[1], after=6), _IMAGE, {"second": 6}
    ),
    "split into equal sizes": Construct(
        _between(lambda y: sum(y.split(4, 1), torch.zeros(())), after=4), _IMAGE, {"second": 6}
    ),
    "first half by slicing": Construct(
        _between(lambda y: y[:, :4], after=4), _IMAGE, {"stem": 4, "second": 6}  # the half that nobody reads
    ),
    "every other channel": Construct(_between(lambda y: y[:, ::2], after=4), _IMAGE, {"stem": 4, "second": 6}),
    "repeat_interleave": Construct(
        _between(lambda y: y.repeat_interleave(2, 1), after=16), _IMAGE, {"stem": 8, "second": 6}
    ),
    "pixel shuffle": Construct(_between(lambda y: F.pixel_shuffle(y, 2), after=2), _IMAGE, {"stem": 2, "second": 6}),
    "a channel as a gate": Construct(
        _between(lambda y: y * y[:, :1].sigmoid()), _IMAGE, {"stem": 7, "second": 6}
    ),
    "windows": Construct(_between(_windows), _IMAGE, {"stem": 8, "second": 6}),
    "im2col": Construct(
        _between(lambda y: F.unfold(y, 3, padding=1).reshape(len(y), -1, *y.shape[2:]), after=72), _IMAGE, {"stem": 8, "second": 6}
    ),
    "col2im": Construct(
        _between(lambda y: F.fold(y.flatten(2), (y.shape[2] * 2, y.shape[3] * 2), 2, stride=2), after=2),
        _IMAGE, {"stem": 2, "second": 6},
    ),
    "gather": Construct(
        _between(lambda y: y.gather(2, y.argsort(2))), _IMAGE, {"stem": 8, "second": 6}
    ),
    "roll": Construct(_between(lambda y: y.roll(1, 1)), _IMAGE, {"second": 6}),
    "channel shuffle by hand": Construct(
        _between(lambda y: y.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)), _IMAGE, {"stem": 4, "second": 6}
    ),
    "nn.ChannelShuffle": Construct(_between(lambda y: F.channel_shuffle(y, 2)), _IMAGE, {"stem": 4, "second": 6}),
    "permutation by fancy index": Construct(
        _between(lambda y: y[:, torch.tensor([3, 1, 0, 2, 7, 6, 5, 4])]), _IMAGE, {"second": 6}
    ),
    "softmax over channels": Construct(_between(lambda y: y.softmax(1)), _IMAGE, {"second": 6}),
    "written into zeros": Construct(_with(_in_place, after=_conv(12, 8)), _IMAGE, {"after": 8}),
    "rows set to a number": Construct(_with(lambda _, y: _rows_set(y, 0.0)), _IMAGE, {"stem": 8}),
    "rows set to those of another tensor": Construct(
        _with(lambda m, y: _rows_set(y, m.other(y)[:, :, torch.tensor([1, 2])]), other=_conv(8, 8)), _IMAGE, {"stem": 8}
    ),
    "flattened to a literal size": Construct(
        lambda: Wired(
            lambda m, x: m.head(m.hidden(m.stem(x).relu().view(-1, 8 * 64)).relu()),
            stem=_conv(3, 8), hidden=nn.Linear(8 * 64, 6), head=_head(6),
        ),
        _IMAGE, {"hidden": 6},
    ),
    "heads of literal sizes": Construct(
        lambda: Wired(
            lambda m, x: m.head(m.embed(x).view(2, -1, 2, 4).transpose(1, 2).reshape(2, 2, -1).relu()),
            embed=nn.Linear(6, 8), head=_head(20),
        ),
        _TOKENS, {},
    ),
    "flattened to an inferred size": Construct(
        lambda: Wired(
            lambda m, x: m.head(m.hidden((y := m.stem(x).relu()).view(y.shape[0], -1)).relu()),
            stem=_conv(3, 8), hidden=nn.Linear(8 * 64, 6), head=_head(6),
        ),
        _IMAGE, {"stem": 8, "hidden": 6},
    ),
    "GRU": Construct(_recurrent(nn.GRU, 1), _TOKENS, {"embed": 8, "rnn": 7}),
    "GRU of three layers": Construct(_recurrent(nn.GRU, 3), _TOKENS, {"embed": 8, "rnn": 7}),
    "LSTM": Construct(_recurrent(nn.LSTM, 1), _TOKENS, {"embed": 8, "rnn": 7}),
    "LSTM of two layers": Construct(_recurrent(nn.LSTM, 2), _TOKENS, {"embed": 8, "rnn": 7}),
    "LSTM in both directions": Construct(_recurrent(nn.LSTM, 2, both=True), _TOKENS, {"embed": 8, "rnn": 7}),
    "RNN in both directions": Construct(_recurrent(nn.RNN, 1, both=True), _TOKENS, {"embed": 8, "rnn": 7}),
    "last state of a GRU, steps first": Construct(
        lambda: Wired(lambda m, x: m.head(m.rnn(x.transpose(0, 1))[1][-1]), rnn=nn.GRU(6, 8, 2, bias=False), head=_head(8)),
        _TOKENS, {"rnn": 8},
    ),
    "one GRU begins where another ends": Construct(
        lambda: Wired(
            lambda m, x: m.head(m.after(x.flip(1), m.before(x)[1])[0].mean(1)),
            before=nn.GRU(6, 8, batch_first=True), after=nn.GRU(6, 8, batch_first=True), head=_head(8),
        ),
        _TOKENS, {"before": 8},
    ),
    "GRU cell": Construct(_steps(nn.GRUCell), _TOKENS, {"cell": 8}),
    "LSTM cell": Construct(_steps(nn.LSTMCell), _TOKENS, {"cell": 8}),
    "RNN cell": Construct(_steps(nn.RNNCell), _TOKENS, {"cell": 8}),
    "recurrence by hand from zeros": Construct(
        _by_hand(lambda m, x: x.new_zeros(len(x), m.old.in_features)), _TOKENS, {"new": 8}
    ),
    "recurrence by hand from a literal size": Construct(
        _by_hand(lambda _, x: x.new_zeros(len(x), 8)), _TOKENS, {}
    ),
    "recurrence by hand from other numbers": Construct(
        _by_hand(lambda m, x: x.new_zeros(len(x), m.old.in_features).add_(torch.arange(8.0, dtype=x.dtype))), _TOKENS, {}
    ),
    "attention of separate projections": Construct(_attention(key_heads=4), _TOKENS, {"embed": 8}),
    "grouped-query attention": Construct(_attention(key_heads=2), _TOKENS, {"embed": 8}),
    "nn.MultiheadAttention": Construct(_multihead, _TOKENS, {"embed": 2}),
    "bilinear": Construct(
        lambda: Wired(
            lambda m, x: m.head(m.both(m.a(x).relu(), m.b(x).relu()).relu()),
            a=nn.Linear(6, 8), b=nn.Linear(6, 7), both=nn.Bilinear(8, 7, 6), head=_head(6),
        ),
        (4, 6), {"a": 8, "b": 7, "both": 6},
    ),
    "tied embeddings": Construct(lambda: _tied_embeddings(nn.Identity()), _TOKENS, {"body": 8}),
    "tied embeddings under a norm": Construct(lambda: _tied_embeddings(nn.LayerNorm(8)), _TOKENS, {"body": 8}),
    "tied autoencoder": Construct(_tied_autoencoder, (4, 6), {}),
    "RMSNorm": Construct(
        lambda: nn.Sequential(nn.Linear(6, 8), nn.RMSNorm(8), nn.GELU(), _head(8)), (4, 6), {"0": 8}
    ),
    "RMSNorm by hand": Construct(
        lambda: Wired(
            lambda m, x: m.head((y := m.body(x)) * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6) * m.scale),
            body=nn.Linear(6, 8), scale=_parameter(8), head=_head(8),
        ),
        (4, 6), {"body": 8},
    ),
    "CBAM": Construct(_with(_cbam, where=_conv(2, 1), after=_conv(8, 8)), _IMAGE, {"stem": 8, "after": 8}),
    "global response norm": Construct(
        _with(_response_norm, scale=_parameter(1, 8, 1, 1), after=_conv(8, 8)), _IMAGE, {"stem": 8, "after": 8}
    ),
    "weight-standardised convolution": Construct(_with(_standardised, after=_conv(8, 8)), _IMAGE, {"stem": 8, "after": 8}),
    "convolution with a bare parameter": Construct(
        _with(_own_kernel, kernel=_parameter(8, 8, 3, 3)), _IMAGE, {"stem": 8, "kernel": 8}
    ),
    "einsum with a bare parameter": Construct(
        _with(_einsum, matrix=_parameter(8, 8)), _IMAGE, {"stem": 8, "matrix": 8}, counted=False  # one channel: no product
    ),
    "weight-standardised convolution by batch norm": Construct(_with(_standardised_by_norm, after=_conv(8, 8)), _IMAGE, {"stem": 8, "after": 8}),
    "weight_norm": Construct(_normed(parametrizations.weight_norm), _IMAGE, {"0": 8, "2": 8}),
    "weight_norm of a dense layer": Construct(
        lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), parametrizations.weight_norm(nn.Linear(8, 8)), nn.ReLU(), _head(8)),
        (4, 6), {"0": 8, "2": 8},
    ),
    "weight_norm of columns": Construct(
        _normed(lambda _: parametrizations.weight_norm(nn.ConvTranspose2d(8, 8, 3), dim=1)), _IMAGE, {"2": 8}
    ),
    "weight_norm of a whole weight": Construct(
        _normed(lambda layer: parametrizations.weight_norm(layer, dim=-1)), _IMAGE, {"0": 8, "2": 8}
    ),
    "weight_norm of what a transposed convolution reads": Construct(
        _normed(lambda _: parametrizations.weight_norm(nn.ConvTranspose2d(8, 8, 3))), _IMAGE, {"2": 8}
    ),
    "spectral_norm": Construct(
        _normed(parametrizations.spectral_norm), _IMAGE, {"0": 8, "2": 8}, counted=False  # its own products are no layer's
    ),
    "spectral_norm by a hook": Construct(
        _normed(nn.utils.spectral_norm), _IMAGE, {"0": 8, "2": 8}, counted=False
    ),
    "spectral_norm of a transposed convolution": Construct(
        _normed(lambda _: parametrizations.spectral_norm(nn.ConvTranspose2d(8, 8, 3))), _IMAGE, {"2": 8}, counted=False
    ),
    "spectral_norm of every layer": Construct(
        lambda: nn.Sequential(
            *(parametrizations.spectral_norm(_conv(*sizes)) for sizes in ((3, 8), (8, 6))), nn.Flatten(), parametrizations.spectral_norm(nn.Linear(384, 5))
        ),
        _IMAGE, {"0": 8, "1": 6}, counted=False,
    ),
    "spectral_norm of a dense layer": Construct(
        lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), parametrizations.spectral_norm(nn.Linear(8, 8)), nn.ReLU(), _head(8)),
        (4, 6), {"0": 8, "2": 8}, counted=False,
    ),
}  # fmt: skip
"""Constructs by name, most of which are left whole where they are met, with the widths of what can be cut beside them."""
