"""Cross-layer equalisation: what one layer multiplies by, the next divides by, so that no channel wastes the grid."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from secateur._model import copied
from secateur._options import expect
from secateur.channels import Channels, Group, Member, watch
from secateur.quantise.flow import Flow, Step, flow, placed
from secateur.quantise.fold import Folded, fold

SWEEPS = 50
"""Passes over all stages at most: each changes what its neighbours see."""

_SETTLED = 1e-3
"""Factors nearer to one than this change nothing that matters."""

_SCALING = frozenset(
    [
        "relu",
        "leaky_relu",
        "prelu",
        "rrelu",
        "max_pool1d",
        "max_pool2d",
        "max_pool3d",
        "adaptive_max_pool1d",
        "adaptive_max_pool2d",
        "adaptive_max_pool3d",
        "avg_pool1d",
        "avg_pool2d",
        "avg_pool3d",
        "adaptive_avg_pool1d",
        "adaptive_avg_pool2d",
        "adaptive_avg_pool3d",
        "mean",
        "sum",
        "interpolate",
        "flatten",
        "reshape",
        "view",
        "unflatten",
        "permute",
        "transpose",
        "squeeze",
        "unsqueeze",
        "contiguous",
        "clone",
        "detach",
        "dropout",
        "dropout1d",
        "dropout2d",
        "dropout3d",
        "cat",
        "concat",
        "concatenate",
        "chunk",
        "split",
        "getitem",
        "to",
        "float",
        "double",
    ]
)
"""Functions that give a times as much for a times as much of a channel, for a above zero."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Layers that write some channels, and layers that read them with nothing but scaling functions between.

    Attributes:
        writers: The layers that write.
        readers: The layers that read.
        groups: The groups of channels whose factors were found.
    """

    writers: tuple[str, ...]
    readers: tuple[str, ...]
    groups: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Equalised:
    """A network whose layers' ranges are equal across layers.

    Attributes:
        folded: The network, with its norms folded.
        stages: What was equalised.
        skipped: By the name of a layer, why what it gives was not.
        sweeps: How often all stages were gone through.
    """

    folded: Folded
    stages: tuple[Stage, ...]
    skipped: Mapping[str, str] = field(default_factory=dict[str, str])
    sweeps: int = 0

    @property
    def model(self) -> nn.Module:
        """The network, of the same class."""
        return self.folded.model


def equalise(model: nn.Module, example: Tensor, *, replace_relu6: bool = False) -> Equalised:
    r"""Give each channel the same range in the layer that writes it and in the one that reads it.

    A ReLU gives :math:`a` times as much for :math:`a` times as much, :math:`a > 0`. So a channel's row can be divided by
    :math:`s_i = \sqrt{r^{(1)}_i r^{(2)}_i} / r^{(2)}_i`, and its columns in the next layer multiplied by it: then both ranges, the greatest absolute
    weights :math:`r^{(1)}_i` and :math:`r^{(2)}_i`, are :math:`\sqrt{r^{(1)}_i r^{(2)}_i}`, and the network computes the same. All such pairs are gone
    through until nothing changes. Which layers write and read a channel, and with what between, is seen in one forward pass: chains through
    depthwise convolutions, additions, concatenations and flattening are all found. Where a function between does not scale (hard-swish, sigmoid, a
    product, ReLU6), the channels stay as they are, and it is said why.

    Args:
        model: The network; it is left as found. Its norms are folded first.
        example: An input with a batch axis.
        replace_relu6: Put a ReLU in the place of each `nn.ReLU6`, so that it scales. Then the network computes the same only where
            activations stay below six; judge it afterwards.

    Returns:
        A copy that computes the same in eval mode.

    Raises:
        WatchError: The forward pass failed.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> found = equalise(net, torch.zeros(1, 2))
        >>> found.stages
        (Stage(writers=('0',), readers=('2',), groups=('0',)),)
        >>> rows, columns = found.model[0].weight.abs().amax(1), found.model[2].weight.abs().amax(0)
        >>> torch.allclose(rows, columns)
        True

    Source:
        Nagel et al. 2019, arXiv:1906.04721, section 4.1, equations 9 to 11; there for pairs of layers. Where several layers write or read a channel
        we take the greatest of their ranges. High biases are not absorbed (section 4.1.3).
    """
    expect("equalise(model, example)", model=(model, nn.Module), example=(example, Tensor))
    if replace_relu6:
        model = _without_relu6(model)
    folded = fold(model, example)
    network = folded.model
    seen = flow(network, example)
    channels = watch(network, placed(network, example))
    stages: list[Stage] = []
    tables: list[_Table] = []
    skipped: dict[str, str] = {}
    for writers, readers, reason in _stages(network, seen):
        names = tuple(step.module for step in writers if step.is_layer)
        found = [] if reason else _tables(network, channels, writers, readers)
        if not found:
            skipped.update(
                dict.fromkeys(
                    names, reason or "not all of its channels are known in all layers that read them"
                )
            )
            continue
        tables += found
        groups = tuple(dict.fromkeys(table.group for table in found))
        stages.append(Stage(names, tuple(step.module for step in readers), groups))
    sweeps = 0
    while tables and sweeps < SWEEPS:
        sweeps += 1
        if max([table.balance() for table in tables]) < _SETTLED:
            break
    return Equalised(folded, tuple(stages), skipped, sweeps)


def _without_relu6(model: nn.Module) -> nn.Module:
    """A copy with ReLU for ReLU6."""
    made = copied(model, {})
    for name, module in list(cast("Iterator[tuple[str, nn.Module]]", made.named_modules())):
        if type(module) is nn.ReLU6:
            new = nn.ReLU(inplace=module.inplace).train(module.training)
            if not name:
                return new
            made.set_submodule(name, new)
    return made


def _scales(step: Step) -> bool:
    """Whether what a step gives scales with what it takes, all of it alike."""
    if step.function == "pad":
        return step.bound == (0.0, 0.0)
    if step.function in ("add", "iadd", "sub", "isub"):
        return len(step.takes) == 2  # a constant would have to scale, too
    return step.function in _SCALING


def _stages(network: nn.Module, seen: Flow) -> Iterator[tuple[list[Step], list[Step], str]]:
    """Tensors that scale together: who writes them, who reads them, and why they may not be scaled."""
    same = {number: number for step in seen.steps for number in (*step.takes, *step.gives)}

    def root(number: int) -> int:
        while same[number] != number:
            number = same[number]
        return number

    for step in seen.steps:
        if _scales(step):
            numbers = (*step.takes, *step.gives)
            for number in numbers[1:]:
                same[root(number)] = root(numbers[0])
    members: dict[int, set[int]] = {}
    for number in same:
        members.setdefault(root(number), set()).add(number)
    for numbers in members.values():
        writers = [s for s in seen.steps if not _scales(s) and numbers & set(s.gives)]
        readers = [s for s in seen.steps if not _scales(s) and numbers & set(s.takes)]
        if not any(step.is_layer for step in writers):
            continue
        yield writers, readers, _why_not(network, seen, numbers, writers, readers)


def _why_not(
    network: nn.Module, seen: Flow, numbers: set[int], writers: list[Step], readers: list[Step]
) -> str:
    """The reason for which tensors must stay as they are; empty where there is none."""
    if numbers & set(seen.outputs):
        return "the network gives it"
    if numbers & set(seen.inputs):
        return "it is added to the network's input"
    for step in (*writers, *readers):
        if not step.is_layer:
            where = f" in {step.module}" if step.module else ""
            function = "relu6" if step.bound == (0.0, 6.0) else step.function
            return f"{function}{where} does not scale with it"
        layer = network.get_submodule(step.module)
        own = step.weight == f"{step.module}.weight".lstrip(".") and not is_parametrized(layer)
        if not own or seen.calls[step.module] > 1 or _holders(network, cast("Any", layer).weight) > 1:
            return f"the weight of {step.module} is computed, shared or used several times"
    return "" if readers else "nothing reads it"


def _holders(network: nn.Module, weight: Tensor) -> int:
    return sum(weight is other for _, other in network.named_parameters(remove_duplicate=False))


@dataclass(frozen=True, slots=True, eq=False)
class _Side:
    """A layer's weight, its axis on which units lie, and where."""

    layer: Any
    axis: int
    indices: Tensor
    writes: bool

    def ranges(self) -> Tensor:
        """The greatest absolute weight of each unit."""
        positions = self.layer.weight.detach().abs().transpose(0, self.axis).flatten(1).amax(1)
        return positions[self.indices].amax(1)

    @torch.no_grad()
    def scale(self, factors: Tensor) -> None:
        """Multiply each unit's weights, and the bias of a layer that writes them."""
        weight = self.layer.weight
        along = torch.ones(weight.shape[self.axis], dtype=weight.dtype, device=weight.device)
        along[self.indices] = factors[:, None].to(weight.dtype)
        weight.mul_(along.reshape([-1 if axis == self.axis else 1 for axis in range(weight.dim())]))
        if self.writes and self.layer.bias is not None:
            self.layer.bias.mul_(along)


@dataclass(frozen=True, slots=True, eq=False)
class _Table:
    """One group of channels at one stage."""

    group: str
    writers: tuple[_Side, ...]
    readers: tuple[_Side, ...]

    def balance(self) -> float:
        """Make the ranges equal; how far the farthest factor was from one."""
        first, second = _greatest(self.writers), _greatest(self.readers)
        alive = (first > 0) & (second > 0)
        factors = torch.where(
            alive, (first * second).sqrt() / second.clamp(min=1e-30), torch.ones_like(first)
        )
        for side in self.writers:
            side.scale(1 / factors)
        for side in self.readers:
            side.scale(factors)
        return float((factors - 1).abs().max())


def _greatest(sides: Iterable[_Side]) -> Tensor:
    return torch.stack([side.ranges().double() for side in sides]).amax(0)


def _tables(network: nn.Module, channels: Channels, writers: list[Step], readers: list[Step]) -> list[_Table]:
    """For each group of channels that the layers write and read, the sides; none where a layer is in no group."""
    tables: list[_Table] = []
    seen: set[str] = set()
    for group in channels.groups:
        wrote = {step.key: side for step in writers if (side := _side(network, group, step, writes=True))}
        read = {step.key: side for step in readers if (side := _side(network, group, step, writes=False))}
        if wrote and read:
            tables.append(_Table(group.name, tuple(wrote.values()), tuple(read.values())))
            seen |= {f"w {key}" for key in wrote} | {f"r {key}" for key in read}
    every = {f"w {step.key}" for step in writers} | {f"r {step.key}" for step in readers}
    return tables if seen == every else []


def _side(network: nn.Module, group: Group, step: Step, *, writes: bool) -> _Side | None:
    layer = cast("Any", network.get_submodule(step.module))
    by_channel = layer.weight.dim() > 2 and layer.weight.shape[1] == 1 and layer.groups > 1  # depthwise
    axis = 0 if writes or by_channel else 1
    member = _member(group, step.weight or "", axis)
    if member is None:
        return None
    return _Side(layer, axis, torch.as_tensor(member.indices, device=layer.weight.device), writes)


def _member(group: Group, tensor: str, axis: int) -> Member | None:
    return next((one for one in group.members if one.tensor == tensor and one.axis == axis), None)
