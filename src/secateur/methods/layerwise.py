"""Layer-wise optimal brain surgeon: single weights go, and those that stay are moved so that each layer computes nearly the same."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur._model import copied, unwrapped
from secateur.data import Split, Splits
from secateur.errors import ModelError, NothingToCutError, SettingsError
from secateur.methods.seeds import seed_for
from secateur.methods.surgeon import best_weights, cheapest, removal_order
from secateur.observe import Covariance, Patches, layers_in, observe_layers
from secateur.surgery import Masks


@dataclass(frozen=True, slots=True)
class LayerError:
    r"""What the weights that went cost one layer.

    Errors are of the layer's outputs, squared, summed over its channels and averaged over the examples and positions that were
    observed, for the inputs that the layer has in the given network.

    Attributes:
        name: The layer's weight.
        weights: How many it has.
        removed: How many of them went.
        error: :math:`\mathrm{E}\,\lVert y' - y \rVert^2`.
        without_moving: What it would be if these weights went and no other moved.
        variance: :math:`\mathrm{E}\,\lVert y - \mathrm{E} y \rVert^2`, to compare with.
    """

    name: str
    weights: int
    removed: int
    error: float
    without_moving: float
    variance: float


@dataclass(frozen=True, eq=False)
class LayerwiseResult:
    """A network with fewer weights.

    Attributes:
        model: A network of the same shape; the weights that went are zero.
        masks: Which weights stayed, for retraining (``fit(masks=)``) and for files.
        layers: What it cost each layer.
        skipped: Layers that were left whole, and why.
    """

    model: nn.Module
    masks: Masks
    layers: tuple[LayerError, ...]
    skipped: Mapping[str, str]


def layerwise_obs(
    model: nn.Module,
    data: Splits | Split,
    *,
    remove: float | Mapping[str, float],
    layers: Collection[str] | None = None,
    examples: int = 2000,
    damping: float = 0.01,
    seed: int = 0,
) -> LayerwiseResult:
    r"""Remove single weights from dense and convolutional layers, and move the others to make up for them. Nothing is trained.

    A layer's output is linear in its weights, so that for each row w of the weight (an output channel) and inputs x (patches)
    the mean squared error is a quadratic, :math:`\delta w^\top H\, \delta w` with :math:`H = \mathrm{E}[x x^\top]`. The surgeon's step is exact
    on it: the weight of the smallest :math:`w_q^2 / (2 [H^{-1}]_{qq})` goes and the others move, one after the other
    (:func:`secateur.methods.surgeon.removal_order`), always in the row where it costs least.

    A bias is a weight whose input is always 1. It is never removed, but it moves: that is the same as taking the *covariance* for H and
    giving the bias what the mean output has lost. An input that never changes goes at no cost, before all others.

    H is that of the given network for all layers, not of the one that is reduced so far: one pass over the data, layers that do not depend on
    each other's order, and errors that add up to a bound of the network's (theorem 3.1 of the source).

    A layer of r rows and d inputs takes :math:`\frac{2}{3} r d^3` multiply-adds and at most 256 MB (more if one inverse is
    larger): a dense layer of 784 x 300 about ten seconds on one core.

    Args:
        model: The network; it is left as found.
        data: Whose training split (or which split) the inputs are observed on.
        remove: The share of each layer's weights that goes, or the shares by layer; layers without one stay whole.
        layers: Names of layers, where ``remove`` is one share; by default all dense and convolutional ones.
        examples: How many examples are observed, drawn by ``seed``.
        damping: Added to H's diagonal, times the mean of the diagonal: a price on moving weights far. At 0 the inputs must not depend on each
            other linearly.
        seed: Draws the examples.

    Returns:
        The new network, its masks, and the errors.

    Raises:
        SettingsError: A share is below 0 or above 1, there is no such layer, or damping or examples are out of their range.
        ModelError: Inputs depend on each other linearly, without damping; a layer that was named sees no data.
        NothingToCutError: There is no layer to cut.

    Example:
        >>> from secateur import data, networks
        >>> digits = data.load("digits", limit=300)
        >>> net = networks.build("digits-net", seed=0)
        >>> found = layerwise_obs(net, digits, remove=0.5, layers=["dense1"])
        >>> found.masks
        Masks
        tensor         weights   left   share
        dense1.weight   16,384  8,192  50.0 %
        >>> found.layers[0].error < 0.5 * found.layers[0].without_moving
        True

    Source:
        Dong, Chen and Pan 2017, Learning to prune deep neural networks via layer-wise optimal brain surgeon, arXiv:1705.07565. There
        the scores of all weights are taken once and the changes added up; here each step sees those before it, as in
        Frantar and Alistarh 2022, arXiv:2208.11580, whose row-wise elimination and choice over rows this is. There biases do not move.
    """
    network = unwrapped(model)
    shares = _shares(network, remove, layers)
    if damping < 0:
        raise SettingsError(f"damping is {damping:g}; it must not be negative")
    if examples < 1:
        raise SettingsError(f"examples is {examples}; at least one must be observed")
    split = data.train if isinstance(data, Splits) else data
    sample = split.take(min(examples, len(split)), seed=seed_for(seed, "sample") % 2**31)
    made = copied(network, {})
    seen = observe_layers(network, sample.batches(_BATCH), layers=list(shares))
    named = layers is not None or isinstance(remove, Mapping)
    kept: dict[str, Tensor] = {}
    errors: list[LayerError] = []
    skipped: dict[str, str] = {}
    targets = layers_in(made, list(shares))
    for name, share in shares.items():
        if not seen[name].count:
            skipped[name] = "its layer is not called in a forward pass, so that nobody knows what it reads"
            if named:
                raise ModelError(f"{name!r} cannot be cut: {skipped[name]}; leave it out")
            continue
        layer = targets[name]
        weight, bias = layer.weight, layer.bias
        kept[name], new, moved, error = _cut(
            name, weight.detach(), seen[name], share, centred=bias is not None, damping=damping
        )
        errors.append(error)
        with torch.no_grad():
            weight.copy_(new)
            if bias is not None:
                bias += moved.to(bias)
    if not kept:
        raise NothingToCutError(
            "the network has no dense or convolutional layer that sees data; prune its units instead"
        )
    return LayerwiseResult(made, Masks(kept), tuple(errors), skipped)


_BATCH = 100


def _shares(
    model: nn.Module, remove: float | Mapping[str, float], layers: Collection[str] | None
) -> dict[str, float]:
    """The share that goes of each weight by its name."""
    if isinstance(remove, Mapping):
        if layers is not None:
            raise SettingsError("remove names the layers already; leave out layers, or give one share")
        shares: dict[str, float] = {
            next(iter(layers_in(model, [name]))): share for name, share in remove.items()
        }
    else:
        shares = dict.fromkeys(layers_in(model, layers), remove)
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise SettingsError(f"remove={share:g} for {name!r} is no share between 0 and 1")
    if not shares:
        raise NothingToCutError(
            "the network has no dense or convolutional layer with a weight of its own; prune its units instead"
        )
    return shares


def _cut(
    name: str, weight: Tensor, seen: Patches, share: float, *, centred: bool, damping: float
) -> tuple[Tensor, Tensor, Tensor, LayerError]:
    """One layer: which weights stay, their new values, by how much the bias moves, and what it costs."""
    rows = weight.detach().double().cpu().flatten(1)
    parts = rows.chunk(len(seen.groups))
    moments = [group.covariance if centred else group.gram for group in seen.groups]
    found = [_order(part, h, damping) for part, h in zip(parts, moments, strict=True)]
    order, cost = (torch.cat(each) for each in zip(*found, strict=True))
    count = math.floor(share * rows.numel() * (1 + 1e-12) + 1e-9)  # as plan_weights counts
    kept = cheapest(order, cost, count)
    new = torch.cat(
        [
            _best(part, h, mine, damping)
            for part, h, mine in zip(parts, moments, kept.chunk(len(parts)), strict=True)
        ]
    ).to(weight.dtype)
    change = (new.double() - rows).chunk(len(parts))
    error = LayerError(
        name,
        rows.numel(),
        count,
        _squared(change, seen.groups, centred=centred),
        _squared([-(part * ~mine) for part, mine in zip(parts, kept.chunk(len(parts)), strict=True)],
                 seen.groups, centred=False),
        _squared(parts, seen.groups, centred=True),
    )  # fmt: skip
    moved = torch.cat([-part @ group.mean for part, group in zip(change, seen.groups, strict=True)])
    return kept.view(weight.shape), new.view(weight.shape), moved, error


def _order(weight: Tensor, h: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """In which order the weights of some rows go; those of inputs that never change go first."""
    live = _live(h)
    at, dead = live.nonzero()[:, 0], (~live).nonzero()[:, 0]
    order, cost = removal_order(weight[:, at], _damped(h[at[:, None], at], damping))
    first = dead.expand(len(weight), -1)
    return torch.cat([first, at[order]], dim=1), torch.cat([cost.new_zeros(first.shape) - 1, cost], dim=1)


def _best(weight: Tensor, h: Tensor, kept: Tensor, damping: float) -> Tensor:
    """The best values for what stays; weights of inputs that never change stay as they are, if they stay."""
    at = _live(h).nonzero()[:, 0]
    made = torch.where(kept, weight, 0.0)
    made[:, at] = best_weights(weight[:, at], _damped(h[at[:, None], at], damping), kept[:, at])
    return made


def _live(h: Tensor) -> Tensor:
    """Inputs that change, by more than what rounding leaves of a constant."""
    diagonal = h.diagonal()
    return diagonal > 1e-12 * diagonal.max().clamp(min=torch.finfo(diagonal.dtype).tiny)


def _damped(h: Tensor, damping: float) -> Tensor:
    return h + damping * h.diagonal().mean() * torch.eye(len(h), dtype=h.dtype) if len(h) else h


def _squared(change: Collection[Tensor], groups: Collection[Covariance], *, centred: bool) -> float:
    """The mean square of what the rows give, over the samples."""
    total = torch.zeros((), dtype=torch.float64)
    for rows, group in zip(change, groups, strict=True):
        total += ((rows @ (group.covariance if centred else group.gram)) * rows).sum()
    return float(total)
