"""Files in processes of their own: turns, times, ratios, memory, and what went wrong."""

import itertools
import json
import subprocess

import pytest
from tests.evaluate import openers

from secateur.errors import SettingsError, StoreError
from secateur.evaluate import Runnable, measure_file, measure_processes

HERE = "tests.evaluate.openers"


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A quick small file and one that works four times as long and holds 64 MB, measured while this process holds more."""
    folder = tmp_path_factory.mktemp("processes")
    quick = Runnable(folder / "quick", f"{HERE}:Logged", {"seconds": 0.004})
    slow = Runnable(folder / "slow", f"{HERE}:Logged", {"seconds": 0.016, "holds": openers.BALLAST})
    own = bytearray(b"x") * 700_000_000
    steps = []
    found = measure_processes([quick, slow], threads=(2,), warmup=3, runs=11, on_step=steps.append)
    del own
    passes = (folder / "passes.log").read_text().splitlines()
    return found, [line.split(" ", 1) for line in passes], steps


def test_files_take_turns(measured):
    """All passes are made, the warm-up before the timed ones, on one example, a fifth of them a turn, with the threads asked for."""
    _, passes, steps = measured
    turns = [(name, len(list(group))) for name, group in itertools.groupby(name for name, _ in passes)]

    assert turns[:2] == [("quick", 3), ("slow", 3)]
    assert turns[2:] == [(name, count) for count in (2, 2, 2, 2, 3) for name in ("quick", "slow")]
    assert {rest for _, rest in passes} == {"2 (1, 3)"}
    assert len(steps) == 2 + 5


def test_ratios_are_to_the_first(measured):
    """A file that works four times as long has a ratio of four, the first file of one; quantiles are in order."""
    (quick, slow), _, _ = measured

    assert (quick.wall_ratio, quick.cpu_ratio) == (1, 1)
    assert slow.cpu_ratio == pytest.approx(4, rel=0.3)
    assert 4 <= quick.cpu[0.1] <= quick.cpu[0.5] <= quick.cpu[0.9]
    assert quick.wall[0.1] >= 4
    assert (quick.runs, quick.warmup, quick.threads, quick.input_shape) == (11, 3, 2, (3,))


def test_memory_is_the_file_s_own(measured):
    """64 MB that a file holds are its own, the runtime is not, and this process's 700 MB are nobody's."""
    (quick, slow), _, _ = measured

    assert openers.BALLAST <= slow.memory < openers.BALLAST + 30_000_000
    assert quick.memory < 30_000_000
    assert all(one.memory == one.peak - one.empty for one in (quick, slow))
    assert all(one.peak < 700_000_000 for one in (quick, slow))
    assert all(one.empty > 50_000_000 for one in (quick, slow))
    assert json.loads(json.dumps(slow.as_dict()))["memory_bytes"] == slow.memory


@pytest.mark.parametrize(("opener", "said"), [("fails", "file: not today"), ("dies", "ended with code 3")])
def test_a_file_that_cannot_run_is_told(opener, said, tmp_path):
    """An opener's error, and a process that ends, are told with the file's name."""
    with pytest.raises(StoreError, match=said):
        measure_processes([Runnable(tmp_path / "file", f"{HERE}:{opener}", input_shape=(3,))])


def test_no_process_is_left_behind(tmp_path, monkeypatch):
    """One whose request cannot be told, as an option is no JSON, has ended when the error arrives."""
    started = []

    class Noted(subprocess.Popen):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Noted)
    with pytest.raises(TypeError, match="not JSON serializable"):
        measure_processes([Runnable(tmp_path / "file", f"{HERE}:Logged", {"seconds": object()})])

    assert [one.returncode is None for one in started] == [False]


@pytest.mark.parametrize("options", [{"runs": 0}, {"warmup": 0}, {"threads": ()}, {"threads": (0,)}])
def test_bad_numbers_are_refused(options, tmp_path):
    """Numbers out of their range are refused before a process starts, and so is nothing to measure."""
    with pytest.raises(SettingsError, match="must be at least 1"):
        measure_processes([Runnable(tmp_path / "file")], **options)
    with pytest.raises(SettingsError, match="no file"):
        measure_processes([])


def test_sizes_of_a_file(tmp_path):
    """Packed sizes are those of the packers, whose output unpacks to the file."""
    file = tmp_path / "weights"
    file.write_bytes(bytes(range(256)) * 400)

    size = measure_file(file)

    assert size.raw == 102_400
    assert 0 < size.xz < size.raw / 50
    assert 0 < size.gzip < size.raw / 50
    assert size.zstd is None or 0 < size.zstd < size.raw / 50
    with pytest.raises(StoreError, match="cannot be read"):
        measure_file(tmp_path / "nothing")
