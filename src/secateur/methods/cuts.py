"""The next cuts of one network, before any of them is made: which units would go, and what that does to the loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import nn

from secateur.channels import Channels, Group
from secateur.criteria import Scores, score
from secateur.criteria.score import BATCH_SIZE
from secateur.data import Split
from secateur.errors import SettingsError
from secateur.methods.judge import Judge
from secateur.methods.seeds import seed_for
from secateur.methods.settings import ReduceSettings
from secateur.methods.widths import limits_of, next_width
from secateur.observe import Need, Observations, observe
from secateur.plan import Plan, compensate, plan
from secateur.surgery import apply

_ENTRIES = 20_000_000
"""Entries of covariances that are held at a time."""


@dataclass(frozen=True, slots=True)
class Cut:
    """The next cut of a layer, and how much the loss rises by it before any retraining.

    Attributes:
        group: The layer.
        share: The share of its units that was to go.
        plan: Which units go, and what the layer's readers do about it.
        loss: The loss of the network that is to be cut, in nats.
        shock: By how much it rises by the cut.
    """

    group: Group
    share: float
    plan: Plan
    loss: float
    shock: float

    @property
    def width_after(self) -> int:
        """How many units of the layer the cut leaves."""
        return len(self.plan.changes[0].take)


class Cuts:
    """The cuts of one network that were looked at. What they have in common is computed once, for all layers together."""

    def __init__(
        self,
        model: nn.Module,
        channels: Channels,
        settings: ReduceSettings,
        *,
        groups: Sequence[str],
        judge: Judge,
        sample: Split,
        number: int,
    ) -> None:
        """Look at nothing yet.

        Args:
            model: The network.
            channels: Its channels.
            settings: How units are chosen and made up for.
            groups: The layers that may be asked for.
            judge: Tells the loss.
            sample: Examples for scores and compensation.
            number: The network's own, for what is drawn.
        """
        self.model, self.channels, self.settings = model, channels, settings
        self._groups, self._judge, self._number = list(groups), judge, number
        self._batches = list(sample.batches(BATCH_SIZE))
        self._limits = limits_of(channels, settings)
        self._known: dict[tuple[str, float], Cut] = {}
        self._seen: Observations | None = None
        self._seen_of: list[str] = []

    @cached_property
    def loss(self) -> float:
        """The loss of the network itself, on the examples on which cuts are compared."""
        return self._judge.glance(self.model)

    @cached_property
    def scores(self) -> Scores:
        """What the criterion says of all layers."""
        return score(
            self.model,
            self.channels,
            self.settings.criterion,
            data=self._batches,
            seed=seed_for(self.settings.seed, "score", self._number),
            groups=self._groups,
        )

    def of(self, group: Group, share: float) -> Cut:
        """The cut of a layer that removes a share of its units."""
        known = self._known.get((group.name, share))
        if known is None:
            made = self._plan(group, share)
            shock = self._judge.glance(apply(self.model, made)) - self.loss
            known = self._known[group.name, share] = Cut(group, share, made, self.loss, shock)
        return known

    def _plan(self, group: Group, share: float) -> Plan:
        left = next_width(group, share, self._limits[group.name])
        if left is None:
            raise SettingsError(f"{group.name!r} may become no narrower than its {group.width} units")
        gone = (group.width - left) / group.width
        made = plan(self.channels, self.scores, remove={group.name: gone}, groups=[group.name])
        method = self.settings.compensate
        if method != "none" and group.name not in self.scores.merges:  # a merge is a compensation already
            made = compensate(made, self._observed(group.name), method=method)
        return made

    def _observed(self, group: str) -> Observations:
        """What the readers of a layer take in, observed with that of as many layers as memory should hold."""
        if self._seen is None or group not in self._seen_of:
            self._seen_of, entries = [], 0
            for name in self._groups[self._groups.index(group) :]:
                entries += self.channels.group(name).width ** 2
                if self._seen_of and entries > _ENTRIES:
                    break
                self._seen_of.append(name)
            self._seen = observe(
                self.model, self.channels, self._batches, needs={Need.COVARIANCE}, groups=self._seen_of
            )
        return self._seen
