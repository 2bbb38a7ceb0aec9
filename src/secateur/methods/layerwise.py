"""Layer-wise optimal brain surgeon: single weights go, and those that stay are moved so that each layer computes nearly the same."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from numbers import Real

import torch
from torch import Tensor, nn

from secateur._model import copied, unwrapped
from secateur._options import expect, expect_names
from secateur.data import Split, Splits
from secateur.errors import ModelError, NothingToCutError, SettingsError
from secateur.methods.seeds import seed_for
from secateur.methods.surgeon import best_weights, cheapest, removal_order
from secateur.observe import Covariance, layers_in, observe_layers
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

    model: nn.Module = field(repr=False)
    masks: Masks
    layers: tuple[LayerError, ...]
    skipped: Mapping[str, str]

    def __str__(self) -> str:
        """How many weights went, and what that cost each layer."""
        removed, total = (sum(getattr(one, what) for one in self.layers) for what in ("removed", "weights"))
        lines = [f"{removed:,} of {total:,} weights removed"]
        lines += [
            f"  {one.name}: {one.removed:,} of {one.weights:,}; error {one.error:.4g}, {one.without_moving:.4g} without moving the"
            f" others, of variance {one.variance:.4g}"
            for one in self.layers
        ]
        return "\n".join([*lines, *(f"  stays: {name}: {reason}" for name, reason in self.skipped.items())])


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
        DataError: The network does not take the inputs.
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
    call = "layerwise_obs(model, data, remove=0.5)"
    expect(call, model=(model, nn.Module), data=(data, (Splits, Split)), remove=(remove, (Real, Mapping)))
    names = layers
    if isinstance(remove, Mapping):
        if layers is not None:
            raise SettingsError("remove names the layers already; leave out layers, or give one share")
        names = list(remove)
    return Surgeon(model, data, layers=names, examples=examples, damping=damping, seed=seed).cut(remove)


class Surgeon:
    """Layer-wise optimal brain surgeon for several shares at the cost of one.

    The order in which weights go does not depend on how many do: it is found once, and each cut is little more than a solve.

    Args:
        model: The network; it is left as found, and must stay as it is while cuts are made.
        data: As for `layerwise_obs`.
        layers: Names of layers; all dense and convolutional ones by default.
        examples: As for `layerwise_obs`.
        damping: As for `layerwise_obs`.
        seed: As for `layerwise_obs`.

    Raises:
        SettingsError: There is no such layer, or damping or examples are out of their range.
        ModelError: Inputs depend on each other linearly, without damping; a layer that was named sees no data.
        NothingToCutError: There is no layer to cut.

    Attributes:
        skipped: Layers that stay whole, and why.

    Example:
        >>> from secateur import data, networks
        >>> digits = data.load("digits", limit=300)
        >>> surgeon = Surgeon(networks.build("digits-net", seed=0), digits, layers=["dense1"])
        >>> [surgeon.cut(share).masks.left for share in (0.5, 0.75)]
        [8192, 4096]
    """

    def __init__(
        self,
        model: nn.Module,
        data: Splits | Split,
        *,
        layers: Collection[str] | None = None,
        examples: int = 2000,
        damping: float = 0.01,
        seed: int = 0,
    ) -> None:
        expect("Surgeon(model, data)", model=(model, nn.Module), data=(data, (Splits, Split)))
        expect_names(layers=layers)
        if damping < 0:
            raise SettingsError(f"damping is {damping:g}; it must not be negative")
        if examples < 1:
            raise SettingsError(f"examples is {examples}; at least one must be observed")
        self._model, self._damping = unwrapped(model), damping
        chosen = layers_in(self._model, layers)
        split = data.train if isinstance(data, Splits) else data
        sample = split.take(min(examples, len(split)), seed=seed_for(seed, "sample") % 2**31)
        self._seen = observe_layers(self._model, sample.batches(_BATCH), layers=list(chosen))
        self.skipped: dict[str, str] = {
            name: "its layer is not called in a forward pass, so that nobody knows what it reads"
            for name, seen in self._seen.items()
            if not seen.count
        }
        for name, reason in self.skipped.items():
            if layers is not None:
                raise ModelError(f"{name!r} cannot be cut: {reason}; leave it out")
        self._orders = {name: self._order(name) for name in chosen if name not in self.skipped}
        if not self._orders:
            raise NothingToCutError(
                "the network has no dense or convolutional layer with a weight of its own that sees data; prune its units instead"
            )

    def cut(self, remove: float | Mapping[str, float]) -> LayerwiseResult:
        """A copy of the network without a share of its weights.

        Args:
            remove: The share of each layer's weights that goes, or the shares by layer; layers without one stay whole.

        Raises:
            SettingsError: A share is below 0 or above 1, or of a layer that is not among these.
        """
        shares = dict.fromkeys(self._orders, remove) if not isinstance(remove, Mapping) else {
            next(iter(layers_in(self._model, [name]))): share for name, share in remove.items()
        }  # fmt: skip
        for name, share in shares.items():
            if not isinstance(share, Real):
                raise SettingsError(f"remove={share!r} for {name!r} must be a number, the share that goes")
            if not 0 <= share <= 1:
                raise SettingsError(f"remove={share:g} for {name!r} is no share between 0 and 1")
            if name not in self._orders:
                raise SettingsError(
                    f"{name!r} was not among the layers to be cut: {', '.join(self._orders)}; name it there"
                )
        made = copied(self._model, {})
        kept: dict[str, Tensor] = {}
        errors: list[LayerError] = []
        for name, layer in layers_in(made, list(shares)).items():
            kept[name], new, moved, error = self._cut(name, shares[name])
            errors.append(error)
            with torch.no_grad():
                layer.weight.copy_(new.view_as(layer.weight))
                if layer.bias is not None:
                    layer.bias.add_(moved.to(layer.bias))
        return LayerwiseResult(made, Masks(kept), tuple(errors), self.skipped)

    def _problem(self, name: str) -> tuple[Tensor, tuple[Covariance, ...], list[Tensor]]:
        """A layer's rows, and for each group of them what they read and their Hessian."""
        layer, groups = layers_in(self._model, [name])[name], self._seen[name].groups
        rows = layer.weight.detach().double().cpu().flatten(1)
        return rows, groups, [group.gram if layer.bias is None else group.covariance for group in groups]

    def _order(self, name: str) -> tuple[Tensor, Tensor]:
        rows, groups, hessians = self._problem(name)
        parts = zip(rows.chunk(len(groups)), hessians, strict=True)
        found = [_order(part, h, self._damping) for part, h in parts]
        return torch.cat([order for order, _ in found]), torch.cat([cost for _, cost in found])

    def _cut(self, name: str, share: float) -> tuple[Tensor, Tensor, Tensor, LayerError]:
        """One layer: which weights stay, their new values, by how much the bias moves, and what it costs."""
        rows, groups, hessians = self._problem(name)
        layer = layers_in(self._model, [name])[name]
        count = math.floor(share * rows.numel() * (1 + 1e-12) + 1e-9)  # as plan_weights counts
        kept = cheapest(*self._orders[name], count)
        each = zip(*(t.chunk(len(groups)) for t in (rows, kept)), hessians, strict=True)
        best = torch.cat([_best(part, h, mine, self._damping) for part, mine, h in each])
        new = best.to(layer.weight.dtype)
        change = (new.double() - rows).chunk(len(groups))
        error = LayerError(
            name,
            rows.numel(),
            count,
            _squared(change, groups, centred=layer.bias is not None),
            _squared((-rows * ~kept).chunk(len(groups)), groups, centred=False),
            _squared(rows.chunk(len(groups)), groups, centred=True),
        )
        moved = torch.cat([-part @ group.mean for part, group in zip(change, groups, strict=True)])
        return kept.view(layer.weight.shape), new, moved, error


_BATCH = 100


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
