"""Rules of your own: for operators, for functions and modules that are seen as a whole, for attributes that are sizes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self, TypeAlias, cast, overload

import torch
from torch import nn

from secateur._model import named_tensors
from secateur.channels.copies import Repair
from secateur.channels.leaves import LEAVES
from secateur.channels.rules import RULES, Rule, has_rule
from secateur.channels.ties import Base, Ties
from secateur.errors import ModelError, SettingsError

Operator: TypeAlias = Any
"""``"mylib::gate"``, ``torch.ops.mylib.gate``, what ``torch.library.custom_op`` made, or a class of modules or functions."""

_ATTRIBUTE = re.compile(r"(?P<name>[A-Za-z]\w*)(?:\[(?P<index>\d+)\])?")
_AXIS = re.compile(r"(?P<tensor>[\w.]+)\[(?P<axis>\d+)\]")


@dataclass(frozen=True, slots=True)
class _Followed:
    """An attribute, and the axis whose length it is."""

    name: str
    index: int | None
    tensor: str
    axis: int


_FOLLOWED: dict[type[nn.Module], tuple[_Followed, ...]] = {}


class Added:
    """Something that was added to a table. Leaving its ``with`` block, or :meth:`undo`, takes it back."""

    def __init__(self, table: dict[Any, Any], key: Any, entry: object, *, what: str) -> None:
        """Add it; ``what`` names it in errors."""
        self._table, self._key, self._entry, self._what = table, key, entry, what
        self._before: tuple[object, ...] = (table[key],) if key in table else ()
        self._done = False
        table[key] = entry

    def undo(self) -> None:
        """Put back what was there before. A second time does nothing.

        Raises:
            SettingsError: It has been replaced since; that is to be undone first.
        """
        if self._done:
            return
        if self._table.get(self._key) is not self._entry:
            raise SettingsError(f"{self._what} has been replaced since; undo first what replaced it")
        del self._table[self._key]
        if self._before:
            self._table[self._key] = self._before[0]
        self._done = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.undo()


def _packet_of(operator: Operator) -> Any:
    """An operator with all its overloads."""
    found: Any = getattr(operator, "_opoverload", operator)  # what torch.library.custom_op made
    if isinstance(found, str):
        namespace, _, name = found.partition("::")
        found = getattr(getattr(torch.ops, namespace), name, None) if name.isidentifier() else None
        if found is None:
            raise SettingsError(
                f"no operator is named {operator!r}; import the module that defines it first, and name it as in"
                " 'mylib::gate', without an overload"
            )
    found = getattr(found, "overloadpacket", found)
    if not isinstance(found, torch._ops.OpOverloadPacket):  # pyright: ignore[reportPrivateUsage] - the class of torch.ops.a.b
        raise SettingsError(
            f"{operator!r} is no operator; give 'mylib::gate', torch.ops.mylib.gate, what torch.library.custom_op"
            " made, or a subclass of nn.Module or torch.autograd.Function"
        )
    return cast("Any", found)


@overload
def rule(operator: Operator, *, replace: bool = False) -> Callable[[Rule], Rule]: ...
@overload
def rule(operator: Operator, function: Rule, *, replace: bool = False) -> Added: ...
def rule(
    operator: Operator, function: Rule | None = None, *, replace: bool = False
) -> Callable[[Rule], Rule] | Added:
    """Add a rule: say what an operator of your own does to the channels of its tensors.

    A rule takes the :class:`Ties` collected so far and one :class:`Call`. It ties what is the same axis, fixes what cannot go,
    and labels the result. If in doubt, fix: a rule that ties too little makes a network wrong, one that fixes too much only
    leaves it larger. :func:`secateur.testing.check_rule` proves a rule.

    Args:
        operator: ``"mylib::gate"``, ``torch.ops.mylib.gate`` or what ``torch.library.custom_op`` made. Or a class: a subclass
            of ``torch.autograd.Function``, or of ``nn.Module`` whose forward is then seen as a whole (subclasses that have
            no forward of their own included); ``call.module`` is the module.
        function: The rule. Without it, this is a decorator.
        replace: Whether it takes the place of a rule that is there.

    Returns:
        The decorator, which gives the rule back as it is; with ``function`` what was added, which can be undone and used as a
        context.

    Raises:
        SettingsError: There is no such operator, or it has a rule.

    Example:
        >>> @torch.library.custom_op("docs::swish", mutates_args=())
        ... def swish(x: torch.Tensor) -> torch.Tensor:
        ...     return x * torch.sigmoid(x)
        >>> @swish.register_fake
        ... def _(x):
        ...     return torch.empty_like(x)
        >>> def acts_on_each_element(ties, call):
        ...     ties.set(call.result, ties.axes(call.tensor(0)))
        >>> import secateur
        >>> from secateur.testing import Wired
        >>> net = Wired(lambda m, x: m.b(swish(m.a(x))), a=nn.Linear(8, 6), b=nn.Linear(6, 2))
        >>> with rule("docs::swish", acts_on_each_element):
        ...     secateur.watch(net, torch.zeros(1, 8))
        Channels(1 group, 6 units)
        >>> secateur.watch(net, torch.zeros(1, 8))
        Channels(0 groups, 0 units)
    """
    if isinstance(operator, type) and issubclass(operator, (nn.Module, torch.autograd.Function)):
        table, key, name, known = LEAVES, operator, operator.__name__, operator in LEAVES
    else:
        key = _packet_of(operator)
        table, name, known = RULES, str(key), has_rule(key)

    def add(given: Rule) -> Added:
        if not callable(given):
            raise SettingsError(f"the rule for {name} is {given!r}; give a function of ties and a call")
        if (known or key in table) and not replace:
            raise SettingsError(f"{name} has a rule; pass replace=True if yours is to take its place")
        return Added(table, key, given, what=f"the rule for {name}")

    def decorate(given: Rule) -> Rule:
        add(given)
        return given

    return decorate if function is None else add(function)


def follow(kind: type[nn.Module], sizes: Mapping[str, str], *, replace: bool = False) -> Added:
    """Say which attributes of your modules are the lengths of axes, so that they follow a cut.

    Watching finds most of these by trying. Where it finds the wrong one, or leaves a group whole that an attribute pins, say it.

    Args:
        kind: A class of modules; its subclasses are meant, too.
        sizes: The axis by attribute, both as the module sees them: ``{"dim": "proj.weight[0]"}``. A place in a tuple or list is
            ``"shape[1]"``.
        replace: Whether this takes the place of what was said of the class before.

    Returns:
        What was added; it can be undone and used as a context.

    Raises:
        SettingsError: It is no class of modules, a name cannot be read, or the class is known already.

    Example:
        >>> class Block(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.dim, self.proj, self.out = 6, nn.Linear(4, 6), nn.Linear(6, 2)
        ...     def forward(self, x):
        ...         return self.out(self.proj(x).view(-1, self.dim))
        >>> import secateur
        >>> with follow(Block, {"dim": "proj.weight[0]"}):
        ...     found = secateur.watch(Block(), torch.zeros(1, 4))
        >>> [(entry.module, entry.name) for entry in found.attributes]
        [('', 'dim')]
    """
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise SettingsError(
            f"{kind!r} is no subclass of nn.Module; name the class whose attributes are sizes"
        )
    if kind in _FOLLOWED and not replace:
        raise SettingsError(
            f"the sizes of {kind.__name__} are known; pass replace=True if yours are to take their place"
        )
    entries: list[_Followed] = []
    for attribute, axis in sizes.items():
        of, at = _ATTRIBUTE.fullmatch(attribute), _AXIS.fullmatch(axis)
        if of is None or at is None:
            raise SettingsError(
                f"{{{attribute!r}: {axis!r}}} cannot be read; write an attribute and the axis whose length it is, as in"
                " {'dim': 'proj.weight[0]'} or {'shape[1]': 'weight[1]'}"
            )
        index = None if of["index"] is None else int(of["index"])
        entries.append(_Followed(of["name"], index, at["tensor"], int(at["axis"])))
    return Added(_FOLLOWED, kind, tuple(entries), what=f"what was said of {kind.__name__}")


def followed(model: nn.Module, ties: Ties) -> list[Repair]:
    """The attributes of a network's modules that were said to be lengths of axes."""
    if not _FOLLOWED:
        return []
    tensors = named_tensors(model)
    first: dict[int, str] = {}
    for name, tensor in tensors.items():
        first.setdefault(id(tensor), name)
    bases = {(base.tensor, base.axis): base for base in ties.bases}
    found: dict[tuple[str, str, int | None], Repair] = {}
    for kind, entries in _FOLLOWED.items():
        for path, module in cast("Iterator[tuple[str, nn.Module]]", model.named_modules()):
            for entry in entries if isinstance(module, kind) else ():
                name = f"{path}.{entry.tensor}".lstrip(".")
                base = bases.get((first.get(id(tensors.get(name)), ""), entry.axis))
                labels = ties.labels(_fitting(module, path, entry, base))
                found[path, entry.name, entry.index] = Repair(path, entry.name, entry.index, labels)
    return list(found.values())


def _fitting(module: nn.Module, path: str, entry: _Followed, base: Base | None) -> Base:
    """The axis that an attribute follows, which must have its length."""
    where = f"{type(module).__name__} {path!r}".strip()
    axis = f"{entry.tensor}[{entry.axis}]"
    if base is None:
        raise ModelError(
            f"{where} has no tensor axis {axis}; correct what was said of it with secateur.follow"
        )
    value: Any = getattr(module, entry.name, None)
    if entry.index is not None:
        entries: list[object] = list(cast("Any", value)) if isinstance(value, (tuple, list)) else []
        value = entries[entry.index] if entry.index < len(entries) else None
    if value != base.size:
        place = "" if entry.index is None else f"[{entry.index}]"
        raise ModelError(
            f"{where} keeps {entry.name}{place}={value!r}, and {axis} has {base.size} positions: it cannot follow; correct"
            " what was said with secateur.follow"
        )
    return base
