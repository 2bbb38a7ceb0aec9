"""Where a network comes from: how to build it again before it was reduced."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from torch import nn

from secateur.errors import ModelError

JSON: TypeAlias = "bool | int | float | str | Sequence[JSON] | Mapping[str, JSON] | None"

_ATTRIBUTE = "_secateur_origin"


@dataclass(frozen=True, slots=True)
class Origin:
    """How to build a network again, without its weights.

    Attributes:
        spec: What `secateur.networks.build` was asked for, such as `lenet5` or `torchvision:resnet18`.
        arguments: The keyword arguments that went with it, all of them JSON.

    Raises:
        ModelError: An argument cannot be written as JSON, so a saved network could not be built again.

    Example:
        >>> Origin("lenet5", {"classes": 26})
        Origin(spec='lenet5', arguments={'classes': 26})
    """

    spec: str
    arguments: Mapping[str, JSON] = field(default_factory=dict[str, JSON])

    def __post_init__(self) -> None:
        for name, value in self.arguments.items():
            try:
                json.dumps(value, allow_nan=False)
            except (TypeError, ValueError) as error:
                raise ModelError(
                    f"{self.spec}: the argument {name}={value!r} cannot be written as JSON ({error}), so a saved "
                    "network could not be built again; pass numbers, strings, lists or mappings"
                ) from error


def set_origin(model: nn.Module, origin: Origin) -> None:
    """Record on a network where it comes from; a copy of the network keeps the record.

    Args:
        model: The network; it is marked in place.
        origin: How to build it again.
    """
    setattr(model, _ATTRIBUTE, origin)


def origin_of(model: nn.Module) -> Origin | None:
    """Where a network comes from, or None for one that `secateur.networks.build` did not make.

    Args:
        model: Any network.

    Example:
        >>> from secateur.networks import build
        >>> origin_of(build("lenet5"))
        Origin(spec='lenet5', arguments={})
        >>> origin_of(nn.Linear(2, 2)) is None
        True
    """
    origin = getattr(model, _ATTRIBUTE, None)
    return origin if isinstance(origin, Origin) else None
