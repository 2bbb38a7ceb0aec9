"""What goes at a step of gradual pruning: single weights, which are masked, or units, which are cut for real."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from secateur._options import fitting
from secateur.channels import Channels, Group, watch
from secateur.criteria import Scores, criterion_named, score, score_weights, weight_criterion_named
from secateur.data import Split, Splits
from secateur.errors import NothingToCutError
from secateur.methods.gradual_settings import GradualSettings
from secateur.methods.seeds import seed_for
from secateur.observe import Observations, Subsets, weights_of
from secateur.plan import limits, plan
from secateur.surgery import Masks, apply, mask, plan_weights


@dataclass(frozen=True, slots=True)
class Thinned:
    """What is left of a layer.

    Attributes:
        name: The layer.
        left: How many of its weights, or units, stay.
        total: How many it had.
    """

    name: str
    left: int
    total: int

    @property
    def sparsity(self) -> float:
        """The share that is gone."""
        return 1 - self.left / self.total


class Cutter(Protocol):
    """What gradual pruning removes from a network, which is changed in place.

    Attributes:
        masks: Which weights stay; None where units go.
    """

    masks: Masks | None

    def cut(
        self,
        model: nn.Module,
        share: float,
        optimizer: torch.optim.Optimizer | None,
        *,
        step: int,
        seen: Observations | None = None,
    ) -> None:
        """Remove the lowest until so large a share of the network as given is gone; the optimiser's state follows.

        They are the lowest by what was ``seen`` in training, or by what is looked at now.
        """
        ...

    def subsets(self, model: nn.Module, *, step: int) -> Subsets | None:
        """What gathers relevance while the network trains until its next cut; None where that is not asked for."""
        ...

    def layers(self, model: nn.Module) -> tuple[Thinned, ...]:
        """What is left of each layer that takes part."""
        ...

    def notes(self, model: nn.Module) -> tuple[str, ...]:
        """Whether less is gone at the end than was asked for, and why."""
        ...


def cutter_of(model: nn.Module, data: Splits, settings: GradualSettings) -> Cutter:
    """What is removed from a network, given unpruned.

    Raises:
        SettingsError: The criterion is unknown, or an expression of ``exclude`` fits no layer.
        NothingToCutError: Nothing is left to cut.
    """
    sample = data.train.take(
        min(settings.score_examples, len(data.train)), seed=seed_for(settings.seed, "sample") % 2**31
    )
    kind = _Weights if settings.granularity == "weights" else _Units
    return kind(model, data, settings, sample)


class _Weights:
    """Single weights of dense and convolutional layers, depthwise ones among them; the masks only ever grow."""

    def __init__(self, model: nn.Module, data: Splits, settings: GradualSettings, sample: Split) -> None:
        del data
        weight_criterion_named(settings.by)
        known = weights_of(model)
        spared = fitting(settings.exclude, known, option="exclude")
        self.chosen = {layer: name for layer, name in known.items() if layer not in spared}
        if not self.chosen:
            raise NothingToCutError(
                "no dense or convolutional layer with a weight of its own is left to prune; exclude fewer"
            )
        self.settings, self.sample = settings, sample
        kept = {
            name: torch.ones_like(model.get_parameter(name), dtype=torch.bool)
            for name in self.chosen.values()
        }
        self.masks: Masks | None = Masks(kept)

    def cut(
        self,
        model: nn.Module,
        share: float,
        optimizer: torch.optim.Optimizer | None,
        *,
        step: int,
        seen: Observations | None = None,
    ) -> None:
        """Mask the lowest of what is left."""
        del seen
        settings = self.settings
        scores = score_weights(
            model,
            settings.by,
            data=self.sample,
            layers=list(self.chosen),
            seed=seed_for(settings.seed, "score", step),
        )
        self.masks = plan_weights(
            model,
            scores,
            remove=share,
            scope=settings.scope,
            normalise=settings.normalise,
            within=self.masks,
        )
        mask(model, self.masks, inplace=True)
        if optimizer is not None:
            _forget(model, self.masks, optimizer)

    def subsets(self, model: nn.Module, *, step: int) -> Subsets | None:
        """None: relevance is of units."""
        del model, step

    def layers(self, model: nn.Module) -> tuple[Thinned, ...]:
        """By the network itself: what is exactly zero in it."""
        weights = {layer: model.get_parameter(name) for layer, name in self.chosen.items()}
        return tuple(
            Thinned(layer, int(weight.count_nonzero()), weight.numel()) for layer, weight in weights.items()
        )

    def notes(self, model: nn.Module) -> tuple[str, ...]:
        """None: weights meet every share."""
        del model
        return ()


class _Units:
    """Units of groups of channels, cut for real."""

    masks: Masks | None = None

    def __init__(self, model: nn.Module, data: Splits, settings: GradualSettings, sample: Split) -> None:
        criterion_named(settings.by)
        self.settings, self.sample, self.example = settings, sample, data.train.inputs[:1]
        channels = watch(model, self.example)
        writers = {group.name: _writers(group) for group in channels.groups}
        spared = fitting(
            settings.exclude,
            sorted({layer for layers in writers.values() for layer in layers}),
            option="exclude",
        )
        bounds = limits(channels, minimum=settings.minimum, round_to=settings.round_to)
        self.widths = {
            group.name: group.width for group in channels.groups if not writers[group.name] & spared
        }
        self.least = {name: bounds[name].least for name in self.widths}
        if not any(width > 1 for width in self.widths.values()):
            raise NothingToCutError(
                "no layer of more than one unit is left to cut; exclude fewer, or see what stays and why with `secateur watch`"
            )

    def cut(
        self,
        model: nn.Module,
        share: float,
        optimizer: torch.optim.Optimizer | None,
        *,
        step: int,
        seen: Observations | None = None,
    ) -> None:
        """Cut the lowest of what is left, and the optimiser with it."""
        channels, settings = watch(model, self.example), self.settings
        here = {group.name: group.width for group in channels.groups if group.name in self.widths}
        shares = self._shares(here, share)
        if not any(shares.values()):
            return
        scores = score(
            model,
            channels,
            settings.by,
            data=self.sample if seen is None else seen,
            groups=list(here),
            seed=seed_for(settings.seed, "score", step),
        )
        if settings.below is not None:
            shares = self._below(channels, scores, shares, settings.below)
            if not any(shares.values()):
                return
        if settings.scope == "layer":
            made = plan(channels, scores, remove=shares)
        else:
            norm = None if settings.normalise == "none" else settings.normalise
            made = plan(
                channels, scores, remove=shares[""], scope="global", normalise=norm, minimum=settings.minimum
            )
        apply(model, made, optimizer=optimizer, inplace=True)

    def subsets(self, model: nn.Module, *, step: int) -> Subsets | None:
        """Of the groups that may be cut."""
        if self.settings.subsets is None:
            return None
        channels = watch(model, self.example)
        return Subsets(
            model,
            channels,
            share=self.settings.subsets,
            seed=seed_for(self.settings.seed, "subsets", step) % 2**31,
            groups=[group.name for group in channels.groups if group.name in self.widths],
        )

    def layers(self, model: nn.Module) -> tuple[Thinned, ...]:
        """The width of each group, and what it was; one unit is no group any more."""
        here = {group.name: group.width for group in watch(model, self.example).groups}
        return tuple(Thinned(name, here.get(name, 1), width) for name, width in self.widths.items())

    def notes(self, model: nn.Module) -> tuple[str, ...]:
        """Asked for and met, where limits keep units that were to go."""
        layers, share = self.layers(model), self.settings.sparsity
        total, left = sum(one.total for one in layers), sum(one.left for one in layers)
        by_layer = sum(_part(share, one.total) for one in layers)
        wanted = _part(share, total) if self.settings.scope == "global" else by_layer
        if total - left >= wanted:
            return ()
        gone = f"{total - left} of {total} units are gone ({1 - left / total:.1%}), and {wanted} "
        below = self.settings.below
        if below is not None:
            return (
                f"{gone}might go (sparsity {share:g}): no more scored below {below:g} when they were cut, or minimum and round_to keep"
                " them; raise below to cut more.",
            )
        return (
            f"{gone}were to go (sparsity {share:g}): minimum and round_to keep the others; lower them to meet the share.",
        )

    def _below(
        self, channels: Channels, scores: Scores, shares: dict[str, float], below: float
    ) -> dict[str, float]:
        """The same shares, or smaller ones where fewer units score below."""
        low = {name: int((values < below).sum()) for name, values in scores.values.items()}
        if self.settings.scope == "layer":
            return {name: min(share, low[name] / len(scores.values[name])) for name, share in shares.items()}
        bounds = limits(channels, minimum=self.settings.minimum, round_to=1)
        widths = {name: len(values) for name, values in scores.values.items()}
        free = sum(min(low[name], max(width - bounds[name].minimum, 0)) for name, width in widths.items())
        return {"": min(shares[""], free / max(sum(widths.values()), 1))}

    def _shares(self, here: dict[str, int], share: float) -> dict[str, float]:
        """Of what is there now, the share of each group, or of all (under no name), by which the whole is met."""
        if self.settings.scope == "global":
            total, width = sum(self.widths.values()), sum(here.values())
            gone = sum(before - here.get(name, 1) for name, before in self.widths.items())
            return {"": max(_part(share, total) - gone, 0) / max(width, 1)}
        wanted = {
            name: self.least[name](
                self.widths[name] - _part(share, self.widths[name]), width=self.widths[name]
            )
            for name in here
        }
        return {name: max(width - wanted[name], 0) / width for name, width in here.items()}


def _part(share: float, total: int) -> int:
    return int(share * total + 1e-9)


def _writers(group: Group) -> set[str]:
    """The layers that write a group's channels."""
    return {member.tensor.rpartition(".")[0] for member in group.members if member.role == "write"}


@torch.no_grad()
def _forget(model: nn.Module, masks: Masks, optimizer: torch.optim.Optimizer) -> None:
    """Moments of what is cut: left to decay they become numbers too small for a processor to be quick with."""
    for name, kept in masks.kept.items():
        weight = model.get_parameter(name)
        held: dict[str, Any] = optimizer.state.get(weight, {})
        for moment in held.values():
            if isinstance(moment, Tensor) and moment.shape == weight.shape:
                moment.masked_fill_(~kept.to(moment.device), 0)
