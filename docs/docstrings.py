"""Lets the reference show docstrings as they are written: used by mkdocstrings while it collects them."""

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:math|class|func|meth|mod|attr|data):`~?([^`]*)`")
SESSION = re.compile(r"^( *)Example:$", re.MULTILINE)
BARE_SESSION = re.compile(r"\A(?P<text>(?:(?!^ *>>>).*\n)*?)(?P<session> *>>>.*)\Z", re.MULTILINE | re.DOTALL)


class Docstrings(griffe.Extension):
    """Makes sections of our `Example:` (Griffe knows `Examples:`), and plain code of Sphinx roles and formulas."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called with everything that is found in the sources."""
        if obj.docstring is None:
            return
        text = ROLE.sub(r"`\1`", obj.docstring.value)
        text = SESSION.sub(r"\1Examples:", text)
        if "Examples:\n" not in text and (found := BARE_SESSION.match(text)):
            indented = "\n".join(f"    {line}" for line in found["session"].splitlines())
            text = f"{found['text'].rstrip()}\n\nExamples:\n{indented}"
        obj.docstring.value = text
