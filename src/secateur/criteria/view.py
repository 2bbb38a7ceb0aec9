"""What a criterion sees of one group: rows, one a unit. After this file nobody asks what kind of layer it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.channels.groups import Group, Member, Role
from secateur.errors import ModelError
from secateur.observe import Covariance, Moments, Need, Observations, Relevance, Taylor, pool

_NORM_EPS = 1e-5


def rows(tensor: Tensor, member: Member, width: int) -> Tensor:
    """View a tensor with one row a unit.

    Args:
        tensor: The tensor that the member names, of any shape.
        member: Its axis, and the positions that each unit owns there.
        width: Units in the group.

    Returns:
        ``[width, fan]``, of the tensor's type: for each unit the entries at its positions. It may share the tensor's memory.

    Raises:
        ModelError: The tensor is too small for the positions: it belongs to another model.

    Example:
        >>> import numpy as np
        >>> columns = Member("fc.weight", 1, "read", np.array([[0, 1], [2, 3]]))
        >>> rows(torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]]), columns, 2)
        tensor([[1, 5, 2, 6],
                [3, 7, 4, 8]])
    """
    positions = member.indices.reshape(-1)
    size = tensor.shape[member.axis] if member.axis < tensor.dim() else 0
    if len(positions) and int(positions.max()) >= size:
        raise ModelError(
            f"{member.tensor} has {size} positions on axis {member.axis}, the channels name position {positions.max()}:"
            " they were found in another model; watch this one"
        )
    table = tensor.movedim(member.axis, 0)
    if (
        len(positions) != size or (positions[1:] < positions[:-1]).any()
    ):  # else all positions in their order: no copy
        table = table[torch.as_tensor(positions, device=tensor.device)]
    return table.reshape(width, -1)


@dataclass(frozen=True, eq=False)
class View:
    """One group with its weights and what was observed of it.

    Attributes:
        group: The group.
        tensors: Parameters and buffers of the model by name.
        biases: The bias that belongs to a weight, where there is one.
        seen: What was observed; empty for a criterion that needs no data.
        generator: Source of random scores, of this group's own.
    """

    group: Group
    tensors: Mapping[str, Tensor]
    biases: Mapping[str, str]
    seen: Observations
    generator: torch.Generator

    def read_rows(self, source: Mapping[str, Tensor] | None = None) -> Tensor:
        """Rows of the weights that read the units, float64 ``[width, fan]``; fan is 0 where nothing reads them."""
        return self._joined(("read",), source)

    def read_parts(self) -> list[Tensor]:
        """Rows of each weight that reads the units, ``[width, fan]``, in the weight's own number format."""
        return self._parts(("read",), None)

    def own_parts(self) -> list[Tensor]:
        """Rows of each weight that writes the units, as `own_rows` has them, in the weight's own number format.

        For criteria that are sums over weights: large ones need not be joined nor converted as a whole.
        """
        return self._parts(self._own(), None)

    def own_rows(self, source: Mapping[str, Tensor] | None = None) -> Tensor:
        """Rows of the weights that write the units, float64 ``[width, fan]``.

        The network's own input has no writers; there the readers' rows stand in.

        Args:
            source: Take the rows from these tensors instead of the model's (gradients, curvature), by the same names.
        """
        return self._joined(self._own(), source)

    def moments(self) -> Moments:
        """The activation's moments, or a `ModelError` that says why there are none."""
        found = self.seen.activations.get(self.group.name)
        if found is None:
            raise self.seen.missing(self.group.name, Need.ACTIVATION)
        return found

    def taylor(self) -> Taylor:
        """The first-order effects, or a `ModelError` that says why there are none."""
        found = self.seen.taylor.get(self.group.name)
        if found is None:
            raise self.seen.missing(self.group.name, Need.TAYLOR_ACTIVATION)
        return found

    def relevance(self) -> Relevance:
        """What passes with random subsets say, or a `ModelError` that says why they say nothing."""
        found = self.seen.relevance.get(self.group.name)
        if found is None:
            raise self.seen.missing(self.group.name, Need.RELEVANCE)
        return found

    def covariance(self) -> Covariance:
        """The covariance over all readers' samples, or a `ModelError` that says why there is none."""
        return pool(self.seen.covariances_of(self.group.name))

    def signature(self) -> Tensor:
        r"""What makes a unit's activation: units with equal rows compute the same, float64 ``[width, fan]``.

        The rows of all writers with their biases, and of all that is carried. A batch norm counts as the scale and shift
        that it amounts to in evaluation, :math:`s = \gamma / \sqrt{\sigma^2 + \epsilon}` and :math:`t = \beta - \mu s`;
        behind a single writer both are folded into its weight and bias, so that distances are those of the layers
        that would run. That takes the norm to follow its writer directly: with a nonlinearity between the two, equal rows
        need not compute the same. (``eps`` is taken as 1e-5.)

        Raises:
            ModelError: The group has no writers (the network's own input).
        """
        writers = self.group.by_role("write")
        if not writers:
            raise ModelError(
                f"group {self.group.name!r} has no weights of its own that could be similar;"
                " leave it out, or use 'correlation' or 'l1-readers'"
            )
        norms, others = self._carried()
        bias = self.biases.get(writers[0].tensor)
        if len(writers) == len(norms) == 1 and set(others) <= {bias}:
            (scale, shift), *_ = norms
            b = others[bias] if bias in others else torch.zeros_like(scale)
            return torch.cat([self._joined(("write",), None) * scale, b * scale + shift], dim=1)
        affine = [row for pair in norms for row in pair]
        return torch.cat([self._joined(("write",), None), *affine, *others.values()], dim=1)

    def _carried(self) -> tuple[list[tuple[Tensor, Tensor]], dict[str, Tensor]]:
        """Batch norms as (scale, shift), each ``[width, 1]``, and the rows of everything else that is carried."""
        carried = {m.tensor: self._rows(m, self.tensors) for m in self.group.by_role("carry")}
        norms: list[tuple[Tensor, Tensor]] = []
        for prefix in [n.removesuffix("running_var") for n in carried if n.endswith("running_var")]:
            variance, mean = carried.pop(f"{prefix}running_var"), carried.pop(f"{prefix}running_mean")
            scale = carried.pop(f"{prefix}weight", torch.ones_like(mean)) / (variance + _NORM_EPS).sqrt()
            norms.append((scale, carried.pop(f"{prefix}bias", torch.zeros_like(mean)) - mean * scale))
        return norms, carried

    def _joined(self, roles: tuple[Role, ...], source: Mapping[str, Tensor] | None) -> Tensor:
        # copied, so that a criterion that works in place never works on the model's own weights
        parts = [part.to("cpu", torch.float64, copy=True) for part in self._parts(roles, source)]
        if len(parts) == 1:
            return parts[0]
        return torch.cat(parts, dim=1) if parts else torch.zeros(self.group.width, 0, dtype=torch.float64)

    def _own(self) -> tuple[Role, ...]:
        return ("write",) if self.group.by_role("write") else ("read",)

    def _parts(self, roles: tuple[Role, ...], source: Mapping[str, Tensor] | None) -> list[Tensor]:
        tensors = self.tensors if source is None else source
        return [self._part(member, tensors) for member in self.group.by_role(*roles)]

    def _rows(self, member: Member, tensors: Mapping[str, Tensor]) -> Tensor:
        return self._part(member, tensors).to("cpu", torch.float64, copy=True)

    def _part(self, member: Member, tensors: Mapping[str, Tensor]) -> Tensor:
        tensor = tensors.get(member.tensor)
        if tensor is None:
            raise ModelError(
                f"group {self.group.name!r} names {member.tensor}, which is not there or was not observed;"
                " watch and observe the model that is scored"
            )
        return rows(tensor.detach(), member, self.group.width)
