"""What is wrong with an option or an argument, in one sentence."""

from __future__ import annotations

import re
from collections.abc import Collection, Generator, Iterable
from contextlib import contextmanager
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Any, ClassVar, Union, cast, get_args, get_origin

from pydantic import BaseModel, SerializerFunctionWrapHandler, ValidationError, model_serializer

from secateur.errors import SecateurError, SettingsError


class Written(BaseModel):
    """Base of what is written to files, where fields that came later are left out as long as they are not used.

    So what was written before they came is still what is written today, byte by byte.
    """

    written_if_used: ClassVar[frozenset[str]] = frozenset()
    """The fields that are left out while they are empty or zero."""

    @model_serializer(mode="wrap")
    def _without_unused(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written = cast("dict[str, Any]", write(self))
        return {name: value for name, value in written.items() if value or name not in self.written_if_used}


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
            found = (
                f"the class {value.__name__} itself"
                if isinstance(value, type)
                else f"of class {type(value).__name__}"
            )
            raise SettingsError(f"{name} is {found}, and {wanted} is wanted; call it as {call}")


def expect_names(**arguments: Any) -> None:
    """Refuse what is no collection of names; a single name would be read letter by letter. None is no argument.

    Args:
        arguments: By name what was given.

    Raises:
        SettingsError: One is a single name, or holds no names.

    Example:
        >>> expect_names(layers=["conv1"], exclude=())
        >>> expect_names(layers="conv1")
        Traceback (most recent call last):
        ...
        secateur.errors.SettingsError: layers is the single name 'conv1', and several are wanted; write layers=['conv1']
    """
    for argument, given in arguments.items():
        if isinstance(given, str):
            raise SettingsError(
                f"{argument} is the single name {given!r}, and several are wanted; write {argument}=[{given!r}]"
            )
        held = list(cast("Collection[object]", given)) if isinstance(given, Collection) else []
        wrong = [f"holds something of class {type(one).__name__}" for one in held if not isinstance(one, str)]
        if given is not None and not isinstance(given, Iterable):
            wrong = [f"is of class {type(given).__name__}"]
        if wrong:
            raise SettingsError(
                f"{argument} {wrong[0]}, and names are wanted; write {argument}=['name', ...]"
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
    place = tuple(first["loc"])
    message: Any = first["msg"]
    if (
        len(_kinds_of(place, kind)) > 1
    ):  # pydantic says of each kind that an option may have what is wrong with it
        every = [one for one in error.errors(include_url=False) if one["loc"][:1] == place[:1]]
        deepest = max(len(one["loc"]) for one in every)
        first = next(one for one in every if len(one["loc"]) == deepest)
        place = (place[0], *first["loc"][2:])
        said = list(dict.fromkeys(one["msg"] for one in every if len(one["loc"]) == deepest))
        kinds = [one.removeprefix("Input should be ").split(", ")[0] for one in said]
        message = said[0] if len(said) == 1 else f"Input should be {' or '.join(kinds)}"
    name = ".".join(str(part) for part in place)
    if first["type"] in ("tuple_type", "list_type") and isinstance(first["input"], str):
        return f"{named} {name!r} cannot be {first['input']!r}: several are wanted; write {name}=[{first['input']!r}]"
    if first["type"] == "extra_forbidden":
        known = list(kind.model_fields)
        return f"no {named}{of} is named {name!r}; {did_you_mean(name, known)}"
    if not name:
        return str(first.get("ctx", {}).get("error", first["msg"]))
    if first["type"] == "missing":
        return f"{named} {name!r} is missing{missing and f'; {missing}'}"
    return f"{named} {name!r} cannot be {first['input']!r}: {message[:1].lower()}{message[1:]}"


def _kinds_of(place: tuple[Any, ...], kind: type[BaseModel]) -> tuple[Any, ...]:
    """The kinds that an option may have, where it may have several."""
    field = kind.model_fields.get(place[0]) if len(place) > 1 else None
    if field is None or get_origin(field.annotation) not in (Union, UnionType):
        return ()
    return tuple(one for one in get_args(field.annotation) if one is not NoneType)


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


def fitting(patterns: Iterable[str], names: Collection[str], *, option: str) -> set[str]:
    """The layers whose whole names fit one of some regular expressions; a layer's own name is that layer alone.

    Args:
        patterns: The expressions.
        names: The layers that there are.
        option: What takes the expressions.

    Raises:
        SettingsError: An expression is none, or fits no layer.

    Example:
        >>> sorted(fitting(["classifier.*"], ["features.0", "classifier.0", "classifier.3"], option="exclude"))
        ['classifier.0', 'classifier.3']
        >>> fitting(["clasifier.0"], ["features.0", "classifier.0"], option="exclude")
        Traceback (most recent call last):
        ...
        secateur.errors.SettingsError: exclude names 'clasifier.0', which fits no layer; near are: classifier.0, features.0
    """
    found: set[str] = set()
    for pattern in patterns:
        try:
            fit = {pattern} if pattern in names else {name for name in names if re.fullmatch(pattern, name)}
        except re.error as error:
            raise SettingsError(
                f"{option} names {pattern!r}, which is no regular expression ({error}); escape what is meant as it stands"
            ) from error
        if not fit:
            near = get_close_matches(pattern, names, n=3, cutoff=0.4) or list(names)[:10]
            raise SettingsError(
                f"{option} names {pattern!r}, which fits no layer; near are: {', '.join(near)}"
            )
        found |= fit
    return found


@contextmanager
def about(what: object, *kinds: type[SecateurError]) -> Generator[None]:
    """Say of what an error is, before what it says; of the given kinds, or of all.

    >>> with about("study.toml"):
    ...     raise SettingsError("no data set is named 'mnits'")
    Traceback (most recent call last):
    ...
    secateur.errors.SettingsError: study.toml: no data set is named 'mnits'
    """
    try:
        yield
    except SecateurError as error:
        if kinds and not isinstance(error, kinds):
            raise
        raise type(error)(f"{what}: {error}") from error
