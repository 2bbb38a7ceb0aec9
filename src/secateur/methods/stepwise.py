"""Prune step by step under a protocol: which units go at once, what is retrained after each step, when scores are taken anew."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur._model import copied, named_tensors
from secateur._options import expect
from secateur.channels import watch
from secateur.cost import CostModel
from secateur.data import Split, Splits
from secateur.errors import ModelError
from secateur.evaluate import Evaluation, evaluate
from secateur.methods.bisection import bisecting
from secateur.methods.block_training import BlockTraining
from secateur.methods.protocol import StepSettings
from secateur.methods.seeds import seed_for
from secateur.methods.steps import Lost, steps_of
from secateur.plan import change_of, plan_for
from secateur.surgery import Masks, apply, kept_units, mask
from secateur.train import fit


@dataclass(frozen=True, slots=True)
class Point:
    """The network after some steps.

    Attributes:
        step: How many steps were made; 0 is the unreduced network.
        removed: Units that went, of the scope's.
        share: The share of the scope's units at the start that went.
        parameters: What is left; weights that are masked are not counted.
        macs: Multiply-adds for one example; those in which a masked weight would take part are not counted, though a network with
            zeros in it does them, unless it is run by something that leaves them out.
        accuracy: Percent, on the validation examples that it is judged by.
        loss: Mean cross-entropy on them, in nats.
        iterations: Batches trained so far.
    """

    step: int
    removed: int
    share: float
    parameters: int
    macs: int
    accuracy: float
    loss: float
    iterations: int


@dataclass(frozen=True, eq=False)
class StepwiseResult:
    """What stepwise pruning made.

    Attributes:
        points: One a judged step, the unreduced network first.
        model: The network after the last step; of a bisection, the last that was looked at.
        within: The smallest network (by parameters) that was judged and lost no more than ``max_drop`` points; None without a bound.
        within_point: Its point.
        masks: Which weights of ``model`` stay, where kernels or single weights went.
        within_masks: Those of ``within``.
        notes: What was done otherwise than asked, and why: the whole network was retrained where there is no block.
    """

    points: tuple[Point, ...]
    model: nn.Module
    within: nn.Module | None
    within_point: Point | None
    masks: Masks | None = None
    within_masks: Masks | None = None
    notes: tuple[str, ...] = ()


def stepwise(
    model: nn.Module,
    data: Splits,
    settings: StepSettings,
    *,
    keep_within: float | None = None,
    on_point: Callable[[Point], None] | None = None,
) -> StepwiseResult:
    """Prune a trained network step by step, and judge it on the way.

    Units are cut for real; kernels and single weights (``settings.granularity``) are set to zero and held there.

    Args:
        model: The network; it is left as found.
        data: Scores and retraining see the training split, judgement the validation split; the test split is not read.
        settings: The protocol.
        keep_within: Keep the smallest network that lost no more than so many points; by default ``settings.max_drop``.
        on_point: Told of each judged step.

    Returns:
        The curve, and the networks at its end and at the bound.

    Raises:
        SettingsError: The criterion or the scope is unknown.
        NothingToCutError: Nothing in the scope can go.

    Example:
        >>> from secateur import data, networks
        >>> digits = data.load("digits", limit=300)
        >>> net = networks.build("digits-net", seed=0)
        >>> protocol = StepSettings(criterion="l1", scope="conv3", step=16, until=0.75)
        >>> [point.removed for point in stepwise(net, digits, protocol).points]
        [0, 16, 32, 48]

    Source:
        Molchanov et al. 2017, Pruning Convolutional Neural Networks for Resource Efficient Inference, arXiv:1611.06440: a unit
        at a time, by a criterion, with retraining between. Here a step may be several units, which go together.
    """
    call = "stepwise(model, data, StepSettings())"
    expect(call, model=(model, nn.Module), data=(data, Splits), settings=(settings, StepSettings))
    kind = _Stepwise if settings.search == "steps" else _Bisected
    run = kind(copied(model, {}).eval(), data, settings)
    bound = settings.max_drop if keep_within is None else keep_within
    points: list[Point] = []
    kept: tuple[nn.Module, Point, Masks | None] | None = None
    for point in run.points():
        points.append(point)
        if on_point is not None:
            on_point(point)
        smaller = kept is None or point.parameters < kept[1].parameters
        if bound is not None and smaller and points[0].accuracy - point.accuracy <= bound + 1e-9:
            kept = copied(run.model, {}), point, run.steps.masks
    within, at, masks = (None, None, None) if kept is None else kept
    points.sort(key=lambda point: point.step)
    return StepwiseResult(tuple(points), run.model, within, at, run.steps.masks, masks, run.notes())


class _Stepwise:
    """The moving parts of one stepwise pruning."""

    def __init__(self, model: nn.Module, data: Splits, settings: StepSettings) -> None:
        self.model, self.data, self.settings = model, data, settings
        self.steps = steps_of(model, data, settings)
        self.judged = data.validation
        if settings.judge_examples is not None and settings.judge_examples < len(data.validation):
            self.judged = data.validation.take(settings.judge_examples, seed=0)
        # the unreduced network itself is cut in place, step by step
        self.blocks = BlockTraining(copied(model, {}), data.train) if settings.retrain == "block" else None
        self.iterations = 0

    def points(self) -> Iterator[Point]:
        """The unreduced network, then every judged step."""
        settings = self.settings
        first = point = self._judge(0)
        yield point
        wanted, each = self._sizes()
        number = 0
        while self.steps.removed < wanted:
            number += 1
            count = min(each, wanted - self.steps.removed)
            anew = bool(settings.recompute) and (number - 1) % settings.recompute == 0
            cut = self.steps.cut(count, anew=anew)
            if cut is None:
                if point.step < number - 1:  # nothing more can go: what is left is judged, too
                    yield self._judge(number - 1)
                break
            if settings.iterations:
                self._train(cut, number)
            last = self.steps.removed >= wanted
            if last or number % settings.judge == 0:
                point = self._judge(number)
                yield point
                if (
                    settings.max_drop is not None
                    and first.accuracy - point.accuracy > settings.max_drop + 1e-9
                ):
                    break

    def notes(self) -> tuple[str, ...]:
        """What was done otherwise than asked."""
        reasons = () if self.blocks is None else dict.fromkeys(self.blocks.whole.values())
        return tuple(f"the whole network was retrained: {reason}" for reason in reasons)

    def _sizes(self) -> tuple[int, int]:
        """Units that go at most, and at a time."""
        settings, total = self.settings, self.steps.total
        each = max(1, int(settings.step if settings.step >= 1 else round(settings.step * total)))
        return math.floor(settings.until * total + 1e-9), each

    def _judge(self, step: int) -> Point:
        found: Evaluation = evaluate(self.model, self.judged)
        removed = self.steps.removed
        return Point(
            step,
            removed,
            removed / self.steps.total,
            *self.steps.cost(),
            found.accuracy,
            found.loss,
            self.iterations,
        )

    def _train(self, lost: Lost, number: int) -> None:
        """Train for some batches: everything, only what writes and carries the layers that were cut, or the block around them."""
        settings = self.settings
        train = _drawn(
            self.data.train,
            settings.iterations * settings.training.batch_size,
            seed=seed_for(settings.seed, "draw", number),
        )
        training = settings.training.but(
            epochs=1, schedule="constant", warmup_epochs=0.0, keep="last", early_stopping=None, ema=None
        )
        seed = seed_for(settings.seed, "retrain", number)
        block = None if self.blocks is None else self.blocks.of(lost.groups)
        if self.blocks is not None and block is not None:
            self.blocks.fit(self.model, block, train, training, seed=seed)
        else:
            with _only(self.model, lost.parameters if settings.retrain == "layer" else None):
                fit(self.model, train, None, training, seed=seed, masks=self.steps.masks)
        self.model.eval()
        self.iterations += settings.iterations


class _Bisected(_Stepwise):
    """The largest number of steps within the bound: each look cuts the unreduced network anew, by the same scores."""

    def points(self) -> Iterator[Point]:
        """The unreduced network, then every look, in the order in which they are taken."""
        settings, unreduced, whole = self.settings, self.model, self.steps
        first = self._judge(0)
        yield first
        most, each = self._sizes()
        whole.score()
        bound = settings.max_drop or 0.0
        search = bisecting(-(-most // each))  # the last step may be smaller, as it is where steps are made
        number = next(search, None)
        while number is not None:
            self.model = copied(unreduced, {})
            self.steps = steps_of(self.model, self.data, settings)
            self.steps.score(whole)
            self.steps.cut(min(number * each, most), anew=False)
            point = self._judge(number)
            yield point
            try:
                number = search.send(first.accuracy - point.accuracy <= bound + 1e-9)
            except StopIteration:
                break


def _drawn(split: Split, count: int, *, seed: int) -> Split:
    """So many examples in random order; none is drawn again before all were."""
    generator = torch.Generator().manual_seed(seed)
    rounds = -(-count // len(split))
    order = torch.cat([torch.randperm(len(split), generator=generator) for _ in range(rounds)])
    return split.select(order[:count])


@contextmanager
def _only(model: nn.Module, names: Collection[str] | None) -> Generator[None]:
    """Let only some parameters be trained (all where None)."""
    frozen = [
        parameter
        for name, parameter in model.named_parameters()
        if names is not None and name not in names and parameter.requires_grad
    ]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)


def fresh(model: nn.Module, build: Callable[[], nn.Module], example: Tensor) -> nn.Module:
    """A network of the same sizes with new random weights: what the same small architecture learns by itself.

    The unreduced network is built anew, and the same units are cut from it. Its weights were drawn for more inputs than are left, so
    they are made larger by the root of how many times fewer these are, as initialisations do that keep the variance of what runs
    through.

    Args:
        model: A reduced network.
        build: Makes the unreduced one with new weights.
        example: An input.

    Raises:
        ModelError: What is built is another network.

    Example:
        >>> from secateur import networks
        >>> net = networks.build("digits-net", seed=0)
        >>> new = fresh(net, lambda: networks.build("digits-net", seed=1), torch.zeros(1, 1, 8, 8))
        >>> bool((new.conv1.weight == net.conv1.weight).any())
        False
    """
    whole = build()
    channels = watch(whole, example)
    kept = kept_units(channels, whole, model)
    changes = [change_of(group, kept[group.name]) for group in channels.groups if group.name in kept]
    small = apply(whole, plan_for(channels, changes, CostModel(channels)))
    before, wanted = named_tensors(whole), named_tensors(model)
    with torch.no_grad():
        for name, tensor in named_tensors(small).items():
            if name not in wanted or tensor.shape != wanted[name].shape:
                raise ModelError(
                    f"what is built is another network: it has {name} of shape {tuple(tensor.shape)} when it is cut"
                )
            if tensor.dim() > 1:
                tensor.mul_(math.sqrt(before[name][0].numel() / tensor[0].numel()))
    return small


@torch.no_grad()
def fresh_masked(build: Callable[[], nn.Module], masks: Masks) -> nn.Module:
    """A network with new random weights and the same ones missing: what the same sparse network learns by itself.

    As in `fresh`, the weights that are left are larger by the root of how many times fewer they are.

    Args:
        build: Makes the unreduced network with new weights.
        masks: Which weights stay.

    Raises:
        PlanError: The masks are of another network.

    Example:
        >>> from secateur import networks
        >>> masks = Masks({"conv1.weight": networks.build("digits-net", seed=0).conv1.weight > 0})
        >>> new = fresh_masked(lambda: networks.build("digits-net", seed=1), masks)
        >>> bool((new.conv1.weight[~masks.kept["conv1.weight"]] == 0).all())
        True
    """
    model = mask(build(), masks, inplace=True)
    for name, kept in masks.kept.items():
        model.get_parameter(name).mul_(math.sqrt(kept.numel() / max(int(kept.sum()), 1)))
    return model
