"""What is to be written: a network that is ready, and how."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, cast

from torch import Tensor, nn

from secateur.errors import ExportError, ModelError
from secateur.quantise import Simulated

MODES = ("float32", "dynamic", "float16", "int8", "int8-only")
"""Number formats of a file, and of what it computes in.

``dynamic`` has int8 weights, and computes with activations that it quantises as it goes; ``float16`` has weights of 16
bits; ``int8`` has int8 weights and activations, with float input and output; ``int8-only`` has an int8 input and output, too.
"""

OBSERVERS = ("minmax", "histogram", "ema")
"""How the range of an activation is found on calibration examples."""

CALIBRATED = frozenset({"int8", "int8-only"})
"""The modes whose ranges of activations come from examples."""


@dataclass(frozen=True, eq=False)
class Request:
    """A network and how its file is to be.

    Attributes:
        model: A copy of the network, on the processor, in eval mode, in float32.
        example: One example, with a batch of one.
        mode: One of `MODES`.
        calibration: Examples from which ranges of activations are taken.
        observer: One of `OBSERVERS`.
        keep_float: Layers that stay float, by their module's path.
        ranges: The network simulated in int8, whose ranges the file is to have.
    """

    model: nn.Module
    example: Tensor
    mode: str = "float32"
    calibration: Tensor | None = None
    observer: str = "minmax"
    keep_float: tuple[str, ...] = ()
    ranges: Simulated | None = None

    @property
    def batches(self) -> list[Tensor]:
        """The calibration examples, one by one."""
        return [] if self.calibration is None else batches_of(self.calibration, 1)

    @property
    def modules(self) -> dict[str, nn.Module]:
        """Every module of the network by each of its paths; the network itself is at the empty one."""
        return dict(cast("Iterator[tuple[str, nn.Module]]", self.model.named_modules(remove_duplicate=False)))

    def keeps(self, paths: Collection[str]) -> bool:
        """Whether one of these modules, or one around it, stays float."""
        return any(
            path == layer or path.startswith(f"{layer}.") for path in paths for layer in self.keep_float
        )


class Narrowed(NamedTuple):
    """A quantised file.

    Attributes:
        content: Its bytes.
        float_operators: Operators that compute in float though the mode is integer, by layer where it is known.
        not_found: Places whose ranges were given and that are not in the file; those are from the calibration examples.
    """

    content: bytes
    float_operators: tuple[str, ...]
    not_found: tuple[str, ...] = ()


class Runner(Protocol):
    """A file that is open and can be run.

    Attributes:
        input_shape: Of one example, without the batch.
        integer: Whether the file itself takes and gives integers.
    """

    input_shape: tuple[int, ...]
    integer: bool

    def __call__(self, inputs: Tensor) -> Tensor:
        """Float outputs ``[n, classes]`` for float inputs ``[n, ...]``."""
        ...


class Target(Protocol):
    """A kind of file.

    Attributes:
        name: As `TARGETS` has it.
        extra: Which extra of this library brings what it needs; empty where nothing is.
        suffix: How the names of its files end.
        runtime: The module that runs its files; empty where that is PyTorch itself.
        modes: What it offers.
        observers: How it can find ranges.
        keeps_float: Whether layers can stay float in it.
        takes_ranges: Whether ranges of activations can be given.
    """

    name: str
    extra: str
    suffix: str
    runtime: str
    modes: tuple[str, ...]
    observers: tuple[str, ...]
    keeps_float: bool
    takes_ranges: bool

    def convert(self, request: Request) -> bytes:
        """The float32 file's content."""
        ...

    def quantise(self, request: Request, content: bytes) -> Narrowed:
        """The file in the mode that is asked for, from the content of the float32 file.

        Raises:
            ExportError: Weights stayed float though nobody asked for it, or anything did in an ``int8-only`` file.
        """
        ...

    def open(self, content: bytes, *, threads: int) -> Runner:
        """Load the content with the target's own runtime."""
        ...


def batches_of(inputs: Tensor, size: int) -> list[Tensor]:
    """Examples in batches of a size; the last may be smaller.

    >>> import torch
    >>> [len(batch) for batch in batches_of(torch.zeros(5, 1), 2)]
    [2, 2, 1]
    """
    return [inputs[start : start + size].contiguous() for start in range(0, len(inputs), size)]


def only(ends: Sequence[Any]) -> Any:
    """The one input, or the one output, of a file.

    Raises:
        ModelError: There are more.
    """
    if len(ends) != 1:
        raise ModelError(f"the file has {len(ends)} inputs or outputs; files of classifiers have one of each")
    return ends[0]


def stayed_float(target: str, request: Request, operators: Sequence[str]) -> ExportError:
    """A quantiser left in float what was to be narrower, and said nothing."""
    listed = ", ".join(operators[:5]) + (f" and {len(operators) - 5} more" if len(operators) > 5 else "")
    return ExportError(
        f"{target} has no {request.mode} form of {listed}; replace that operator in the network, or let the layer stay float with"
        " keep_float"
    )


def named(error: BaseException) -> str:
    """An error's class and the first line of what it says."""
    said = str(error).strip()
    first: Any = next((line.strip() for line in said.splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first[:300]}" if first else type(error).__name__
