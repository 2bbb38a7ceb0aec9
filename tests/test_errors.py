"""The error tree is the one that its module draws."""

import inspect
import re

import pytest

from secateur import errors

KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass)]


def drawn() -> dict[str, tuple[str, ...]]:
    """Each error in the drawing, with what stands directly above it and the builtin in brackets."""
    above: list[str] = []
    tree: dict[str, tuple[str, ...]] = {}
    for line in (inspect.getdoc(errors) or "").splitlines():
        found = re.match(r"([ │├└─]{4,})(\w+Error)(?: \((\w+)\))?", line)
        if not found:
            continue
        indent, name, builtin = found.groups()
        del above[len(indent) // 4 - 1 :]
        tree[name] = (*above[-1:], *([builtin] if builtin else [])) or ("Exception",)
        above.append(name)
    return tree


def test_the_tree_is_as_drawn():
    """Every error stands in the drawing, under the base and the builtin that it has."""
    built = {kind.__name__: tuple(base.__name__ for base in kind.__bases__) for kind in KINDS}

    assert drawn() == built


@pytest.mark.parametrize("kind", KINDS)
def test_one_except_catches_everything(kind):
    """Everything raised on purpose can be caught as SecateurError, and each error says when it is raised."""
    assert issubclass(kind, errors.SecateurError)
    assert kind.__doc__
