"""Libraries that convert write about it at length; here they are heard only where they fail."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import warnings
from collections.abc import Generator


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
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        sink = stack.enter_context(tempfile.TemporaryFile(mode="w+"))
        stack.enter_context(contextlib.redirect_stdout(sink))
        stack.enter_context(contextlib.redirect_stderr(sink))
        for number in (1, 2):
            stack.enter_context(_redirected(number, sink.fileno()))
        yield


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
