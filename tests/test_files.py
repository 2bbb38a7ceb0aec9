"""Files appear whole or not at all."""

import errno
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from secateur._files import write_atomic
from secateur.errors import StoreError


def names_in(folder):
    """The names of the files in a folder, sorted."""
    return sorted(file.name for file in folder.iterdir())


def test_new_content_replaces_the_old(tmp_path):
    """After writing, the file has the new content and nothing else lies in the folder."""
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    write_atomic(path, [b"ne", memoryview(b"w")], size=3)

    assert path.read_bytes() == b"new"
    assert names_in(tmp_path) == ["a.bin"]


def test_link_is_followed(tmp_path):
    """Writing through a symbolic link changes the file it points to and keeps the link."""
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")

    write_atomic(tmp_path / "link", [b"new"], size=3)

    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("call", ["write", "fsync"])
def test_failure_leaves_the_old_file(tmp_path, monkeypatch, call, code):
    """When the disk fails on writing or flushing, the old file stays, no temporary does, and the error names the file."""
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def fail(*_):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patched:
        patched.setattr(os, call, fail)
        with pytest.raises(StoreError, match=rf"cannot write {path}.*Nothing was changed"):
            write_atomic(path, [b"new"], size=3)

    assert path.read_bytes() == b"old"
    assert names_in(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ValueError])
def test_interrupt_leaves_the_old_file(tmp_path, stop):
    """An interrupt or error while the content is made passes through and leaves the old file alone."""
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def content():
        yield b"half"
        raise stop

    with pytest.raises(stop):
        write_atomic(path, content(), size=8)

    assert path.read_bytes() == b"old"
    assert names_in(tmp_path) == ["a.bin"]


def test_missing_folder_is_an_error(tmp_path):
    """A path into a folder that does not exist gives a clear error."""
    with pytest.raises(StoreError, match="there is no folder"):
        write_atomic(tmp_path / "none" / "a.bin", [b"x"], size=1)


SHORT_WRITE = """
import resource, sys
from pathlib import Path
from secateur.errors import StoreError
from secateur._files import write_atomic
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    write_atomic(Path(sys.argv[1]), [bytes(150_000)], size=150_000)
except StoreError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="resource limits are POSIX")
def test_real_short_write_is_noticed(tmp_path):
    """A write that the kernel really cuts short (file-size limit) is an error that says how much was needed."""
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    done = subprocess.run(
        [sys.executable, "-c", SHORT_WRITE, str(path)], capture_output=True, text=True, check=True, timeout=60
    )

    assert "(0.1 MB)" in done.stdout or "(0.2 MB)" in done.stdout
    assert "larger than the largest file" in done.stdout
    assert "--resume" in done.stdout
    assert path.read_bytes() == b"old"
    assert names_in(tmp_path) == ["a.bin"]


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 64 KiB, where the machine lets us make one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system is not allowed here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_full_disk_leaves_the_old_file(small_disk: Path):
    """On a disk that is really full the old file stays, and the error says what was needed and how to go on."""
    path = small_disk / "a.bin"
    write_atomic(path, [b"old"], size=3)

    with pytest.raises(StoreError) as caught:
        write_atomic(path, [bytes(1000)] * 200, size=200_000)

    assert "(0.2 MB): the disk is full" in str(caught.value)
    assert "--resume" in str(caught.value)
    assert path.read_bytes() == b"old"
    assert names_in(small_disk) == ["a.bin"]


def test_run_goes_on_after_a_full_disk(small_disk: Path):
    """A run that met a full disk keeps every step that counted and goes on when there is room."""
    import torch

    from secateur.store import RunFolder

    ballast = small_disk / "ballast"
    with RunFolder.create(small_disk / "run", {}) as run:
        run.put("s0", {"w": torch.zeros(10)}, {})
        run.append({"snapshot": "s0"})
        ballast.write_bytes(bytes(35_000))
        with pytest.raises(StoreError, match="the disk is full"):
            run.put("s1", {"w": torch.arange(5000.0)}, {}, parent="s0")
        with pytest.raises(StoreError, match="the disk is full"):
            run.append({"note": "x" * 40_000})
    ballast.unlink()

    with RunFolder.open(small_disk / "run") as run:
        before = list(run.entries())
        run.put("s1", {"w": torch.arange(5000.0)}, {}, parent="s0")
        run.append({"snapshot": "s1"})

    assert before == [{"snapshot": "s0"}]


def test_text_of_the_error_is_one_paragraph(tmp_path, monkeypatch):
    """The error is one paragraph with the file, the reason and the next step."""

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", fail)
    with pytest.raises(StoreError) as caught:
        write_atomic(tmp_path / "a.bin", [b"x"], size=553_000_000)

    text = str(caught.value)
    assert textwrap.dedent(text) == text
    assert "\n" not in text
    assert "(553.0 MB): the disk is full (" in text
