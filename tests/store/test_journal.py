"""One JSON line a step, on the disk before the step counts."""

import errno
import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.errors import RunError, SettingsError, StoreError
from secateur.store.journal import Journal

entries = st.lists(
    st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=9) | st.none(), max_size=3),
    max_size=5,
)


@settings(deadline=None, max_examples=80)
@given(written=entries, data=st.data())
def test_cut_at_any_byte_keeps_the_complete_lines(tmp_path_factory, written, data):
    """Cut anywhere, the journal opens with exactly the steps whose line ends before the cut, and takes new ones."""
    path = tmp_path_factory.mktemp("journal") / "journal.jsonl"
    journal = Journal(path)
    for entry in written:
        journal.append(entry)
    content = path.read_bytes()
    cut = data.draw(st.integers(0, len(content)))
    path.write_bytes(content[:cut])

    again = Journal(path)
    again.append({"new": 1})

    assert list(again.entries()) == [*written[: content[:cut].count(b"\n")], {"new": 1}]
    assert path.read_bytes().endswith(b'\n{"new":1}\n') or path.read_bytes() == b'{"new":1}\n'


@pytest.mark.parametrize(
    "line", [b'{"a": 1', b"\x00\x00\x00", b'["no", "object"]', b"\xff\xfe", b"[" * 100_000]
)
def test_damage_elsewhere_names_the_line(tmp_path, line):
    """A complete line that is not a JSON object is an error with its number, wherever it stands."""
    path = tmp_path / "journal.jsonl"
    for content, number in (
        (b'{"a":1}\n' + line + b'\n{"a":2}\n', 2),
        (b'{"a":1}\n{"a":2}\n' + line + b"\n", 3),
    ):
        path.write_bytes(content)

        with pytest.raises(RunError, match=rf"line {number} of {path} is damaged"):
            Journal(path)

        assert path.read_bytes() == content


@pytest.mark.parametrize("call", ["write", "fsync"])
@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()], ids=["full disk", "interrupt"]
)
def test_failed_step_is_not_there(tmp_path, monkeypatch, call, error):
    """If appending fails, even after a part was written, the line is not in the file and the next one is whole."""
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.append({"a": 1})
    write = os.write

    def fail(descriptor, data=b""):
        if call == "write" and len(data) > 3:
            return write(descriptor, data[:3])
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(os, call, fail)
        with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else StoreError):
            journal.append({"a": 22})
    journal.append({"a": 3})

    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"a": 1}, {"a": 3}]


def test_reading_only_changes_nothing(tmp_path):
    """Opened for reading, a cut-off line is passed over and stays, and appending is refused."""
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"a":1}\n{"a":')

    journal = Journal(path, read_only=True)

    assert list(journal.entries()) == [{"a": 1}]
    assert path.read_bytes() == b'{"a":1}\n{"a":'
    with pytest.raises(RunError, match="for reading only"):
        journal.append({})


def test_entry_without_json_form_is_refused(tmp_path):
    """An entry that JSON cannot hold is refused before a byte is written."""
    journal = Journal(tmp_path / "journal.jsonl")

    with pytest.raises(SettingsError, match="the journal's entry cannot be written"):
        journal.append({"loss": float("nan")})

    assert (tmp_path / "journal.jsonl").read_bytes() == b""
