"""What dense and convolutional layers read: the second moments of their inputs, window by window."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur._model import left_as_found, unwrapped
from secateur.channels.nested import with_tensors
from secateur.errors import DataError
from secateur.observe.batch import run_batch
from secateur.observe.sums import GramSum
from secateur.observe.values import Covariance


def layer_inputs(
    model: nn.Module, layers: Collection[str], batches: Iterable[tuple[Any, Any]]
) -> dict[str, Covariance]:
    """The mean and the second moments of what layers read, over examples and positions.

    A convolution reads a window at each of its positions, padding included: its features are those of its weight's rows,
    ``[c, k]`` flattened. For each layer a matrix of features x features is kept.

    Args:
        model: The network; it is run in eval mode and left as found.
        layers: Names of `nn.Linear`, `nn.Conv1d`, `nn.Conv2d` or `nn.Conv3d` modules, none of them grouped.
        batches: Pairs of inputs and targets; targets are not used.

    Returns:
        By layer; zero for a layer that did not run.

    Raises:
        DataError: There is no batch, or what a layer reads is not finite.

    Example:
        >>> seen = layer_inputs(nn.Sequential(nn.Linear(2, 3)), ["0"], [(torch.ones(4, 2), None)])
        >>> seen["0"].gram
        tensor([[1., 1.],
                [1., 1.]], dtype=torch.float64)
    """
    network = unwrapped(model)
    named = {name: network.get_submodule(name) for name in layers}
    sums = {name: GramSum(_features(layer)) for name, layer in named.items()}
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    count = 0

    def placed(value: Tensor) -> Tensor:
        return value.to(device)

    with left_as_found(network), torch.no_grad():
        network.eval()
        for name, layer in named.items():
            layer.register_forward_pre_hook(_adding(name, sums[name]), with_kwargs=True)
        for inputs, _ in batches:
            run_batch(network, with_tensors(inputs, placed), None)
            count += 1
    if not count:
        raise DataError("there is no batch of data; give at least one")
    return {name: found.result() for name, found in sums.items()}


def _features(layer: Any) -> int:
    return int(layer.weight[0].numel())


def _adding(name: str, found: GramSum) -> Any:
    def add(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x: Tensor = args[0] if args else kwargs["input"]
        if not bool(torch.isfinite(x.sum())):
            raise DataError(f"the input of layer {name!r} is not finite; check the data and the weights")
        found.add(windows(layer, x))

    return add


def windows(layer: Any, x: Tensor) -> Tensor:
    """What a layer reads at each of its positions, ``[n, p, f]``.

    Example:
        >>> windows(nn.Conv2d(1, 1, 2), torch.arange(6.0).reshape(1, 1, 2, 3))
        tensor([[[0., 1., 3., 4.],
                 [1., 2., 4., 5.]]])
    """
    if isinstance(layer, nn.Linear):
        return x.reshape(x.shape[0], -1, x.shape[-1])
    spatial = layer.weight.dim() - 2
    x = x if x.dim() == spatial + 2 else x.unsqueeze(0)
    around: list[int] = layer._reversed_padding_repeated_twice
    x = F.pad(x, around, mode="constant" if layer.padding_mode == "zeros" else layer.padding_mode)
    for axis in range(spatial):
        size, step = layer.kernel_size[axis], layer.dilation[axis]
        x = x.unfold(axis + 2, step * (size - 1) + 1, layer.stride[axis])[..., ::step]
    at, window = x.shape[2 : 2 + spatial], x.shape[2 + spatial :]
    moved = x.movedim(1, 1 + spatial)  # [n, positions..., c, window...]
    return moved.reshape(x.shape[0], at.numel(), x.shape[1] * window.numel())
