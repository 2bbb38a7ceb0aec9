"""Prune step by step under a protocol: which units go at once, what is retrained after each step, when scores are taken anew."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from secateur._model import copied, named_tensors
from secateur._options import sentence
from secateur.channels import Channels, Group, watch
from secateur.cost import CostModel
from secateur.criteria import Scores, score
from secateur.criteria.normalise import normalised
from secateur.data import Split, Splits
from secateur.errors import ModelError, NothingToCutError, SettingsError
from secateur.evaluate import Evaluation, evaluate
from secateur.methods.block_training import BlockTraining
from secateur.methods.seeds import seed_for
from secateur.plan import Plan, change_of, plan, plan_for
from secateur.surgery import apply, kept_units
from secateur.train import TrainSettings, fit

NETWORK = "network"
"""The scope of all layers together."""

Retrain: TypeAlias = Literal["none", "network", "layer", "block"]


class StepSettings(BaseModel):
    """Options of pruning step by step, checked when they are set.

    Attributes:
        criterion: Which units go first; a name that ``secateur.score`` knows.
        normalise: Each layer's scores are divided by their ``l1`` or ``l2`` norm, so that layers compete; or ``none``.
        cost_weight: Prefer units that cost more: their share of all multiply-adds, times this, is taken off their scores.
        scope: ``network`` ranks the units of all layers together; the name of a layer prunes that one alone.
        step: What goes at a time: so many units, or a share of those that the scope had at the start.
        until: The share of the scope's units at which it ends.
        max_drop: It ends as soon as the accuracy on validation examples is more than so many points below the unreduced
            network's; None goes on.
        retrain: What is trained after each step: ``none``, the whole ``network``, only the ``layer`` that was cut, or the smallest
            ``block`` around all that was cut, until it gives what the unreduced network's block gives (the whole network where
            there is none).
        iterations: Batches of that training.
        recompute: Scores are taken anew after so many steps; 0 takes them once, at the start.
        judge: The accuracy is taken after so many steps (and after the last).
        judge_examples: Validation examples on which it is taken, the same for all; None for all there are.
        score_examples: Training examples on which scores are computed.
        training: How the network is retrained. Epochs and schedule do not matter: after a step it trains for ``iterations`` batches.
        seed: What every random choice follows from.

    Raises:
        SettingsError: An option is unknown or out of its range, or iterations and what is retrained contradict each other.

    Example:
        >>> StepSettings(criterion="l1", retrain="network", iterations=50).scope
        'network'
        >>> StepSettings(retrain="layer")
        Traceback (most recent call last):
        ...
        secateur.errors.SettingsError: retrain='layer' needs iterations, the batches that are trained after each step
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    criterion: str = "taylor"
    normalise: Literal["none", "l1", "l2"] = "none"
    cost_weight: float = Field(default=0.0, ge=0)
    scope: str = NETWORK
    step: int | float = Field(default=1, gt=0)
    until: float = Field(default=0.9, gt=0, lt=1)
    max_drop: float | None = Field(default=None, ge=0, lt=100)
    retrain: Retrain = "none"
    iterations: int = Field(default=0, ge=0)
    recompute: int = Field(default=1, ge=0)
    judge: int = Field(default=1, ge=1)
    judge_examples: int | None = Field(default=None, ge=1)
    score_examples: int = Field(default=1024, ge=1)
    training: TrainSettings = Field(default_factory=lambda: TrainSettings(lr=0.02, nesterov=True, clip=1.0))
    seed: int = Field(default=0, ge=0)

    if not TYPE_CHECKING:

        def __init__(self, **options):
            try:
                super().__init__(**options)
            except ValidationError as error:
                raise SettingsError(sentence(error, StepSettings, of=" of stepwise pruning")) from None
            if (self.retrain == "none") != (self.iterations == 0):
                raise SettingsError(
                    f"iterations={self.iterations} says how many batches are trained after each step, and retrain='none' trains none"
                    if self.retrain == "none"
                    else f"retrain={self.retrain!r} needs iterations, the batches that are trained after each step"
                )
            if isinstance(self.step, float) and self.step >= 1 and self.step != int(self.step):
                raise SettingsError(f"step={self.step:g} must be a share below 1, or a whole number of units")


@dataclass(frozen=True, slots=True)
class Point:
    """The network after some steps.

    Attributes:
        step: How many steps were made; 0 is the unreduced network.
        removed: Units that went, of the scope's.
        share: The share of the scope's units at the start that went.
        parameters: What is left.
        macs: Multiply-adds for one example.
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
        model: The network after the last step.
        within: The smallest network (by parameters) that was judged and lost no more than ``max_drop`` points; None without a bound.
        within_point: Its point.
    """

    points: tuple[Point, ...]
    model: nn.Module
    within: nn.Module | None
    within_point: Point | None


def stepwise(
    model: nn.Module,
    data: Splits,
    settings: StepSettings,
    *,
    keep_within: float | None = None,
    on_point: Callable[[Point], None] | None = None,
) -> StepwiseResult:
    """Prune a trained network step by step, and judge it on the way.

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
    run = _Stepwise(copied(model, {}).eval(), data, settings)
    bound = settings.max_drop if keep_within is None else keep_within
    points: list[Point] = []
    kept: tuple[nn.Module, Point] | None = None
    for point in run.points():
        points.append(point)
        if on_point is not None:
            on_point(point)
        smaller = kept is None or point.parameters < kept[1].parameters
        if bound is not None and smaller and points[0].accuracy - point.accuracy <= bound + 1e-9:
            kept = copied(run.model, {}), point
    within = (None, None) if kept is None else kept
    return StepwiseResult(tuple(points), run.model, *within)


def layers_of(model: nn.Module, data: Splits) -> Channels:
    """The layers of a network that a scope may name: its groups of channels, on this data."""
    return watch(model, data.train.inputs[:1])


class _Stepwise:
    """The moving parts of one stepwise pruning."""

    def __init__(self, model: nn.Module, data: Splits, settings: StepSettings) -> None:
        self.model, self.data, self.settings = model, data, settings
        self.channels = layers_of(model, data)
        names = [group.name for group in self.channels.groups]
        if settings.scope != NETWORK and settings.scope not in names:
            raise SettingsError(
                f"scope={settings.scope!r} is no layer that can be cut; it may be {NETWORK!r}, {', '.join(names) or 'nothing else'}"
            )
        self.chosen = names if settings.scope == NETWORK else [settings.scope]
        self.judged = data.validation
        if settings.judge_examples is not None and settings.judge_examples < len(data.validation):
            self.judged = data.validation.take(settings.judge_examples, seed=0)
        self.sample = data.train.take(
            min(settings.score_examples, len(data.train)), seed=seed_for(settings.seed, "sample") % 2**31
        )
        self.total = sum(self.channels.group(name).width for name in self.chosen)
        if self.total == len(self.chosen):
            raise NothingToCutError(
                f"nothing can be cut: {settings.scope!r} has no layer of more than one unit"
            )
        self.scores: Scores | None = None
        # the unreduced network itself is cut in place, step by step
        self.blocks = BlockTraining(copied(model, {}), data.train) if settings.retrain == "block" else None
        self.removed = self.iterations = 0

    def points(self) -> Iterator[Point]:
        """The unreduced network, then every judged step."""
        settings = self.settings
        first = point = self._judge(0)
        yield point
        wanted = math.floor(settings.until * self.total + 1e-9)
        each = max(1, int(settings.step if settings.step >= 1 else round(settings.step * self.total)))
        number = 0
        while self.removed < wanted:
            number += 1
            count = min(each, wanted - self.removed)
            made = self._next(count, anew=bool(settings.recompute) and (number - 1) % settings.recompute == 0)
            if made is None:
                if point.step < number - 1:  # nothing more can go: what is left is judged, too
                    yield self._judge(number - 1)
                break
            self._cut(made, number)
            last = self.removed >= wanted
            if last or number % settings.judge == 0:
                point = self._judge(number)
                yield point
                if (
                    settings.max_drop is not None
                    and first.accuracy - point.accuracy > settings.max_drop + 1e-9
                ):
                    break

    def _judge(self, step: int) -> Point:
        found: Evaluation = evaluate(self.model, self.judged)
        cost = CostModel(self.channels).total()
        return Point(
            step, self.removed, self.removed / self.total, cost.parameters, cost.macs,
            found.accuracy, found.loss, self.iterations,
        )  # fmt: skip

    def _next(self, count: int, *, anew: bool) -> Plan | None:
        """The plan of a step: the units of the lowest scores; each layer keeps one, and is no layer any more then."""
        here = {group.name: group.width for group in self.channels.groups}
        self.chosen = [name for name in self.chosen if name in here]
        free, width = (sum(here[name] - least for name in self.chosen) for least in (1, 0))
        if not free:
            return None
        if self.scores is None or anew:
            self.scores = self._scored()
            if self.scores.merges and self.settings.recompute != 1:
                raise SettingsError(
                    f"criterion {self.settings.criterion!r} says into which unit each goes, of those that are there; take"
                    " recompute=1"
                )
        share = min(count, free) / width
        return plan(self.channels, self.scores, remove=share, scope="global", groups=self.chosen)

    def _scored(self) -> Scores:
        settings = self.settings
        found = score(
            self.model,
            self.channels,
            settings.criterion,
            data=self.sample,
            seed=seed_for(settings.seed, "score", self.removed),
            groups=self.chosen,
        )
        if settings.normalise != "none":
            found = normalised(found, settings.normalise)
        if not settings.cost_weight:
            return found
        model = CostModel(self.channels)
        total, each = model.total().macs, model.by_group()
        dearer: Mapping[str, Tensor] = {
            name: values - settings.cost_weight * each[name].macs / max(total, 1)
            for name, values in found.values.items()
        }
        return replace(found, values=dearer)

    def _cut(self, made: Plan, number: int) -> None:
        """Cut, keep the scores of what is left, and retrain."""
        apply(self.model, made, inplace=True)
        self.removed += made.removed
        if self.scores is not None:
            values = dict(self.scores.values)
            for group, change in zip(made.groups, made.changes, strict=True):
                values[group.name] = values[group.name][torch.as_tensor(change.take)]
            self.scores = Scores(self.scores.criterion, values)
        self.channels = layers_of(self.model, self.data)
        if self.settings.iterations:
            self._train(made.groups, number)

    def _train(self, cut: Iterable[Group], number: int) -> None:
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
        block = None if self.blocks is None else self.blocks.of(cut)
        if self.blocks is not None and block is not None:
            self.blocks.fit(self.model, block, train, training, seed=seed)
        else:
            with _only(self.model, _tensors_of(cut) if settings.retrain == "layer" else None):
                fit(self.model, train, None, training, seed=seed)
        self.model.eval()
        self.iterations += settings.iterations


def _tensors_of(groups: Iterable[Group]) -> set[str]:
    """What writes and carries some layers; a weight that is carried along its columns reads them."""
    members = (member for group in groups for member in group.members)
    return {m.tensor for m in members if m.role == "write" or (m.role == "carry" and m.axis == 0)}


def _drawn(split: Split, count: int, *, seed: int) -> Split:
    """So many examples in random order; none is drawn again before all were."""
    generator = torch.Generator().manual_seed(seed)
    rounds = -(-count // len(split))
    order = torch.cat([torch.randperm(len(split), generator=generator) for _ in range(rounds)])
    return split.select(order[:count])


@contextmanager
def _only(model: nn.Module, names: set[str] | None) -> Generator[None]:
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
