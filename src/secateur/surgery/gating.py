"""Channel gating: a convolution reads and writes only some of the channels that it shares with others, which keep them all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur._model import named_tensors, unwrapped
from secateur._options import expect
from secateur.channels import Channels, Member
from secateur.channels.attributes import fit_attributes
from secateur.channels.pass_through import put_in
from secateur.errors import PlanError
from secateur.observe.layers import CONVOLUTIONS
from secateur.plan.layers import candidates
from secateur.surgery.apply import put_values
from secateur.surgery.optimizers import check_optimizers, follow
from secateur.surgery.processes import alike
from secateur.surgery.tensors import Part, changed
from secateur.surgery.wrappers import cut_inside, forget_graphs


@dataclass(frozen=True, slots=True)
class Gate:
    """Which channels one convolution still reads and writes.

    Attributes:
        layer: Name of the convolution.
        reads: Positions in its input that it reads, ascending; None for all.
        writes: Positions in its output that it writes, ascending; the others are zero. None for all.
        width: Channels of its output as others see it.
    """

    layer: str
    reads: tuple[int, ...] | None
    writes: tuple[int, ...] | None
    width: int

    def __post_init__(self) -> None:
        for places in (self.reads, self.writes):
            if places is not None and (not places or list(places) != sorted({*places}) or places[0] < 0):
                raise PlanError(
                    f"a gate of {self.layer!r} names positions {list(places)}; give some, ascending and each once"
                )
        if self.writes is not None and self.writes[-1] >= self.width:
            raise PlanError(
                f"a gate of {self.layer!r} writes to position {self.writes[-1]} of {self.width} channels"
            )


class Gated(nn.Module):
    """A convolution on some channels: it gathers those that it reads, and its outputs go where they belong among zeros.

    Attributes:
        layer: The convolution, as narrow as what it reads and writes.
        reads: As in `Gate`.
        writes: As in `Gate`.
        width: As in `Gate`.

    Example:
        >>> layer = nn.Conv1d(2, 1, 1, bias=False)
        >>> _ = nn.init.ones_(layer.weight)
        >>> gated = Gated(layer, reads=(0, 2), writes=(1,), width=3)
        >>> gated(torch.tensor([[[1.0], [10.0], [100.0]]])).flatten()
        tensor([  0., 101.,   0.], grad_fn=<ViewBackward0>)

    Source:
        Lym et al. 2019, PruneTrain, arXiv:1901.09290, as the alternative to channel union.
    """

    def __init__(
        self, layer: nn.Module, *, reads: Sequence[int] | None, writes: Sequence[int] | None, width: int
    ) -> None:
        """Put gates around a convolution that is as narrow already."""
        super().__init__()
        self.layer, self.width = layer, width
        self.reads = None if reads is None else tuple(reads)
        self.writes = None if writes is None else tuple(writes)
        self._gathered = None if reads is None else torch.tensor(self.reads, device="cpu")
        self._spread: Tensor | None = None
        if (
            self.writes is not None
        ):  # a channel of zeros behind the others stands for all that are not written
            spread = np.full(width, len(self.writes))
            spread[list(self.writes)] = np.arange(len(self.writes))
            self._spread = torch.tensor(spread, device="cpu")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Gated:
        """Let positions follow to another device; they are no buffers, which an average of weights would average."""
        cast("Any", super())._apply(fn, recurse)
        place = next(self.layer.parameters()).device
        if place.type != "meta":
            self._gathered, self._spread = (
                None if each is None else each.to(place) for each in (self._gathered, self._spread)
            )
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[batch, all that is carried, ...]`` to ``[batch, width, ...]``."""
        if self._gathered is not None:
            x = x.index_select(1, self._gathered.to(x.device))
        y = self.layer(x)
        if self._spread is None:
            return y
        padded = F.pad(y, (*[0] * (2 * (y.dim() - 2)), 0, 1))
        return padded.index_select(1, self._spread.to(y.device))


def find_gates(
    model: nn.Module, channels: Channels, example: Any, *, threshold: float = 1e-4
) -> tuple[Gate, ...]:
    """The convolutions that have no weight left for some of the channels that they share with other layers.

    Channels are shared where layers meet in an addition: several tensors write them. One of them goes from the network when all layers are done with it (`secateur.prunetrain`
    takes such channels); here is what single convolutions are done with. A convolution with a bias still writes all of its channels.

    Args:
        model: The network.
        channels: What watching it found.
        example: An input.
        threshold: A convolution is done with a channel when all of its weights for it are smaller.

    Returns:
        A gate for each such convolution. It keeps its strongest channel where it is done with all.

    Example:
        >>> import secateur
        >>> from secateur.networks import build
        >>> net, x = build("resnet20", seed=0), torch.zeros(1, 3, 32, 32)
        >>> with torch.no_grad():
        ...     _ = net.stages[0][1].body.conv1.weight[:, 3:].zero_()
        >>> find_gates(net, secateur.watch(net, x), x)
        (Gate(layer='stages.0.1.body.conv1', reads=(0, 1, 2), writes=None, width=16),)
    """
    expect("find_gates(model, channels, example)", model=(model, nn.Module), channels=(channels, Channels))
    network = unwrapped(model)
    found, _ = candidates(
        network, example, None, lambda layer: None if isinstance(layer, CONVOLUTIONS) else "is none"
    )
    layers = {one.name: cast("Any", one.layer) for one in found}
    stays: dict[tuple[str, int], tuple[int, ...]] = {}
    for member in _shared(channels):
        layer = layers.get(member.tensor.removesuffix(".weight"))
        if layer is None or member.block > 1 or (member.axis == 0 and layer.bias is not None):
            continue
        living = _living(layer.weight, member, threshold)
        if len(living) < layer.weight.shape[member.axis]:
            stays[member.tensor.removesuffix(".weight"), member.axis] = living
    return tuple(
        Gate(name, stays.get((name, 1)), stays.get((name, 0)), layer.weight.shape[0])
        for name, layer in layers.items()
        if (name, 0) in stays or (name, 1) in stays
    )


def _shared(channels: Channels) -> Iterator[Member]:
    """What writes and reads the channels that several tensors write."""
    for group in channels.groups:
        if len(group.by_role("write")) > 1:
            yield from group.by_role("write", "read")


def _living(weight: Tensor, member: Member, threshold: float) -> tuple[int, ...]:
    """The positions of an axis with a weight that is not below the threshold, and those of other groups."""
    others = [axis for axis in range(weight.dim()) if axis != member.axis]
    largest = weight.detach().abs().amax(others).double().cpu().numpy()
    dead = np.zeros(len(largest), dtype=bool)
    mine = member.indices.ravel()
    dead[mine] = largest[mine] < threshold
    if dead.all():
        dead[largest.argmax()] = False
    return tuple(np.flatnonzero(~dead).tolist())


def gate(
    model: nn.Module,
    gates: Sequence[Gate],
    *,
    optimizer: torch.optim.Optimizer | Iterable[torch.optim.Optimizer] = (),
    averages: nn.Module | Iterable[nn.Module] = (),
) -> nn.Module:
    """Put gates around convolutions, in place: they keep only the weights for what they read and write.

    The network computes what it does with all other weights of these convolutions at zero. It can be trained, saved, loaded, exported and watched; the channels that are gathered stay whole
    from then on, since their positions are data.

    Args:
        model: The network, wrapped or not. It is changed.
        gates: Which, from `find_gates`.
        optimizer: One or several that train it; their memory follows.
        averages: Running averages of its weights, which follow.

    Returns:
        The network.

    Raises:
        PlanError: The gates are of another network, or another process has other ones.
        ModelError: The optimiser keeps what cannot be cut. Nothing has changed then.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(4, 4, 3, bias=False))
        >>> gate(net, [Gate("0", reads=(0, 2), writes=(1, 2, 3), width=4)])[0].layer
        Conv2d(2, 3, kernel_size=(3, 3), stride=(1, 1), bias=False)
    """
    optimizers = [optimizer] if isinstance(optimizer, torch.optim.Optimizer) else list(optimizer)
    copies = [averages] if isinstance(averages, nn.Module) else list(averages)
    network = unwrapped(model)
    for each in (network, *map(unwrapped, copies)):
        _check(each, gates)
    if not alike(model, repr(tuple(gates))):
        raise PlanError(
            "the processes have different gates, so that their networks would differ; find them in one and send them to the others"
        )
    if not gates:
        return model
    check_optimizers(optimizers, network, _axes(network, gates))
    for each in copies:
        cut_inside(each, lambda inner: _gated(inner, gates, ()), inplace=True)
    cut_inside(model, lambda inner: _gated(inner, gates, optimizers), inplace=True)
    for each in (model, *copies):
        forget_graphs(each)
    return model


def _check(model: nn.Module, gates: Sequence[Gate]) -> None:
    """Refuse gates of another network."""
    wrong = misfit(model, gates)
    sizes = {
        one.layer: model.get_parameter(f"{one.layer}.weight").shape[:2] for one in gates if wrong is None
    }
    for one in gates:
        if wrong is None and (
            sizes[one.layer][0] != one.width or max(one.reads or (0,)) >= sizes[one.layer][1]
        ):
            wrong = one.layer
    if wrong is not None:
        raise PlanError(
            f"{wrong!r} is no convolution of this network with the channels of its gate; find the gates of this network"
        )


def _can_be_gated(layer: object, one: Gate) -> bool:
    if not isinstance(layer, CONVOLUTIONS) or type(layer) not in CONVOLUTIONS or layer.groups > 1:
        return False
    return one.writes is None or layer.bias is None


def _axes(model: nn.Module, gates: Iterable[Gate]) -> dict[int, dict[int, list[Part]]]:
    """What is taken of each weight, by its identity."""
    tensors = named_tensors(model)
    result: dict[int, dict[int, list[Part]]] = {}
    for one in gates:
        weight = tensors[f"{one.layer}.weight"]
        result[id(weight)] = {
            axis: [Part(np.arange(weight.shape[axis])[:, None], np.array(taken))]
            for axis, taken in ((0, one.writes), (1, one.reads))
            if taken is not None
        }
    return result


@torch.no_grad()
def _gated(model: nn.Module, gates: Sequence[Gate], optimizers: Sequence[torch.optim.Optimizer]) -> nn.Module:
    axes = _axes(model, gates)
    shapes = {id(parameter): tuple(parameter.shape) for parameter in model.parameters()}
    for parameter in model.parameters():
        parameter.grad = None
        if id(parameter) in axes:
            put_values(parameter, changed(parameter.detach(), axes[id(parameter)]))
    put_gates(model, gates)
    moved = {id(parameter): parameter for parameter in model.parameters()}
    follow(optimizers, model, axes=axes, shapes=shapes, moved=moved)
    return model


def misfit(model: nn.Module, gates: Iterable[Gate]) -> str | None:
    """The first name that is no convolution in this network around which its gate can be put; None if there is none."""
    modules = dict(cast("Iterable[tuple[str, nn.Module]]", model.named_modules()))
    return next((one.layer for one in gates if not _can_be_gated(modules.get(one.layer), one)), None)


def put_gates(model: nn.Module, gates: Iterable[Gate]) -> None:
    """Put gates around convolutions that have only the weights for them, or will be given these."""
    made: dict[int, nn.Module] = {}
    for one in gates:
        layer = model.get_submodule(one.layer)
        fit_attributes(layer)
        gated = Gated(layer, reads=one.reads, writes=one.writes, width=one.width)
        gated.training = layer.training
        made[id(layer)] = gated
    put_in(model, made)


def gates_of(model: nn.Module) -> tuple[Gate, ...]:
    """The gates that a network has.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(4, 4, 3, bias=False))
        >>> gates_of(gate(net, [Gate("0", reads=None, writes=(1, 2), width=4)]))
        (Gate(layer='0', reads=None, writes=(1, 2), width=4),)
    """
    modules = cast("Iterable[tuple[str, nn.Module]]", unwrapped(model).named_modules())
    return tuple(
        Gate(name, module.reads, module.writes, module.width)
        for name, module in modules
        if isinstance(module, Gated)
    )
