"""What test_processes has opened in processes of their own."""

import time
from pathlib import Path

import torch
from torch import nn

BALLAST = 64_000_000


class Logged(nn.Module):
    """Works for so many milliseconds a pass, holds so many bytes, and notes each pass in a file."""

    def __init__(self, path: str, *, seconds: float = 0.0, holds: int = 0) -> None:
        super().__init__()
        self.input_shape = (3,)
        self._log, self._seconds = Path(path).with_name("passes.log"), seconds
        self._name = Path(path).name
        self._held = torch.ones(holds, dtype=torch.uint8)

    def forward(self, x):
        until = time.process_time() + self._seconds
        while time.process_time() < until:
            pass
        with self._log.open("a") as stream:
            stream.write(f"{self._name} {torch.get_num_threads()} {tuple(x.shape)}\n")
        print("noise on the output stream")
        return x


def fails(path: str) -> nn.Module:
    raise ValueError("not today")


def dies(path: str) -> nn.Module:
    raise SystemExit(3)
