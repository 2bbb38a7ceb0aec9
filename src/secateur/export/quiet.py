"""Libraries that convert write about it at length; here they are heard only where they fail."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Generator


class _Nowhere(io.TextIOBase):
    """Takes text and drops it. It is never closed, since a library may keep what it found as the error stream."""

    def write(self, s: str, /) -> int:
        """Drop the text."""
        return len(s)


@contextlib.contextmanager
def silenced() -> Generator[None]:
    """Inside, nothing reaches the output and error streams, and no warning is shown: not from code in C++ either.

    What is wrong reaches the caller as an exception, or by the checks of the file that was made.

    Example:
        >>> with silenced():
        ...     print("converting")
    """
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    handlers = list(logging.root.handlers)
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(contextlib.redirect_stdout(_Nowhere()))
        stack.enter_context(contextlib.redirect_stderr(_Nowhere()))
        sink = stack.enter_context(tempfile.TemporaryFile())
        for number in (1, 2):
            stack.enter_context(_redirected(number, sink.fileno()))
        try:
            yield
        finally:
            logging.root.handlers[:] = handlers  # `logging.warning` adds one where there is none


@contextlib.contextmanager
def _redirected(number: int, to: int) -> Generator[None]:
    """A file descriptor that writes elsewhere for a while; one that is closed stays so."""
    try:
        kept = os.dup(number)
    except OSError:
        yield
        return
    os.dup2(to, number)
    try:
        yield
    finally:
        os.dup2(kept, number)
        os.close(kept)
