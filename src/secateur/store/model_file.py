"""A network in one file: ``save`` and ``load``. Tensors and JSON only; no pickle is ever read."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, cast

from pydantic import JsonValue, ValidationError
from torch import Tensor, nn

from secateur._options import expect
from secateur.errors import FileFormatError, SettingsError
from secateur.networks import Origin, build, origin_of
from secateur.store.coded_file import SUFFIX, CodedFile, coded, is_coded, read_coded, write_coded
from secateur.store.documents import canonical_json
from secateur.store.records import StateDocument, Strict, first_problem
from secateur.store.state import describe, rebuild
from secateur.store.streams import Coder
from secateur.store.tensor_file import DTYPE_NAMES, TensorFile, fingerprints, read_header, write_tensors
from secateur.store.trust import WEIGHT_OPTIONS, ZOO, check_origin, is_spec

FORMAT = 1
"""The version of the file format that this library writes and reads."""

_BUILT_FROM_WEIGHTS = ("image_size", "transform_input")
"""Attributes that torchvision derives from the weights it is asked for."""


class FactoryNeededWarning(UserWarning):
    """A saved network's file does not say how the network is built, so that only `load` with ``factory=`` reads it."""


class ModelDocument(Strict):
    """The JSON document of a model file."""

    format: int
    digest: str
    network: StateDocument
    evaluation: JsonValue
    history: JsonValue


@dataclass(frozen=True)
class ModelFile:
    """What a file says about its network, read without building it.

    Attributes:
        origin: How the unreduced network is built, or None if only the caller knows.
        shapes: The shape of every tensor.
        changes: The changes that made the network.
        evaluation: What was passed to `save`.
        history: What was passed to `save`.
    """

    origin: Origin | None
    shapes: Mapping[str, tuple[int, ...]]
    changes: Sequence[Any]
    evaluation: Any
    history: Any


def save(
    model: nn.Module,
    path: str | PathLike[str],
    *,
    factory: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    evaluation: Mapping[str, Any] | None = None,
    history: Sequence[Any] | None = None,
    coder: Coder = "huffman",
) -> None:
    """Write a network, reduced or not, as one file, from which `load` gives it back.

    The file holds every tensor once (tied weights once, with the names that share them) and one canonical JSON document,
    so the same network always gives the same bytes. It is written atomically.

    Args:
        model: The network. Buffers that ``state_dict`` leaves out are saved too, since they may have been cut.
        path: Where to write. Ending in ``.safetensors``, tensors lie in it as they are, and other programs can read them, too. Ending
            in ``.secateur``, each is coded in the fewest bytes: that pays for tensors of few different numbers or many zeros, such as pruned
            and clustered weights. Either gives back every bit.
        factory: What builds the unreduced network, as for `secateur.networks.build`: a registered name,
            ``torchvision:NAME``, ``timm:NAME`` or ``package.module:callable``. Default: what built this network, if
            `secateur.networks.build` or `load` did; otherwise nothing is recorded, `load` must be given a factory, and a
            `FactoryNeededWarning` says so.
        arguments: Keyword arguments of `factory`, JSON values.
        evaluation: Figures to keep with the network, JSON values.
        history: How it came about, JSON values.
        coder: For ``.secateur``: ``huffman``, or ``ans`` (asymmetric numeral systems: smaller; writing and reading it needs
            ``pip install 'secateur[compress]'``).

    Raises:
        SettingsError: The path, the factory or a JSON value is not usable.
        ModelError: Something in the network cannot be held in a file.
        StoreError: The file could not be written; an old one is as it was.

    Example:
        >>> import tempfile, torch
        >>> from secateur.networks import build
        >>> model = build("lenet5", seed=0).eval()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(model, f"{folder}/lenet5.safetensors", evaluation={"accuracy": 9.8})
        ...     again = load(f"{folder}/lenet5.safetensors")
        >>> image = torch.ones(1, 1, 28, 28)
        >>> torch.equal(again(image), model(image))
        True

    Source:
        The container is safetensors, https://github.com/huggingface/safetensors.
    """
    expect("save(model, path)", model=(model, nn.Module), path=(path, (str, PathLike)))
    origin = _origin(model, factory, arguments)
    write_model(model, path, origin=origin, evaluation=evaluation, history=history, coder=coder)
    if origin is None:
        warnings.warn(
            f"{path} does not say how its {type(model).__name__} is built, so that it can be loaded only with factory=;"
            " build the network with secateur.networks.build('package.module:factory'), or give save factory=, and the"
            " file loads by itself",
            FactoryNeededWarning,
            stacklevel=2,
        )


def write_model(
    model: nn.Module,
    path: str | PathLike[str],
    *,
    origin: Origin | None,
    evaluation: Mapping[str, Any] | None = None,
    history: Sequence[Any] | None = None,
    coder: Coder = "huffman",
) -> None:
    """Write a network's file as `save` does, without a word where it does not say how the network is built."""
    target = Path(path)
    if target.suffix not in (".safetensors", SUFFIX):
        raise SettingsError(
            f"cannot save to {target}: the name of a model file ends in .safetensors, or in {SUFFIX} to be coded; rename it"
        )
    tensors, document = _taken(model, origin=origin, evaluation=evaluation, history=history)
    if target.suffix == SUFFIX:
        write_coded(target, tensors, document, coder=coder)
    else:
        write_tensors(target, tensors, document)


def coded_size(model: nn.Module, *, coder: Coder = "huffman") -> int:
    """The bytes that a network takes in a ``.secateur`` file, without history and figures.

    Args:
        model: The network.
        coder: As for `save`.

    Raises:
        ModelError: Something in the network cannot be held in a file.
        StoreError: The coder needs a library that is not installed.

    Example:
        >>> from secateur.networks import build
        >>> coded_size(build("digits-net", seed=0)) < 4 * 40618
        True
    """
    tensors, document = _taken(model, origin=origin_of(model), evaluation=None, history=None)
    return len(coded(tensors, document, coder=coder))


def _taken(
    model: nn.Module,
    *,
    origin: Origin | None,
    evaluation: Mapping[str, Any] | None,
    history: Sequence[Any] | None,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A network as tensors and the document of its file."""
    tensors, state = describe(model, origin=origin)
    document = {
        "format": FORMAT,
        "network": state.model_dump(),
        "evaluation": evaluation,
        "history": history,
    }
    text = canonical_json(document, what="evaluation or history")
    return tensors, {**document, "digest": _digest(text, tensors)}


def load(
    path: str | PathLike[str],
    *,
    factory: Callable[..., nn.Module] | None = None,
    allow: Sequence[str] = (),
) -> nn.Module:
    """Read a network that `save` wrote.

    The unreduced network is built without its weights, and every parameter and buffer is replaced by the file's, whose
    shapes win. Mode, tied weights, memory formats and frozen parameters are as they were saved.

    Args:
        path: The file, plain or coded.
        factory: Builds the unreduced network, called with the arguments that the file holds, if any. Needed if the file
            does not say how; otherwise it overrides what the file says, and then no code is chosen by the file.
        allow: Packages whose code the file may name. Without it only `secateur.networks`, torchvision's and timm's
            networks are built.

    Returns:
        The network, on the CPU.

    Raises:
        UntrustedImportError: The file asks for code that is not trusted; nothing was imported.
        FileFormatError: It is a pickle, foreign, damaged, of a newer version, or of another network.
        StoreError: It cannot be read.
    """
    source = Path(path)
    file, document = _read(source)
    state = document.network
    origin = None if state.origin is None else Origin(state.origin.spec, state.origin.arguments)
    arguments: Mapping[str, Any] = {} if origin is None else origin.arguments
    make: Callable[[], nn.Module]
    if factory is not None:
        chosen = factory

        def make() -> nn.Module:
            return chosen(**arguments)

    elif origin is not None:
        spec = origin.spec
        check_origin(origin, path=source, allow=allow)

        def make() -> nn.Module:
            return build(spec, **arguments)

    else:
        raise FileFormatError(
            f"{source} does not say how to build its network; pass factory=, a function that makes the unreduced one"
        )
    _check_described(source, file, state)
    tensors = file.read()
    _check_content(source, document, tensors)
    return rebuild(make, tensors, state, source=str(source))


def read_description(path: str | PathLike[str]) -> ModelFile:
    """What a model file says about its network; the network is not built and no tensor is read.

    Raises:
        FileFormatError: It is a pickle, foreign, damaged or of a newer version.
        StoreError: It cannot be read.
    """
    file, document = _read(Path(path))
    state = document.network
    return ModelFile(
        origin=None if state.origin is None else Origin(state.origin.spec, state.origin.arguments),
        shapes={name: entry.shape for name, entry in file.entries.items()},
        changes=tuple(state.changes),
        evaluation=document.evaluation,
        history=document.history,
    )


def _origin(model: nn.Module, factory: str | None, arguments: Mapping[str, Any] | None) -> Origin | None:
    if factory is None:
        if arguments is not None:
            raise SettingsError("arguments belong to a factory; name it with factory=")
        origin = origin_of(model)
    else:
        origin = Origin(factory, dict(arguments or {}))
    if origin is None:
        return None
    if not is_spec(origin.spec):
        raise SettingsError(
            f"factory {origin.spec!r} does not name a network; give a registered name, torchvision:NAME, timm:NAME or"
            " package.module:callable"
        )
    if "spec" in origin.arguments:
        raise SettingsError("a factory's argument cannot be named spec, which build and load use; rename it")
    asked = WEIGHT_OPTIONS & origin.arguments.keys()
    if not (ZOO.fullmatch(origin.spec) and asked):
        return origin
    # The file brings the weights itself, and must not have others fetched. What they implied is kept.
    implied = {name: getattr(model, name) for name in _BUILT_FROM_WEIGHTS if hasattr(model, name)}
    kept = {name: value for name, value in origin.arguments.items() if name not in asked}
    return Origin(origin.spec, {**(implied if origin.spec.startswith("torchvision") else {}), **kept})


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    """A hash of the whole content, to tell damage anywhere in the file."""
    content = canonical_json(fingerprints(tensors), what="the tensors")
    return hashlib.blake2b(f"{text}\n{content}".encode(), digest_size=20).hexdigest()


def _read(path: Path) -> tuple[TensorFile | CodedFile, ModelDocument]:
    file = read_coded(path) if is_coded(path) else read_header(path)
    described: Any = file.document
    version: Any = cast("dict[str, Any]", described).get("format") if isinstance(described, dict) else None
    if isinstance(version, int) and version > FORMAT:
        raise FileFormatError(
            f"{path} has file format {version}, and this version of Secateur reads {FORMAT}; upgrade Secateur"
        )
    if isinstance(described, dict) and cast("dict[str, Any]", described).get("kind") == "masks":
        raise FileFormatError(
            f"{path} holds masks and no network; name the network's own file here (from Python masks are read with"
            " secateur.store.load_masks)"
        )
    try:
        document = ModelDocument.model_validate(described)
    except ValidationError as error:
        raise FileFormatError(
            f"{path} is not a model file, or its description is damaged ({first_problem(error)}); use another copy"
        ) from error
    return file, document


def _check_described(path: Path, file: TensorFile | CodedFile, state: StateDocument) -> None:
    """Before any tensor is read: the file holds those of the network that it describes, and no others."""
    held = {name: DTYPE_NAMES[entry.dtype] for name, entry in file.entries.items()}
    if held != state.dtypes:
        name = min(
            name for name in held.keys() | state.dtypes.keys() if held.get(name) != state.dtypes.get(name)
        )
        raise FileFormatError(
            f"{path} is damaged: {name!r} is {held.get(name, 'not there')}, its description says"
            f" {state.dtypes.get(name, 'nothing of it')}; use another copy"
        )


def _check_content(path: Path, document: ModelDocument, tensors: Mapping[str, Tensor]) -> None:
    text = canonical_json(document.model_dump(exclude={"digest"}), what="the document")
    if _digest(text, tensors) != document.digest:
        raise FileFormatError(
            f"{path} is damaged: its content is not what was saved (the checksum differs); use another copy"
        )
