"""Scoring a model's channels."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Protocol, TypeAlias, cast, runtime_checkable

import torch
from torch import Tensor, nn

from secateur._model import check_finite, named_tensors, unwrapped
from secateur._options import expect, expect_names
from secateur.channels.groups import Channels, Group
from secateur.channels.nested import ForwardFn
from secateur.criteria.criterion import Criterion, Kernel, criterion_named
from secateur.criteria.normalise import Norm, normalised
from secateur.criteria.scores import Merge, Scores
from secateur.criteria.view import View
from secateur.errors import SettingsError
from secateur.observe import Loss, Observations, observe

BATCH_SIZE = 128
"""Examples a batch where the data can be cut into batches of any size."""


@runtime_checkable
class HasBatches(Protocol):
    """Data that can be cut into batches, such as a `secateur.data.Split`."""

    def batches(self, size: int) -> Iterable[tuple[Any, Any]]:
        """Pairs of inputs and targets, ``size`` examples each."""
        ...


def batches_of(data: Any) -> Iterable[tuple[Any, Any]]:
    """Data as pairs of inputs and targets, cut into batches where it can be.

    Raises:
        SettingsError: It is something else.

    Example:
        >>> batches_of(torch.zeros(3, 2))
        Traceback (most recent call last):
        ...
        secateur.errors.SettingsError: data is of class Tensor, and batches of (inputs, targets) are wanted; give a loader, a Split, or [(inputs, targets)]
    """
    if isinstance(data, HasBatches):
        return data.batches(BATCH_SIZE)
    if isinstance(data, Iterable) and not isinstance(data, (Tensor, str, Mapping)):
        return _pairs(cast("Iterable[object]", data))
    kind: type = type(cast("object", data))
    one = (
        "one of its splits, such as data.train"
        if hasattr(cast("object", data), "train")
        else "a loader, a Split, or [(inputs, targets)]"
    )
    raise SettingsError(
        f"data is of class {kind.__name__}, and batches of (inputs, targets) are wanted; give {one}"
    )


def _pairs(data: Iterable[object]) -> Iterator[tuple[Any, Any]]:
    """Batches, none of which is a lone tensor: one of two examples would pass for a pair."""
    for batch in data:
        if isinstance(batch, Tensor):
            raise SettingsError(
                "a batch of data is one tensor, and a pair (inputs, targets) is wanted; give [(inputs, targets)], with None for"
                " targets that nothing reads"
            )
        yield cast("tuple[Any, Any]", batch)


Data: TypeAlias = Iterable[tuple[Any, Any]] | HasBatches | Observations


def score(
    model: nn.Module,
    channels: Channels,
    criterion: str | Criterion | Kernel = "taylor",
    *,
    data: Data | None = None,
    loss: Loss | None = None,
    forward_fn: ForwardFn | None = None,
    seed: int = 0,
    batches: int | None = None,
    normalise: Norm | None = None,
    groups: Collection[str] | None = None,
) -> Scores:
    """Score every unit of every group; the lowest goes first.

    Args:
        model: The model; it is left as found.
        channels: The groups that were found in it.
        criterion: A name (`CRITERIA` lists them), a `Criterion`, or a function from a group's own weights
            ``[channels, fan]`` to scores ``[channels]``.
        data: For criteria that need data: batches of (inputs, targets), anything with ``.batches(size)``, or
            `Observations` that hold what the criterion needs.
        loss: From output and targets to the mean loss; cross entropy by default.
        forward_fn: How a batch's inputs are run, where that is not ``model(inputs)``: ``forward_fn(model, inputs)``.
        seed: Seed of random scores and of the probes of the Hessian's diagonal.
        batches: Look at no more than so many batches.
        normalise: Divide each group's scores by their ``"l1"`` or ``"l2"`` norm, so that layers compete.
        groups: Names of the groups to score; all by default.

    Raises:
        SettingsError: The criterion is unknown, needs data that are not given, or an option is out of its range.
        ModelError: A weight, activation or gradient is not finite, or a group cannot be scored by this criterion;
            the tensor or group is named.
        DataError: The data cannot be used.

    Example:
        >>> from secateur.channels import watch
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
        >>> _ = model[0].weight.data.copy_(torch.tensor([[1.0, 2.0], [0.5, 0.0]]))
        >>> score(model, watch(model, torch.zeros(1, 2)), "l1").values["0"]
        tensor([3.0000, 0.5000], dtype=torch.float64)
    """
    expect("score(model, channels)", model=(model, nn.Module), channels=(channels, Channels))
    expect_names(groups=groups)
    model = unwrapped(model)
    chosen = criterion_named(criterion)
    if seed < 0:
        raise SettingsError(f"seed is {seed}; it must be 0 or more")
    if batches is not None and batches < 1:
        raise SettingsError(f"batches is {batches}; a criterion on data needs at least 1")
    scored = _chosen(channels, groups)
    tensors = named_tensors(model)
    check_finite(
        {m.tensor: tensors[m.tensor] for group in scored for m in group.members if m.tensor in tensors}
    )
    seen = Observations(needs=frozenset(), examples=0)
    if chosen.needs:
        seen = _observations(
            model,
            channels,
            chosen,
            data=data,
            loss=loss,
            forward_fn=forward_fn,
            seed=seed,
            batches=batches,
            groups=[g.name for g in scored],
        )
    values: dict[str, Tensor] = {}
    merges: dict[str, Merge] = {}
    for group in scored:
        view = View(group, tensors, channels.biases, seen, _generator(seed, group.name))
        values[group.name], merge = _judged(chosen, view)
        if merge is not None:
            merges[group.name] = merge
    return normalised(Scores(criterion=chosen.name, values=values, merges=merges), normalise)


def _chosen(channels: Channels, names: Collection[str] | None) -> tuple[Group, ...]:
    if names is None:
        return channels.groups
    return tuple(channels.group(name) for name in names)


def _judged(criterion: Criterion, view: View) -> tuple[Tensor, Merge | None]:
    """One group's values, checked for their shape, and its merges."""
    answer = criterion.function(view)
    values, merge = answer if isinstance(answer, tuple) else (answer, None)
    if tuple(values.shape) != (view.group.width,):
        raise SettingsError(
            f"criterion {criterion.name!r} gives group {view.group.name!r} scores of shape {tuple(values.shape)};"
            f" it must give one a unit, shape ({view.group.width},)"
        )
    return values.detach().to("cpu", torch.float64), merge


def _observations(
    model: nn.Module,
    channels: Channels,
    criterion: Criterion,
    *,
    data: Data | None,
    loss: Loss | None,
    forward_fn: ForwardFn | None,
    seed: int,
    batches: int | None,
    groups: Collection[str],
) -> Observations:
    needs = ", ".join(sorted(need.value for need in criterion.needs))
    if data is None:
        raise SettingsError(
            f"criterion {criterion.name!r} needs data ({needs}) and none are given;"
            " pass data=batches, or use a weight criterion such as 'l1'"
        )
    if isinstance(data, Observations):
        if not criterion.needs <= data.needs:
            raise SettingsError(
                f"criterion {criterion.name!r} needs {needs}, which {data!r} does not hold; observe it, or pass batches"
            )
        return data
    every = batches_of(data)
    return observe(
        model,
        channels,
        every if batches is None else islice(every, batches),
        needs=criterion.needs,
        loss=loss,
        forward_fn=forward_fn,
        groups=groups,
        generator=torch.Generator().manual_seed(seed),
    )


def _generator(seed: int, group: str) -> torch.Generator:
    """A group's own source of random numbers, the same whatever other groups there are."""
    return torch.Generator().manual_seed(zlib.crc32(f"{seed}/{group}".encode()))
