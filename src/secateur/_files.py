"""Files appear whole or not at all: temporary file, fsync, rename, fsync of the folder."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterable
from pathlib import Path

from secateur.errors import StoreError

TEMPORARY_SUFFIX = ".secateur-tmp"
"""How the name of an unfinished file ends; one that a killed process left behind can be deleted."""

Bytes = bytes | bytearray | memoryview

_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "it would be larger than the largest file that this process may write",
}


def write_atomic(path: Path, chunks: Iterable[Bytes], *, size: int) -> None:
    """Write a file so that a reader, a crash or a full disk sees the old content or the new, nothing between.

    The content goes to a temporary file in the same folder, which is flushed to the disk and renamed over `path`; then
    the folder is flushed. If anything fails, an interrupt included, the temporary file is removed.

    Args:
        path: The file to write. A symbolic link is followed.
        chunks: The content, in pieces, so that it need not be in memory as a whole.
        size: Bytes in all, for the message if the disk is full.

    Raises:
        StoreError: The file could not be written. The old file, if there was one, is as it was.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     target = Path(folder) / "a.txt"
    ...     write_atomic(target, [b"hello ", b"disk"], size=10)
    ...     target.read_text(), [file.name for file in Path(folder).iterdir()]
    ('hello disk', ['a.txt'])
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            try:
                for chunk in chunks:
                    write_all(descriptor, chunk)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(target.parent)
    except StoreError:
        raise
    except OSError as error:
        raise write_failure(path, size=size, error=error) from error


def check_folder(path: Path) -> None:
    """Refuse a file that cannot be written for want of its folder, before the work that would be lost.

    Raises:
        StoreError: There is no such folder.
    """
    if not path.resolve().parent.is_dir():
        raise write_failure(path, size=0, error=FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)))


def write_all(descriptor: int, data: Bytes) -> None:
    """Write every byte, however many calls it takes (a write may be cut short by a limit or a signal)."""
    rest = memoryview(data).cast("B")
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def sync_folder(folder: Path) -> None:
    """Flush a folder's list of names to the disk, where its file system can do that."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def write_failure(path: Path, *, size: int, error: OSError) -> StoreError:
    """Put a failed write into words: which file, why, how much was needed, what to do.

    >>> print(write_failure(Path("runs/a/journal.jsonl"), size=120, error=OSError(errno.EDQUOT, "quota")))
    cannot write runs/a/journal.jsonl (120 bytes): the disk quota is used up. Nothing was changed; make room and
    try again (an interrupted run goes on where it was, with --resume).
    """
    reason = _FULL.get(error.errno or 0)
    if error.errno == errno.ENOENT:
        return StoreError(f"cannot write {path}: there is no folder {path.parent}. Make it, and try again.")
    if reason is None:
        return StoreError(
            f"cannot write {path}: {error.strerror or error}. Nothing was changed;"
            " check the path and its permissions and try again."
        )
    if error.errno == errno.ENOSPC:
        with contextlib.suppress(OSError):  # the folder may be what failed; then the figure is left out
            reason += f" ({_amount(shutil.disk_usage(path.parent).free)} free)"
    return StoreError(
        f"cannot write {path} ({_amount(size)}): {reason}. Nothing was changed;"
        " make room and try again (an interrupted run goes on where it was, with --resume)."
    )


def _amount(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 100_000 else f"{count:,} bytes"
