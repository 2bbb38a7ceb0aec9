"""Random subsets of units: what is left out of a pass, and what the loss says of those that took part."""

from __future__ import annotations

import math
import zlib
from collections.abc import Collection, Generator, Iterable, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from secateur._model import unwrapped
from secateur.channels.groups import Channels, Group
from secateur.errors import ModelError, SettingsError
from secateur.observe.readers import Reader, readers_of
from secateur.observe.values import Need, Observations, Relevance

SHARE = 0.9
"""The share of each group's units that takes part in a pass."""

_DUMMIES = 100
"""Dummies that a group has at least: the deviation of so many is known to a fourteenth."""

_DECAY = 0.9
"""How much of the running mean of the loss stays at each step."""


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """Who takes part in one pass.

    Attributes:
        units: By group, bool ``[width]``.
        dummies: By group, bool, one a dummy.
    """

    units: Mapping[str, Tensor]
    dummies: Mapping[str, Tensor]


@dataclass(slots=True)
class _Layer:
    """One group: who takes part at a time, and what was learned so far."""

    group: Group
    readers: tuple[Reader, ...]
    order: Tensor
    taking: int
    copies: int
    units: Tensor
    dummies: Tensor
    calls: int = 0

    def draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Exactly so many units, and the same share of the dummies."""
        width = self.group.width
        units = torch.zeros(width, dtype=torch.bool)
        units[self.order[torch.randperm(width, generator=generator)[: self.taking]]] = True
        dummies = torch.zeros(len(self.dummies), dtype=torch.bool)
        dummies[torch.randperm(len(self.dummies), generator=generator)[: self.taking * self.copies]] = True
        return units, dummies


class Subsets:
    r"""Gathers the relevance of units: the passes that a unit took part in against those that it did not.

    In every pass a random part of each group's units is left out: what reads them sees zeros. The loss c of the pass is compared
    with what was expected, and

    .. math:: r_j \leftarrow r_j + \left(E(c) - c\right)

    for each unit j that took part, so that a unit is relevant where the loss is *lower* with it. Every group has dummies, which
    belong to no unit and of which the same share is drawn, at random likewise: what they come to is what chance alone does.

    In a training loop of one's own, relevance costs next to nothing::

        subsets = Subsets(model, channels)
        for inputs, targets in batches:
            with subsets.drawn() as drawn:
                loss = F.cross_entropy(model(inputs), targets)
            subsets.learn(drawn, float(loss.detach()))
            ...  # backward and step
        scores = secateur.score(model, channels, "relevance", data=subsets.observations())

    Args:
        model: The model.
        channels: The groups that were found in it.
        share: The share of each group's units that takes part, above 0 and up to 1. At least one does, and below 1 at least one of
            several does not.
        seed: What every draw follows from, together with its number and the group's name.
        groups: Names of the groups; all by default.

    Raises:
        SettingsError: ``share`` is out of its range, or ``seed`` is negative.

    Example:
        >>> from secateur.channels import watch
        >>> model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> subsets = Subsets(model, watch(model, torch.zeros(1, 2)), share=0.5)
        >>> with subsets.drawn() as drawn:
        ...     loss = model(torch.ones(1, 2)).square().sum()
        >>> subsets.learn(drawn, float(loss.detach()))
        >>> int(drawn.units["0"].sum()), subsets.observations()
        (2, Observations(relevance; 1 examples))

    Source:
        Räsänen and Pohjalainen 2013, Random subset feature selection in automatic recognition of developmental disorders,
        affective states, and level of conflict from speech, Interspeech: there of features, by a classifier's accuracy. Of filters
        of a network in training, by its loss: slides of the Moscow State University, which print the sign of a score, c - E(c).
    """

    def __init__(
        self,
        model: nn.Module,
        channels: Channels,
        *,
        share: float = SHARE,
        seed: int = 0,
        groups: Collection[str] | None = None,
    ) -> None:
        if not 0 < share <= 1:
            raise SettingsError(
                f"share is {share}; it must be above 0 and at most 1: the part of the units that takes part"
            )
        if seed < 0:
            raise SettingsError(f"seed is {seed}; it must be 0 or more")
        self.share, self.seed, self.draws = share, seed, 0
        self.expected: float | None = None
        self.skipped: dict[str, str] = {}
        self._layers: dict[str, _Layer] = {}
        for group in channels.groups:
            if groups is None or group.name in groups:
                self._add(unwrapped(model), group)

    def _add(self, model: nn.Module, group: Group) -> None:
        try:
            readers = readers_of(model, group)
        except ModelError as reason:
            self.skipped[group.name] = str(reason)
            return
        width = group.width
        taking = max(round(self.share * width), 1)
        if self.share < 1 and width > 1:
            taking = min(taking, width - 1)
        copies = math.ceil(_DUMMIES / width)
        # by where a unit lies, so that the same ones are left out whatever their order in the group
        order = torch.as_tensor(np.argsort(group.members[0].indices[:, 0], kind="stable"))
        zeros = torch.zeros(width + copies * width, dtype=torch.float64)
        self._layers[group.name] = _Layer(
            group, readers, order, taking, copies, zeros[:width].clone(), zeros[width:].clone()
        )

    @contextmanager
    def drawn(self) -> Generator[Drawn]:
        """Inside, the model computes without a random part of each group's units; another part each time."""
        self.draws += 1
        found: dict[str, tuple[Tensor, Tensor]] = {}
        for name, layer in self._layers.items():
            key = zlib.crc32(f"{self.seed}/{name}/{self.draws}".encode())
            found[name] = layer.draw(torch.Generator().manual_seed(key))
        drawn = Drawn(
            {n: units for n, (units, _) in found.items()}, {n: dummies for n, (_, dummies) in found.items()}
        )
        reading: dict[nn.Module, list[Reader]] = {}
        for layer in self._layers.values():
            for reader in layer.readers:
                for module in reader.modules:
                    reading.setdefault(module, []).append(reader)
        with ExitStack() as hooks:
            for module, readers in reading.items():
                handle = module.register_forward_pre_hook(
                    self._without(module, readers, drawn), with_kwargs=True
                )
                hooks.callback(handle.remove)
            yield drawn

    def _without(self, module: nn.Module, readers: list[Reader], drawn: Drawn) -> Any:
        """The hook by which a layer reads zeros where a unit is left out."""
        keep = torch.ones(_features(module, readers[0]))
        for reader in readers:
            keep[reader.positions[~drawn.units[reader.group]].reshape(-1)] = 0
        trailing = 0 if readers[0].features_last else module.get_parameter("weight").dim() - 2
        keep = keep.reshape(-1, *[1] * trailing)

        def hook(
            _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]]:
            for reader in readers:
                self._layers[reader.group].calls += 1
            x: Tensor = args[0] if args else kwargs["input"]
            left = x * keep.to(x)
            return ((left, *args[1:]), kwargs) if args else ((), {**kwargs, "input": left})

        return hook

    def learn(self, drawn: Drawn, loss: float) -> None:
        """Take in the loss of one pass, against the running mean of those before (a tenth of it is new at each).

        Raises:
            ModelError: The loss is not finite.
        """
        _check(loss)
        if self.expected is None:
            self.expected = loss
        self._add_up(drawn, self.expected - loss)
        self.expected = _DECAY * self.expected + (1 - _DECAY) * loss

    def compare(self, passes: Iterable[tuple[Drawn, float]]) -> None:
        """Take in several passes over the same examples, each against the mean of all: the examples' own loss cancels.

        Raises:
            ModelError: A loss is not finite.
        """
        seen = list(passes)
        if not seen:
            return
        first = seen[0][1]
        for _, loss in seen:
            _check(loss)
        # equal losses differ by exactly nothing
        above = [loss - first for _, loss in seen]
        mean = sum(above) / len(above)
        for (drawn, _), each in zip(seen, above, strict=True):
            self._add_up(drawn, mean - each)

    def _add_up(self, drawn: Drawn, gain: float) -> None:
        for name, layer in self._layers.items():
            layer.units[drawn.units[name]] += gain
            layer.dummies[drawn.dummies[name]] += gain

    def found(self) -> dict[str, Relevance]:
        """What was learned so far, by group."""
        return {
            name: Relevance(layer.units.clone(), layer.dummies.clone(), self.draws)
            for name, layer in self._layers.items()
        }

    def observations(self) -> Observations:
        """What was learned so far, for `secateur.score`; groups whose reading layers never ran are skipped.

        Raises:
            SettingsError: Nothing was drawn yet.
        """
        if not self.draws:
            raise SettingsError(
                "no subset was drawn yet; run the network inside `with subsets.drawn():` first"
            )
        unseen = {
            name: "no layer that reads it was called, so that none of its units could be left out"
            for name, layer in self._layers.items()
            if not layer.calls
        }
        return Observations(
            needs=frozenset({Need.RELEVANCE}),
            examples=self.draws,
            relevance={name: value for name, value in self.found().items() if name not in unseen},
            skipped={**self.skipped, **unseen},
        )

    def tensors(self) -> dict[str, Tensor]:
        """All that was learned, for a file; :meth:`load` takes it up again."""
        counts = [float(self.draws), math.nan if self.expected is None else self.expected]
        counts += [float(layer.calls) for layer in self._layers.values()]
        held = {"counts": torch.tensor(counts, dtype=torch.float64)}
        for name, layer in self._layers.items():
            held |= {f"units/{name}": layer.units.clone(), f"dummies/{name}": layer.dummies.clone()}
        return held

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from :meth:`tensors` of subsets of the same network, to the bit.

        Raises:
            SettingsError: They are of another network.
        """
        wanted = {name: tuple(tensor.shape) for name, tensor in self.tensors().items()}
        if {name: tuple(tensor.shape) for name, tensor in tensors.items()} != wanted:
            raise SettingsError(
                "the relevance that was stored is of another network; give the network that it was gathered on"
            )
        counts: Any = tensors["counts"]
        draws, expected, *calls = cast("list[float]", counts.tolist())
        self.draws, self.expected = int(draws), None if math.isnan(expected) else expected
        for (name, layer), each in zip(self._layers.items(), calls, strict=True):
            layer.units, layer.dummies = tensors[f"units/{name}"].clone(), tensors[f"dummies/{name}"].clone()
            layer.calls = int(each)


def _features(module: nn.Module, reader: Reader) -> int:
    """How many features a layer's input has."""
    weight = module.get_parameter("weight")
    if reader.features_last:
        return weight.shape[1]
    if isinstance(module, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
        return weight.shape[0]
    return weight.shape[1] * int(getattr(module, "groups", 1))


def _check(loss: float) -> None:
    if not math.isfinite(loss):
        raise ModelError(
            f"the loss of a pass with some units left out is {loss}; check the loss function and the targets, or leave out fewer (share=)"
        )
