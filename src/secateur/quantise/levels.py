"""Training levels in place of weights: inside, a network's clustered weights are functions of their levels."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn.utils import parametrize

from secateur._options import did_you_mean, expect
from secateur.errors import ModelError, PlanError
from secateur.quantise.cluster import Clustered, summed


class _Lookup(torch.autograd.Function):
    """Levels by index; backward, the sum over each level's members (quicker than that of indexing)."""

    @staticmethod
    def forward(ctx: FunctionCtx, levels: Tensor, indices: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        known: Any = ctx
        known.save_for_backward(indices)
        known.count = len(levels)
        return levels[indices]

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        known: Any = ctx
        (indices,) = known.saved_tensors
        return summed(gradient, indices, known.count), None


class _Levels(nn.Module):
    """The parametrisation: what is trained are the levels, but for the zero of pruned weights."""

    def __init__(self, clustered: Clustered) -> None:
        super().__init__()
        self.zero = int(clustered.zero)
        self.start = clustered.levels
        self.register_buffer("indices", clustered.indices, persistent=False)

    def forward(self, levels: Tensor) -> Tensor:
        every = torch.cat([levels.new_zeros(1), levels]) if self.zero else levels
        return cast("Any", _Lookup).apply(every, self.indices)

    def right_inverse(self, weight: Tensor) -> Tensor:
        return self.start[self.zero :].to(weight, copy=True)


@contextmanager
def training_levels(
    model: nn.Module, clustered: Mapping[str, Clustered]
) -> Generator[dict[str, nn.Parameter]]:
    r"""Inside, clustered weights are trained as their levels; at the end each weight is its levels again, looked up.

    The gradient of a level is the sum of the gradients of the weights that have it,

    .. math::

        \frac{\partial L}{\partial c_j} = \sum_{i:\, j(i) = j} \frac{\partial L}{\partial w_i},

    so that any optimiser over ``model.parameters()`` trains them. Which weight has which level is fixed; the zero of pruned weights is not trained.

    Args:
        model: The network, which is changed.
        clustered: By name of a parameter what its numbers are.

    Yields:
        The levels that are trained, by the name of the weight.

    Raises:
        PlanError: The network has no parameter of a name, or of another shape.
        ModelError: A weight is used in several places, or is computed already.

    Example:
        >>> from secateur.quantise import cluster
        >>> net = nn.Linear(3, 1, bias=False)
        >>> with training_levels(net, {"weight": cluster(torch.tensor([[1.0, 1.0, 2.0]]), 2)}) as levels:
        ...     net(torch.tensor([[1.0, 2.0, 4.0]])).backward()
        ...     levels["weight"].grad
        tensor([3., 4.])

    Source:
        Han, Mao and Dally 2016, Deep Compression, arXiv:1510.00149, equation 3.
    """
    expect(
        "training_levels(model, {'conv1.weight': cluster(weight, 32)})",
        model=(model, nn.Module),
        clustered=(clustered, Mapping),
    )
    places = {name: _place_of(model, name, one) for name, one in clustered.items()}
    orders = {
        id(module): [name for name, _ in module.named_parameters(recurse=False)]
        for module, _ in places.values()
    }
    for name, (module, leaf) in places.items():
        parametrize.register_parametrization(
            module, leaf, _Levels(clustered[name]).to(getattr(module, leaf).device)
        )
    try:
        yield {name: _held(module, leaf).original for name, (module, leaf) in places.items()}
    finally:
        for module, leaf in places.values():
            level: nn.Parameter = _held(module, leaf).original
            level.grad = None
            names = orders[id(module)]
            parametrize.remove_parametrizations(module, leaf, leave_parametrized=True)
            held = dict(module.named_parameters(recurse=False))
            for key in names:  # in the order in which they were
                delattr(module, key)
                module.register_parameter(key, held[key])


def _held(module: nn.Module, leaf: str) -> Any:
    return cast("Any", module).parametrizations[leaf]


def _place_of(model: nn.Module, name: str, clustered: Clustered) -> tuple[nn.Module, str]:
    """The module that holds a weight, and its name there."""
    known = dict(model.named_parameters(remove_duplicate=False))
    if name not in known:
        raise PlanError(
            f"the levels are of another network: this one has no parameter {name!r}; {did_you_mean(name, known)}"
        )
    if known[name].shape != clustered.indices.shape:
        raise PlanError(
            f"the levels are of another network: {name!r} is {tuple(clustered.indices.shape)} in them and"
            f" {tuple(known[name].shape)} in the network"
        )
    same = [other for other, parameter in known.items() if parameter is known[name]]
    if len(same) > 1:
        raise ModelError(
            f"{name!r} is one weight with {', '.join(repr(other) for other in same if other != name)}, and levels cannot be trained"
            " for both; leave it out (exclude), or give each a weight of its own"
        )
    path, _, leaf = name.rpartition(".")
    modules = dict(cast("Iterator[tuple[str, nn.Module]]", model.named_modules()))
    if path not in modules or parametrize.is_parametrized(modules[path], leaf):
        raise ModelError(f"{name!r} is computed from other parameters already; leave it out (exclude)")
    return modules[path], leaf
