"""Which weights go: those with the lowest scores, to the number."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from numbers import Real
from typing import Literal, TypeAlias, get_args

import numpy as np
import torch
from torch import Tensor, nn

from secateur._model import named_tensors, unwrapped
from secateur._options import did_you_mean, expect, expect_names
from secateur.criteria import Scores, WeightScores
from secateur.errors import NothingToCutError, PlanError, SettingsError
from secateur.surgery.masks import Masks

WeightNorm: TypeAlias = Literal["none", "l1", "l2"]
WeightScope: TypeAlias = Literal["layer", "global"]


def plan_weights(
    model: nn.Module,
    scores: WeightScores,
    *,
    remove: float | Mapping[str, float],
    scope: WeightScope = "layer",
    normalise: WeightNorm = "none",
    exclude: Collection[str] = (),
    within: Masks | None = None,
) -> Masks:
    """Decide which weights go, or which kernels: those with the lowest scores. Nothing is changed yet.

    Of n weights (or kernels, if these are what was scored) exactly ``floor(remove * n)`` go. Of equal scores the one goes first
    that comes first: in the order of the tensors, then of the numbers in them.

    Args:
        model: The network that was scored.
        scores: The lowest go first.
        remove: The share that goes, from 0 to 1; by name of a parameter where it is a mapping, in which parameters that are not
            named lose nothing.
        scope: ``layer`` removes the share from every parameter, ``global`` ranks all parameters together.
        normalise: For ``global``: divide a parameter's scores by their ``l1`` or ``l2`` norm first, so that layers compete.
        exclude: Names of parameters that stay as they are.
        within: Masks that hold already. What they cut stays cut and counts as removed, so that ``remove`` cannot be less than
            they have cut; it takes no part in the norm.

    Returns:
        Masks of the parameters that have scores and are not excluded, and of those that ``within`` names.

    Raises:
        SettingsError: A share is out of range or below what ``within`` has cut, a name is unknown, or the scores are of units.
        NothingToCutError: Every parameter is excluded.
        PlanError: The scores or masks are of another network.

    Example:
        >>> import secateur
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
        >>> plan_weights(net, secateur.score_weights(net, "magnitude"), remove=0.5, scope="global").left
        3
    """
    if isinstance(scores, Scores):
        raise SettingsError(
            "the scores are of units, and plan_weights takes scores of single weights or kernels; cut units with"
            " secateur.plan(channels, scores, remove=...), or score weights with secateur.score_weights(model)"
        )
    call = "plan_weights(model, scores, remove=0.5)"
    expect(call, model=(model, nn.Module), scores=(scores, WeightScores), remove=(remove, (Real, Mapping)))
    expect_names(exclude=exclude)
    if scope not in get_args(WeightScope):
        raise SettingsError(f"scope={scope!r} must be 'layer' or 'global'")
    if normalise not in get_args(WeightNorm):
        raise SettingsError(f"normalise={normalise!r} must be 'none', 'l1' or 'l2'")
    for what, names in (("exclude", exclude), ("remove", remove if isinstance(remove, Mapping) else ())):
        for name in names:
            if name not in scores.values:
                raise SettingsError(
                    f"{what}= names {name!r}, which has no score; {did_you_mean(name, scores.values)}"
                )
    values = {name: each for name, each in scores.values.items() if name not in exclude}
    if not values:
        raise NothingToCutError(
            "every parameter that has scores is excluded, so nothing can go; exclude fewer"
        )
    shapes = _shapes(model, scores)
    if within is not None:
        expect("plan_weights(..., within=masks)", within=(within, Masks))
        within.check(model)
    free = {name: _free(values[name], within, name) for name in values}
    _check_not_less(remove, free)
    if isinstance(remove, Mapping) or scope == "layer":
        kept = {
            name: _lowest_gone(
                {name: values[name]},
                {name: free[name]},
                _count(
                    remove.get(name, 0.0) if isinstance(remove, Mapping) else remove,
                    values[name].numel(),
                    name,
                ),
            )[name]
            for name in values
        }
    else:
        compared = normalised_weights(scores, normalise, within=within).values
        ranked = {name: compared[name] for name in values}
        total = sum(each.numel() for each in values.values())
        kept = _lowest_gone(ranked, free, _count(remove, total, "the network"))
    masks = Masks({name: _spread(stay, shapes[name]) for name, stay in kept.items()})
    return masks if within is None else masks & within


def normalised_weights(scores: WeightScores, by: WeightNorm, *, within: Masks | None = None) -> WeightScores:
    """Divide each parameter's scores by their norm, those of what is cut already left out.

    Args:
        scores: Scores of weights or kernels.
        by: ``l1``, ``l2``, or ``none`` for the scores as they are.
        within: Masks that hold already.

    Example:
        >>> scores = WeightScores("magnitude", "weight", {"w": torch.tensor([[3.0, 4.0]], dtype=torch.float64)})
        >>> normalised_weights(scores, "l2").values["w"]
        tensor([[0.6000, 0.8000]], dtype=torch.float64)
    """
    if by == "none":
        return scores
    divided: dict[str, Tensor] = {}
    for name, values in scores.values.items():
        left = values[_free(values, within, name)]
        norm = float(left.abs().sum() if by == "l1" else left.square().sum().sqrt())
        divided[name] = values / norm if norm > 0 else values
    return replace(scores, values=divided)


def _shapes(model: nn.Module, scores: WeightScores) -> dict[str, torch.Size]:
    """The shapes of the scored parameters."""
    tensors = named_tensors(unwrapped(model))
    for name, values in scores.values.items():
        if name not in tensors:
            raise PlanError(
                f"the scores are of another network: this one has no {name!r}; {did_you_mean(name, tensors)}"
            )
        shape = tensors[name].shape
        wanted = shape[:2] if scores.granularity == "kernel" else shape
        if values.shape != wanted:
            raise PlanError(
                f"the scores are of another network: {name!r} has {tuple(values.shape)} of them, and this network's would have"
                f" {tuple(wanted)}; score it anew"
            )
    return {name: tensors[name].shape for name in scores.values}


def _free(values: Tensor, within: Masks | None, name: str) -> Tensor:
    """Where there is something left to go; of a kernel any weight."""
    if within is None or name not in within.kept:
        return torch.ones(values.shape, dtype=torch.bool)
    kept = within.kept[name]
    return kept if kept.dim() == values.dim() else kept.flatten(2).any(2)


def _check_not_less(remove: float | Mapping[str, float], free: Mapping[str, Tensor]) -> None:
    """Refuse to remove less than masks that hold already have cut: nothing comes back."""
    asked = (
        [(name, share, [free[name]]) for name, share in remove.items() if name in free]
        if isinstance(remove, Mapping)
        else [("the network", remove, list(free.values()))]
    )
    for name, share, pool in asked:
        total, left = sum(each.numel() for each in pool), sum(int(each.sum()) for each in pool)
        if _count(share, total, name) < total - left:
            raise SettingsError(
                f"remove={share:g} for {name}, and within= has cut {1 - left / total:.3g} of it already, which stays cut; remove at"
                " least that, or leave within= out"
            )


def _count(share: float, total: int, name: str) -> int:
    """How many go; a share of count / total is that count, though it was rounded."""
    if not isinstance(share, Real):
        raise SettingsError(f"remove={share!r} for {name} must be a number, the share that goes")
    if not 0 <= share <= 1:
        raise SettingsError(f"remove={share:g} for {name} must be a share from 0 to 1")
    return math.floor(share * total * (1 + 1e-12) + 1e-9)


def _lowest_gone(values: Mapping[str, Tensor], free: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """What stays of some parameters when so many of their numbers are gone, with those that are gone already."""
    flat = np.concatenate([values[name].numpy().ravel() for name in values])
    stay = np.concatenate([free[name].numpy().ravel() for name in values])
    left = np.flatnonzero(stay)
    more = min(max(count - (len(stay) - len(left)), 0), len(left))
    stay[left[np.argsort(flat[left], kind="stable")[:more]]] = False
    ends = np.cumsum([each.numel() for each in values.values()])[:-1]
    pieces = zip(values, np.split(stay, ends), strict=True)
    return {name: torch.as_tensor(piece).reshape(values[name].shape) for name, piece in pieces}


def _spread(stay: Tensor, shape: torch.Size) -> Tensor:
    """From kernels to their weights."""
    if stay.shape == shape:
        return stay
    return stay.reshape(*stay.shape, *[1] * (len(shape) - 2)).expand(shape)
