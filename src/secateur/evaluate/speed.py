"""How long one forward pass takes here: a measurement, with its conditions."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from secateur.errors import SettingsError
from secateur.train import device_of, mode


@dataclass(frozen=True, slots=True)
class Latency:
    """Wall time of one forward pass.

    Attributes:
        quantiles: Milliseconds by share: 0.5 is the median.
        repeats: Timed passes.
        warmup: Passes before them that were not timed.
        threads: Threads inside an operator, on a processor.
        device: Where.
        input_shape: Of the one batch that was passed, the batch first.
        dtype: Number format of the input.
        torch: Its version.
    """

    quantiles: Mapping[float, float]
    repeats: int
    warmup: int
    threads: int
    device: str
    input_shape: tuple[int, ...]
    dtype: str
    torch: str

    @property
    def median(self) -> float:
        """Milliseconds."""
        return self.quantiles[0.5]


def measure_latency(
    model: nn.Module,
    inputs: Tensor,
    *,
    warmup: int = 10,
    repeats: int = 100,
    threads: int | None = None,
    quantiles: tuple[float, ...] = (0.1, 0.5, 0.9),
    clock: Callable[[], float] = time.perf_counter,
) -> Latency:
    """Time forward passes of one batch in inference mode.

    Args:
        model: Left in the mode it was in.
        inputs: One batch, moved to where the network is.
        warmup: Passes that are not timed: the first ones allocate memory and choose kernels.
        repeats: Timed passes.
        threads: Threads inside an operator; by default as many as torch has now. Set back afterwards.
        quantiles: Which to report; the median is always among them.
        clock: Gives seconds.

    Returns:
        Quantiles of the passes' times and the conditions. The fastest passes say what the machine can do, the slow
        ones what else ran on it.

    Raises:
        SettingsError: A number is out of its range.

    Example:
        >>> measure_latency(nn.Linear(4, 2), torch.zeros(1, 4), warmup=1, repeats=3, threads=1).threads
        1
    """
    if warmup < 0 or repeats < 1 or (threads is not None and threads < 1):
        raise SettingsError(
            f"warmup ({warmup}) cannot be negative, repeats ({repeats}) and threads ({threads}) must be at least 1"
        )
    if not all(0 <= q <= 1 for q in quantiles):
        raise SettingsError(f"quantiles {quantiles} must lie between 0 and 1")
    device = device_of(model)
    ready = inputs.to(device)
    seconds: list[float] = []
    with _threads(threads), mode(model, training=False), torch.inference_mode():
        used = torch.get_num_threads()
        for _ in range(warmup):
            model(ready)
        for _ in range(repeats):
            _wait(device)
            started = clock()
            model(ready)
            _wait(device)
            seconds.append(clock() - started)
    wanted = sorted({0.5, *quantiles})
    values = np.quantile(np.array(seconds) * 1000.0, wanted)
    return Latency(
        quantiles={q: float(v) for q, v in zip(wanted, values, strict=True)},
        repeats=repeats,
        warmup=warmup,
        threads=used,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        input_shape=tuple(inputs.shape),
        dtype=str(inputs.dtype).removeprefix("torch."),
        torch=str(torch.__version__),
    )


def _wait(device: torch.device) -> None:
    """Let a GPU finish what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def _threads(count: int | None) -> Generator[None]:
    """So many threads for a while."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
