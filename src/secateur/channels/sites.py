"""Where in somebody's code an operator was called: file and line, and the module whose forward it is."""

from __future__ import annotations

import linecache
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import torch
from torch import nn

from secateur.channels.ties import Call, Labels, Ties, tensors_of

_TORCH = f"{Path(torch.__file__).parent}/"
_SHOWN = 80
"""Letters of a line that a reason quotes."""
_OURS = (f"{Path(__file__).parent}/", str(Path(__file__).parent.parent / "_model.py"))


@dataclass(frozen=True, slots=True)
class Site:
    """A place in a network's code.

    Attributes:
        file: The file, from its package on.
        line: The line in it.
        kind: The class of the module whose forward it is in.
        child: The part of that module that ran, if it was one of PyTorch's own.
        source: Where the file is.
    """

    file: str
    line: int
    kind: str
    child: str
    source: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Spot:
    """A site, and the name of the module whose forward it is in."""

    site: Site
    path: str


def _named(filename: str) -> str:
    parts = Path(filename).parts
    for anchor in ("site-packages", "dist-packages"):
        if anchor in parts:
            return "/".join(parts[parts.index(anchor) + 1 :])
    return "/".join(parts[-2:])


def _foreign(frame: FrameType) -> bool:
    """Whether a frame is neither PyTorch's nor this library's."""
    name = frame.f_code.co_filename
    return not name.startswith((_TORCH, *_OURS)) and not name.startswith("<")


def spot(frames: Iterable[FrameType], line_of: dict[int, int], names: dict[int, str]) -> Spot | None:
    """The place in the network's own code that is innermost in a stack.

    Args:
        frames: The stack, innermost first.
        line_of: The line of a frame where it is not its current one (in a traceback), by the frame's identity.
        names: The name of each module, by its identity.
    """
    modules: list[nn.Module] = []
    place: tuple[str, int] | None = None
    fallback: tuple[str, int] | None = None  # a network of PyTorch's own modules alone
    for frame in frames:
        if place is None and _foreign(frame):
            place = frame.f_code.co_filename, line_of.get(id(frame), frame.f_lineno)
        module = frame.f_locals.get("self")
        if place is None and fallback is None and isinstance(module, nn.Module):
            fallback = frame.f_code.co_filename, line_of.get(id(frame), frame.f_lineno)
        if isinstance(module, nn.Module) and id(module) in names and module not in modules:
            modules.append(module)
            if place is not None:
                break
    place = place or fallback
    if place is None or not modules:
        return None
    inner, owner = names[id(modules[0])], names[id(modules[-1])]
    child = inner[len(owner) :].lstrip(".") if inner.startswith(owner) else inner
    source, line = place
    site = Site(_named(source), line, type(modules[-1]).__name__, child, source)
    return Spot(site, owner)


def _up(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def spot_of_error(error: BaseException, names: dict[int, str]) -> Spot | None:
    """Where in the network's code an error was raised."""
    entries: list[FrameType] = []
    lines: dict[int, int] = {}
    trace: TracebackType | None = error.__traceback__
    while trace is not None:
        entries.append(trace.tb_frame)
        lines[id(trace.tb_frame)] = trace.tb_lineno
        trace = trace.tb_next
    return spot(reversed(entries), lines, names)


@dataclass
class Sites:
    """What was seen where during a pass: the labels at each place, and the sizes in the forward of each module and of PyTorch's in it."""

    ties: Ties
    names: dict[int, str]
    labels: dict[tuple[Site, str], list[Labels]] = field(
        default_factory=lambda: defaultdict[tuple[Site, str], list[Labels]](list)
    )
    vectors: dict[str, list[Labels]] = field(default_factory=lambda: defaultdict[str, list[Labels]](list))

    def __call__(self, call: Call) -> None:
        """Note the labels of a call's tensors."""
        found: list[Labels] = []
        for value in (call.args, call.kwargs, call.out):
            found += [labels for tensor in tensors_of(value) for labels in self._of(tensor)]
        if not found:
            return
        here = spot(_up(sys._getframe(1)), {}, self.names)  # pyright: ignore[reportPrivateUsage]
        if here is None:
            return
        self.labels[here.site, here.path] += found
        self.vectors[here.path] += found
        if here.site.child:  # a norm without parameters has nothing else that says what its sizes follow
            self.vectors[f"{here.path}.{here.site.child}".strip(".")] += found

    def _of(self, tensor: torch.Tensor) -> list[Labels]:
        track = self.ties.look(tensor)
        if track is None:
            return []
        joint: list[Labels] = [] if track.joint is None else [track.joint.table.reshape(-1)]
        return [labels for labels in track.axes if labels is not None] + joint


def text_of(site: Site) -> str:
    """A site as a reason tells it, with the line's text where it can be read."""
    text = linecache.getline(site.source, site.line).strip()
    return f"{site} ({text[:_SHOWN]}{'...' if len(text) > _SHOWN else ''})" if text else str(site)


def names_of(model: Any) -> dict[int, str]:
    """The name of each module, by its identity."""
    return {id(module): name for name, module in model.named_modules()}
