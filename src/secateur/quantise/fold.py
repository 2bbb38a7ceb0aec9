"""Batch norm folded into the layer before it, as every runtime does: what is quantised are the products."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights
from torch.nn.utils.parametrize import is_parametrized

from secateur._model import copied, left_as_found, unwrapped
from secateur._options import expect
from secateur.errors import ModelError
from secateur.quantise.flow import Flow, Step, flow

_PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_TOLERANCE = 1e-4
"""Relative, in float32: what a norm's children alone may differ by from the norm."""


@dataclass(frozen=True, slots=True, eq=False)
class Folded:
    """A network whose norms are part of its layers.

    Attributes:
        model: The network, of the same class; where a norm was there is an identity, or what else that module did.
        pairs: By the name of each layer the norm that went into it.
        left: The norms that stay, and why.
    """

    model: nn.Module
    pairs: Mapping[str, str]
    left: Mapping[str, str] = field(default_factory=dict[str, str])


def fold(model: nn.Module, example: Tensor) -> Folded:
    r"""Fold every batch norm into the convolution or dense layer whose outcome it alone reads.

    :math:`W' = \gamma W / \sqrt{\sigma^2 + \epsilon}` and :math:`b' = \gamma (b - \mu) / \sqrt{\sigma^2 + \epsilon} + \beta`. What reads what is seen
    in one forward pass in eval mode, so that the network's code may be any.

    Args:
        model: The network; it is left as found.
        example: An input with a batch axis.

    Returns:
        A copy that computes the same in eval mode.

    Raises:
        WatchError: The forward pass failed.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.BatchNorm2d(2), nn.ReLU())
        >>> folded = fold(net, torch.zeros(1, 1, 8, 8))
        >>> folded.pairs, folded.model[1]
        ({'0': '1'}, Identity())

    Source:
        Jacob et al. 2018, arXiv:1712.05877, equation 14.
    """
    expect("fold(model, example)", model=(model, nn.Module), example=(example, Tensor))
    network = copied(unwrapped(model), {})
    seen = flow(network, example, keep=True)
    pairs: dict[str, str] = {}
    left: dict[str, str] = {}
    for step in seen.steps:
        if step.function != "batch_norm":
            continue
        norm = network.get_submodule(step.module)
        writer = seen.writer(step.takes[0])
        reason = _why_not(network, seen, step, norm, writer)
        rest = None if reason else _rest(cast("_BatchNorm", norm), seen, step)
        if reason is None and rest is None:
            reason = f"{type(norm).__name__} does more than a batch norm and its children"
        if reason is not None or rest is None or writer is None:
            left[step.module] = reason or "unknown"
            continue
        _fold_into(cast("Any", network.get_submodule(writer.module)), cast("_BatchNorm", norm))
        network.set_submodule(step.module, rest)
        pairs[writer.module] = step.module
    return Folded(network, pairs, left)


def _why_not(network: nn.Module, seen: Flow, step: Step, norm: nn.Module, writer: Step | None) -> str | None:
    """The reason for which a norm stays; None where it can be folded."""
    if not isinstance(norm, _BatchNorm) or norm.running_mean is None:
        return "it has no running statistics of its own"
    if writer is None or not writer.is_layer:
        what = "the network's input" if writer is None else f"the outcome of {writer.function}"
        return f"it reads {what}, not that of a layer"
    layer = network.get_submodule(writer.module)
    if not isinstance(layer, _LAYERS) or writer.weight != f"{writer.module}.weight".lstrip("."):
        return f"the layer before it, {writer.module}, is no plain convolution or dense layer"
    if is_parametrized(layer):
        return f"the weight of {writer.module} is computed from others"
    if seen.calls[writer.module] > 1 or seen.calls[step.module] > 1:
        return "it or the layer before it is called several times"
    if len(seen.readers(step.takes[0])) > 1 or step.takes[0] in seen.outputs:
        return f"what {writer.module} gives is read by others, too"
    if isinstance(layer, nn.Linear) and seen.values[step.takes[0]].dim() != 2:
        return f"the channels of {writer.module} are not the axis that is normalised"
    shared = [p for p in layer.parameters() if sum(p is q for q in network.parameters()) != 1]
    return f"the weight of {writer.module} is shared" if shared else None


@torch.no_grad()
def _rest(norm: _BatchNorm, seen: Flow, step: Step) -> nn.Module | None:
    """What stands in a folded norm's place: what its children do, or nothing. None where that is not all that it does."""
    if type(norm) in _PLAIN:
        return nn.Identity().train(norm.training)
    rest = nn.Sequential(*norm.children()).train(norm.training)
    with left_as_found(norm):
        norm.eval()
        wanted = norm(seen.values[step.takes[0]])
        found = rest(seen.values[step.gives[0]].clone())
    same = found.shape == wanted.shape and float((found - wanted).abs().max()) <= _TOLERANCE * max(
        float(wanted.abs().max()), 1e-12
    )
    return rest if same else None


@torch.no_grad()
def _fold_into(layer: Any, norm: _BatchNorm) -> None:
    """Give a layer the norm's scale and shift."""
    trainable = layer.weight.requires_grad
    fuse = fuse_linear_bn_weights if isinstance(layer, nn.Linear) else fuse_conv_bn_weights
    layer.weight, layer.bias = fuse(
        layer.weight,
        layer.bias,
        cast("Tensor", norm.running_mean),
        cast("Tensor", norm.running_var),
        norm.eps,
        norm.weight,
        norm.bias,
    )
    layer.weight.requires_grad_(trainable)
    layer.bias.requires_grad_(trainable)


def unfold(folded: Folded, into: nn.Module) -> nn.Module:
    r"""Bring a folded network's weights back into a network that has its norms still, so that it can be stored as that.

    The layers get the folded weights. A norm is left that scales by one (:math:`\gamma = 1`, :math:`\mu = 0`, :math:`\sigma^2 = 1 - \epsilon`); the
    bias is the layer's where it has one, else the norm's.

    Args:
        folded: What :func:`fold` made of ``into``, perhaps with other weights since.
        into: The network that it was made of; it is left as found.

    Returns:
        A copy of ``into`` that computes in eval mode what the folded network computes.

    Raises:
        ModelError: The folded network was made of another one, or a pair has no bias to hold the shift.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.BatchNorm2d(2))
        >>> back = unfold(fold(net, torch.zeros(1, 1, 8, 8)), net)
        >>> list(back.state_dict()) == list(net.state_dict())
        True
    """
    made = copied(unwrapped(into), {})
    state = dict(folded.model.state_dict())
    norms, biases = set(folded.pairs.values()), {f"{layer}.bias" for layer in folded.pairs}
    with torch.no_grad():
        for layer_name, norm_name in folded.pairs.items():
            layer, norm = (
                cast("Any", made.get_submodule(layer_name)),
                cast("Any", made.get_submodule(norm_name)),
            )
            bias = state.pop(f"{layer_name}.bias")
            if layer.bias is None and norm.bias is None:
                raise ModelError(
                    f"neither {layer_name} nor {norm_name} has a bias, so that the shift has no place; store the folded network"
                )
            norm.running_mean.zero_()
            norm.running_var.fill_(1 - norm.eps)
            if norm.weight is not None:
                norm.weight.fill_(1)
            if norm.bias is not None:
                norm.bias.copy_(torch.zeros_like(bias) if layer.bias is not None else bias)
            if layer.bias is not None:
                layer.bias.copy_(bias)
    rest = {name: tensor for name, tensor in made.state_dict().items() if name not in state}
    rest = {name: tensor for name, tensor in rest.items() if _norm_of(name) in norms or name in biases}
    shapes = {name: tensor.shape for name, tensor in made.state_dict().items() if name not in rest}
    for name, tensor in state.items():
        if shapes.get(name) != tensor.shape:
            raise _another(name)
    for name in shapes.keys() - state.keys():
        raise _another(name)
    made.load_state_dict({**state, **rest})
    return made


def _norm_of(tensor: str) -> str:
    return tensor.rpartition(".")[0]


def _another(name: str) -> ModelError:
    return ModelError(
        f"the folded network was made of another one: {name!r} is not the same in both; give the one it was made of"
    )
