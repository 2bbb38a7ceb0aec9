"""What each unit is worth, measured: the network without it, for every unit, at the cost of little more than what lies behind."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import NoneType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur._model import left_as_found
from secateur._options import expect, expect_names
from secateur.channels import Channels, watch
from secateur.channels.groups import Group, Member
from secateur.criteria import Scores
from secateur.data import Split
from secateur.errors import NothingToCutError, SettingsError
from secateur.train import device_of, dtype_of

MEMORY = 1 << 28
"""Bytes of intermediate results that are held at a time."""
MOST_EXAMPLES = 1000
_FEW = 8
"""Examples on which it is tried whether what is computed once may stand in."""


@dataclass(frozen=True, eq=False)
class Ablation:
    """How a network does without each of its units.

    Attributes:
        loss: Mean cross-entropy without the unit, in nats; by group, float64 ``[width]``.
        accuracy: Percent right without it, likewise.
        whole_loss: Of the network itself.
        whole_accuracy: Of the network itself.
    """

    loss: Mapping[str, Tensor]
    accuracy: Mapping[str, Tensor]
    whole_loss: float
    whole_accuracy: float

    def scores(self) -> Scores:
        """By how much the loss rises without each unit: the criterion that others estimate."""
        return Scores("ablation", {name: values - self.whole_loss for name, values in self.loss.items()})


def ablate(
    model: nn.Module,
    split: Split,
    *,
    channels: Channels | None = None,
    groups: Collection[str] | None = None,
    on_group: Callable[[str], None] | None = None,
) -> Ablation:
    """Measure a network without each unit, one at a time.

    What runs before the first layer that reads a unit is computed once. That layer's own result is not computed anew, either: what
    the unit adds to it is taken off. Only what lies behind runs for every unit.

    Args:
        model: The network; it is left as found.
        split: Examples to measure it on.
        channels: Its channels; watched if they are not given.
        groups: Names of the groups to measure; by default all whose removal equals not being read (``Group.exact``).
        on_group: Told of each group when all its units are measured on some examples.

    Returns:
        Loss and accuracy without each unit.

    Raises:
        SettingsError: Of a named group the removal of a unit is more than that nobody reads it.
        NothingToCutError: There is no group to measure.

    Example:
        >>> from secateur import data, networks
        >>> digits = data.load("digits", limit=200)
        >>> found = ablate(networks.build("digits-net", seed=0), digits.validation, groups=["dense1"])
        >>> found.accuracy["dense1"].shape
        torch.Size([64])

    Source:
        Molchanov et al. 2017, arXiv:1611.06440, section 2.2: the oracle, by which criteria are judged.
    """
    call = "ablate(model, data.validation)"
    expect(call, model=(model, nn.Module), split=(split, Split), channels=(channels, (Channels, NoneType)))
    expect_names(groups=groups)
    found = watch(model, split.inputs[:1]) if channels is None else channels
    chosen = _chosen(found, groups)
    sums = {group.name: torch.zeros(2, group.width, dtype=torch.float64) for group in chosen}
    whole = torch.zeros(2, dtype=torch.float64)
    where, number_format = device_of(model), dtype_of(model)
    with left_as_found(model), torch.no_grad():
        model.eval()
        calls = _Calls(model)
        calls.record(split.inputs[:1].to(where, number_format))
        for given, labels in split.batches(max(1, min(MOST_EXAMPLES, MEMORY // max(calls.bytes(), 1)))):
            inputs, targets = given.to(where, number_format), labels.to(where)
            whole += _judged(calls.record(inputs), targets)
            for group in chosen:
                sums[group.name] += _without_each(calls, group, inputs, targets)
                if on_group is not None:
                    on_group(group.name)
    count = len(split)
    return Ablation(
        {name: values[0] / count for name, values in sums.items()},
        {name: 100.0 * values[1] / count for name, values in sums.items()},
        float(whole[0] / count),
        float(100.0 * whole[1] / count),
    )


def _chosen(channels: Channels, names: Collection[str] | None) -> list[Group]:
    chosen = [
        group
        for group in channels.groups
        if (_can_be_measured(group) if names is None else group.name in set(names))
    ]
    for name in names or ():
        if not _can_be_measured(channels.group(name)):
            raise SettingsError(
                f"group {name!r} cannot be measured unit by unit: a statistic is taken over its units, or what reads them is no"
                " layer's own weight"
            )
    if not chosen:
        raise NothingToCutError("nothing can be measured: no group's units are only read")
    return chosen


def _can_be_measured(group: Group) -> bool:
    """Whether a unit is gone when the columns that read it are zero, and these are all there are."""
    computed = any(member.axis for member in group.by_role("carry"))  # a weight computed from it reads, too
    return group.exact and bool(group.by_role("read")) and not computed


def _judged(outputs: Tensor, targets: Tensor) -> Tensor:
    """Sum of the losses, and how many are right."""
    loss = F.cross_entropy(outputs.double(), targets, reduction="sum")
    return torch.stack([loss.cpu(), (outputs.argmax(1) == targets).sum().double().cpu()])


class _Calls:
    """What every module without children gave, in the order in which they ran."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.order: list[nn.Module] = []
        self.inputs: dict[nn.Module, list[Any]] = {}
        self.outputs: dict[nn.Module, list[Any]] = {}
        self._written: set[nn.Module] = set()
        """Modules whose input or output somebody writes into afterwards: copies of these are kept, and handed out."""

    def record(self, inputs: Tensor) -> Tensor:
        """Run the network, and remember."""
        out, written = self._run(inputs)
        if written - self._written:
            self._written |= written
            out, _ = self._run(inputs)
        return out

    def bytes(self) -> int:
        """The memory of what is remembered."""
        kept = {
            id(x): x.nbytes
            for found in (self.outputs, self.inputs)
            for values in found.values()
            for x in values
            if isinstance(x, Tensor)
        }
        return sum(kept.values())

    def _run(self, inputs: Tensor) -> tuple[Tensor, set[nn.Module]]:
        self.order, self.inputs, self.outputs = [], {}, {}
        seen: list[tuple[nn.Module, Tensor, int]] = []

        def note(module: nn.Module, given: tuple[Any, ...], out: Any) -> None:
            first = given[0] if given else None
            seen.extend((module, x, x._version) for x in (first, out) if isinstance(x, Tensor))
            copies = module in self._written
            self.order.append(module)
            self.inputs.setdefault(module, []).append(
                first.clone() if copies and isinstance(first, Tensor) else first
            )
            self.outputs.setdefault(module, []).append(
                out.clone() if copies and isinstance(out, Tensor) else out
            )

        modules = self.model.modules()
        with ExitStack() as hooks:
            for module in modules:
                if not list(module.children()):
                    hooks.callback(module.register_forward_hook(note).remove)
            out = self.model(inputs.clone())
        return out, {module for module, x, version in seen if x._version != version}

    @contextmanager
    def standing_in(self, before: nn.Module, out: Tensor | None) -> Generator[None]:
        """Let every module that only ran before another give what it gave; and that other what is said."""
        place = self.order.index(before)
        early = set(self.order[:place]) - set(self.order[place:])
        own = {module: vars(module).get("forward") for module in (*early, before)}
        try:
            for module in early:
                module.forward = self._again(module)
            if out is not None:
                before.forward = lambda *_, **__: out
            yield
        finally:
            for module, forward in own.items():
                if forward is None:
                    vars(module).pop("forward", None)
                else:
                    module.forward = forward

    def _again(self, module: nn.Module) -> Callable[..., Any]:
        answers = iter(self.outputs[module])
        if module in self._written:
            return lambda *_, **__: next(answers).clone()
        return lambda *_, **__: next(answers)


def _without_each(calls: _Calls, group: Group, inputs: Tensor, targets: Tensor) -> Tensor:
    """Sums of losses and of right answers without each unit of a group, ``[2, width]``."""
    first = _first_reader(calls, group)
    if first is not None and not _agrees(calls, group, first, inputs):
        first = None  # a network of another make, such as a weight that its own code reads as well: everything runs
    result = torch.zeros(2, group.width, dtype=torch.float64)
    for unit in range(group.width):
        result[:, unit] = _judged(_without(calls, group, first, unit, inputs), targets)
    return result


def _first_reader(calls: _Calls, group: Group) -> nn.Module | None:
    """The module that reads the group before all others, if each of its readers is one that ran."""
    readers = [calls.model.get_submodule(_owner(member)) for member in group.by_role("read")]
    known = [module for module in readers if module in calls.outputs]
    return min(known, key=calls.order.index) if len(known) == len(readers) else None


def _agrees(calls: _Calls, group: Group, first: nn.Module, inputs: Tensor) -> bool:
    """Whether the outputs without some units are those of the whole network, run with the columns that read them at zero."""
    few = _Calls(calls.model)
    try:
        few.record(inputs[:_FEW])
        return all(
            torch.allclose(
                _without(few, group, first, unit, inputs[:_FEW]),
                _without(few, group, None, unit, inputs[:_FEW]),
                rtol=1e-3,
                atol=1e-4,
            )
            for unit in {0, group.width // 2, group.width - 1}
        )
    except Exception:
        return False


def _without(calls: _Calls, group: Group, first: nn.Module | None, unit: int, inputs: Tensor) -> Tensor:
    """The network's outputs without a unit."""
    model = calls.model
    own = [member for member in group.by_role("read") if first is model.get_submodule(_owner(member))]
    quick = (
        first is not None
        and calls.order.count(first) == len(own) == 1
        and _is_plain(first, own[0].axis)
        and isinstance(calls.inputs[first][0], Tensor)
    )
    with ExitStack() as stack:
        for member in group.by_role("read"):
            if not (quick and member in own):
                weight = model.get_parameter(member.tensor)
                stack.enter_context(_unread(weight, member.axis, member.indices[unit]))
        if first is not None:
            out = None
            if quick:
                whole, x = calls.outputs[first][0], calls.inputs[first][0]
                out = whole - _part(first, x, torch.as_tensor(own[0].indices[unit], device=x.device))
            stack.enter_context(calls.standing_in(first, out))
        return model(inputs.clone())  # a forward may write into what it is given


def _owner(member: Member) -> str:
    return member.tensor.rpartition(".")[0]


_PARTS: dict[type[nn.Module], Callable[..., Tensor]] = {
    nn.Conv1d: F.conv1d,
    nn.Conv2d: F.conv2d,
    nn.Conv3d: F.conv3d,
}


def _is_plain(module: Any, axis: int) -> bool:
    """Whether what a part of its input adds to a layer's output can be computed by itself."""
    if axis != 1:
        return False
    return type(module) is nn.Linear or (
        type(module) in _PARTS and module.groups == 1 and module.padding_mode == "zeros"
    )


def _part(module: Any, x: Tensor, positions: Tensor) -> Tensor:
    """What some channels of its input add to a layer's output."""
    weight = module.weight.index_select(1, positions)
    if isinstance(module, nn.Linear):
        return F.linear(x.index_select(-1, positions), weight)
    convolve = _PARTS[type(module)]
    return convolve(
        x.index_select(1, positions), weight, None, module.stride, module.padding, module.dilation
    )


@contextmanager
def _unread(weight: Tensor, axis: int, positions: Any) -> Generator[None]:
    """A weight with some columns at zero."""
    places = torch.as_tensor(positions, device=weight.device)
    kept = weight.index_select(axis, places)
    weight.index_fill_(axis, places, 0)
    try:
        yield
    finally:
        weight.index_copy_(axis, places, kept)
