"""How narrow a layer may become, and where its next cut stops."""

from __future__ import annotations

from collections.abc import Mapping

from secateur.channels import Channels, Constraints, Group
from secateur.methods.settings import ReduceSettings
from secateur.plan import limits


def limits_of(channels: Channels, settings: ReduceSettings) -> Mapping[str, Constraints]:
    """What holds for the width of each layer.

    Raises:
        SettingsError: A target is unknown, or a pattern fits no layer.
    """
    return limits(channels, minimum=settings.minimum, round_to=settings.round_to)


def next_width(group: Group, share: float, limit: Constraints) -> int | None:
    """How many units the next cut leaves; None where the layer may become no narrower.

    As many as the share says, one fewer at least, rounded up to what is allowed. Where that removes nothing, the greatest
    allowed width below the present one: else a layer of three times 16 would lose nothing to any share below a third.

    Args:
        group: The layer.
        share: The share of its units that is to go.
        limit: What holds for its width.

    Example:
        >>> import numpy as np
        >>> from secateur.channels.groups import Member
        >>> layer = Group("0", 48, (Member("0.weight", 0, "write", np.arange(48)[:, None]),))
        >>> sixteens = Constraints(multiple_of=16)
        >>> [next_width(layer, share, sixteens) for share in (0.64, 0.4, 0.08)]
        [32, 32, 32]
        >>> print(next_width(layer, 0.64, Constraints(minimum=48)))
        None
    """
    gone = max(int(share * group.width + 1e-9), 1)
    left = limit.least(group.width - gone, width=group.width)
    if left == group.width:
        left = (group.width - 1) // limit.multiple_of * limit.multiple_of
    return left if limit.minimum <= left < group.width else None
