"""What a command line names: a network or a saved file, and data."""

from __future__ import annotations

import pkgutil
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from torch import nn

from secateur.channels.nested import tensors_in
from secateur.cli.progress import doing
from secateur.data import Splits
from secateur.data import load as load_data
from secateur.errors import RunError, SettingsError, UntrustedImportError
from secateur.export import Deployed, is_deployed, open_file
from secateur.methods import KIND, MODEL_FILE, PRUNE
from secateur.methods.training import KIND as TRAIN
from secateur.networks import Origin, build, classes_argument, input_shape_of, names, origin_of
from secateur.store import RunFolder, load, read_description
from secateur.store.run import SETTINGS_FILE
from secateur.store.trust import MODULES, WEIGHT_OPTIONS, within

_FILE_ENDINGS = frozenset(
    {".bin", ".ckpt", ".onnx", ".pkl", ".pt", ".pt2", ".pte", ".pth", ".safetensors", ".secateur", ".tflite"}
)

_RESUMED = frozenset({KIND, PRUNE, TRAIN})
"""Kinds of runs that end with a network, and go on with the command of their name."""


@dataclass(frozen=True, eq=False)
class Source:
    """A network, and what is known of it.

    Attributes:
        model: The network.
        origin: How the unreduced network is built, without its weights.
        file: Where it was read from; None for one that was built by name.
        evaluation: The figures in the file.
        history: How it came about, says the file.
    """

    model: nn.Module
    origin: Origin
    file: Path | None = None
    evaluation: Mapping[str, Any] = field(default_factory=dict[str, Any])
    history: Sequence[Any] = ()

    @property
    def input_shape(self) -> tuple[int, ...] | None:
        """The shape of one example, as far as it is known."""
        kept = self.evaluation.get("input_shape")
        if not isinstance(kept, list):
            return input_shape_of(self.origin.spec)
        return tuple(cast("list[int]", kept))

    @property
    def training(self) -> Mapping[str, Any]:
        """The settings of its last training, as far as the file has them; a reduction's are not among them."""
        found = [
            cast("dict[str, Any]", event).get("settings") for event in self.history if isinstance(event, dict)
        ]
        known = [cast("dict[str, Any]", settings) for settings in found if isinstance(settings, dict)]
        return known[-1] if known else {}


def open_network(
    named: str,
    *,
    arguments: Mapping[str, Any] | None = None,
    allow: Sequence[str] = (),
    seed: int | None = None,
    stem: str | None = None,
    classes: int | None = None,
) -> Source:
    """Build a network by its name, or read a saved one from its file or the run folder that holds it.

    Args:
        named: A registered name, ``timm:NAME``, ``torchvision:NAME``, ``package.module:factory``, or a path.
        arguments: The network's arguments, for one that is built.
        allow: Packages whose code a file may ask for.
        seed: Initialises a network that is built.
        stem: The stem of one that is built; see `secateur.networks.build`.
        classes: Outputs of one that is built, unless its arguments say otherwise or weights are fetched that fix them.

    Raises:
        SettingsError: Arguments, or a stem, are given for a saved network.
        ModelError: No such network, or it cannot be built.
        RunError: The run that is to make it has not ended.
        StoreError: The file cannot be used.
    """
    file = _file_named(named)
    if file is None:
        given = {**_outputs(named, classes, arguments or {}), **(arguments or {})}
        if stem is not None:
            given["stem"] = stem
        with doing(f"building {named}"):
            model = build(named, seed=seed, **given)
        return Source(model, _without_weights(Origin(named, given), model))
    if is_deployed(file):
        raise SettingsError(
            f"{file} is a deployed file, which `secateur evaluate` measures; name the .safetensors that it was made of"
        )
    if arguments or stem:
        raise SettingsError(
            f"{file} says itself how its network is built; leave {'--arg' if arguments else '--stem'} out"
        )
    _check_ended(file)
    described = read_description(file)
    if described.origin is None:
        raise SettingsError(
            f"{file} does not say how its network is built; read it from Python with secateur.load(..., factory=), and save it"
            " with the name of a function that builds it, secateur.save(..., factory='package.module:function')"
        )
    with doing(f"reading {file}"):
        model = _loaded(file, described.origin, allow)
    origin = origin_of(model) or described.origin
    evaluation, history = described.evaluation, described.history
    return Source(
        model,
        origin,
        file,
        cast("dict[str, Any]", evaluation) if isinstance(evaluation, dict) else {},
        cast("list[Any]", history) if isinstance(history, list) else (),
    )


def _check_ended(file: Path) -> None:
    """Raise RunError where a run's network is not there yet, or where a folder holds none."""
    folder = file.parent
    if file.name != MODEL_FILE or file.exists() or not folder.is_dir():
        return
    if not (folder / SETTINGS_FILE).exists():
        raise RunError(
            f"{folder} holds neither a network ({MODEL_FILE}) nor a run that makes one; check the path"
        )
    with RunFolder.open(folder, read_only=True) as run:
        kind = run.kind
    if kind not in _RESUMED:
        raise RunError(
            f"{folder} is the folder of a {kind}, which has no network of its own; name a network's file"
        )
    raise RunError(
        f"{folder} has no network yet: its run has not ended; go on with: {again(folder, kind=kind)}"
    )


def again(folder: Path, *, kind: str) -> str:
    """The command with which a run goes on.

    >>> again(Path("my runs/small"), kind="reduce")
    "secateur reduce 'my runs/small' --resume"
    """
    return shlex.join(["secateur", kind, str(folder), "--resume"])


def _outputs(named: str, classes: int | None, arguments: Mapping[str, Any]) -> Mapping[str, int]:
    """The argument that gives a network the outputs that the data ask for, unless something else decides on them.

    >>> _outputs("timm:vgg11", 10, {}), _outputs("timm:vgg11", 10, {"num_classes": 5}), _outputs("lenet5", None, {})
    ({'num_classes': 10}, {}, {})
    """
    if (
        classes is None or arguments.get("weights") is not None
    ):  # torchvision's weights come with their outputs
        return {}
    wanted = classes_argument(named, classes=classes)
    return {} if arguments.keys() & {"classes", "num_classes"} else wanted


def _loaded(file: Path, origin: Origin | None, allow: Sequence[str]) -> nn.Module:
    try:
        return load(file, allow=allow)
    except UntrustedImportError as error:
        spec = "" if origin is None else origin.spec
        package = spec.partition(":")[0].partition(".")[0]
        if package in {"", "torchvision", "timm", *allow}:
            raise
        raise UntrustedImportError(
            f"{file} asks for code from {spec!r}, and {package!r} is not trusted; if you trust it, add --allow {package}"
        ) from error


def open_deployed(named: str, *, allow: Sequence[str] = ()) -> Deployed | None:
    """Open a deployed file with its own runtime; None for a name that is not of one."""
    file = Path(named)
    if not is_deployed(file):
        return None
    with doing(f"reading {file}"):
        return open_file(file, allow=allow)


def open_example(named: str) -> tuple[Any, tuple[int, ...]]:
    """An example input from a function of the user's, and the shape of one example of its first tensor.

    Args:
        named: ``package.module:function``; what it returns is the input with a batch axis: a tensor, a tuple of arguments, or a
            dictionary of them.

    Raises:
        SettingsError: There is no such function, it fails, or it returns no tensor.
    """
    try:
        example = pkgutil.resolve_name(named)()
    except Exception as error:  # importing and calling somebody's code
        raise SettingsError(
            f"--example {named}: {type(error).__name__}: {error}; name a function without arguments that returns an input,"
            " as package.module:function, and see that its folder is on PYTHONPATH"
        ) from error
    first = next(tensors_in(example), None)
    if first is None or not first.dim():
        raise SettingsError(
            f"--example {named} returned a {type(example).__name__} without a tensor that has a batch axis; return the input"
            " as the network takes it: a tensor, a tuple of arguments, or a dictionary of them"
        )
    return example, tuple(first.shape[1:])


def open_data(
    named: str, *, data_dir: Path | str | None = None, seed: int = 0, validation: float | None = None
) -> Splits:
    """Load the data of a command line; see `secateur.data.load`."""
    with doing(f"loading {named}"):
        return load_data(named, data_dir=data_dir, seed=seed, validation=validation)


def data_options(asked: Mapping[str, Any]) -> dict[str, Any]:
    """What a command line says about the data, as :func:`open_data` takes it."""
    return {
        "data_dir": asked.get("data_dir"),
        "seed": asked.get("data_seed", 0),
        "validation": asked.get("validation"),
    }


def allowance(spec: str, data: str) -> list[str]:
    """What a command line must add so that a file of such a network is read, where its code is the user's own.

    >>> allowance("pkg.nets:small", "digits"), allowance("own:net", "own:splits"), allowance("timm:resnet18", "digits")
    (['--allow', 'pkg'], [], [])
    """
    module, colon, _ = spec.partition(":")
    known = (*MODULES, "torchvision", "timm", *trusted(None, data))
    if not colon or within(module, known):
        return []
    return ["--allow", module.partition(".")[0]]


def trusted(allow: Sequence[str] | None, data: str | None) -> list[str]:
    """What the caller trusts: what `--allow` names, and the module that `--data` has imported anyway.

    >>> trusted(["nets"], "mine:splits"), trusted(None, "cifar10:1000")
    (['nets', 'mine'], [])
    """
    module, colon, name = (data or "").partition(":")
    imported = colon and name.isidentifier() and not Path(data or "").exists()
    return [*(allow or ()), *([module] if imported else [])]


def _file_named(named: str) -> Path | None:
    if named in names():
        return None
    path = Path(named)
    if path.is_dir():
        return path / MODEL_FILE
    return path if path.is_file() or path.suffix in _FILE_ENDINGS or "/" in named else None


def _without_weights(origin: Origin, model: nn.Module) -> Origin:
    """How to build the network again without fetching its weights; what they implied is kept."""
    if not origin.spec.startswith(("torchvision:", "timm:")) or not WEIGHT_OPTIONS & origin.arguments.keys():
        return origin
    kept = {name: value for name, value in origin.arguments.items() if name not in WEIGHT_OPTIONS}
    if hasattr(model, "transform_input"):
        kept = {"transform_input": bool(model.transform_input), **kept}
    return Origin(origin.spec, kept)
