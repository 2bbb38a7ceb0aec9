"""What the weights of a dense or convolutional layer are multiplied with: second moments of its inputs, patch by patch."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur._model import check_finite, left_as_found, named_tensors, unwrapped
from secateur._options import did_you_mean
from secateur.channels.nested import ForwardFn, tensors_in, with_tensors
from secateur.errors import DataError, ModelError, SettingsError
from secateur.observe.batch import run_batch
from secateur.observe.sums import GramSum
from secateur.observe.values import Covariance

Layer: TypeAlias = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
LAYERS = (nn.Linear, *CONVOLUTIONS)
"""What this is about: layers whose outputs are their weights' rows times patches of their inputs."""


def layers_in(model: nn.Module, names: Collection[str] | None = None) -> dict[str, Layer]:
    """The dense and convolutional layers of a network by the names of their weights, a shared weight under its first one.

    Args:
        model: The network.
        names: Only these: names of layers (``"conv1"``) or of their weights (``"conv1.weight"``); None takes all.

    Raises:
        SettingsError: There is no such layer.

    Example:
        >>> list(layers_in(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))))
        ['0.weight', '2.weight']
    """
    modules = dict(cast("Iterator[tuple[str, nn.Module]]", model.named_modules()))
    weights = dict(model.named_parameters())
    found = {
        weight: module
        for name, module in modules.items()
        if isinstance(module, LAYERS) and (weight := f"{name}.weight".lstrip(".")) in weights
    }
    if names is None:
        return found
    by_layer = {weight.removesuffix("weight").rstrip("."): weight for weight in found}
    chosen = [by_layer.get(name, name) for name in names]
    for given, name in zip(names, chosen, strict=True):
        if name not in found:
            raise SettingsError(
                f"{given!r} is no dense or convolutional layer with a weight of its own; {did_you_mean(given, by_layer)}"
            )
    return {name: found[name] for name in found if name in chosen}


@dataclass(frozen=True, slots=True, eq=False)
class Patches:
    """What a layer's weights are multiplied with.

    Attributes:
        groups: One for each group of a convolution, one for a dense layer. The width is that of a row of the weight, in the
            weight's own order, and a sample is one output position of one example.
    """

    groups: tuple[Covariance, ...]

    @property
    def count(self) -> int:
        """Samples; 0 if the layer was never called."""
        return self.groups[0].count


def observe_layers(
    model: nn.Module,
    batches: Iterable[tuple[Any, Any]],
    *,
    layers: Collection[str] | None = None,
    forward_fn: ForwardFn | None = None,
) -> Mapping[str, Patches]:
    r"""The second moments of what each layer's weights are multiplied with: one pass in eval mode, the model left as found.

    A row w of a layer's weight, flattened, gives :math:`w^\top x + b` at each output position, where x is the patch of the
    input under the kernel (with its stride, padding and dilation); for a dense layer the input itself. What is added up is
    :math:`\mathrm{E}[x]` and :math:`\mathrm{E}[x x^\top]` over examples and positions.

    Args:
        model: The model. Its batches go to the device of its parameters.
        batches: Pairs of inputs and targets, as `observe` takes them; the targets are not read.
        layers: Names of layers or of their weights; all dense and convolutional ones by default.
        forward_fn: How a batch's inputs are run, where that is not ``model(inputs)``.

    Returns:
        By the name of the weight. Where modules share a weight, the samples of all of them.

    Raises:
        SettingsError: There is no such layer.
        DataError: There is no batch, or the network does not take its inputs.
        ModelError: Weights or a layer's input are not finite.

    Example:
        >>> model = nn.Sequential(nn.Conv1d(1, 2, 3), nn.Flatten(), nn.Linear(4, 2))
        >>> seen = observe_layers(model, [(torch.ones(5, 1, 4), None)])
        >>> seen["0.weight"].groups[0].gram.shape, seen["0.weight"].count
        (torch.Size([3, 3]), 10)
    """
    model = unwrapped(model)
    chosen = layers_in(model, layers)
    check_finite(named_tensors(model))
    sums = {name: [GramSum(_fan(layer)) for _ in range(_groups(layer))] for name, layer in chosen.items()}
    where = next((p.device for p in model.parameters()), torch.device("cpu"))
    empty = True
    with left_as_found(model), torch.no_grad():
        model.eval()
        for name, layer in chosen.items():
            for holder in model.modules():
                if isinstance(holder, LAYERS) and holder.weight is layer.weight:
                    holder.register_forward_pre_hook(_adding(name, sums[name]), with_kwargs=True)
        for inputs, _ in batches:
            if isinstance(inputs, list) and forward_fn is None:
                inputs = tuple(cast("list[Any]", inputs))  # noqa: PLW2901  as a data loader collates several arguments
            placed = with_tensors(inputs, lambda tensor: tensor.to(where))
            empty = empty and not any(len(tensor) for tensor in tensors_in(placed))
            run_batch(model, placed, forward_fn)
    if empty:
        raise DataError("there is no batch to observe; an iterator that was used up gives none")
    return {name: Patches(tuple(total.result() for total in totals)) for name, totals in sums.items()}


def layer_inputs(
    model: nn.Module, layers: Collection[str], batches: Iterable[tuple[Any, Any]]
) -> dict[str, Covariance]:
    """What layers that are not grouped read, by their own names: `observe_layers` in short.

    Example:
        >>> seen = layer_inputs(nn.Sequential(nn.Linear(2, 3)), ["0"], [(torch.ones(4, 2), None)])
        >>> seen["0"].gram
        tensor([[1., 1.],
                [1., 1.]], dtype=torch.float64)
    """
    seen = observe_layers(model, batches, layers=layers)
    return {name.removesuffix("weight").rstrip("."): found.groups[0] for name, found in seen.items()}


def _adding(name: str, sums: list[GramSum]) -> Any:
    def add(module: Layer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x: Tensor = args[0] if args else kwargs["input"]
        if not bool(torch.isfinite(x).all()):
            raise ModelError(
                f"what {name!r} reads is not finite, though weights and data are: an activation before it overflows; scale"
                " the data as in training, or use a wider number format"
            )
        for total, x_npf in zip(sums, patches(module, x.detach()), strict=True):
            total.add(x_npf)

    return add


def patches(layer: Layer, x: Tensor) -> tuple[Tensor, ...]:
    """What each row of a layer's weight is multiplied with, ``[examples, positions, fan]``, for each group of rows.

    Args:
        layer: A dense or convolutional layer.
        x: Its input.

    Example:
        >>> layer = nn.Conv2d(1, 1, 2, stride=2, padding=1)
        >>> patches(layer, torch.ones(1, 1, 4, 4))[0].sum(dim=2)
        tensor([[1., 2., 1., 2., 4., 2., 1., 2., 1.]])
    """
    if isinstance(layer, nn.Linear):
        return (x.reshape(x.shape[0] if x.dim() > 1 else 1, -1, x.shape[-1]),)
    axes = len(layer.kernel_size)
    padded: Tensor = _padded(layer, x if x.dim() == axes + 2 else x.unsqueeze(0))
    for axis, (size, step, apart) in enumerate(
        zip(layer.kernel_size, layer.stride, layer.dilation, strict=True)
    ):
        # [n, c, *out, *kernel], one axis after the other
        padded = padded.unfold(2 + axis, apart * (size - 1) + 1, step)[..., ::apart]
    n_positions_c_kernel = padded.movedim(1, 1 + axes)
    n = padded.shape[0]
    parts = n_positions_c_kernel.chunk(layer.groups, dim=1 + axes)
    return tuple(part.reshape(n, -1, _fan(layer)) for part in parts)


def _padded(layer: nn.Conv1d | nn.Conv2d | nn.Conv3d, x: Tensor) -> Tensor:
    """A convolution's input with its border."""
    sides: list[int] = []
    for axis in reversed(range(len(layer.kernel_size))):
        if isinstance(layer.padding, str):
            both = layer.dilation[axis] * (layer.kernel_size[axis] - 1) if layer.padding == "same" else 0
            sides += [both // 2, both - both // 2]
        else:
            sides += [layer.padding[axis]] * 2
    return F.pad(x, sides, mode="constant" if layer.padding_mode == "zeros" else layer.padding_mode)


def _fan(layer: Layer) -> int:
    return layer.weight[0].numel()


def _groups(layer: Layer) -> int:
    return 1 if isinstance(layer, nn.Linear) else layer.groups
