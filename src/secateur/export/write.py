"""A network as a file that another runtime runs, checked against the network before it is written."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from secateur._files import check_folder, write_atomic
from secateur._model import copied, unwrapped
from secateur._options import did_you_mean, expect, expect_names
from secateur.errors import DataError, ExportError, FileFormatError, SecateurError, SettingsError
from secateur.export.agreement import Agreement, compare
from secateur.export.deployed import BY_NAME, TARGETS, opened
from secateur.export.program import refusal, traced
from secateur.export.quiet import silenced
from secateur.export.request import CALIBRATED, MODES, OBSERVERS, Narrowed, Request, Runner, Target, named
from secateur.quantise import Simulated
from secateur.train import logits

TOLERANCE = 1e-4
"""How far a float32 file's outputs may be from the network's, relative to the largest."""

_CALL = "export(model, example, path, target='litert')"
_DRAWN = 3
_SAVED = {"float16": 2, "dynamic": 3, "int8": 3, "int8-only": 3}
"""Bytes that a weight is narrower by."""
_COUNTS = 20_000
"""In smaller networks the scales weigh as much as what is saved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A file that was made of a network, and how it compares.

    Attributes:
        path: Where it is.
        target: One of `TARGETS`.
        mode: One of `MODES`.
        bytes: Its size.
        deviation: Of the file's outputs from the network's: max |y − y'| / max |y|.
        sqnr: Signal to quantisation noise of the outputs in decibels; infinite where they are equal.
        agreement: Percent of examples with the same answer.
        compared: Examples on which the three were measured.
        float_operators: Operators that compute in float though the mode is integer, by layer where it is known.
        ranges_not_found: Of ``ranges`` those whose activations are not in the file; there calibration examples decided.
    """

    path: Path
    target: str
    mode: str
    bytes: int
    deviation: float
    sqnr: float
    agreement: float
    compared: int
    float_operators: tuple[str, ...] = ()
    ranges_not_found: tuple[str, ...] = ()

    def __str__(self) -> str:
        return (
            f"{self.path}: {self.mode} for {self.target}, {self.bytes:,} bytes; on {self.compared} examples the same answer in"
            f" {self.agreement:.2f} %, {self.sqnr:.1f} dB"
        )


def export(
    model: nn.Module,
    example: Tensor,
    path: str | PathLike[str],
    *,
    target: str,
    mode: str = "float32",
    calibration: Tensor | None = None,
    observer: str = "minmax",
    keep_float: Collection[str] = (),
    ranges: Simulated | None = None,
    held_out: Tensor | None = None,
) -> Exported:
    """Write a network as a file that another runtime runs.

    The float32 file is made first, in memory, and must compute what the network does, to a relative 1e-4, on the examples
    given and on three batches of noise. A quantised file is made from it; what should be integer in it is checked. Nothing is
    written before all of that holds.

    Args:
        model: A classifier of one input; in eval mode in the file, whatever mode it is in, and left as found.
        example: Inputs ``[n, ...]``; shapes come from it, and the outputs are compared on it.
        path: Where to write, ending as the target's files do.
        target: ``"litert"``, ``"onnx"``, ``"executorch"`` or ``"torch"``.
        mode: One of `MODES`. Not every target offers every one.
        calibration: Examples ``[n, ...]`` from the training data from which an integer mode takes the ranges of activations.
        observer: How: ``"minmax"`` covers all values seen; ``"histogram"`` clips where that makes the squared error of
            rounding and clipping least; ``"ema"`` is LiteRT's own default, a moving average of extremes, which
            clips rare large values hard.
        keep_float: Layers that stay float, by their modules' paths; what is inside them stays float, too.
        ranges: The network simulated in int8 (`secateur.quantise`), whose ranges of activations the file is to have, such as
            those of quantisation-aware training. They are found in the file by the values of the activations; only operators that
            the converter made up take theirs from ``calibration``.
        held_out: Examples ``[n, ...]`` on which the figures of the result are measured; by default ``example``.

    Returns:
        Where the file is, how large, and how it compares with the network.

    Raises:
        SettingsError: An option is out of its range or not offered by the target, or the target's library is missing.
        DataError: Examples or calibration do not fit, or the network is no classifier of one tensor.
        ExportError: The target cannot take the network, the file computes something else, or not all that should be integer is.
        StoreError: The file could not be written; an old one is as it was.

    Example:
        >>> import tempfile
        >>> from secateur.networks import build
        >>> model, digits = build("digits-net", seed=0), torch.rand(5, 1, 8, 8)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     made = export(model, digits, f"{folder}/model.pt2", target="torch")
        >>> made.agreement, made.deviation < 1e-4
        (100.0, True)
    """
    expect(_CALL, model=(model, nn.Module), example=(example, Tensor))
    expect_names(keep_float=keep_float)
    chosen = _target(target, mode, observer, keep_float)
    file = _file(path, chosen)
    ready = _ready(
        model, example, mode=mode, calibration=calibration, observer=observer, keep_float=keep_float
    )
    if ranges is not None:
        ready = replace(ready, ranges=_same_network(ranges, ready, chosen))
    content = chosen.convert(ready)
    _check_same(ready, _loaded(chosen, ready, content), example, held_out, target=target)
    left: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    if mode != "float32":
        wide = len(content)
        content, left, lost = _quantised(chosen, ready, content)
        _check_smaller(ready, wide, len(content), target=target)
    judged = example if held_out is None else held_out
    found = _agreement(ready, _loaded(chosen, ready, content), judged)
    write_atomic(file, [content], size=len(content))
    return Exported(
        path=file,
        target=target,
        mode=mode,
        bytes=len(content),
        deviation=found.deviation,
        sqnr=found.sqnr,
        agreement=found.agreement,
        compared=found.count,
        float_operators=left,
        ranges_not_found=lost,
    )


def check_offered(
    target: str,
    mode: str,
    *,
    observer: str = "minmax",
    keep_float: Collection[str] = (),
    model: nn.Module | None = None,
    path: str | PathLike[str] | None = None,
) -> None:
    """Refuse what `export` would refuse later, before anything is done, such as a training that would be lost.

    Args:
        target: As for `export`.
        mode: As for `export`.
        observer: As for `export`.
        keep_float: As for `export`.
        model: The network, for the names in ``keep_float``; None where it is not there yet.
        path: Where the file is to be written; None where that is not known yet.

    Raises:
        SettingsError: There is no such target, mode, observer or layer, the target does not offer it, or its files are named otherwise.
        StoreError: There is no folder for the file.

    Example:
        >>> check_offered("litert", "int8")
    """
    expect_names(keep_float=keep_float)
    chosen = _target(target, mode, observer, keep_float)
    if model is not None:
        _check_layers(unwrapped(model), keep_float)
    if path is not None:
        _file(path, chosen)


def _check_layers(model: nn.Module, keep_float: Collection[str]) -> None:
    found = cast("Iterator[tuple[str, nn.Module]]", model.named_modules(remove_duplicate=False))
    paths = [path for path, _ in found if path]
    for name in keep_float:
        if name not in paths:
            raise SettingsError(f"keep_float names {name!r}, which is no layer; {did_you_mean(name, paths)}")


def _target(name: str, mode: str, observer: str, keep_float: Collection[str]) -> Target:
    """The target, if it offers what is asked for."""
    for option, value, known in (
        ("target", name, TARGETS),
        ("mode", mode, MODES),
        ("observer", observer, OBSERVERS),
    ):
        if value not in known:
            raise SettingsError(f"no {option} is named {value!r}; {did_you_mean(str(value), known)}")
    target = BY_NAME[name]
    if mode not in target.modes:
        others = ", ".join(other.name for other in BY_NAME.values() if mode in other.modes)
        raise SettingsError(
            f"{name} does not offer mode='{mode}'; it offers {', '.join(target.modes)} ({mode} is offered by {others})"
        )
    if mode in CALIBRATED and observer not in target.observers:
        raise SettingsError(
            f"{name} does not offer observer='{observer}'; it offers {', '.join(target.observers)}"
        )
    if keep_float and mode == "float32":
        raise SettingsError(
            "keep_float is for quantised files, and in mode='float32' all is float; leave it out"
        )
    return target


def _same_network(ranges: Simulated, ready: Request, target: Target) -> Simulated:
    """Ranges that belong to the network, in a file that takes them."""
    expect(_CALL, ranges=(ranges, Simulated))
    if not target.takes_ranges:
        others = ", ".join(other.name for other in BY_NAME.values() if other.takes_ranges)
        raise SettingsError(
            f"{target.name} takes no ranges of activations; give calibration examples alone, or take {others}"
        )
    if ready.mode not in CALIBRATED:
        raise SettingsError(
            f"mode='{ready.mode}' has no ranges of activations; leave ranges out, or take {' or '.join(sorted(CALIBRATED))}"
        )
    made = ranges.on(copied(ranges.network, {}).to("cpu", torch.float32).eval()).cpu()
    inputs = ready.batches[0]
    if not compare(logits(ready.model, inputs), logits(made.network, inputs)).deviation <= TOLERANCE:
        raise SettingsError(
            "the ranges are of another network than the one that is exported; give what was simulated of this one, and export its"
            " network"
        )
    return made


def _file(path: str | PathLike[str], target: Target) -> Path:
    file = Path(path)
    if file.suffix != target.suffix:
        raise SettingsError(
            f"{file} does not end in {target.suffix}, by which a file for {target.name} is known when it is opened; name it so"
        )
    check_folder(file)
    return file


def _ready(
    model: nn.Module,
    example: Tensor,
    *,
    mode: str,
    calibration: Tensor | None,
    observer: str,
    keep_float: Collection[str],
) -> Request:
    """A copy of the network as the targets take it, with inputs that were checked."""
    network = unwrapped(model)
    _check_inputs("example", example)
    if mode in CALIBRATED and calibration is None:
        raise SettingsError(
            f"mode='{mode}' takes the ranges of activations from examples; give calibration=, a hundred inputs of the training"
            " data, say"
        )
    if calibration is not None:
        _check_inputs("calibration", calibration, like=example)
    copy = copied(network, {}).to("cpu", torch.float32).eval()
    copy.requires_grad_(False)
    held = None if calibration is None else calibration.detach().to("cpu", torch.float32)
    one = example[:1].detach().to("cpu", torch.float32).contiguous()
    request = Request(copy, one, mode, held, observer, tuple(keep_float))
    _check_layers(copy, keep_float)
    logits(copy, one)  # says what is wrong with a network that is no classifier of one tensor
    return request


def _check_inputs(what: str, inputs: Tensor, *, like: Tensor | None = None) -> None:
    """Refuse what are no examples."""
    expect(_CALL, **{what: (inputs, Tensor)})
    if not inputs.is_floating_point() or inputs.ndim < 2 or not inputs.numel():
        raise DataError(
            f"{what} is {inputs.dtype} of shape {tuple(inputs.shape)}; give floats [n, ...], the batch first"
        )
    if not bool(torch.isfinite(inputs).all()):
        raise DataError(f"{what} holds values that are not finite; give the data as the network takes them")
    if like is not None and inputs.shape[1:] != like.shape[1:]:
        raise DataError(
            f"{what} has examples of shape {list(inputs.shape[1:])}, and the network is exported for {list(like.shape[1:])};"
            " give inputs of the same data"
        )


def _quantised(target: Target, ready: Request, content: bytes) -> Narrowed:
    """The narrower file; what the quantiser raises is told as what the converter does.

    Raises:
        ExportError: The quantiser cannot take the network.
    """
    try:
        return target.quantise(ready, content)
    except SecateurError:
        raise
    except Exception as error:  # a quantiser raises whatever its passes do
        raise refusal(target.name, traced(ready, batch="one"), error) from error


def _loaded(target: Target, ready: Request, content: bytes) -> Runner:
    """The file in its runtime; one that was only just made and cannot be loaded is the network's fault, not the file's.

    Raises:
        ExportError: The runtime has no kernel for an operator.
    """
    try:
        return opened(target, content, source="the file")
    except FileFormatError as error:
        raise refusal(target.name, traced(ready, batch="one"), error) from error


def _check_same(
    ready: Request, runner: Runner, example: Tensor, held_out: Tensor | None, *, target: str
) -> None:
    """Refuse a float32 file that does not compute what the network does."""
    for inputs in [example, *([] if held_out is None else [held_out]), *_drawn(ready.example)]:
        found = _agreement(ready, runner, inputs)
        if not found.deviation <= TOLERANCE:
            raise ExportError(
                f"the file for {target} does not compute what the network does: its outputs differ by {found.deviation:.1e} of the"
                f" largest, and {TOLERANCE:g} is allowed; the converter has an error on this network, so take another target"
            )


def _check_smaller(ready: Request, wide: int, narrow: int, *, target: str) -> None:
    """Refuse a file that is not smaller by at least half of what its weights should save."""
    parameters = sum(p.numel() for p in ready.model.parameters())
    saved = _SAVED[ready.mode] * parameters
    if parameters >= _COUNTS and not ready.keep_float and narrow > wide - saved / 2:
        raise ExportError(
            f"the {ready.mode} file for {target} has {narrow:,} bytes, and that in float32 {wide:,}: weights stayed float that no"
            " check has found; take another mode, and report this network"
        )


def _drawn(example: Tensor) -> list[Tensor]:
    """Batches of noise around an example, the same each time."""
    generator = torch.Generator().manual_seed(0)
    spread = float(example.std(correction=0)) or 1.0
    shape = (2, *example.shape[1:])
    return [float(example.mean()) + spread * torch.randn(shape, generator=generator) for _ in range(_DRAWN)]


def _agreement(ready: Request, runner: Runner, inputs: Tensor) -> Agreement:
    given = inputs.detach().to("cpu", torch.float32)
    wanted = logits(ready.model, given)
    try:
        with silenced():
            found = runner(given)
    except Exception as error:  # each runtime has errors of its own
        raise ExportError(
            f"the file was made, and its runtime cannot run it ({named(error)}); take another target"
        ) from error
    return compare(wanted, found)
