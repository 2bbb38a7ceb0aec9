"""The process in which one file is measured: it opens the file, says what that took, and times passes when it is asked to.

Requests and answers are lines of JSON. What libraries print goes elsewhere, so that it cannot get between answers.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_STATUS = Path("/proc/self/status")


def main() -> None:
    """Serve one file until the parent closes its end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends its workers
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    asked = json.loads(sys.stdin.readline())
    try:
        run, about = _opened(asked)
    except Exception as error:  # told in the parent, whatever an opener raises
        _answer(answers, {"error": type(error).__name__, "said": str(error)})
        return
    _answer(answers, about)
    for line in sys.stdin:
        _answer(answers, _timed(run, json.loads(line)["runs"]))


def _opened(asked: dict[str, Any]) -> tuple[Callable[[], object], dict[str, Any]]:
    """One pass as a function, and what it took until there was one."""
    import torch  # noqa: PLC0415 - counts as the runtime's

    torch.set_num_threads(asked["threads"])
    for name in asked["imports"]:
        importlib.import_module(name)
    opener: Any = pkgutil.resolve_name(asked["opener"])
    empty = _resident()
    started = time.perf_counter()
    model = opener(asked["path"], **asked["options"])
    opened = time.perf_counter() - started
    shape = asked["input_shape"] or list(model.input_shape)
    example = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    model.eval()

    def run() -> object:
        with torch.inference_mode():
            return model(example)

    started = time.perf_counter()
    run()
    first = time.perf_counter() - started
    for _ in range(asked["warmup"] - 1):
        run()
    about = {"empty": empty, "opening": opened, "first": first, "input_shape": shape, "peak": _peak()}
    return run, about


def _timed(run: Callable[[], object], runs: int) -> dict[str, Any]:
    """So many passes: milliseconds on the clock and of the processor, and the most memory so far."""
    wall: list[float] = []
    cpu: list[float] = []
    for _ in range(runs):
        began, worked = time.perf_counter(), time.process_time()
        run()
        done, work = time.perf_counter(), time.process_time()
        wall.append(1000 * (done - began))
        cpu.append(1000 * (work - worked))
    return {"wall": wall, "cpu": cpu, "peak": _peak()}


def _resident() -> int:
    """Bytes in memory now; from here on the peak is counted anew, where the system can do that."""
    if not _STATUS.exists():
        return _peak()
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:  # not allowed in some containers: the peak then is that of importing, too
        return _field("VmHWM")
    return _field("VmRSS")


def _peak() -> int:
    """The most bytes in memory so far."""
    if _STATUS.exists():
        return _field("VmHWM")
    # On Linux this figure would be the parent's where that is larger: a new program inherits it.
    import resource  # noqa: PLC0415 - Unix only

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _field(name: str) -> int:
    line = next(line for line in _STATUS.read_text(encoding="ascii").splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def _answer(stream: Any, answer: dict[str, Any]) -> None:
    stream.write(json.dumps(answer) + "\n")
    stream.flush()


if __name__ == "__main__":
    main()
