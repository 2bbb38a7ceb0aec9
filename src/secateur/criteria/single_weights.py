"""How much each single weight, or each kernel, of a network matters."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from secateur._model import check_finite, named_tensors, unwrapped
from secateur._options import did_you_mean, expect, expect_names
from secateur.channels.nested import ForwardFn
from secateur.criteria.score import HasBatches, batches_of
from secateur.errors import ModelError, SettingsError
from secateur.observe import Loss, WeightNeed, WeightObservations, observe_weights, weights_of

FineGrain: TypeAlias = Literal["weight", "kernel"]
"""What goes at a time: a single weight, or all weights between one input and one output channel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightCriterion:
    """A way to score single weights.

    Attributes:
        name: Its name.
        function: From a weight, and what was observed of it (the weight again, if nothing is needed), to a score for each of its
            numbers; None for random ones.
        need: What must be observed on data first; None for a criterion on weights alone.
        description: What it measures, in a line.
        source: Where it was published.
    """

    name: str
    function: Callable[[Tensor, Tensor], Tensor] | None
    need: WeightNeed | None = None
    description: str
    source: str


def magnitude(weight: Tensor) -> Tensor:
    r"""Absolute weights: :math:`s = |w|`.

    Args:
        weight: Any shape.

    Returns:
        Scores of the same shape, float64, in the unit of the weights. A zero scores 0, the least.

    Example:
        >>> magnitude(torch.tensor([[1.0, -2.0]]))
        tensor([[1., 2.]], dtype=torch.float64)

    Source:
        Han et al. 2015, Learning both weights and connections for efficient neural networks, arXiv:1506.02626.
    """
    return weight.double().abs()


def taylor(weight: Tensor, gradient: Tensor) -> Tensor:
    r"""First-order estimate of the loss change if a weight is zeroed: :math:`s = \frac{1}{N} \sum_n |\partial C_n/\partial w \cdot w|`.

    The magnitude is taken for each of N examples and then averaged, as for units: at a minimum the gradients of single examples
    cancel, and the gradient of the mean loss says nothing.

    Args:
        weight: Any shape.
        gradient: Mean absolute gradient over examples, of the same shape.

    Returns:
        Scores of the same shape, float64, in the unit of the loss.

    Raises:
        SettingsError: The two shapes differ.

    Example:
        >>> taylor(torch.tensor([2.0, -1.0]), torch.tensor([0.5, 3.0]))
        tensor([1., 3.], dtype=torch.float64)

    Source:
        Molchanov et al. 2017, arXiv:1611.06440, equation 8, of a weight in place of an activation.
    """
    return _same(weight, gradient).double() * weight.double().abs()


def obd(weight: Tensor, curvature: Tensor) -> Tensor:
    r"""Second-order estimate of the loss change if a weight is zeroed (optimal brain damage): :math:`s = h\,w^2/2`.

    h is the weight's entry on the diagonal of the Hessian of the mean loss, in the Gauss-Newton approximation, which is exact
    where activations are piecewise linear (`secateur.observe.observe_weights`). The score is exact, for each weight alone, at a
    minimum of a quadratic loss, and for several together where its Hessian is diagonal.

    Args:
        weight: Any shape.
        curvature: The diagonal, of the same shape.

    Returns:
        Scores of the same shape, float64, in the unit of the loss.

    Raises:
        SettingsError: The two shapes differ.

    Example:
        >>> obd(torch.tensor([2.0, -1.0]), torch.tensor([0.5, 3.0]))
        tensor([1.0000, 1.5000], dtype=torch.float64)

    Source:
        LeCun, Denker, Solla 1990, Optimal Brain Damage. Their backward recursion takes the diagonal at every layer; here it is that
        of the whole network's Gauss-Newton matrix. Hutchinson's estimate, which serves for units, is too noisy for single weights.
    """
    return _same(weight, curvature).double() * weight.double().square() / 2


def _same(weight: Tensor, other: Tensor) -> Tensor:
    if weight.shape != other.shape:
        raise SettingsError(
            f"weight {tuple(weight.shape)} and what was observed of it {tuple(other.shape)} differ; give the same tensor's"
        )
    return other


_MAGNITUDE: Final = "Han et al. 2015, arXiv:1506.02626"
_ALL = (
    WeightCriterion(
        name="magnitude",
        function=lambda weight, _: magnitude(weight),
        description="the absolute weight",
        source=_MAGNITUDE,
    ),
    WeightCriterion(
        name="l1",
        function=lambda weight, _: magnitude(weight),
        description="the same, by the name that it has for units: the L1 norm of a kernel's weights",
        source=_MAGNITUDE,
    ),
    WeightCriterion(
        name="taylor",
        function=taylor,
        need="gradient",
        description="first-order change of the loss if the weight were zero",
        source="Molchanov et al. 2017, arXiv:1611.06440",
    ),
    WeightCriterion(
        name="obd",
        function=obd,
        need="curvature",
        description="second-order change of the loss if the weight were zero",
        source="LeCun, Denker, Solla 1990, Optimal Brain Damage",
    ),
    WeightCriterion(
        name="random",
        function=None,
        description="uniform random numbers, by seed and tensor",
        source="the baseline",
    ),
)

WEIGHT_CRITERIA: Mapping[str, WeightCriterion] = MappingProxyType({each.name: each for each in _ALL})
"""The criteria for single weights by name. A kernel's score is the sum of its weights', but for ``random``."""


def weight_criterion_named(name: str | WeightCriterion) -> WeightCriterion:
    """The criterion for weights of that name; a criterion is taken as it is.

    Raises:
        SettingsError: There is none; the message lists those there are.

    Example:
        >>> weight_criterion_named("obd").need
        'curvature'
    """
    if isinstance(name, WeightCriterion):
        return name
    found = WEIGHT_CRITERIA.get(name)
    if found is None:
        raise SettingsError(
            f"criterion {name!r} does not exist for single weights and kernels; those that do are {', '.join(WEIGHT_CRITERIA)}"
        )
    return found


@dataclass(frozen=True, eq=False, repr=False)
class WeightScores:
    """How much each weight, or each kernel, matters by one criterion; the lowest goes first.

    Attributes:
        criterion: Its name.
        granularity: ``weight`` or ``kernel``.
        values: By name of a parameter, float64 on the CPU: of its shape for weights, of its first two axes for kernels.

    Raises:
        SettingsError: The values have another type, or a kernel's have not two axes.
        ModelError: A value is not finite.

    Example:
        >>> WeightScores("magnitude", "weight", {"fc.weight": torch.tensor([[3.0, 1.0, 2.0]], dtype=torch.float64)})
        Scores of weights by magnitude
        tensor     count  lowest  median  highest
        fc.weight      3       1       2        3
    """

    criterion: str
    granularity: FineGrain
    values: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        for name, values in self.values.items():
            axes = values.dim() == 2 if self.granularity == "kernel" else values.dim() > 0
            if values.dtype != torch.float64 or not axes or not values.numel():
                raise SettingsError(
                    f"the scores of {name!r} by {self.criterion!r} are {values.dtype} {tuple(values.shape)}; they must be float64,"
                    f" one for each {self.granularity}"
                )
            if not bool(torch.isfinite(values).all()):
                raise ModelError(
                    f"criterion {self.criterion!r} gives a {self.granularity} of {name!r} a score that is not finite; check the"
                    " weights and the data of that layer for very large numbers"
                )

    def __repr__(self) -> str:
        rows: list[tuple[str, ...]] = [("tensor", "count", "lowest", "median", "highest")]
        for name, values in self.values.items():
            figures = (values.min(), values.median(), values.max())
            rows.append((name, f"{values.numel():,}", *(f"{float(figure):.4g}" for figure in figures)))
        first, *others = (max(len(row[column]) for row in rows) for column in range(5))
        lines = [
            row[0].ljust(first)
            + "".join("  " + cell.rjust(width) for cell, width in zip(row[1:], others, strict=True))
            for row in rows
        ]
        return "\n".join([f"Scores of {self.granularity}s by {self.criterion}", *lines])


def score_weights(
    model: nn.Module,
    criterion: str | WeightCriterion = "magnitude",
    *,
    data: Iterable[tuple[Any, Any]] | HasBatches | WeightObservations | None = None,
    granularity: FineGrain = "weight",
    layers: Collection[str] | None = None,
    loss: Loss | None = None,
    forward_fn: ForwardFn | None = None,
    batches: int | None = None,
    seed: int = 0,
) -> WeightScores:
    r"""Score every weight, or every kernel, of dense and convolutional layers; the lowest goes first.

    - ``"magnitude"``: :math:`|w|`; ``"l1"``, as it is called for units, is the same.
    - ``"taylor"``: :math:`|w\,\partial C/\partial w|`, the mean over examples; needs data.
    - ``"obd"``: :math:`h_{ww} w^2/2`, with the Gauss-Newton diagonal; needs data, and a backward pass for each output.
    - ``"random"``: uniform numbers.

    A kernel is what lies between one input and one output channel; its score is the sum of its weights'. In a dense layer each
    weight is a kernel. Biases and norms do not take part.

    Args:
        model: The network; it is left as found.
        criterion: One of the above, or a `WeightCriterion`.
        data: Batches of (inputs, targets), anything with ``.batches(size)``, or `WeightObservations` that hold what is needed.
        granularity: ``weight`` or ``kernel``.
        layers: Names of the layers; all that are dense or convolutional by default.
        loss: From output and targets to the mean loss; cross entropy by default.
        forward_fn: How a batch's inputs are run, where that is not ``model(inputs)``: ``forward_fn(model, inputs)``.
        batches: Look at no more than so many batches.
        seed: Seed of random scores.

    Raises:
        SettingsError: There is no such criterion or layer, data are missing, or an option is out of its range.
        ModelError: The network has no such layers, or a weight, the loss or a gradient is not finite.
        DataError: The data cannot be used.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
        >>> _ = net[0].weight.data.copy_(torch.tensor([[1.0, -2.0], [0.5, 0.0]]))
        >>> score_weights(net, "magnitude", layers=["0"]).values["0.weight"]
        tensor([[1.0000, 2.0000],
                [0.5000, 0.0000]], dtype=torch.float64)
    """
    expect("score_weights(model)", model=(model, nn.Module))
    expect_names(layers=layers)
    model = unwrapped(model)
    chosen = weight_criterion_named(criterion)
    if granularity not in get_args(FineGrain):
        raise SettingsError(f"granularity={granularity!r} must be 'weight' or 'kernel'")
    if seed < 0:
        raise SettingsError(f"seed is {seed}; it must be 0 or more")
    if batches is not None and batches < 1:
        raise SettingsError(f"batches is {batches}; a criterion on data needs at least 1")
    parameters = _chosen(model, layers)
    names = list(parameters.values())
    tensors = named_tensors(model)
    check_finite({name: tensors[name] for name in names})
    seen: Mapping[str, Tensor] = {}
    if chosen.need is not None:
        seen = _observed(
            model,
            chosen,
            chosen.need,
            parameters,
            data=data,
            loss=loss,
            forward_fn=forward_fn,
            batches=batches,
        )
    values: dict[str, Tensor] = {}
    for name in names:
        weight = tensors[name].detach()
        if chosen.function is None:
            shape = weight.shape[:2] if granularity == "kernel" else weight.shape
            generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}/{name}".encode()))
            values[name] = torch.rand(shape, generator=generator, dtype=torch.float64)
            continue
        single = chosen.function(weight, seen.get(name, weight)).cpu()
        values[name] = single.flatten(2).sum(2) if granularity == "kernel" and single.dim() > 2 else single
    return WeightScores(chosen.name, granularity, values)


def _chosen(model: nn.Module, layers: Collection[str] | None) -> dict[str, str]:
    """The parameter of each chosen layer."""
    known = weights_of(model)
    if not known:
        raise ModelError(
            "the network has no dense or convolutional layer whose weight is a parameter; cut units instead (secateur.score)"
        )
    if layers is None:
        return known
    if not layers:
        raise SettingsError("layers= is empty; name at least one, or leave it out for all")
    for layer in layers:
        if layer not in known:
            raise SettingsError(
                f"{layer!r} is no dense or convolutional layer of the network; {did_you_mean(layer, known)}"
            )
    return {layer: known[layer] for layer in layers}


def _observed(
    model: nn.Module,
    criterion: WeightCriterion,
    need: WeightNeed,
    parameters: Mapping[str, str],
    *,
    data: Iterable[tuple[Any, Any]] | HasBatches | WeightObservations | None,
    loss: Loss | None,
    forward_fn: ForwardFn | None,
    batches: int | None,
) -> Mapping[str, Tensor]:
    """The gradient or the curvature of each weight."""
    if data is None:
        raise SettingsError(
            f"criterion {criterion.name!r} needs data ({need}) and none are given; pass data=batches, or use 'magnitude'"
        )
    if not isinstance(data, WeightObservations):
        every = batches_of(data)
        data = observe_weights(
            model,
            list(parameters),
            every if batches is None else islice(every, batches),
            needs={need},
            loss=loss,
            forward_fn=forward_fn,
        )
    found = data.gradients if need == "gradient" else data.curvature
    missing = [name for name in parameters.values() if name not in found]
    if missing:
        raise SettingsError(
            f"criterion {criterion.name!r} needs the {need} of {missing[0]!r}, which {data!r} does not hold; observe it, or"
            " pass batches"
        )
    return found
