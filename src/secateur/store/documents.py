"""Text that is the same whenever the values are the same: canonical JSON, and a small TOML writer."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from secateur.errors import SettingsError

BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def canonical_json(value: object, *, what: str) -> str:
    """One JSON text per value: sorted string keys, no blanks, no NaN or infinity.

    Args:
        value: Mappings, sequences, text, numbers, truth values and None.
        what: How an error names the value.

    Raises:
        SettingsError: The value has no JSON form.

    >>> canonical_json({10: "b", 2: [1.5, None]}, what="the example")
    '{"10":"b","2":[1.5,null]}'
    """
    try:
        # Once there and back, so that keys are text before they are sorted: 2 < 10, but "10" < "2".
        plain = json.loads(json.dumps(value, allow_nan=False, default=_as_builtin))
        return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise SettingsError(
            f"{what} cannot be written as JSON ({error}); use finite numbers, text, lists and mappings only"
        ) from error


def _as_builtin(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(cast("Mapping[object, object]", value))
    if isinstance(value, Sequence):
        return list(cast("Sequence[object]", value))
    raise TypeError(f"{type(value).__name__} has no JSON form")


def to_toml(document: Mapping[str, Any]) -> str:
    r"""Write a mapping as TOML, which ``tomllib.loads`` turns back into an equal one.

    Raises:
        SettingsError: A value has no TOML form; TOML has no null, so leave such a key out.

    >>> print(to_toml({"format": 1, "settings": {"max drop": 0.5, "layers": ["a", "b"]}}), end="")
    format = 1
    <BLANKLINE>
    [settings]
    "max drop" = 0.5
    layers = ["a", "b"]
    """
    return "\n".join(_table(document, ())).removeprefix("\n") + "\n"


def _table(table: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    inner: dict[str, Mapping[str, Any]] = {
        key: value for key, value in table.items() if isinstance(value, Mapping)
    }
    lines = ["", f"[{'.'.join(_key(part) for part in path)}]"] if path else []
    lines += [
        f"{_key(key)} = {_value(value, (*path, key))}" for key, value in table.items() if key not in inner
    ]
    for key, value in inner.items():
        lines += _table(value, (*path, key))
    return lines


def _key(key: object) -> str:
    if not isinstance(key, str):
        raise SettingsError(f"setting {key!r} is not named by text; TOML keys are text, so rename it")
    return key if BARE_KEY.fullmatch(key) else _string(key)


def _string(text: str) -> str:
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise SettingsError(f"{text!r} holds half a surrogate pair, which no file can hold; remove it")
    # JSON's escapes are TOML's too, save that TOML wants DEL escaped.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(value: object, path: tuple[str, ...]) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return int.__repr__(value)
    if isinstance(value, float):
        return float.__repr__(value)
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, list | tuple):
        items = cast("Sequence[object]", value)
        return f"[{', '.join(_value(item, path) for item in items)}]"
    if isinstance(value, Mapping):
        pairs = cast("Mapping[str, object]", value).items()
        return "{" + ", ".join(f"{_key(key)} = {_value(item, (*path, key))}" for key, item in pairs) + "}"
    raise SettingsError(
        f"setting {'.'.join(path)} is {value!r}, a {type(value).__name__}, which TOML cannot hold;"
        " leave the key out or give text, a number, a truth value, a list or a table"
    )
