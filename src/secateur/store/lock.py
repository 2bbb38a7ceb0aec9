"""One process at a time in a run folder."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
from pathlib import Path
from typing import Any, cast

from secateur._files import write_all
from secateur.errors import RunError

if sys.platform != "win32":
    import fcntl


class Lock:
    """The right to write into a run folder, held until `release`.

    The kernel's lock on the file decides, and it ends with the process, so one that a killed process left is simply
    taken over. The process and host in the file name the holder in messages; a holder on another host cannot be asked
    (network file systems do not always carry locks), so there the lock stands until the file is deleted.

    Raises:
        RunError: Another process, or this one, has the folder open; or locks are not available.
    """

    def __init__(self, path: Path) -> None:
        """Take the lock in the file at `path`, which is made where missing."""
        if sys.platform == "win32":
            raise RunError(
                "run folders need the file locks of Linux or macOS; run the command there or under WSL"
            )
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise RunError(
                f"cannot open {path}: {error.strerror}; check the folder and its permissions"
            ) from error
        try:
            self._take(path, descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor: int | None = descriptor

    @staticmethod
    def _take(path: Path, descriptor: int) -> None:
        holder = _holder(os.pread(descriptor, 4096, 0))
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(
                f"{path.parent} is in use by process {holder.get('pid', 'unknown')} on"
                f" {holder.get('host', 'this machine')}; wait for it or stop it, then repeat the command"
            ) from error
        except OSError as error:
            raise RunError(
                f"{path} cannot be locked ({error.strerror}); put the run folder on a file system with locks"
            ) from error
        if holder.get("host", socket.gethostname()) != socket.gethostname():
            raise RunError(
                f"{path.parent} is in use by process {holder.get('pid')} on another machine, {holder['host']}; if that"
                f" process has ended, delete {path} and repeat the command"
            )
        os.ftruncate(descriptor, 0)
        write_all(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())

    def release(self) -> None:
        """Give the folder free; a second call does nothing."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            with contextlib.closing(os.fdopen(descriptor, "r+b")) as file:
                file.truncate(0)  # the file stays: deleting it would race with whoever opens it now


def _holder(text: bytes) -> dict[str, Any]:
    """What a lock file says; nothing if it is empty or was cut off while it was written."""
    try:
        found: Any = json.loads(text)
    except ValueError:
        return {}
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}
