"""What operators give on meta tensors without PyTorch's reference implementations."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from secateur.channels.rules.quick import ON_META
from secateur.channels.ties import tensors_of

aten = torch.ops.aten
X, IMAGE, TURNED = torch.rand(2, 3, 4), torch.rand(2, 4, 9, 8), torch.rand(2, 4, 3).transpose(1, 2)
CALLS = [
    *[(getattr(aten, name).default, (X,)) for name in ("gelu", "hardswish", "hardsigmoid", "relu", "silu", "tanh")],
    *[(getattr(aten, name).default, (TURNED,)) for name in ("sigmoid", "mish", "elu", "leaky_relu", "hardtanh")],
    *[(getattr(aten, name).default, (TURNED,)) for name in ("gelu_", "hardswish_", "hardtanh_", "silu_")],
    (aten.clamp.default, (X, 0.1, 0.5)),
    (aten.clamp_min.default, (X, 0.5)),
    (aten.roll.default, (X, [1], [2])),
    (aten.add.Tensor, (X, X)),
    (aten.add.Tensor, (TURNED, X)),
    (aten.add.Tensor, (X, TURNED)),
    (aten.mul.Tensor, (X, torch.rand(4))),
    (aten.mul.Tensor, (torch.rand(3, 1), X)),
    (aten.div.Tensor, (TURNED, torch.rand(1, 4))),
    (aten.sub.Tensor, (torch.rand(3, 1, 4), torch.rand(2, 1))),
    (aten.mul.Tensor, (X, 2)),
    (aten.mul.Tensor, (torch.arange(3), 0.5)),
    (aten.add.Tensor, (X, X.double())),
    (aten._safe_softmax.default, (X, -1)),
    (aten.native_layer_norm.default, (X, [4], torch.rand(4), torch.rand(4), 1e-5)),
    (aten.native_layer_norm.default, (X, [3, 4], None, None, 1e-5)),
    (aten.convolution.default, (IMAGE, torch.rand(6, 2, 3, 2), None, [2, 1], [1, 0], [1, 2], False, [0, 0], 2)),
    (aten.convolution.default, (IMAGE, torch.rand(4, 6, 3, 3), None, [2, 2], [1, 1], [1, 1], True, [1, 1], 1)),
    (aten.convolution.default, (X, torch.rand(5, 3, 2), torch.rand(5), [1], [0], [1], False, [0], 1)),
    (aten.cat.default, ([X, torch.rand(2, 5, 4)], 1)),
    (aten.cat.default, ([TURNED, TURNED], -1)),
    (aten.addmm.default, (torch.rand(5), torch.rand(2, 3), torch.rand(5, 3).t())),
    (aten.addmm.default, (torch.rand(2, 1), torch.rand(2, 3), torch.rand(3, 5))),
    (aten.upsample_bilinear2d.default, (IMAGE, [5, 4], False)),
    (aten.upsample_bicubic2d.default, (IMAGE.contiguous(memory_format=torch.channels_last), [5, 4], True)),
    (aten.mean.dim, (IMAGE, [-1, -2])),
    (aten.mean.dim, (IMAGE, [2, 3], True)),
    (aten.linalg_vector_norm.default, (X, 2, [-1], True)),
    (aten.linalg_vector_norm.default, (X, 2, [1])),
]  # fmt: skip


def on_meta(value: object) -> object:
    """The same on meta tensors, strides included."""
    if isinstance(value, Tensor):
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
    return [on_meta(entry) for entry in value] if isinstance(value, list) else value


@pytest.mark.parametrize(("operator", "args"), CALLS, ids=lambda entry: str(entry) if callable(entry) else "")
def test_what_comes_out_has_the_shape_format_and_order_of_what_is_computed(operator, args):
    """What an operator is said to give on meta tensors is what it gives on real ones, but for the values."""
    wanted = operator(*(value.clone() if isinstance(value, Tensor) else value for value in args))

    found = ON_META[operator.overloadpacket](operator, tuple(map(on_meta, args)), {})

    described = [[(x.shape, x.dtype, x.stride()) for x in tensors_of(out)] for out in (found, wanted)]
    assert described[0] == described[1]
    assert all(x.is_meta for x in tensors_of(found))


@pytest.mark.parametrize(
    ("operator", "args"),
    [
        (aten.add.Tensor, (X, torch.rand(5))),
        (aten.addmm.default, (torch.rand(5), torch.rand(2, 3), torch.rand(4, 5))),
        (aten.native_layer_norm.default, (X, [5], torch.rand(5), None, 1e-5)),
        (aten.cat.default, ([X, torch.rand(2, 5, 5)], 1)),
        (aten.convolution.default, (IMAGE, torch.rand(6, 3, 3, 3), None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1)),
    ],
    ids=lambda entry: str(entry) if callable(entry) else "",
)  # fmt: skip
def test_sizes_that_do_not_fit_are_refused_as_ever(operator, args):
    """An operator whose arguments do not fit together raises what it raises without the short cut."""
    with pytest.raises(RuntimeError):
        ON_META[operator.overloadpacket](operator, tuple(map(on_meta, args)), {})


def test_batch_norm_keeps_statistics_in_train_mode_alone():
    """Batch norm's saved statistics are as long as its channels where it takes them, and empty where it reads them."""
    x, one = torch.rand(2, 4, 3), torch.ones(4)
    for training in (False, True):
        args = (x, one, one, one.clone(), one.clone(), training, 0.1, 1e-5)
        wanted = aten.native_batch_norm.default(*args)
        found = ON_META[aten.native_batch_norm](aten.native_batch_norm.default, tuple(map(on_meta, args)), {})

        assert [out.shape for out in found] == [out.shape for out in wanted]
        assert F.batch_norm(x, one, one).shape == found[0].shape
