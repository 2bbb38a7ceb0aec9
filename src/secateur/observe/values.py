"""What one pass over the data found, as values."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from secateur.errors import ModelError, SettingsError


class Need(enum.Enum):
    """Something that can be observed in one pass."""

    ACTIVATION = "activation"
    COVARIANCE = "covariance"
    TAYLOR_ACTIVATION = "taylor-activation"
    GRADIENT = "gradient"
    HESSIAN_DIAGONAL = "hessian-diagonal"
    RELEVANCE = "relevance"


DERIVATIVES = frozenset({Need.TAYLOR_ACTIVATION, Need.GRADIENT, Need.HESSIAN_DIAGONAL})
"""What needs a loss and a backward pass."""

AT_READERS = frozenset({Need.ACTIVATION, Need.COVARIANCE, Need.TAYLOR_ACTIVATION, Need.RELEVANCE})
"""What is observed at the inputs of the layers that read a group."""


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Statistics of each unit's activation, over examples, positions and readers.

    Attributes:
        mean: Mean activation, float64 ``[width]``.
        absolute: Mean absolute activation, float64 ``[width]``.
        square: Mean squared activation, float64 ``[width]``.
        count: Samples a unit (examples x positions, over the readers); 0, with zeros, if the pass used no reader.
    """

    mean: Tensor
    absolute: Tensor
    square: Tensor
    count: int


@dataclass(frozen=True, slots=True, eq=False)
class Covariance:
    """How the units of a group move together at the input of one reader.

    Attributes:
        mean: Mean activation, float64 ``[width]``.
        gram: Mean product ``E[h h^T]``, float64 ``[width, width]``, not centred.
        count: Samples (examples x positions); 0, with a mean and Gram matrix of zeros, if the pass did not use the reader.

    Example:
        >>> one = Covariance(mean=torch.tensor([1.0]), gram=torch.tensor([[5.0]]), count=2)
        >>> one.covariance
        tensor([[4.]])
    """

    mean: Tensor
    gram: Tensor
    count: int

    @property
    def covariance(self) -> Tensor:
        """The centred second moment ``E[h h^T] - E[h] E[h]^T``."""
        return self.gram - torch.outer(self.mean, self.mean)


def pool(parts: Sequence[Covariance]) -> Covariance:
    """The covariance over the samples of all parts together.

    Args:
        parts: At least one, all of the same width.

    Raises:
        SettingsError: There is none.

    Example:
        >>> part = Covariance(mean=torch.tensor([1.0]), gram=torch.tensor([[5.0]]), count=2)
        >>> pool([part, part]).count
        4
    """
    if not parts:
        raise SettingsError("there is no covariance to pool; give at least one")
    count = sum(part.count for part in parts)
    shares = [part.count / max(1, count) for part in parts]
    mean = torch.stack([part.mean * share for part, share in zip(parts, shares, strict=True)]).sum(0)
    gram = torch.stack([part.gram * share for part, share in zip(parts, shares, strict=True)]).sum(0)
    return Covariance(mean=mean, gram=gram, count=count)


@dataclass(frozen=True, slots=True, eq=False)
class Taylor:
    r"""First-order effect of each unit on the loss, at the readers' inputs.

    With :math:`z_{nrp} = \partial C_n/\partial h_{nrp} \cdot h_{nrp}` for example n, reader r and position p:

    Attributes:
        magnitude: :math:`\frac{1}{N} \sum_n |\sum_r \frac{1}{P_r} \sum_p z_{nrp}|`, float64 ``[width]``.
        gate: :math:`\frac{1}{N} \sum_n \sum_r \sum_p z_{nrp}`, float64 ``[width]``: the derivative of the mean loss for
            a gate (at 1) by which every reader's view of the unit is multiplied. Closing it by :math:`\epsilon` changes
            the loss by :math:`-\epsilon` times this, up to :math:`O(\epsilon^2)`.
    """

    magnitude: Tensor
    gate: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Relevance:
    """How much lower the loss was than expected, over the passes in which a unit took part (`secateur.observe.Subsets`).

    Attributes:
        units: Float64 ``[width]``, in the unit of the loss.
        dummies: The same of dummies, which belong to no unit, float64: what chance alone comes to.
        draws: Passes.
    """

    units: Tensor
    dummies: Tensor
    draws: int


@dataclass(frozen=True, eq=False)
class Observations:
    """What one pass over the batches found.

    Attributes:
        needs: What was asked for.
        examples: Examples seen.
        activations: Moments by group.
        covariances: Covariance by (group, reading tensor).
        taylor: First-order effects by group.
        gradients: Gradient of the mean loss over all examples, by parameter.
        curvature: Estimated diagonal of the Hessian of the mean loss, by weight.
        relevance: What passes with random subsets of the units say, by group.
        skipped: Groups that could not be observed at their readers, and why.
    """

    needs: frozenset[Need]
    examples: int
    activations: Mapping[str, Moments] = field(default_factory=dict[str, Moments])
    covariances: Mapping[tuple[str, str], Covariance] = field(
        default_factory=dict[tuple[str, str], Covariance]
    )
    taylor: Mapping[str, Taylor] = field(default_factory=dict[str, Taylor])
    gradients: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    curvature: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    relevance: Mapping[str, Relevance] = field(default_factory=dict[str, Relevance])
    skipped: Mapping[str, str] = field(default_factory=dict[str, str])

    def covariances_of(self, group: str) -> tuple[Covariance, ...]:
        """The covariances of one group, one a reader.

        Raises:
            ModelError: The group was not observed.
        """
        found = tuple(value for (name, _), value in self.covariances.items() if name == group)
        if not found:
            raise self.missing(group, Need.COVARIANCE)
        return found

    def missing(self, group: str, need: Need) -> ModelError:
        """The error that says why a group has no such observation, and what to do."""
        reason = self.skipped.get(group)
        if reason is not None:
            return ModelError(
                f"group {group!r} could not be observed: {reason}; use a weight criterion such as 'l1' for that group,"
                " or leave it out"
            )
        asked = ", ".join(sorted(n.value for n in self.needs)) or "nothing"
        return ModelError(
            f"group {group!r} has no {need.value} observation (observed: {asked}); observe it with needs={{{need}}}"
        )

    def __repr__(self) -> str:
        needs = ", ".join(sorted(need.value for need in self.needs))
        skipped = f", {len(self.skipped)} groups skipped" if self.skipped else ""
        return f"Observations({needs}; {self.examples} examples{skipped})"
