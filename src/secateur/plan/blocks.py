"""Plans that remove whole blocks: given ones, or those that matter least."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Real
from typing import get_args

from secateur._options import expect
from secateur.channels import Block, Channels
from secateur.cost import CostModel
from secateur.criteria import BlockScores
from secateur.errors import BudgetError, NothingToCutError, SettingsError
from secateur.plan.budget import Budget
from secateur.plan.change import Plan
from secateur.plan.left import fixed_axes, gathered
from secateur.plan.select import plan_for
from secateur.plan.whole import checked, inner_groups


def plan_blocks(
    channels: Channels,
    blocks: Iterable[Block] | BlockScores,
    *,
    remove: float | None = None,
    budget: Budget | None = None,
) -> Plan:
    """Plan to remove whole blocks: given ones, or those with the lowest scores. Nothing is changed yet.

    Args:
        channels: What watching the network found.
        blocks: The blocks that go; or scores of blocks, of which the lowest go first, of equal ones the one that runs last.
        remove: With scores: how many blocks go (a whole number), or which share of them (a fraction from 0 to 1, rounded down).
        budget: With scores, instead: the fewest removals that meet ``Macs``, ``Parameters`` or ``Bytes``.

    Returns:
        The plan, with the exact cost of the network after it. Its ``blocks`` can be handed to `secateur.plan` as ``without=``,
        where channels are to go, too.

    Raises:
        SettingsError: With scores neither or both of ``remove`` and ``budget`` are given, without scores one is, or ``remove`` is
            out of range.
        NothingToCutError: Not one block would go, or there are scores of none.
        BudgetError: The network has too much besides its blocks.
        PlanError: The blocks were found in another network.

    Example:
        >>> import torch, secateur
        >>> from secateur.networks import build
        >>> model, x = build("resnet20", seed=0), torch.randn(8, 3, 32, 32)
        >>> channels = secateur.watch(model, x)
        >>> found = secateur.blocks(model, channels, x)
        >>> ranked = secateur.score_blocks(model, found, data=[(x, None)])
        >>> plan = plan_blocks(channels, ranked, remove=2)
        >>> len(plan.blocks), plan.before.parameters - plan.after.parameters == sum(b.parameters for b in plan.blocks)
        (2, True)
    """
    expect(
        "plan_blocks(channels, blocks)",
        channels=(channels, Channels),
        blocks=(blocks, (BlockScores, Iterable)),
    )
    if budget is not None:
        expect("plan_blocks(..., budget=Macs(at_most=0.5))", budget=(budget, get_args(Budget)))
    if not isinstance(blocks, BlockScores):
        if remove is not None or budget is not None:
            raise SettingsError(
                "remove= and budget= choose by scores; give scores of the blocks, or leave these out"
            )
        return _whole(channels, blocks)
    if (remove is None) == (budget is None):
        raise SettingsError(
            "give either remove=, how many of the blocks, or budget=, what the network may cost"
        )
    if not blocks.blocks:
        raise NothingToCutError(
            "no block has a score: score_blocks was given none; see what `secateur.blocks` finds in the network, or remove channels"
        )
    order = _ascending(blocks)
    if remove is not None:
        made = _whole(channels, order[: _count(remove, len(order))])
        if not made.blocks and remove > 0:
            raise NothingToCutError(
                f"nothing would be removed: a share of {remove:g} of {len(order)} blocks is less than one; ask for a larger share"
                " or for a number of blocks"
            )
        return made
    model = CostModel(channels)
    before = model.total()
    for count in range(len(order) + 1):
        after = model.kept({}, without=order[:count])
        if budget is not None and budget.met(after, before):
            return _whole(channels, order[:count], model)
    raise BudgetError(
        f"{budget} cannot be met: without all of its {len(order)} scored blocks the network has"
        f" {model.kept({}, without=order)} (now {before}); ask for less, or remove channels, too"
    )


def _ascending(scores: BlockScores) -> list[Block]:
    """Blocks in the order in which they go."""
    later = {block.name: -place for place, block in enumerate(scores.blocks)}
    return sorted(scores.blocks, key=lambda block: (scores.values[block.name], later[block.name]))


def _count(remove: float, blocks: int) -> int:
    whole = isinstance(remove, int) and not isinstance(remove, bool)
    if (
        isinstance(remove, bool)
        or not isinstance(remove, Real)
        or not 0 <= remove <= (blocks if whole else 1)
    ):
        raise SettingsError(
            f"remove={remove!r} must be a whole number of blocks from 0 to {blocks}, or a share from 0.0 to 1.0"
        )
    return int(remove) if whole else int(remove * blocks + 1e-9)


def _whole(channels: Channels, blocks: Iterable[Block], model: CostModel | None = None) -> Plan:
    """The plan that removes some blocks and nothing else."""
    gone = checked(channels, blocks)
    inner = inner_groups(gone)
    left = gathered((group.name, "was not chosen") for group in channels.groups if group.name not in inner)
    return plan_for(channels, (), model, left=(*left, *fixed_axes(channels, without=gone)), blocks=gone)
