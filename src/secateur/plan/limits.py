"""Limits that a user sets to the widths that are left: minima, and the grain of what the network is to run on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Final, TypeAlias, TypeVar, cast

from secateur.channels import Channels, Constraints
from secateur.errors import SettingsError

GRAINS: Final[Mapping[str, int]] = MappingProxyType(
    {"executorch": 16, "litert": 16, "onnx": 16, "onnxruntime": 16, "openvino": 16, "xnnpack": 16}
)
"""By export target: the step in which its time grows with a layer's width (one 512-bit register of floats).

Measured on x86 with AVX-512 for LiteRT's XNNPACK, ONNX Runtime and OpenVINO; ExecuTorch runs on XNNPACK, too. A width of 33
costs about as much as 48, and ONNX Runtime takes two to three times as long where a width is no multiple of 4. What it is on
another machine, `secateur.evaluate.staircase` (``secateur bench --widths``) measures.
"""

RoundTo: TypeAlias = int | str | Mapping[str, int | str]
Minimum: TypeAlias = int | Mapping[str, int]
T = TypeVar("T")


def limits(channels: Channels, *, minimum: Minimum, round_to: RoundTo) -> dict[str, Constraints]:
    """The constraints of every group, with what the user asks for. Of several patterns the first that fits holds.

    Raises:
        SettingsError: A number is no whole number from 1 on, a target is unknown, or a pattern fits no group.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from secateur.channels import watch
        >>> channels = watch(nn.Sequential(nn.Linear(4, 48), nn.Linear(48, 2)), torch.zeros(1, 4))
        >>> print(limits(channels, minimum={"*": 20}, round_to="xnnpack")["0"])
        at least 20, multiples of 16
    """
    names = [group.name for group in channels.groups]
    least = _by_group(minimum, names, "minimum")
    grain = _by_group(round_to, names, "round_to")
    return {
        group.name: group.constraints.given(
            minimum=_whole(least.get(group.name, 1), "minimum"),
            grain=_grain(grain.get(group.name, 1)),
        )
        for group in channels.groups
    }


def check_limits(*, minimum: Minimum, round_to: RoundTo) -> None:
    """Refuse what no network could be asked for, before there is one.

    Raises:
        SettingsError: A number is no whole number from 1 on, or a target is unknown.

    Example:
        >>> check_limits(minimum=1, round_to=0)
        Traceback (most recent call last):
        ...
        secateur.errors.SettingsError: round_to=0 must be at least 1
    """
    for least in minimum.values() if isinstance(minimum, Mapping) else (minimum,):
        _whole(least, "minimum")
    for grain in round_to.values() if isinstance(round_to, Mapping) else (round_to,):
        _grain(grain)


def _by_group(value: T | Mapping[str, T], names: Iterable[str], option: str) -> dict[str, T]:
    """A setting for each group that it speaks of."""
    patterns = cast("Mapping[str, T]", value) if isinstance(value, Mapping) else {"*": value}
    found = {
        name: next((entry for pattern, entry in patterns.items() if _fits(name, pattern)), None)
        for name in names
    }
    for pattern in patterns if isinstance(value, Mapping) else ():
        if not any(_fits(name, pattern) for name in found):
            raise SettingsError(
                f"{option}= speaks of {pattern!r}, and no group is named so; the groups are {', '.join(found) or 'none'}"
            )
    return {name: entry for name, entry in found.items() if entry is not None}


def _fits(name: str, pattern: str) -> bool:
    return name == pattern or fnmatchcase(name, pattern)


def _grain(value: int | str) -> int:
    """The grain of a target, or a number."""
    if not isinstance(value, str):
        return _whole(value, "round_to")
    if value not in GRAINS:
        raise SettingsError(
            f"round_to={value!r} is no export target; give one of {', '.join(GRAINS)}, or a number of positions"
        )
    return GRAINS[value]


def _whole(value: object, option: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise SettingsError(f"{option}={value!r} must be a whole number")
    if value < 1:
        raise SettingsError(f"{option}={value} must be at least 1")
    return value
