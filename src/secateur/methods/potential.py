"""How much a layer promises: SNARE's score of layers, and which layers take part."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from secateur.channels import Channels, Group
from secateur.cost import CostModel
from secateur.errors import NothingToCutError
from secateur.methods.settings import ReduceSettings
from secateur.methods.widths import limits_of, next_width
from secateur.plan import why_nothing


@dataclass(frozen=True, slots=True)
class Potential:
    """One layer's reduction potential.

    Attributes:
        group: The layer: a group of channels that go together.
        score: Its share of the units, plus beta times its share of parameters, plus gamma times its share of MACs.
    """

    group: Group
    score: float


def chosen_groups(
    channels: Channels, *, layers: Sequence[str] | None = None, kinds: Sequence[str] | None = None
) -> tuple[Group, ...]:
    """The groups that may be reduced: by pattern of their names and by the class of the module that writes them."""
    return tuple(
        group
        for group in channels.groups
        if (layers is None or any(fnmatchcase(group.name, pattern) for pattern in layers))
        and (kinds is None or group.kind in kinds)
    )


def check_choice(channels: Channels, settings: ReduceSettings, *, unseen: Mapping[str, str]) -> None:
    """Refuse a network, or a choice of layers, of which nothing may be reduced.

    Args:
        channels: The network's groups.
        settings: Which layers were chosen, and how narrow they may become.
        unseen: Groups that the criterion cannot score, and why.

    Raises:
        NothingToCutError: No group is free, none matches, the criterion can score none, or none may become narrower.
        SettingsError: A limit is set for a layer that there is not.
    """
    layers, kinds = settings.layers, settings.kinds
    if not channels.groups:
        raise NothingToCutError(why_nothing(channels))
    chosen = chosen_groups(channels, layers=layers, kinds=kinds)
    if not chosen:
        known = ", ".join(f"{group.name} ({group.kind})" for group in channels.groups)
        raise NothingToCutError(
            f"nothing can be cut: no group matches layers={layers}, kinds={kinds}; there are {known}"
        )
    seen = [group for group in chosen if group.name not in unseen]
    if not seen:
        reasons = "; ".join(f"{group.name!r}: {unseen[group.name]}" for group in chosen[:5])
        raise NothingToCutError(
            f"nothing can be cut by this criterion, which needs to see what reads a group ({reasons}); use a weight"
            " criterion such as 'l1'"
        )
    limits = limits_of(channels, settings)
    if all(next_width(group, 1.0, limits[group.name]) is None for group in seen):
        widths = ", ".join(f"{group.name} {group.width}" for group in seen)
        raise NothingToCutError(
            f"nothing can be cut: no layer may become narrower (units now: {widths}) with minimum={settings.minimum} and"
            f" round_to={settings.round_to!r}; lower them"
        )


def potentials(
    channels: Channels, groups: Iterable[Group], *, beta: float, gamma: float
) -> dict[str, Potential]:
    r"""SNARE's score of each layer: what share of the network it is.

    :math:`s_l = n_l/N + \beta\,p_l/P + \gamma\,f_l/F` with units n, the parameters p and the multiply-adds f that would go
    with the layer's units one by one.

    Source:
        SNARE (KIT, 2020), equations 5.3 to 5.5. There p and f are those of the layer itself; a group of coupled layers
        counts as one layer here, and the layers that read it count with what they would lose.
    """
    model = CostModel(channels)
    total, each = model.total(), model.by_group()
    units = channels.units()
    return {
        group.name: Potential(
            group,
            group.width / max(units, 1)
            + beta * group.width * each[group.name].parameters / max(total.parameters, 1)
            + gamma * group.width * each[group.name].macs / max(total.macs, 1),
        )
        for group in groups
    }
