"""The table of criteria: pure kernels, lifted to a group by what they need to see."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

import torch
from torch import Tensor

from secateur.criteria import weight as by_weight
from secateur.criteria.activation import mean_activation, taylor_activation
from secateur.criteria.curvature import obd
from secateur.criteria.gradient import taylor_weights
from secateur.criteria.redundancy import correlation, distance, similarity
from secateur.criteria.relevance import relevance
from secateur.criteria.scores import Merge
from secateur.criteria.view import View
from secateur.errors import SettingsError
from secateur.observe import Need

GroupFunction: TypeAlias = Callable[[View], "Tensor | tuple[Tensor, Merge]"]
"""Scores one group: values ``[width]``, and merges where the criterion makes some."""

Kernel: TypeAlias = Callable[[Tensor], Tensor]
"""From a group's own weights ``[channels, fan]`` to scores ``[channels]``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Criterion:
    """A way to score the units of a group.

    Attributes:
        name: Its name.
        function: Scores one group.
        needs: What must be observed on data first; empty for a criterion on weights.
        description: What it measures, in a line.
        source: Where it was published.
    """

    name: str
    function: GroupFunction
    needs: frozenset[Need] = frozenset()
    description: str = ""
    source: str = ""


def lift(kernel: Kernel, *, name: str | None = None) -> Criterion:
    """Make a criterion of a function on rows: it is given each group's own weights.

    Args:
        kernel: From rows ``[channels, fan]``, float64, to scores ``[channels]``. The network's own input has no weights;
            there it is given its readers' rows.
        name: The criterion's name; the function's own by default.

    Example:
        >>> lift(lambda weight: weight.amax(1), name="largest").name
        'largest'
    """
    return Criterion(
        name=name or getattr(kernel, "__name__", type(kernel).__name__),
        function=lambda view: kernel(view.own_rows()),
        description="a user's function of each unit's own weights",
    )


def _both(view: View) -> Tensor:
    """Variant 3; a group without writers has only its readers, which count once."""
    readers = _l1(view, view.read_parts())
    return _l1(view, view.own_parts()) + readers if view.group.by_role("write") else readers


def _l1(view: View, parts: list[Tensor]) -> Tensor:
    """The sum over all weights is that over the weights of each part."""
    return sum((by_weight.l1(part) for part in parts), torch.zeros(view.group.width, dtype=torch.float64))


_ALL = (
    Criterion(
        name="l1",
        function=lambda view: _l1(view, view.own_parts()),
        description="sum of a unit's own absolute weights (for the network's input: of those that read it)",
        source="Li et al. 2017, arXiv:1608.08710",
    ),
    Criterion(
        name="l1-readers",
        function=lambda view: _l1(view, view.read_parts()),
        description="sum of the absolute weights that read the unit",
        source="the outgoing form of Li et al. 2017, arXiv:1608.08710",
    ),
    Criterion(
        name="l1-both",
        function=_both,
        description="sum of the absolute weights that write and read the unit",
        source="the sum of both forms of Li et al. 2017, arXiv:1608.08710",
    ),
    Criterion(
        name="l2",
        function=lambda view: by_weight.l2(view.own_rows()),
        description="Euclidean norm of a unit's own weights",
        source="He et al. 2018, arXiv:1808.06866",
    ),
    Criterion(
        name="activation",
        function=lambda view: mean_activation(view.moments()),
        needs=frozenset({Need.ACTIVATION}),
        description="mean magnitude of the activation",
        source="Polyak and Wolf 2015; Molchanov et al. 2017, arXiv:1611.06440",
    ),
    Criterion(
        name="taylor",
        function=lambda view: taylor_activation(view.taylor()),
        needs=frozenset({Need.TAYLOR_ACTIVATION}),
        description="first-order change of the loss if the activation were zero",
        source="Molchanov et al. 2017, arXiv:1611.06440",
    ),
    Criterion(
        name="taylor-weights",
        function=lambda view: taylor_weights(view.own_rows(), view.own_rows(view.seen.gradients)),
        needs=frozenset({Need.GRADIENT}),
        description="first-order change of the loss if the unit's own weights were zero",
        source="Molchanov et al. 2019, arXiv:1906.10771",
    ),
    Criterion(
        name="obd",
        function=lambda view: obd(view.own_rows(), view.own_rows(view.seen.curvature)),
        needs=frozenset({Need.HESSIAN_DIAGONAL}),
        description="second-order change of the loss if the unit's own weights were zero",
        source="LeCun, Denker, Solla 1990, Optimal Brain Damage",
    ),
    Criterion(
        name="obd-readers",
        function=lambda view: obd(view.read_rows(), view.read_rows(view.seen.curvature)),
        needs=frozenset({Need.HESSIAN_DIAGONAL}),
        description="second-order change of the loss if the weights that read the unit were zero",
        source="LeCun, Denker, Solla 1990, Optimal Brain Damage",
    ),
    Criterion(
        name="similarity",
        function=lambda view: similarity(view.signature(), view.read_rows()),
        description="merges units of similar weights, the cheapest pair first",
        source="Srinivas and Babu 2015, arXiv:1507.06149",
    ),
    Criterion(
        name="correlation",
        function=lambda view: correlation(view.covariance()),
        needs=frozenset({Need.COVARIANCE}),
        description="merges units of correlated activations, the closest pair first",
        source="Babaeizadeh et al. 2016, NoiseOut, arXiv:1611.06211",
    ),
    Criterion(
        name="distance",
        function=lambda view: distance(view.own_rows()),
        description="Euclidean distance between a unit's own weights and the nearest of a unit that stays",
        source="the comparison of relevance pruning with pruning by Euclidean distance, see there",
    ),
    Criterion(
        name="relevance",
        function=lambda view: relevance(view.relevance()),
        needs=frozenset({Need.RELEVANCE}),
        description="how far passes with a unit were better than those without it, in standard deviations of chance",
        source="Räsänen and Pohjalainen 2013, random subset feature selection, Interspeech",
    ),
    Criterion(
        name="random",
        function=lambda view: by_weight.random(view.group.width, view.generator),
        description="uniform random numbers, by seed and group",
        source="the baseline",
    ),
)

CRITERIA: Mapping[str, Criterion] = MappingProxyType({criterion.name: criterion for criterion in _ALL})
"""The criteria by name."""


def criterion_named(criterion: str | Criterion | Kernel) -> Criterion:
    """The criterion of that name; a criterion or a function on rows is taken as it is.

    Raises:
        SettingsError: No criterion has the name; the message lists those there are.

    Example:
        >>> criterion_named("taylor").needs
        frozenset({<Need.TAYLOR_ACTIVATION: 'taylor-activation'>})
    """
    if isinstance(criterion, Criterion):
        return criterion
    if callable(criterion):
        return lift(criterion)
    found = CRITERIA.get(criterion)
    if found is None:
        raise SettingsError(f"no criterion is named {criterion!r}; there are {', '.join(CRITERIA)}")
    return found
