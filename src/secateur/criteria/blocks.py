"""How much each block matters: by what it changes, or by the units inside."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final, Literal, cast, get_args

import torch
from torch import Tensor, nn

from secateur._model import left_as_found, unwrapped
from secateur._options import expect
from secateur.channels import Block, PassThrough
from secateur.channels.nested import ForwardFn, tensors_in, with_tensors
from secateur.criteria.score import HasBatches, batches_of
from secateur.criteria.scores import Scores
from secateur.errors import DataError, ModelError, SettingsError
from secateur.observe.batch import run_batch

BlockCriterion = Literal["change", "influence"]
CHANGE: Final[BlockCriterion] = "change"


@dataclass(frozen=True, eq=False)
class BlockScores:
    """How much each block of a network matters by one criterion; the lowest goes first.

    Attributes:
        criterion: Its name.
        blocks: The blocks, in the order in which they run.
        values: By name of a block.

    Raises:
        SettingsError: The values are not those of the blocks.
        ModelError: A value is not finite.
    """

    criterion: str
    blocks: tuple[Block, ...]
    values: Mapping[str, float]

    def __post_init__(self) -> None:
        names = [block.name for block in self.blocks]
        if sorted(names) != sorted(self.values):
            raise SettingsError(
                f"there are scores of {sorted(self.values)}, and the blocks are {sorted(names)}"
            )
        for name, value in self.values.items():
            if not math.isfinite(value):
                raise ModelError(
                    f"criterion {self.criterion!r} gives block {name!r} the score {value}; check its weights and the data for"
                    " very large numbers"
                )

    def __repr__(self) -> str:
        width = max((len(block.name) for block in self.blocks), default=0)
        lines = [f"{block.name.ljust(width)}  {self.values[block.name]:.4g}" for block in self.blocks]
        return "\n".join([f"Scores of blocks by {self.criterion}", *lines])


def score_blocks(
    model: nn.Module,
    blocks: Iterable[Block],
    criterion: BlockCriterion | Scores = CHANGE,
    *,
    data: Iterable[tuple[Any, Any]] | HasBatches | None = None,
    batches: int | None = None,
    forward_fn: ForwardFn | None = None,
) -> BlockScores:
    r"""Score whole blocks, so that those go first that change least of what runs through them.

    With x what goes into a block and B(x) what comes out, sums over all numbers of all batches:

    - ``"change"``: :math:`\|B(x) - x\| / \|x\|`.
    - ``"influence"``: :math:`1 - \langle x, B(x)\rangle / (\|x\| \|B(x)\|)`, which does not mind if a block makes everything
      larger.
    - `Scores` of channels: the sum of the scores of all units of the block's inner groups. For criteria that estimate a loss
      (``"taylor"``), that is the estimate for removing all of them.

    Args:
        model: The network in which the blocks were found; it is left as found.
        blocks: The blocks.
        criterion: One of the above.
        data: For the first two: batches of (inputs, targets), of which the targets are not looked at, or anything with
            ``.batches(size)``.
        batches: Look at no more than so many batches.
        forward_fn: How a batch's inputs are run, where that is not ``model(inputs)``: ``forward_fn(model, inputs)``.

    Raises:
        SettingsError: There is no such criterion, ``data`` is missing, ``batches`` is below 1, or a block has no inner groups
            whose scores could be summed.
        DataError: There is no batch, or the network does not take its inputs.
        ModelError: The network lacks a block, or a value is not finite.

    Example:
        >>> import secateur
        >>> net = nn.Sequential(*(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True) for _ in range(3)))
        >>> x = torch.randn(4, 5, 8)
        >>> found = secateur.blocks(net, secateur.watch(net, x), x)
        >>> ranked = score_blocks(net, found, data=[(x, None)])
        >>> [name for name, value in ranked.values.items() if value > 0]
        ['0', '1', '2']

    Source:
        Men et al. 2024, ShortGPT, arXiv:2403.03853: block influence, there 1 - the mean cosine over tokens. Here one cosine over
        everything, because which axis holds the features differs among networks.
    """
    call = "score_blocks(model, blocks)"
    expect(call, model=(model, nn.Module), blocks=(blocks, Iterable))
    chosen = tuple(blocks)
    for block in chosen:
        expect(call, block=(block, Block))
    if isinstance(criterion, Scores):
        return _summed(chosen, criterion)
    if criterion not in get_args(BlockCriterion):
        raise SettingsError(
            f"criterion={criterion!r} is none for blocks; give {', '.join(get_args(BlockCriterion))}, or scores of the channels"
        )
    if data is None:
        raise SettingsError(
            f"criterion {criterion!r} needs data and none are given; pass data=batches, or scores of the channels"
        )
    if batches is not None and batches < 1:
        raise SettingsError(f"batches is {batches}; at least 1 is needed")
    every = batches_of(data)
    looked_at = every if batches is None else islice(every, batches)
    seen = _observed(unwrapped(model), chosen, looked_at, forward_fn)
    values = {name: sums.change() if criterion == CHANGE else sums.influence() for name, sums in seen.items()}
    return BlockScores(criterion, chosen, values)


def _summed(blocks: Collection[Block], scores: Scores) -> BlockScores:
    """The sum of the scores of the units in each block."""
    values: dict[str, float] = {}
    for block in blocks:
        known = [name for name in block.groups if name in scores.values]
        if not known:
            raise SettingsError(
                f"block {block.name!r} has no inner group with a score by {scores.criterion!r}; score it by 'change' on data,"
                " or leave it out"
            )
        values[block.name] = sum(float(scores.values[name].sum()) for name in known)
    return BlockScores(f"sum of {scores.criterion}", tuple(blocks), values)


@dataclass(slots=True)
class _Sums:
    """Sums over all that went through a block: of squares going in and coming out, of products, of squared differences."""

    given: float = 0.0
    made: float = 0.0
    product: float = 0.0
    difference: float = 0.0
    before: list[Tensor] = field(default_factory=list[Tensor])

    def add(self, x: Tensor, y: Tensor) -> None:
        a, b = x.double().flatten(), y.double().flatten()
        self.given += float(a @ a)
        self.made += float(b @ b)
        self.product += float(a @ b)
        self.difference += float((b - a) @ (b - a))

    def change(self) -> float:
        return math.sqrt(self.difference / self.given) if self.given else 0.0

    def influence(self) -> float:
        size = math.sqrt(self.given * self.made)
        return 1 - self.product / size if size else 0.0


def _observed(
    model: nn.Module,
    blocks: Collection[Block],
    data: Iterable[tuple[Any, Any]],
    forward_fn: ForwardFn | None,
) -> dict[str, _Sums]:
    """Run the network on data and look at what goes into each block and what comes out."""
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    known = dict(cast("Iterable[tuple[str, nn.Module]]", model.named_modules()))
    seen = {block.name: _Sums() for block in blocks}
    count = 0
    with left_as_found(model), torch.no_grad():
        model.eval()
        for name, sums in seen.items():
            if name not in known or isinstance(known[name], (nn.Identity, PassThrough)):
                raise ModelError(f"the network has no block {name!r}; give the blocks that were found in it")
            known[name].register_forward_pre_hook(_before(sums), with_kwargs=True)
            known[name].register_forward_hook(_after(sums))
        for inputs, _ in data:
            run_batch(model, with_tensors(inputs, lambda tensor: tensor.to(device)), forward_fn)
            count += 1
    if not count:
        raise DataError("there is no batch to score blocks on; pass at least one")
    return seen


def _before(sums: _Sums) -> Any:
    def before(_module: nn.Module, args: Any, kwargs: Any) -> None:
        sums.before.append(next(tensors_in((args, kwargs))).detach().clone())  # it may be written into

    return before


def _after(sums: _Sums) -> Any:
    def after(_module: nn.Module, _args: Any, out: Tensor) -> None:
        sums.add(sums.before.pop(), out.detach())

    return after
