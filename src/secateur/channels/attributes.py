"""Attributes of modules that repeat a size: made to fit the tensors again."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm


def _computed(module: nn.Module) -> None:
    """Weights that hooks compute before each forward (the old weight and spectral norm) are computed now."""
    for hook in cast("dict[int, object]", vars(module)["_forward_pre_hooks"]).values():
        if isinstance(hook, WeightNorm):
            with torch.no_grad():
                hook(module, ())
        elif isinstance(hook, SpectralNorm):
            with torch.no_grad():
                setattr(module, hook.name, hook.compute_weight(module, do_power_iteration=False))


def _convolution(module: nn.Module) -> None:
    if not isinstance(module, nn.modules.conv._ConvNd):  # pyright: ignore[reportPrivateUsage]
        return
    first, second = module.weight.shape[:2]
    depthwise = module.groups > 1 and module.groups == module.in_channels and second == 1
    if module.transposed:
        if depthwise:
            module.groups = first
        module.in_channels, module.out_channels = first, second * module.groups
    else:
        if depthwise:  # channel i is filtered by a fixed number of rows, so the groups follow the rows
            module.groups = first * module.groups // module.out_channels
        module.out_channels, module.in_channels = first, second * module.groups


def _linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape


def _bilinear(module: nn.Module) -> None:
    if isinstance(module, nn.Bilinear):
        module.out_features, module.in1_features, module.in2_features = module.weight.shape


def _batch_norm(module: nn.Module) -> None:
    if isinstance(module, nn.modules.batchnorm._NormBase):  # pyright: ignore[reportPrivateUsage]
        sized = module.weight if module.weight is not None else module.running_mean  # pyright: ignore[reportUnnecessaryComparison]
        if sized is not None:
            module.num_features = sized.shape[0]


def _layer_norm(module: nn.Module) -> None:
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)) and module.weight is not None:  # pyright: ignore[reportUnnecessaryComparison]
        module.normalized_shape = tuple(module.weight.shape)


def _group_norm(module: nn.Module) -> None:
    if isinstance(module, nn.GroupNorm) and module.weight is not None:  # pyright: ignore[reportUnnecessaryComparison]
        if module.num_groups == module.num_channels:  # one channel a group
            module.num_groups = module.weight.shape[0]
        module.num_channels = module.weight.shape[0]


def _prelu(module: nn.Module) -> None:
    if isinstance(module, nn.PReLU):
        module.num_parameters = module.weight.shape[0]


def _embedding(module: nn.Module) -> None:
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        module.num_embeddings, module.embedding_dim = module.weight.shape


def _recurrent(module: nn.Module) -> None:
    if isinstance(module, nn.RNNBase):
        weights: Any = module
        rows, module.input_size = weights.weight_ih_l0.shape
        module.hidden_size = rows // {"LSTM": 4, "GRU": 3}.get(module.mode, 1)
        if module.proj_size:
            module.proj_size = weights.weight_hr_l0.shape[0]
    elif isinstance(module, nn.RNNCellBase):
        module.input_size, module.hidden_size = module.weight_ih.shape[1], module.weight_hh.shape[1]


def _attention(module: nn.Module) -> None:
    if isinstance(module, nn.MultiheadAttention):  # heads go whole, so that their width stays
        module.embed_dim, inner = module.out_proj.weight.shape
        packed = module.in_proj_weight
        sources = (packed, packed) if packed is not None else (module.k_proj_weight, module.v_proj_weight)  # pyright: ignore[reportUnnecessaryComparison]
        module.kdim, module.vdim = (source.shape[1] for source in sources)
        module.num_heads = inner // int(cast("Any", module).head_dim)


_FITTERS: tuple[Callable[[nn.Module], None], ...] = (
    _computed,
    _convolution,
    _linear,
    _bilinear,
    _batch_norm,
    _layer_norm,
    _group_norm,
    _prelu,
    _embedding,
    _attention,
    _recurrent,
)


def fit_attributes(module: nn.Module) -> None:
    """Set the sizes that a module keeps as attributes from the shapes of its own tensors.

    Subclasses of PyTorch's modules are covered. Children are not visited.

    Example:
        >>> layer = nn.Linear(4, 3)
        >>> layer.weight = nn.Parameter(layer.weight[:2].detach())
        >>> fit_attributes(layer)
        >>> layer.out_features
        2
    """
    with _weights_only_looked_at(module):
        for fitter in _FITTERS:
            fitter(module)


@contextmanager
def _weights_only_looked_at(module: nn.Module) -> Generator[None]:
    """In train mode each look at a weight under spectral norm would be a step of its power iteration."""
    inner: list[nn.Module] = []
    if is_parametrized(module):
        parametrized = cast("nn.Module", module.parametrizations)
        inner = [part for part in parametrized.modules() if part.training]
    for part in inner:
        part.training = False
    try:
        yield
    finally:
        for part in inner:
            part.training = True


def set_attribute(module: nn.Module, name: str, index: int | None, value: int) -> None:
    """Set an integer that a module keeps, itself or at a place in a tuple or list.

    Example:
        >>> layer = nn.Unflatten(1, (4, 3))
        >>> set_attribute(layer, "unflattened_size", 0, 2)
        >>> layer.unflattened_size
        (2, 3)
    """
    if index is None:
        setattr(module, name, value)
        return
    entries = list(getattr(module, name))
    entries[index] = value
    setattr(module, name, type(getattr(module, name))(entries))


def integers_of(module: nn.Module) -> Iterator[tuple[str, int | None, int]]:
    """The integers above one that a module keeps: name, place in a tuple or list, value."""
    for name, value in vars(module).items():
        if name.startswith("_") or name == "training" or isinstance(value, bool):
            continue
        if isinstance(value, int) and value > 1:
            yield name, None, value
        elif isinstance(value, (tuple, list)):
            entries = cast("list[object]", list(cast("Any", value)))
            if entries and all(isinstance(entry, int) and not isinstance(entry, bool) for entry in entries):
                yield from (
                    (name, place, cast("int", e)) for place, e in enumerate(entries) if cast("int", e) > 1
                )


def parts_of(module: nn.Module) -> Iterator[tuple[str, list[int]]]:
    """The tuples and lists of several positive integers that a module keeps, such as the sizes of a split: name, values."""
    for name, value in vars(module).items():
        if name.startswith("_") or not isinstance(value, (tuple, list)):
            continue
        entries = cast("list[object]", list(cast("Any", value)))
        if len(entries) > 1 and all(type(entry) is int and entry > 0 for entry in entries):
            yield name, cast("list[int]", entries)
