"""What the command ``secateur`` starts with: Ctrl-C is one line from the first moment on, also while PyTorch is loading.

This is a module beside the package, since importing anything inside the package loads PyTorch first.
"""

from __future__ import annotations

import os
import signal
import sys
from itertools import pairwise
from types import FrameType

_INTERRUPTED = 130
_SAID = "interrupted\n"


def main() -> int:
    """Run a command; see :func:`secateur.cli.main`.

    Returns:
        0 if all went well, 2 for bad input, 130 after Ctrl-C.
    """
    ours = _listen()
    from secateur.cli import main as run  # noqa: PLC0415

    try:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        return run()
    except KeyboardInterrupt:
        sys.stderr.write(_SAID)
        return _INTERRUPTED


def listen_if_run() -> None:
    """Be ready for Ctrl-C where the package is imported by ``python -m secateur``, which does so before it runs anything."""
    # while Python looks for what to run, that is the program's name
    run = sys.argv[:1] == ["-m"]
    if run and (("-m", "secateur") in pairwise(sys.orig_argv) or "-msecateur" in sys.orig_argv):
        _listen()


def _listen() -> bool:
    """Let Ctrl-C end the process at once, and say whether it does."""
    # A library that is being imported may take an exception for its own failure, so that here the process ends at once:
    # nothing has been begun. Whoever started us with Ctrl-C switched off wants it off.
    ours = signal.getsignal(signal.SIGINT) in (signal.default_int_handler, _leave)
    if ours:
        signal.signal(signal.SIGINT, _leave)
    return ours


def _leave(_signal: int, _frame: FrameType | None) -> None:
    os.write(2, _SAID.encode())
    os._exit(_INTERRUPTED)
