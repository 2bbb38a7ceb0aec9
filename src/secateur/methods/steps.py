"""What goes at each step of a protocol: units, cut for real, or kernels and single weights, which are masked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from secateur._model import copied
from secateur.channels import Channels, Group, watch
from secateur.cost import Cost, CostModel
from secateur.criteria import Scores, WeightScores, score, score_weights, weight_criterion_named
from secateur.criteria.normalise import normalised
from secateur.data import Split, Splits
from secateur.errors import NothingToCutError, SettingsError
from secateur.methods.layerwise import Surgeon
from secateur.methods.protocol import NETWORK, OBS, Granularity, StepSettings
from secateur.methods.seeds import seed_for
from secateur.observe import weights_of
from secateur.observe.calls import calls
from secateur.plan import Plan, plan
from secateur.surgery import Masks, apply, mask, plan_weights
from secateur.surgery.plan_weights import normalised_weights


def channels_of(model: nn.Module, data: Splits) -> Channels:
    """The layers of a network that a scope may name: its groups of channels, on this data."""
    return watch(model, data.train.inputs[:1])


def scopes_of(model: nn.Module, data: Splits, granularity: Granularity) -> list[str]:
    """The layers that a scope may name, beside the whole network."""
    if granularity == "unit":
        return [group.name for group in channels_of(model, data).groups]
    return list(weights_of(model))


@dataclass(frozen=True, slots=True)
class Lost:
    """What a step took something from.

    Attributes:
        parameters: Those of the layers.
        groups: The groups of channels, where units went; as they were before.
    """

    parameters: frozenset[str]
    groups: tuple[Group, ...] = ()


class Steps(Protocol):
    """What a protocol removes from a network, which is changed in place.

    Attributes:
        total: Units that the scope had at the start.
        removed: Units of these that went.
    """

    total: int
    removed: int

    @property
    def masks(self) -> Masks | None:
        """Which weights stay; None where all that goes is cut for real."""
        ...

    def cut(self, count: int, *, anew: bool) -> Lost | None:
        """Remove so many units of the lowest scores, which are computed anew or are those of before.

        Returns:
            What lost some; None where nothing more can go.
        """
        ...

    def score(self, like: Steps | None = None) -> None:
        """Compute the scores by which units go, or take those of the same network that another has."""
        ...

    def cost(self) -> tuple[int, int]:
        """Parameters and multiply-adds that are left."""
        ...


def steps_of(model: nn.Module, data: Splits, settings: StepSettings) -> Steps:
    """What a protocol removes from a network.

    Raises:
        SettingsError: The criterion or the scope is unknown.
        NothingToCutError: Nothing in the scope can go.
    """
    known = scopes_of(model, data, settings.granularity)
    if settings.scope != NETWORK and settings.scope not in known:
        raise SettingsError(
            f"scope={settings.scope!r} is no layer that can be cut; it may be {NETWORK!r}, {', '.join(known) or 'nothing else'}"
        )
    chosen = known if settings.scope == NETWORK else [settings.scope]
    sample = data.train.take(
        min(settings.score_examples, len(data.train)), seed=seed_for(settings.seed, "sample") % 2**31
    )
    if settings.criterion == OBS:
        return _Surgery(model, data, settings, chosen, sample)
    kind = _Units if settings.granularity == "unit" else _Weights
    return kind(model, data, settings, chosen, sample)


class _Units:
    """Units of groups of channels, cut for real."""

    masks: Masks | None = None

    def __init__(
        self, model: nn.Module, data: Splits, settings: StepSettings, chosen: list[str], sample: Split
    ) -> None:
        self.model, self.data, self.settings, self.chosen, self.sample = model, data, settings, chosen, sample
        self.channels = channels_of(model, data)
        self.total = sum(self.channels.group(name).width for name in chosen)
        if self.total == len(chosen):
            raise NothingToCutError(
                f"nothing can be cut: {settings.scope!r} has no layer of more than one unit"
            )
        self.scores: Scores | None = None
        self.removed = 0

    def cut(self, count: int, *, anew: bool) -> Lost | None:
        """Cut, and keep the scores of what is left."""
        made = self._next(count, anew=anew)
        if made is None:
            return None
        apply(self.model, made, inplace=True)
        self.removed += made.removed
        if self.scores is not None:
            values = dict(self.scores.values)
            for group, change in zip(made.groups, made.changes, strict=True):
                values[group.name] = values[group.name][torch.as_tensor(change.take)]
            self.scores = Scores(self.scores.criterion, values)
        self.channels = channels_of(self.model, self.data)
        return Lost(_tensors_of(made.groups), made.groups)

    def score(self, like: Steps | None = None) -> None:
        """Compute the scores, or take another's."""
        self.scores = like.scores if isinstance(like, type(self)) else self._scored()

    def cost(self) -> tuple[int, int]:
        """Of the network as it is."""
        total = CostModel(self.channels).total()
        return total.parameters, total.macs

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


class _Weights:
    """Kernels or single weights of dense and convolutional layers, masked."""

    def __init__(
        self, model: nn.Module, data: Splits, settings: StepSettings, chosen: list[str], sample: Split
    ) -> None:
        if settings.criterion != OBS:
            weight_criterion_named(settings.criterion)
        if not chosen:
            raise NothingToCutError(
                "nothing can be cut: the network has no dense or convolutional layer whose weight is a parameter"
            )
        self.model, self.settings, self.chosen, self.sample = model, settings, chosen, sample
        self.weights = {layer: name for layer, name in weights_of(model).items() if layer in chosen}
        shapes = {name: model.get_parameter(name).shape for name in self.weights.values()}
        self.masks = Masks({name: torch.ones(shape, dtype=torch.bool) for name, shape in shapes.items()})
        axes = 2 if settings.granularity == "kernel" else None
        self.total = sum(shape[:axes].numel() for shape in shapes.values())
        self.whole: Cost = CostModel(channels_of(model, data)).total()
        macs = calls(model, data.train.inputs[:1]).macs
        self.macs = {name: macs.get(layer, 0) for layer, name in self.weights.items()}
        self.scores: WeightScores | None = None
        self.removed = 0

    def cut(self, count: int, *, anew: bool) -> Lost | None:
        """Mask the lowest of what is left."""
        count = min(count, self.total - self.removed)
        if not count:
            return None
        if self.scores is None or anew:
            self.scores = self._scored()
        share = (self.removed + count) / self.total
        masks = plan_weights(self.model, self.scores, remove=share, scope="global", within=self.masks)
        mask(self.model, masks, inplace=True)
        self.removed += count
        return self._masked(masks)

    def _masked(self, masks: Masks) -> Lost:
        """Take new masks; what lost some by them."""
        before, self.masks = self.masks, masks
        cut = {layer for layer, name in self.weights.items() if _gone(masks, name) > _gone(before, name)}
        return Lost(
            frozenset(
                f"{layer}.{name}".lstrip(".")
                for layer in cut
                for name, _ in self.model.get_submodule(layer).named_parameters(recurse=False)
            )
        )

    def score(self, like: Steps | None = None) -> None:
        """Compute the scores, or take another's."""
        self.scores = like.scores if isinstance(like, type(self)) else self._scored()

    def cost(self) -> tuple[int, int]:
        """Without the weights that are cut, and the multiply-adds in which they would take part."""
        cut = self.masks.total - self.masks.left
        macs = sum(
            self.macs[name] * _gone(self.masks, name) / kept.numel() for name, kept in self.masks.kept.items()
        )
        return self.whole.parameters - cut, round(self.whole.macs - macs)

    def _scored(self) -> WeightScores:
        settings = self.settings
        found = score_weights(
            self.model,
            settings.criterion,
            data=self.sample,
            granularity="kernel" if settings.granularity == "kernel" else "weight",
            layers=self.chosen,
            seed=seed_for(settings.seed, "score", self.removed),
        )
        found = normalised_weights(found, settings.normalise, within=self.masks)
        if not settings.cost_weight:
            return found
        dearer = {
            name: values - settings.cost_weight * self.macs[name] / values.numel() / max(self.whole.macs, 1)
            for name, values in found.values.items()
        }
        return replace(found, values=dearer)


class _Surgery(_Weights):
    """Single weights, by layer-wise optimal brain surgeon: those that stay are moved."""

    def __init__(
        self, model: nn.Module, data: Splits, settings: StepSettings, chosen: list[str], sample: Split
    ) -> None:
        super().__init__(model, data, settings, chosen, sample)
        self.surgeon: Surgeon | None = None
        self._asked = 0

    def cut(self, count: int, *, anew: bool) -> Lost | None:
        """Cut so many in all, from the network as it was when the surgeon looked at it."""
        if self._asked >= self.total:
            return None
        self._asked = min(max(self._asked, self.removed) + count, self.total)
        if self.surgeon is None or anew:
            self.score()
        if self.surgeon is None:
            raise RuntimeError("the surgeon has not looked at the network")
        found = self.surgeon.cut(self._asked / self.total)
        with torch.no_grad():
            new = dict(found.model.named_parameters())
            for name, parameter in self.model.named_parameters():
                parameter.copy_(new[name])
        masks = Masks({**self.masks.kept, **found.masks.kept})
        self.removed = masks.total - masks.left
        return self._masked(masks)

    def score(self, like: Steps | None = None) -> None:
        """Look at the network, or take another's looks. Weights that are zero already go first: they cost nothing."""
        self.surgeon = (
            like.surgeon
            if isinstance(like, _Surgery)
            else Surgeon(copied(self.model, {}), self.sample, layers=self.chosen, examples=len(self.sample))
        )


def _tensors_of(groups: Iterable[Group]) -> frozenset[str]:
    """What writes and carries some layers; a weight that is carried along its columns reads them."""
    members = (member for group in groups for member in group.members)
    return frozenset(m.tensor for m in members if m.role == "write" or (m.role == "carry" and m.axis == 0))


def _gone(masks: Masks, name: str) -> int:
    """How many weights of a parameter are cut."""
    return int((~masks.kept[name]).sum())
