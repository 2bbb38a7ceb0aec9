"""What is wrong with an option or an argument, in one sentence."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ValidationError

from secateur.errors import SettingsError


def expect(call: str, **arguments: tuple[object, type | tuple[type, ...]]) -> None:
    """Refuse arguments of another kind than a function takes, such as two that were swapped.

    Args:
        call: How the function is called.
        arguments: By name what was given, and the kind (or kinds) that is wanted.

    Raises:
        SettingsError: One is of another kind.

    Example:
        >>> expect("half(number)", number=("six", int))
        Traceback (most recent call last):
        ...
        secateur.errors.SettingsError: number is of class str, and int is wanted; call it as half(number)
    """
    for name, (value, kinds) in arguments.items():
        if not isinstance(value, kinds):
            several = kinds if isinstance(kinds, tuple) else (kinds,)
            wanted = " or ".join(kind.__name__ for kind in several)
            raise SettingsError(
                f"{name} is of class {type(value).__name__}, and {wanted} is wanted; call it as {call}"
            )


def sentence(
    error: ValidationError, kind: type[BaseModel], *, named: str = "option", of: str = "", missing: str = ""
) -> str:
    """What is wrong with the first option that is wrong.

    Args:
        error: What pydantic found.
        kind: The options that there are.
        named: What an option is called.
        of: Whose options they are, such as " of a reduction".
        missing: What to do about one that is missing.

    Example:
        >>> class Speed(BaseModel, extra="forbid"):
        ...     limit: int = 50
        >>> for given in ({"limt": 30}, {"limit": "fast"}):
        ...     try:
        ...         Speed(**given)
        ...     except ValidationError as error:
        ...         print(sentence(error, Speed, of=" of a road"))
        no option of a road is named 'limt'; did you mean 'limit'?
        option 'limit' cannot be 'fast': input should be a valid integer, unable to parse string as an integer
    """
    first = worst(error)
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = list(kind.model_fields)
        return f"no {named}{of} is named {name!r}; {did_you_mean(name, known)}"
    if not name:
        return str(first.get("ctx", {}).get("error", first["msg"]))
    if first["type"] == "missing":
        return f"{named} {name!r} is missing{missing and f'; {missing}'}"
    message: Any = first["msg"]
    return f"{named} {name!r} cannot be {first['input']!r}: {message[:1].lower()}{message[1:]}"


def worst(error: ValidationError) -> Any:
    """Of all that is wrong, a name that nobody knows before what is missing: it may be the missing one, misspelt."""
    found = error.errors(include_url=False)
    return next((one for one in found if one["type"] == "extra_forbidden"), found[0])


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The nearest of the names that there are, or all of them.

    >>> did_you_mean("criterionn", ["criterion", "scope"]), did_you_mean("x", ["criterion", "scope"])
    ("did you mean 'criterion'?", 'they are: criterion, scope')
    """
    names = list(known)
    near = get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"they are: {', '.join(names)}"
