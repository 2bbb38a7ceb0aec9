"""Masks: which single weights stay. The network keeps its shape, and the weights that do not stay are zero."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from secateur._model import copied, unwrapped
from secateur._options import did_you_mean, expect
from secateur.channels import INPUT, digest_of, tensors_gone
from secateur.errors import PlanError, SettingsError
from secateur.plan.change import Mix, Plan
from secateur.surgery.optimizers import check_optimizers
from secateur.surgery.tensors import Part, changed, parts_of
from secateur.surgery.wrappers import cut_inside

_CALL = "mask(model, masks), with masks from plan_weights or of bool tensors by name: Masks({'conv1.weight': stays})"


@dataclass(frozen=True, eq=False, repr=False)
class Masks:
    r"""Which weights of some parameters stay: :math:`w \leftarrow w \odot m`, with m 1 where a weight stays.

    Parameters that are not named stay whole. The masks are copied to the CPU; :func:`mask` and :func:`holding` bring them to
    where the network is.

    Attributes:
        kept: By name of a parameter, as in ``named_parameters``: bool, of the parameter's shape, True for a weight that stays.

    Raises:
        SettingsError: There is no mask, or one is not bool or has no weights.

    Example:
        >>> masks = Masks({"0.weight": torch.tensor([[True, False], [True, True]])})
        >>> masks
        Masks
        tensor    weights  left   share
        0.weight        4     3  25.0 %
        >>> masks.left, masks.total, masks.share
        (3, 4, 0.25)
    """

    kept: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        call = "Masks({'conv1.weight': stays}), with a bool tensor for each name"
        expect(call, kept=(self.kept, Mapping))
        if not self.kept:
            raise SettingsError(
                "masks of no parameter say nothing; give one bool tensor for each parameter's name"
            )
        for name, kept in self.kept.items():
            expect(call, **{f"the mask of {name!r}": (kept, Tensor)})
            if kept.dtype != torch.bool or not kept.numel():
                raise SettingsError(
                    f"the mask of {name!r} is {kept.dtype} {tuple(kept.shape)}; it must be bool, with the parameter's shape and"
                    " True for each weight that stays"
                )
        copies = {name: kept.detach().cpu().clone() for name, kept in self.kept.items()}
        object.__setattr__(self, "kept", copies)

    @property
    def left(self) -> int:
        """How many of the weights stay."""
        return sum(int(kept.sum()) for kept in self.kept.values())

    @property
    def total(self) -> int:
        """How many weights the named parameters have."""
        return sum(kept.numel() for kept in self.kept.values())

    @property
    def share(self) -> float:
        """The share of these weights that go."""
        return 1 - self.left / self.total

    @property
    def digest(self) -> str:
        """A fingerprint: the same for masks by which the same weights stay."""
        told = hashlib.blake2b(digest_size=8)
        for name in sorted(self.kept):
            told.update(f"{name} {tuple(self.kept[name].shape)}".encode())
            told.update(np.packbits(self.kept[name].numpy()).tobytes())
        return told.hexdigest()

    def __repr__(self) -> str:
        rows = [("tensor", "weights", "left", "share")]
        for name, kept in self.kept.items():
            left, total = int(kept.sum()), kept.numel()
            rows.append((name, f"{total:,}", f"{left:,}", f"{100 * (1 - left / total):.1f} %"))
        first, *others = (max(len(row[column]) for row in rows) for column in range(4))
        lines = [
            row[0].ljust(first)
            + "".join("  " + cell.rjust(width) for cell, width in zip(row[1:], others, strict=True))
            for row in rows
        ]
        return "\n".join(["Masks", *lines])

    def __and__(self, other: Masks) -> Masks:
        """The weights that stay by both; a parameter that only one names is as that one says.

        Raises:
            SettingsError: They are of different shapes.
        """
        both = {**self.kept, **other.kept}
        for name in self.kept.keys() & other.kept.keys():
            first, second = self.kept[name], other.kept[name]
            if first.shape != second.shape:
                raise SettingsError(
                    f"the masks of {name!r} are {tuple(first.shape)} and {tuple(second.shape)}; combine masks of one network"
                )
            both[name] = first & second
        return Masks(both)

    def check(self, model: nn.Module) -> None:
        """Refuse a network that the masks do not fit.

        Raises:
            PlanError: It has no parameter of a name, or of another shape.
        """
        known = _parameters(model)
        for name, kept in self.kept.items():
            if name not in known:
                raise PlanError(
                    f"the masks were made for another network: this one has no parameter {name!r};"
                    f" {did_you_mean(name, known)}"
                )
            if known[name].shape != kept.shape:
                raise PlanError(
                    f"the masks were made for another network: {name!r} is {tuple(kept.shape)} in them and"
                    f" {tuple(known[name].shape)} in the network; where units were cut since, take masks.after(plan)"
                )

    def after(self, plan: Plan) -> Masks:
        """The masks of the network after a physical cut: gathered along with the weights.

        Where a plan merges or compensates, a weight that is made up of several stays if one of them does.

        Args:
            plan: What is applied to the network.

        Raises:
            PlanError: The plan is of a network that the masks do not fit.

        Example:
            >>> import secateur
            >>> net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
            >>> channels = secateur.watch(net, torch.zeros(1, 3))
            >>> plan = secateur.plan(channels, secateur.score(net, channels, "l1"), remove=0.5)
            >>> Masks({"2.weight": net[2].weight > 0}).after(plan).kept["2.weight"].shape
            torch.Size([2, 2])
        """
        gone, parts = tensors_gone(plan.blocks), parts_of(plan)
        result: dict[str, Tensor] = {}
        for name, kept in self.kept.items():
            if name in gone:
                continue
            axes = {axis: [_sizes(part) for part in found] for axis, found in parts.get(name, {}).items()}
            for axis, found in axes.items():
                if axis >= kept.dim() or any(part.indices.max() >= kept.shape[axis] for part in found):
                    raise PlanError(
                        f"the plan does not fit the masks: {name!r} is {tuple(kept.shape)} in them; take the plan that is"
                        " applied to the network that they were made for"
                    )
            result[name] = changed(kept.double(), axes) > 0 if axes else kept
        return Masks(result)

    def tensors(self) -> dict[str, Tensor]:
        """The masks as tensors for a file, by name, from which :meth:`from_tensors` makes them again."""
        return {name: kept.contiguous() for name, kept in self.kept.items()}

    @staticmethod
    def from_tensors(tensors: Mapping[str, Tensor]) -> Masks:
        """Masks from their tensors.

        Raises:
            SettingsError: They are no masks.
        """
        return Masks(tensors)


def mask(model: nn.Module, masks: Masks, *, inplace: bool = False) -> nn.Module:
    """Set the weights of a network that do not stay to zero.

    Args:
        model: The network. It is left as it is unless ``inplace``.
        masks: Which of its weights stay.
        inplace: Change ``model`` itself.

    Returns:
        The network of the same size with zeros in it (``model`` itself if ``inplace``).

    Raises:
        PlanError: The masks are of another network. Nothing has changed then.
        SettingsError: They are no `Masks`.

    Example:
        >>> net = nn.Linear(2, 1)
        >>> mask(net, Masks({"weight": torch.tensor([[True, False]])})).weight[0, 1].item()
        0.0
    """
    expect(_CALL, model=(model, nn.Module), masks=(masks, Masks))
    masks.check(unwrapped(model))
    result = model if inplace else cut_inside(model, lambda inner: copied(inner, {}), inplace=False)
    _zero(_cut_weights(result, masks))
    return result


@contextmanager
def holding(
    model: nn.Module, masks: Masks, optimizer: torch.optim.Optimizer | Iterable[torch.optim.Optimizer]
) -> Generator[None]:
    """Keep cut weights at zero, exactly, while a network is trained.

    They are set to zero at the start and after every step of the optimiser, so neither momentum nor weight decay brings them
    back, and their gradients are set to zero before the step, so that they count for no norm by which gradients are clipped.
    A running average of the weights that begins inside stays zero there, too.

    Args:
        model: The network, which is changed.
        masks: Which of its weights stay.
        optimizer: The optimiser, or several, that train it. Inside, each has one hook more.

    Raises:
        PlanError: The masks are of another network.
        ModelError: An optimiser holds no parameter of the network.

    Example:
        >>> net = nn.Linear(2, 1)
        >>> optimizer = torch.optim.Adam(net.parameters())
        >>> with holding(net, Masks({"weight": torch.tensor([[True, False]])}), optimizer):
        ...     net(torch.ones(1, 2)).sum().backward()
        ...     optimizer.step()
        >>> net.weight[0, 1].item()
        0.0

    Source:
        Han et al. 2015, Learning both weights and connections, arXiv:1506.02626: retraining of what is left.
    """
    expect("holding(model, masks, optimizer)", model=(model, nn.Module), masks=(masks, Masks))
    optimizers = [optimizer] if isinstance(optimizer, torch.optim.Optimizer) else list(optimizer)
    network = unwrapped(model)
    masks.check(network)
    check_optimizers(optimizers, network, {})
    cut = _cut_weights(network, masks)
    _zero(cut)
    with ExitStack() as hooks:
        for parameter, gone in cut:
            if parameter.requires_grad:
                hooked: Any = parameter  # torch leaves the hook's type open
                hooks.callback(hooked.register_post_accumulate_grad_hook(_without(gone)).remove)
        for each in optimizers:
            hooks.callback(each.register_step_post_hook(_after_step(cut)).remove)
        yield


def masks_of(model: nn.Module, plan: Plan) -> Masks:
    """A plan for units as masks: the columns by which readers take in what goes are zero.

    The masked network computes what the cut one does. The readers are masked and not the writers, because a unit whose own
    weights are zero still gives something (the sigmoid of 0 is a half, a bias stays).

    Args:
        model: The network that the plan was made for.
        plan: A plan that only removes units.

    Raises:
        PlanError: The plan is of another network, merges, compensates, widens or takes whole blocks out, or a norm takes
            statistics over the units, so that no mask does the same as the cut.

    Example:
        >>> import secateur
        >>> net = nn.Sequential(nn.Linear(3, 4), nn.Sigmoid(), nn.Linear(4, 2))
        >>> channels = secateur.watch(net, torch.zeros(1, 3))
        >>> plan = secateur.plan(channels, secateur.score(net, channels, "l1"), remove=0.5)
        >>> masks_of(net, plan)
        Masks
        tensor    weights  left   share
        2.weight        8     4  50.0 %
    """
    if plan.blocks:
        raise PlanError(
            f"the plan takes whole blocks out ({', '.join(block.name for block in plan.blocks)}), which masks cannot; apply it"
        )
    found = digest_of(unwrapped(model))
    if found != plan.digest:
        raise PlanError(
            f"the plan was made for another network (structure {plan.digest}, this one is {found}); make a plan for this one"
        )
    parameters = _parameters(model)
    kept: dict[str, Tensor] = {}
    for group, change in zip(plan.groups, plan.changes, strict=True):
        if change.mixes or len(change.kept) != len(change.take):
            raise PlanError(
                f"the plan merges, compensates or widens {group.name!r}, which masks cannot; apply it"
            )
        if not group.exact:
            raise PlanError(
                f"a norm takes statistics over the units of {group.name!r}, so that removing some changes the others and masks"
                " cannot do the same; apply the plan"
            )
        for member in group.members:
            # what is carried along its columns is a reader whose weight is computed from this one
            reads = member.role == "read" or (member.role == "carry" and member.axis > 0)
            if member.tensor == INPUT or not reads:
                continue
            if member.tensor not in parameters:
                raise PlanError(
                    f"{group.name!r} is read by {member.tensor!r}, which is no parameter and cannot be masked; apply the plan"
                )
            shape = parameters[member.tensor].shape
            mine = kept.setdefault(member.tensor, torch.ones(shape, dtype=torch.bool))
            gone = torch.as_tensor(member.indices[change.removed].ravel())
            mine.index_fill_(member.axis, gone, value=False)
    return Masks(kept)


def _parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """A network's parameters; a shared one under each of its names."""
    return dict(unwrapped(model).named_parameters(remove_duplicate=False))


def _cut_weights(model: nn.Module, masks: Masks) -> list[tuple[nn.Parameter, Tensor]]:
    """Each masked parameter, and where its weights go."""
    known = _parameters(model)
    return [(known[name], ~kept.to(known[name].device)) for name, kept in masks.kept.items()]


@torch.no_grad()
def _zero(cut: Iterable[tuple[nn.Parameter, Tensor]]) -> None:
    for parameter, gone in cut:
        parameter.masked_fill_(gone, 0)


def _after_step(cut: Iterable[tuple[nn.Parameter, Tensor]]) -> Callable[..., None]:
    def after_step(*_: object) -> None:
        _zero(cut)

    return after_step


def _without(gone: Tensor) -> Callable[[Tensor], None]:
    """What is done to a parameter whose gradient has just been added to."""

    def clear(parameter: Tensor) -> None:
        if parameter.grad is not None:
            parameter.grad.masked_fill_(gone, 0)

    return clear


def _sizes(part: Part) -> Part:
    """A part of a plan for masks: whether anything is added, not how much."""
    if part.mix is None:
        return part
    return Part(part.indices, part.take, Mix(np.abs(part.mix.matrix)))
