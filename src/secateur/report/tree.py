"""A network as a tree for the terminal: modules as branches, and at each layer what its axes belong to. Nothing here prints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from rich.console import Group as Lines
from rich.console import RenderableType
from rich.text import Text
from rich.tree import Tree

from secateur.report import text
from secateur.report.structure import VERBS, Layer, Part, Structure
from secateur.report.text import plain as _plain

_NAMED: Final = 2
"""Groups named at a layer before the rest are counted."""
_FORM: Final = 4
"""Blocks of one form but other widths that are folded; equal ones are from two on."""
_AXES: Final = 3
"""Tensor axes named for one reason before the rest are counted."""

Signature: TypeAlias = tuple[Any, ...]


@dataclass(slots=True)
class _Node:
    """A module with what is inside it, in the order of the forward pass."""

    name: str
    layer: Layer | None = None
    inside: dict[str, _Node] = field(default_factory=dict[str, "_Node"])

    def layers(self) -> Iterator[Layer]:
        if self.layer is not None:
            yield self.layer
        for node in self.inside.values():
            yield from node.layers()


def tree(structure: Structure, *, full: bool = False) -> RenderableType:
    """Draw a network: modules as branches, at each layer the groups that it writes, carries and reads, its cost, and what stays.

    Equal blocks that follow one another are shown once, and so are four and more of one form whose widths differ.

    Args:
        structure: What watching found.
        full: Show every block.

    Returns:
        A renderable for ``rich.console.Console.print``.
    """
    total = structure.total
    groups = f"{len(structure.groups)} {'group' if len(structure.groups) == 1 else 'groups'}"
    reasons = {
        reason: number
        for number, reason in enumerate(dict.fromkeys(axis.reason for axis in structure.fixed), 1)
    }
    head = Text(_plain(structure.network), style="bold")
    head.append(
        f": {groups}, {text.integer(structure.units)} units that can go; {text.integer(total.parameters)} parameters,"
        f" {text.integer(total.macs)} MACs for one example of shape {list(structure.input_shape)}"
    )
    drawn = Tree(head, guide_style="dim")
    folder = _Folder(structure, reasons, full=full)
    folder.fill(drawn, _nodes(structure))
    parts: list[RenderableType] = [drawn]
    if not structure.groups:
        parts += [Text(), Text("Nothing in this network can go.", style="bold")]
    parts += _reasons(structure, reasons)
    if structure.unknown_ops:
        names = ", ".join(f"{_plain(name)} ({times} x)" for name, times in structure.unknown_ops.items())
        parts.append(Text(f"Operators without a rule, so that what they touch stays: {names}"))
    if not all(view.group.exact for view in structure.groups):
        parts.append(
            Text("~ a norm takes statistics over these channels, so removing one changes the others.")
        )
    return Lines(*parts)


def _nodes(structure: Structure) -> _Node:
    """The layers under the modules that hold them."""
    root = _Node("")
    for layer in structure.layers:
        node, path = root, ""
        for step in layer.name.split(".") if layer.name else ():
            path = f"{path}.{step}" if path else step
            node = node.inside.setdefault(step, _Node(path))
        node.layer = layer
    return root


class _Folder:
    """Adds nodes to a tree, runs of alike ones as one."""

    def __init__(self, structure: Structure, reasons: Mapping[str, int], *, full: bool) -> None:
        self.structure, self.reasons, self.full = structure, reasons, full

    def fill(self, branch: Tree, node: _Node) -> None:
        """Add what is inside a module, and its own tensors first."""
        if not node.name and node.layer is not None:
            branch.add(self._line(node.layer, "(itself)"))
        steps = list(node.inside.items())
        at = 0
        while at < len(steps):
            run, equal = self._run(steps[at:])
            step, first = steps[at]
            if run == 1:
                self.fill(branch.add(self._label(first, step)), first)
            else:
                label = Text(f"{_plain(step)} to {_plain(steps[at + run - 1][0])}", style="bold")
                kind = self.structure.containers.get(first.name, "")
                label.append(f" {_plain(kind)}", style="dim not bold")
                what = (
                    "equal blocks, each:"
                    if equal
                    else "blocks of one form, their widths differ; the first (--full shows all):"
                )
                label.append(f"  {run} {what}", style="not bold")
                label.append(self._cost(first), style="dim not bold")
                self.fill(branch.add(label), first)
            at += run

    def _run(self, steps: Sequence[tuple[str, _Node]]) -> tuple[int, bool]:
        """How many nodes from the first on are drawn as one, and whether they are equal or only of one form."""
        first = steps[0][1]
        if self.full or not first.inside:
            return 1, True
        for exactly, least in ((True, 2), (False, _FORM)):
            wanted = self._form(first, first.name, exactly=exactly)
            run = 1
            while run < len(steps) and wanted == self._form(
                steps[run][1], steps[run][1].name, exactly=exactly
            ):
                run += 1
            if run >= least:
                return run, exactly
        return 1, True

    def _form(self, node: _Node, base: str, *, exactly: bool) -> Signature:
        """What makes blocks alike: classes, names inside, roles; for equal ones also widths, costs and groups inside."""
        layer = node.layer
        own: Signature = ()
        if layer is not None:
            uses = [
                (role, self._seen(part, base))
                for role, parts in layer.uses().items()
                for part in parts.values()
            ]
            costs = (layer.parameters, layer.macs, tuple(sorted(uses)))
            reasons = tuple(sorted({axis.reason for axis in layer.fixed}))
            own = (costs if exactly else tuple(layer.uses()), reasons)
        kind = self.structure.containers.get(node.name, "")
        inside = tuple((step, self._form(one, base, exactly=exactly)) for step, one in node.inside.items())
        return (kind, own, inside)

    def _seen(self, part: Part, base: str) -> tuple[str, int, int]:
        """A group as a block sees it: by its name inside the block, else only by its width."""
        name = self.structure.group(part.group).group.name
        return (name[len(base) :] if name.startswith(f"{base}.") else "", part.units, part.block)

    def _label(self, node: _Node, step: str) -> Text:
        if node.layer is not None:
            return self._line(node.layer, step)
        label = Text(_plain(step), style="bold")
        label.append(f" {_plain(self.structure.containers.get(node.name, ''))}", style="dim not bold")
        return label.append(self._cost(node), style="dim not bold")

    def _cost(self, node: _Node) -> str:
        layers = list(node.layers())
        return _costs(sum(one.parameters for one in layers), sum(one.macs for one in layers))

    def _line(self, layer: Layer, step: str) -> Text:
        """A layer: its name and class, its groups by role, what stays, what it costs."""
        line = Text(_plain(step), style="bold")
        line.append(f" {_plain(layer.kind)}", style="dim not bold")
        said: list[str] = []
        written = layer.uses().get(
            "write", {}
        )  # that its bias carries what its weight writes goes without saying
        for role, found in layer.uses().items():
            parts = {
                number: part for number, part in found.items() if role != "carry" or number not in written
            }
            if not parts:
                continue
            named = [self._group(part, layer) for part in list(parts.values())[:_NAMED]]
            if len(parts) > _NAMED:
                rest = sum(part.units for part in list(parts.values())[_NAMED:])
                named.append(f"{len(parts) - _NAMED} more groups {rest}")
            said.append(f"{VERBS[role]} {', '.join(named)}")
        stays: dict[int, int] = {}
        for axis in layer.fixed:
            stays.setdefault(self.reasons[axis.reason], axis.count)
        said += [f"{text.integer(count)} stay [{number}]" for number, count in stays.items()]
        line.append(f"  {'; '.join(said)}", style="not bold")
        return line.append(_costs(layer.parameters, layer.macs), style="dim not bold")

    def _group(self, part: Part, layer: Layer) -> str:
        group = self.structure.group(part.group).group
        name = "own" if group.name == layer.name else _plain(group.name)
        times = f"x{part.block}" if part.block > 1 else ""
        limits = f" in {group.constraints}" if name == "own" and str(group.constraints) else ""
        return f"{name} {text.integer(part.units)}{times}{'' if group.exact else '~'}{limits}"


def _costs(parameters: int, macs: int) -> str:
    figures = [f"{text.short(parameters)} params"] if parameters else []
    figures += [f"{text.short(macs)} MACs"] if macs else []
    return f"  {', '.join(figures)}" if figures else ""


def _reasons(structure: Structure, reasons: Mapping[str, int]) -> Iterator[Text]:
    """Each number that stands at layers, with its reason and some of the axes."""
    if reasons:
        yield Text()
        yield Text("What stays, and why", style="bold")
    for reason, number in reasons.items():
        axes = [f"{axis.tensor}[{axis.axis}]" for axis in structure.fixed if axis.reason == reason]
        more = f" and {len(axes) - _AXES} more axes" if len(axes) > _AXES else ""
        yield Text(f"[{number}] {_plain(reason)}: {_plain(', '.join(axes[:_AXES]))}{more}")
