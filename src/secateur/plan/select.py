"""From scores to a plan: which units go."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from secateur._options import expect, expect_names
from secateur.channels import Block, Channels, Constraints, Group
from secateur.cost import Cost, CostModel
from secateur.criteria import Merge, Norm, Scores, normalised
from secateur.errors import BudgetError, NothingToCutError, PlanError, SettingsError
from secateur.plan.budget import Budget
from secateur.plan.change import ALL_READERS, Change, Mix, Plan, Setting
from secateur.plan.left import Left, fixed_axes, gathered, why_nothing
from secateur.plan.limits import Minimum, RoundTo, limits
from secateur.plan.whole import checked, closable, closed, holds, inner_groups, outside

Scope = Literal["layer", "global"]
Remove: TypeAlias = float | Mapping[str, float]
Indices: TypeAlias = NDArray[np.int64]
Limits: TypeAlias = Mapping[str, Constraints]


def _ascending(values: NDArray[np.float64]) -> Indices:
    """Units in the order in which they go: lowest score first; of equal ones the highest index first."""
    count = len(values)
    return np.lexsort((-np.arange(count), values)).astype(np.int64)


def _share(value: float, name: str, *, whole: bool = False) -> float:
    if not isinstance(value, Real):
        raise SettingsError(
            f"remove={value!r} for {name}: it must be a number, the share of the units that goes, or a mapping of such by group"
        )
    if not 0 <= value < 1 and not (whole and value == 1):
        raise SettingsError(
            f"remove={value} for {name}: it must be a share from 0 up to, but not including, 1"
        )
    return float(value)


@dataclass(frozen=True, slots=True)
class _Kept:
    """What stays: units of the groups that are looked at, except of those that vanish with the closed blocks."""

    units: Mapping[str, Indices]
    closed: tuple[Block, ...]


def _kept(
    orders: Mapping[str, Indices], left: Mapping[str, int], bounds: Limits, blocks: Iterable[Block]
) -> _Kept:
    """So many units of each group, or as many more as its limits ask for; none of groups in blocks that are then closed.

    Args:
        orders: The units of each group in the order in which they go.
        left: How many units of each are to stay.
        bounds: The limits.
        blocks: Blocks that may go whole.
    """
    gone = closed(blocks, left)
    inner = inner_groups(gone)
    units: dict[str, Indices] = {}
    for name, order in orders.items():
        if name not in inner:
            stay = bounds[name].least(left[name], width=len(order))
            units[name] = np.sort(order[len(order) - stay :])
    return _Kept(units, gone)


def _chosen(
    channels: Channels, scores: Scores, groups: Iterable[str] | None, gone: Iterable[Block]
) -> list[Group]:
    if not channels.groups:
        raise NothingToCutError(why_nothing(channels))
    wanted = None if groups is None else [channels.group(name).name for name in groups]
    chosen = [g for g in channels.groups if g.name in scores.values and (wanted is None or g.name in wanted)]
    if not chosen:
        raise NothingToCutError(
            "nothing can be cut: none of the chosen groups has a score; score them or choose others"
        )
    inner = inner_groups(gone)
    chosen = [group for group in chosen if group.name not in inner]
    if not chosen:
        raise NothingToCutError(
            "no channels can be cut besides: all of the chosen groups vanish with the blocks of without=; plan these alone"
            " with plan_blocks"
        )
    for group in chosen:
        if len(scores.values[group.name]) != group.width:
            raise PlanError(
                f"group {group.name!r} has {group.width} units but {len(scores.values[group.name])} scores;"
                " score the network that is to be cut"
            )
    return chosen


def change_of(group: Group, kept: Indices, merge: Merge | None = None) -> Change:
    """The change that keeps some units of a group, removed ones folded into others where a criterion says how.

    They are not where something reads them that no mix reaches: a weight that writes them, too, or is computed from another.
    """
    kept = np.sort(kept)
    if merge is None or any(member.axis > 0 for member in group.by_role("carry")):
        return Change(group.name, group.width, kept)
    place = np.full(group.width, -1, dtype=np.int64)
    place[kept] = np.arange(len(kept))
    matrix = np.zeros((group.width, len(kept)))
    shift = np.zeros(group.width)
    for unit in range(group.width):
        scale, offset, at = 1.0, 0.0, unit
        while place[at] < 0:  # follow the chain: each was folded into one that was still there
            offset += scale * merge.shift[at]
            scale *= merge.scale[at]
            at = int(merge.into[at])
        matrix[unit, place[at]] = scale
        shift[unit] = offset
    return Change(group.name, group.width, kept, {ALL_READERS: Mix(matrix, shift if shift.any() else None)})


def plan_for(
    channels: Channels,
    changes: Iterable[Change],
    model: CostModel | None = None,
    *,
    left: Iterable[Left] = (),
    blocks: Iterable[Block] = (),
) -> Plan:
    """A plan of given changes, with what the network will then cost, and what is ``left`` alone and why.

    Args:
        channels: What watching the network found.
        changes: What happens to its groups. Those of groups that vanish with ``blocks`` are left out.
        model: The network's cost model, if there is one already.
        left: What stays whole, and why.
        blocks: Blocks that go whole.
    """
    model = model or CostModel(channels)
    gone = checked(channels, blocks)
    inner = inner_groups(gone)
    real = [
        change
        for change in changes
        if change.group not in inner
        and (not np.array_equal(change.take, np.arange(change.width)) or change.mixes)
    ]
    return Plan(
        digest=channels.digest,
        groups=tuple(outside(channels.group(change.group), gone) for change in real),
        changes=tuple(real),
        biases=channels.biases,
        before=model.total(),
        after=model.kept({change.group: change.take for change in real}, without=gone),
        left=tuple(left),
        settings=_settings(channels, real, gone),
        blocks=gone,
    )


def _settings(channels: Channels, changes: Iterable[Change], gone: Iterable[Block]) -> tuple[Setting, ...]:
    """What the integers that modules keep become: how many units are left along an axis (copies count)."""
    copies = np.ones(channels.units() + 1, dtype=np.int64)  # the last is what stays, as unit -1
    starts = channels.starts()
    for change in changes:
        start = starts[change.group]
        copies[start : start + change.width] = np.bincount(change.take, minlength=change.width)
    return tuple(
        Setting(entry.module, entry.name, entry.index, int(copies[entry.units].sum()))
        for entry in channels.attributes
        if not any(holds(block, entry.module) for block in gone)
    )


def _by_layer(
    chosen: list[Group], scores: Scores, remove: Remove, bounds: Limits, blocks: Iterable[Block]
) -> _Kept:
    strange = sorted(set(remove) - {group.name for group in chosen}) if isinstance(remove, Mapping) else []
    if strange:
        raise SettingsError(
            f"remove= names {', '.join(strange)}, which are no groups that may be cut;"
            f" those are {', '.join(group.name for group in chosen)}"
        )
    may_vanish = closable(blocks)
    left: dict[str, int] = {}
    for group in chosen:
        if isinstance(remove, Mapping):
            share = _share(remove.get(group.name, 0.0), group.name, whole=group.name in may_vanish)
        else:
            share = _share(remove, group.name)
        left[group.name] = group.width - int(share * group.width + 1e-9)
    orders = {group.name: _ascending(scores.values[group.name].double().numpy()) for group in chosen}
    return _kept(orders, left, bounds, blocks)


class _Ranking:
    """All units of several groups in the order in which they go; the best ones of each group never do.

    In groups of which nothing need be left, since their block may go whole, the best ones go, too.
    """

    def __init__(
        self, chosen: list[Group], scores: Scores, bounds: Limits, blocks: Iterable[Block] = ()
    ) -> None:
        self.groups, self.bounds, self.blocks = chosen, bounds, tuple(blocks)
        may_vanish = closable(self.blocks)
        values: list[NDArray[np.float64]] = []
        owner: list[Indices] = []
        unit: list[Indices] = []
        for number, group in enumerate(chosen):
            own = scores.values[group.name].double().numpy()
            own = own[_ascending(own)]
            least = 0 if group.name in may_vanish else bounds[group.name].minimum
            free = group.width - min(least, group.width)
            values.append(own[:free])
            owner.append(np.full(free, number))
            unit.append(np.arange(free))
        flat, self.owner = np.concatenate(values), np.concatenate(owner)
        self.order = np.lexsort((np.concatenate(unit), self.owner, flat))
        self.orders = {group.name: _ascending(scores.values[group.name].double().numpy()) for group in chosen}

    def __len__(self) -> int:
        return len(self.order)

    def kept(self, count: int) -> _Kept:
        """What stays when the first ``count`` units go (fewer of a group where widths are rounded up)."""
        gone = np.bincount(self.owner[self.order[:count]], minlength=len(self.groups))
        left = {
            group.name: group.width - int(number) for group, number in zip(self.groups, gone, strict=True)
        }
        return _kept(self.orders, left, self.bounds, self.blocks)


def _within(ranking: _Ranking, model: CostModel, budget: Budget, gone: Iterable[Block] = ()) -> _Kept:
    """The fewest removals, lowest scores first, that meet a budget; some blocks are gone anyway."""
    before = model.total()

    def cost(kept: _Kept) -> Cost:
        return model.kept(kept.units, without=(*gone, *kept.closed))

    low, high = 0, len(ranking)
    best = ranking.kept(high)
    if not budget.met(cost(best), before):
        raise BudgetError(
            f"{budget} cannot be met: with as few units left as may be in each of {len(ranking.groups)} groups"
            f" the network has {cost(best)} (now {before}); ask for less, free more groups, or lower minimum= and"
            " round_to="
        )
    while low < high:
        middle = (low + high) // 2
        kept = ranking.kept(middle)
        if budget.met(cost(kept), before):
            high, best = middle, kept
        else:
            low = middle + 1
    return best


def _why_left(
    channels: Channels,
    scores: Scores,
    kept: Mapping[str, Indices],
    *,
    remove: Remove | None,
    scope: Scope,
    bounds: Limits,
    gone: Iterable[Block],
) -> tuple[Left, ...]:
    """The groups of which nothing goes, by reason."""

    def reason(group: Group) -> str:
        if group.name not in scores.values:
            return "has no score"
        if group.name not in kept:
            return "was not chosen"
        share = remove.get(group.name, 0.0) if isinstance(remove, Mapping) else remove
        if share == 0:
            return "none of it was asked for"
        by_layer = scope == "layer" or isinstance(remove, Mapping)
        if share is not None and by_layer and int(share * group.width + 1e-9) == 0:
            return f"a share of {share:g} of {group.width} units is less than one"
        limit = bounds[group.name]
        if limit.minimum > 1 or limit.multiple_of > 1:
            asked = [f"minimum={limit.minimum}"] if limit.minimum > 1 else []
            asked += [f"round_to={limit.multiple_of}"] if limit.multiple_of > 1 else []
            return f"{group.width} units, less what was asked for, round up to {group.width} ({', '.join(asked)})"
        return "other groups' units have lower scores, and those were enough"

    inner = inner_groups(gone)
    outer = (group for group in channels.groups if group.name not in inner)
    whole = (group for group in outer if len(kept.get(group.name, ())) in (0, group.width))
    return gathered((group.name, reason(group)) for group in whole)


def _asked(remove: Remove | None) -> bool:
    """Whether a share above zero was asked for; a budget that is met already asks for nothing."""
    if remove is None:
        return False
    return any(share > 0 for share in remove.values()) if isinstance(remove, Mapping) else remove > 0


def plan(
    channels: Channels,
    scores: Scores,
    *,
    remove: Remove | None = None,
    budget: Budget | None = None,
    scope: Scope = "layer",
    normalise: Norm | None = None,
    round_to: RoundTo = 1,
    minimum: Minimum = 1,
    groups: Iterable[str] | None = None,
    blocks: Iterable[Block] = (),
    without: Iterable[Block] = (),
) -> Plan:
    """Decide which units go: those with the lowest scores. Nothing is changed yet.

    Args:
        channels: What watching the network found.
        scores: A score for every unit; the lowest go first, of equal ones the one with the highest index.
        remove: The share of units that goes, from 0 up to 1 (not included); by group name where it is a mapping.
        budget: Instead of a share: the fewest removals, over all groups, that meet ``Macs``, ``Parameters`` or ``Bytes``.
        scope: ``layer`` removes the share from every group, ``global`` ranks the units of all groups together.
        normalise: For ``global``: divide a group's scores by their L1 or L2 norm first, so that groups compare.
        round_to: Widths that stay are rounded up to a multiple of it, counted in positions of a tensor's axis (in each of its
            equal shares). Or the name of what the network is to run on, whose grain is then taken: ``"xnnpack"``, ``"litert"``,
            ``"executorch"``, ``"onnxruntime"``, ``"openvino"`` (16 each). Or either by pattern of group names, where the first
            that fits holds: ``{"head.*": 1, "*": 16}``.
        minimum: Units that stay in each group at least; or that number by pattern of group names. A group that has fewer stays.
        groups: The names of the groups that may be cut; all that have scores by default.
        blocks: Blocks that may go whole (`secateur.blocks` finds them): where by their scores nothing would be left of the groups
            through which a block's branch runs (``Block.closed_by``), the block goes, and its input goes on in its place. Groups
            by name may then be asked to lose a share of 1. By default every group keeps at least its minimum.
        without: Blocks that go whole whatever their scores.

    Returns:
        The plan, with the exact cost of the network after it.

    Raises:
        SettingsError: Neither or both of ``remove`` and ``budget`` are given, one is out of range, a target is unknown, or a
            pattern fits no group.
        NothingToCutError: No group may be cut, or of what was asked for not one unit could go; it says why.
        BudgetError: The budget cannot be reached.
        PlanError: The scores or blocks are of another network.

    Example:
        >>> import torch, secateur
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
        >>> channels = secateur.watch(net, torch.zeros(1, 8))
        >>> scores = secateur.score(net, channels, "l1")
        >>> print(plan(channels, scores, remove=0.5))
        1 group, 3 units removed: 68 -> 35 parameters, 60 -> 30 MACs
          0: 6 -> 3
          stays: 0.weight[1]: reads the network's input
          stays: 2.weight[0], 2.bias[0]: reaches the network's output
    """
    if (remove is None) == (budget is None):
        raise SettingsError(
            "give either remove=, a share of the units, or budget=, what the network may cost"
        )
    if scope not in ("layer", "global"):
        raise SettingsError(f"scope={scope!r} must be 'layer' or 'global'")
    expect("plan(channels, scores)", channels=(channels, Channels), scores=(scores, Scores))
    expect_names(groups=groups)
    if budget is not None:
        expect("plan(..., budget=Macs(at_most=0.5))", budget=(budget, get_args(Budget)))
    gone = checked(channels, without)
    free = [block for block in checked(channels, blocks) if block not in gone]
    chosen = _chosen(channels, scores, groups, gone)
    bounds = limits(channels, minimum=minimum, round_to=round_to)
    ranked = normalised(scores, normalise)
    model = CostModel(channels)
    if budget is not None:
        kept = _within(_Ranking(chosen, ranked, bounds, free), model, budget, gone)
    elif scope == "layer" or isinstance(remove, Mapping):
        kept = _by_layer(chosen, ranked, remove if remove is not None else 0.0, bounds, free)
    else:
        ranking = _Ranking(chosen, ranked, bounds, free)
        total = sum(group.width for group in chosen)
        share = _share(remove if remove is not None else 0.0, "the network")
        kept = ranking.kept(min(int(share * total + 1e-9), len(ranking)))
    gone = (*gone, *kept.closed)
    left = _why_left(channels, scores, kept.units, remove=remove, scope=scope, bounds=bounds, gone=gone)
    changes = [
        change_of(channels.group(name), units, scores.merges.get(name)) for name, units in kept.units.items()
    ]
    fixed = fixed_axes(channels, without=gone)
    made = plan_for(channels, changes, model, left=(*left, *fixed), blocks=gone)
    if not made.changes and not made.blocks and _asked(remove):
        raise NothingToCutError(
            f"nothing would be removed: {'; '.join(map(str, left))}; ask for a larger share, a smaller round_to or minimum,"
            " or other groups"
        )
    return made
