"""A file as a module: what it answers is measured like a network's."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from secateur._options import did_you_mean
from secateur.errors import (
    DataError,
    FileFormatError,
    SecateurError,
    SettingsError,
    StoreError,
    UntrustedImportError,
)
from secateur.export.executorch import ExecuTorch
from secateur.export.litert import LiteRT
from secateur.export.onnx import Onnx
from secateur.export.request import Runner, Target, named
from secateur.export.torch_export import TorchExport

if TYPE_CHECKING:
    from collections.abc import Mapping

BY_NAME: Mapping[str, Target] = MappingProxyType(
    {target.name: target for target in (LiteRT(), Onnx(), ExecuTorch(), TorchExport())}
)
TARGETS = tuple(BY_NAME)
"""What files can be made for."""


class Deployed(nn.Module):
    """A deployed file that runs with its own runtime, as a module: ``[n, ...]`` floats in, ``[n, classes]`` floats out.

    It has no parameters and cannot learn. What measures networks measures it: `secateur.evaluate.evaluate`,
    `secateur.evaluate.paired_drop` and others.

    Attributes:
        target: Which of `TARGETS` it is for.
        path: Where it was read from.
        input_shape: Of one example, without the batch.
        integer: Whether the file itself takes and gives integers; it is given and gives floats here all the same.
    """

    def __init__(self, runner: Runner, *, target: str, path: Path) -> None:
        super().__init__()
        self._runner = runner
        self.target, self.path = target, path
        self.input_shape, self.integer = runner.input_shape, runner.integer

    def forward(self, inputs: Tensor) -> Tensor:
        """The file's outputs, on the inputs' device.

        Raises:
            DataError: The inputs are not of the shape that the file was made for.
            FileFormatError: The runtime cannot run the file.
        """
        if tuple(inputs.shape[1:]) != self.input_shape or not len(inputs):
            raise DataError(
                f"{self.path.name} takes examples of shape {list(self.input_shape)}, and these are of shape"
                f" {list(inputs.shape[1:])} ({len(inputs)} of them); give it the data it was made for"
            )
        try:
            found = self._runner(inputs.detach().to("cpu", torch.float32))
        except Exception as error:  # each runtime has errors of its own
            raise FileFormatError(
                f"{self.path} fails while it runs ({named(error)}); write it again"
            ) from error
        return found.to(inputs.device)

    def extra_repr(self) -> str:
        """Target and file."""
        return f"{self.target}, {self.path.name}, input {list(self.input_shape)}"


def open_file(
    path: str | PathLike[str], *, allow: Sequence[str] = (), threads: int | None = None
) -> Deployed:
    """Open a deployed file with the runtime that it was made for.

    Args:
        path: A ``.tflite``, ``.onnx``, ``.pte`` or ``.pt2``.
        allow: Name ``"torch"`` to open a ``.pt2``: PyTorch runs code that such a file may hold.
        threads: Threads inside an operator; by default as many as PyTorch uses. ExecuTorch and ``.pt2`` decide themselves.

    Returns:
        A module.

    Raises:
        SettingsError: The name ends in something else, or the runtime is not installed.
        UntrustedImportError: A ``.pt2`` that is not allowed.
        FileFormatError: The file is damaged, or no classifier of one input.
        StoreError: It cannot be read.
    """
    file = Path(path)
    target = target_of(file)
    if target.name == "torch" and "torch" not in allow:
        raise UntrustedImportError(
            f"{file} is an archive of PyTorch's, which may run code while it is read; if you trust it, say so: --allow torch on"
            " the command line, allow=['torch'] in Python"
        )
    try:
        content = file.read_bytes()
    except OSError as error:
        raise StoreError(f"{file} cannot be read: {error.strerror or error}; check the path") from error
    return Deployed(opened(target, content, source=str(file), threads=threads), target=target.name, path=file)


def opened(target: Target, content: bytes, *, source: str, threads: int | None = None) -> Runner:
    """Load a file's content.

    Raises:
        SettingsError: The runtime is not installed.
        FileFormatError: It cannot be loaded.
    """
    try:
        return target.open(content, threads=threads or torch.get_num_threads())
    except SecateurError:
        raise
    except Exception as error:  # each runtime has errors of its own
        raise FileFormatError(
            f"{source} cannot be opened for {target.name} ({named(error)}); write it again from its network, with"
            " `secateur export`, `secateur quantise` or secateur.export.export"
        ) from error


def suffix_of(target: str) -> str:
    """How the names of a target's files end.

    Raises:
        SettingsError: There is no such target.

    Example:
        >>> suffix_of("litert")
        '.tflite'
    """
    if target not in BY_NAME:
        raise SettingsError(f"no target is named {target!r}; {did_you_mean(target, TARGETS)}")
    return BY_NAME[target].suffix


def runtimes_of(path: Path) -> tuple[str, ...]:
    """The modules that run a deployed file, beside PyTorch, by its name's ending.

    Raises:
        SettingsError: The ending is unknown.

    Example:
        >>> runtimes_of(Path("m.onnx")), runtimes_of(Path("m.pt2"))
        (('onnxruntime',), ())
    """
    runtime = target_of(path).runtime
    return (runtime,) if runtime else ()


def is_deployed(path: Path) -> bool:
    """Whether a file's name is that of a deployed file.

    >>> is_deployed(Path("m.tflite")), is_deployed(Path("m.safetensors"))
    (True, False)
    """
    return any(path.suffix == target.suffix for target in BY_NAME.values())


def target_of(path: Path) -> Target:
    """What a file is for, by its name's ending.

    Raises:
        SettingsError: The ending is unknown.
    """
    for target in BY_NAME.values():
        if path.suffix == target.suffix:
            return target
    known = ", ".join(f"{target.suffix} ({target.name})" for target in BY_NAME.values())
    raise SettingsError(f"{path} does not end as a deployed file does; name one of: {known}")
