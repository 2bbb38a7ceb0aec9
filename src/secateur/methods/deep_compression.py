"""Deep compression: a pruned network's weights share a few levels, which are trained, and are coded in as few bits as they need."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import nn

from secateur._files import check_folder
from secateur._libraries import installed, library
from secateur._model import check_finite, copied, named_tensors, unwrapped
from secateur._options import expect, fitting, sentence
from secateur.data import Splits
from secateur.errors import NothingToCutError, SettingsError, StoreError
from secateur.evaluate import Evaluation, evaluate, measure_file
from secateur.methods.reduce import in_format_of
from secateur.networks import origin_of
from secateur.observe import weights_of
from secateur.quantise import Clustered, Folded, Start, cluster, fold, training_levels, unfold
from secateur.store import Coder, coded_size, save
from secateur.store.coded_file import SUFFIX
from secateur.store.model_file import write_model
from secateur.surgery import Masks
from secateur.train import EpochRecord, TrainSettings, fit

CompressMethod: TypeAlias = Literal["deep-compression", "entropy"]

_CODERS: Final[Mapping[CompressMethod, Coder]] = {"deep-compression": "huffman", "entropy": "ans"}
_RATES: Final[Mapping[CompressMethod, float]] = {"deep-compression": 0.0, "entropy": 0.01}


def _tuning() -> TrainSettings:
    return TrainSettings(epochs=3, optimizer="adam", lr=1e-4, schedule="linear", batch_size=64)


class CompressSettings(BaseModel):
    """Options of compression, checked when they are set.

    Attributes:
        method: ``deep-compression``: k-means, and Huffman's code of levels and of runs of zeros. ``entropy``: levels for so much error a bit, and
            asymmetric numeral systems (needs ``pip install 'secateur[compress]'``).
        bits: Weights of a layer share up to 2 to this power levels, besides zero.
        conv_bits: The same for convolutions; None takes ``bits``.
        clusters: In place of bits: how many levels.
        rate: The error that a bit is worth, see `secateur.quantise.cluster`; None is 0 for ``deep-compression`` and 0.01 for ``entropy``.
        start: Where levels begin: ``least`` error, or ``linear`` as printed.
        exclude: Layers whose whole names fit one of these regular expressions keep their weights as they are (``fold`` scales them, too).
        fold: Batch norms give their scale to the layer before them and keep their shift alone, a quarter of their numbers, which is much of a
            file that is otherwise a few bits a weight (needs data). The network computes the same in eval mode; it is no longer one
            to train on.
        half: Biases, what norms hold, and all else that is no weight of a dense or convolutional layer are rounded to half precision at the end, which halves them in the file.
        distil: The levels also learn from the answers of the network as given.
        training: How levels, biases and norms are trained; None leaves them as clustered. ``ema`` and ``keep`` do not matter: the last epoch's
            are kept.
        seed: What every random choice follows from.

    Raises:
        SettingsError: An option is unknown, out of its range, or contradicts another.

    Example:
        >>> CompressSettings(bits=4, conv_bits=6).coder
        'huffman'
        >>> CompressSettings(bits=4, clusters=20)
        Traceback (most recent call last):
        ...
        secateur.errors.SettingsError: give either bits, or clusters
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    method: CompressMethod = "deep-compression"
    bits: int = Field(default=5, ge=1, le=12)
    conv_bits: int | None = Field(default=None, ge=1, le=12)
    clusters: int | None = Field(default=None, ge=1, le=4096)
    rate: float | None = Field(default=None, ge=0)
    start: Start = "least"
    exclude: tuple[str, ...] = ()
    fold: bool = False
    half: bool = False
    distil: bool = False
    training: TrainSettings | None = Field(default_factory=_tuning)
    seed: int = Field(default=0, ge=0)

    if not TYPE_CHECKING:

        def __init__(self, **options):
            try:
                super().__init__(**options)
            except ValidationError as error:
                raise SettingsError(sentence(error, CompressSettings, of=" of compression")) from None

    @model_validator(mode="after")
    def _agree(self) -> CompressSettings:
        if self.clusters is not None and {"bits", "conv_bits"} & self.model_fields_set:
            raise ValueError("give either bits, or clusters")
        return self

    @property
    def coder(self) -> Coder:
        """How levels become bits."""
        return _CODERS[self.method]

    @property
    def error_for_a_bit(self) -> float:
        """The rate, with what was left open."""
        return _RATES[self.method] if self.rate is None else self.rate

    def levels_of(self, layer: nn.Module) -> int:
        """Levels that a layer's weights may share, besides zero."""
        if self.clusters is not None:
            return self.clusters
        dense = isinstance(layer, nn.Linear)
        return 1 << (self.bits if dense or self.conv_bits is None else self.conv_bits)


@dataclass(frozen=True, slots=True)
class LayerBits:
    """What became of one layer's weights.

    Attributes:
        name: The layer.
        weights: How many it has.
        left: How many are not zero.
        levels: Different numbers among them, zero included.
        entropy: Bits a weight, at the least, for levels that are coded by how often they occur.
    """

    name: str
    weights: int
    left: int
    levels: int
    entropy: float


@dataclass(frozen=True, eq=False)
class CompressResult:
    """A compressed network.

    Attributes:
        model: The network, in eval mode, with clustered weights.
        clustered: Levels and indices, by name of the weight.
        layers: What became of each layer.
        sizes: Bytes by how the network is kept: ``raw`` (a plain file), the same under ``gzip``, ``xz`` and, where it is installed, ``zstd``; coded
            with ``huffman`` and, where it is installed, ``ans``.
        size_before: Bytes of the plain file of the network as given.
        before: Quality of the network as given on the validation split, if there are data.
        untrained: That with clustered weights, before their levels were trained.
        after: That of the compressed one.
        history: One record an epoch.
        settings: How it was done.
        file: Where it was written.
    """

    model: nn.Module
    clustered: Mapping[str, Clustered]
    layers: tuple[LayerBits, ...]
    sizes: Mapping[str, int]
    size_before: int
    before: Evaluation | None
    untrained: Evaluation | None
    after: Evaluation | None
    history: tuple[EpochRecord, ...]
    settings: CompressSettings
    file: Path | None


def deep_compression(
    model: nn.Module,
    settings: CompressSettings | None = None,
    *,
    data: Splits | None = None,
    out: str | Path | None = None,
    earlier: Sequence[Any] = (),
    on_epoch: Callable[[EpochRecord], None] | None = None,
    on_batch: Callable[[int, int], None] | None = None,
) -> CompressResult:
    """Cluster the weights of a network, train the levels, and code it into one file.

    Pruning comes first (`secateur.methods.gradual`): weights that are exactly zero stay so. `secateur.load` gives the network back from the file,
    bit by bit.

    Args:
        model: A trained network, best a pruned one; it is left as found.
        settings: The options.
        data: Levels are trained on the training split, and the network is judged on the validation split. Without, it is only clustered and coded.
        out: The file, ending in ``.secateur``; None writes none.
        earlier: What the network's own file says of how it came about.
        on_epoch: Told of each epoch.
        on_batch: Told after each step how many of how many are done.

    Returns:
        The compressed network, its sizes, and what it reaches.

    Raises:
        SettingsError: An expression of ``exclude`` fits no layer, the file's name ends otherwise, or norms are to be folded without data.
        NothingToCutError: No layer is left to cluster.
        DataError: Network and data do not fit.
        ModelError: A weight is not finite, or used in several places.
        StoreError: The file cannot be written, or a library is missing.

    Example:
        >>> from secateur import networks
        >>> found = deep_compression(networks.build("digits-net", seed=0), CompressSettings(clusters=16))
        >>> found.layers[0].levels, found.sizes["huffman"] < found.sizes["gzip"] < found.size_before
        (16, True)

    Source:
        Han, Mao and Dally 2016, Deep Compression, arXiv:1510.00149. Levels begin where the error is least (``start="linear"`` is as printed), run
        lengths take the number of bits that is best for each layer, and biases and norms are trained along with the levels.
    """
    call = "deep_compression(model, CompressSettings(bits=5), data=data, out='net.secateur')"
    chosen = settings or CompressSettings()
    expect(
        call, model=(model, nn.Module), settings=(chosen, CompressSettings), data=(data, (Splits, NoneType))
    )
    names = to_cluster(model, chosen, out=out)
    given = copied(unwrapped(model), {}).eval()
    splits = None if data is None else in_format_of(given, data)
    if chosen.fold and splits is None:
        raise SettingsError("norms are folded by what a forward pass shows, which needs data; give data=")

    def judged(network: nn.Module) -> Evaluation | None:
        return None if splits is None else evaluate(network, splits.validation, classes=splits.classes)

    before = judged(given)
    folded = fold(given, splits.train.inputs[:1]) if chosen.fold and splits is not None else None
    made = copied(given, {}) if folded is None else folded.model
    clustered = {
        name: cluster(
            made.get_parameter(name).detach(),
            chosen.levels_of(made.get_submodule(layer)),
            start=chosen.start,
            rate=chosen.error_for_a_bit,
        )
        for layer, name in names.items()
    }
    _place(made, clustered)
    untrained = judged(made)
    history: tuple[EpochRecord, ...] = ()
    if splits is not None and chosen.training is not None:
        teacher = given if chosen.distil else None
        history = _trained(
            made, clustered, splits, chosen, teacher=teacher, on_epoch=on_epoch, on_batch=on_batch
        )
        clustered = {name: _levels_now(made, name, one) for name, one in clustered.items()}
    after = judged(made) if history else untrained
    if folded is not None:
        made = unfold(Folded(made, folded.pairs, folded.left), given)
    if chosen.half:
        _halve(made, clustered)
        after = judged(made)
    result = CompressResult(
        model=made,
        clustered=clustered,
        layers=tuple(_bits_of(layer, clustered[name]) for layer, name in names.items()),
        sizes=_sizes(made),
        size_before=_plain(given)["raw"],
        before=before,
        untrained=untrained,
        after=after,
        history=history,
        settings=chosen,
        file=None if out is None else Path(out),
    )
    if result.file is not None:
        _save(result, result.file, splits, earlier)
    return result


def to_cluster(
    model: nn.Module, settings: CompressSettings, *, out: str | Path | None = None
) -> dict[str, str]:
    """The weights that `deep_compression` would cluster, by layer, after every check that needs no data.

    Raises:
        SettingsError: An expression of ``exclude`` fits no layer, or the file's name ends otherwise.
        NothingToCutError: No layer is left to cluster.
        ModelError: A weight is not finite.
        StoreError: There is no folder for the file, or a library is missing.

    Example:
        >>> to_cluster(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)), CompressSettings(exclude=("2",)))
        {'0': '0.weight'}
    """
    if out is not None and Path(out).suffix != SUFFIX:
        raise SettingsError(
            f"cannot write to {out}: the name of a compressed file ends in {SUFFIX}; rename it"
        )
    if out is not None:
        check_folder(Path(out))
    if settings.coder == "ans":
        library(
            "constriction", extra="compress", what="the method entropy", instead="take the method deep-compression",
            error=StoreError,
        )  # fmt: skip
    network = unwrapped(model)
    check_finite(named_tensors(network))
    known = weights_of(network)
    spared = fitting(settings.exclude, known, option="exclude")
    names = {layer: name for layer, name in known.items() if layer not in spared}
    if not names:
        raise NothingToCutError(
            "no dense or convolutional layer with a weight of its own is left to cluster; exclude fewer"
        )
    return names


@torch.no_grad()
def _place(model: nn.Module, clustered: Mapping[str, Clustered]) -> None:
    for name, one in clustered.items():
        model.get_parameter(name).copy_(one.weight())


@torch.no_grad()
def _halve(model: nn.Module, clustered: Mapping[str, Clustered]) -> None:
    """Round what has no levels and is no layer's weight to half precision; numbers beyond its range stay as they are."""
    weights = {*clustered, *weights_of(model).values()}
    for name, tensor in named_tensors(model).items():
        if name not in weights and tensor.dtype == torch.float32:
            rounded = tensor.half().float()
            tensor.copy_(torch.where(rounded.isfinite(), rounded, tensor))


def _trained(
    model: nn.Module,
    clustered: Mapping[str, Clustered],
    data: Splits,
    settings: CompressSettings,
    *,
    teacher: nn.Module | None,
    on_epoch: Callable[[EpochRecord], None] | None,
    on_batch: Callable[[int, int], None] | None,
) -> tuple[EpochRecord, ...]:
    """Train the levels in place, and everything that has none; zeros elsewhere stay zero, too."""
    training = (settings.training or _tuning()).but(keep="last", early_stopping=None, ema=None)
    zeros = {
        name: weight.detach() != 0
        for name in weights_of(model).values()
        if name not in clustered and bool(((weight := model.get_parameter(name)) == 0).any())
    }
    with training_levels(model, clustered):
        found = fit(
            model, data.train, data.validation, training, seed=settings.seed, teacher=teacher,
            masks=Masks(zeros) if zeros else None, on_epoch=on_epoch, on_batch=on_batch,
        )  # fmt: skip
    model.eval()
    return found.history


@torch.no_grad()
def _levels_now(model: nn.Module, name: str, was: Clustered) -> Clustered:
    """A weight's levels after they were trained."""
    levels = was.levels.clone()
    levels[was.indices.flatten()] = model.get_parameter(name).detach().cpu().flatten()
    return Clustered(levels, was.indices, zero=was.zero)


def _bits_of(layer: str, one: Clustered) -> LayerBits:
    left = int(one.weight().count_nonzero())
    return LayerBits(layer, one.indices.numel(), left, len(one.levels), one.entropy)


def _sizes(model: nn.Module) -> dict[str, int]:
    coders: tuple[Coder, ...] = ("huffman", "ans") if installed("constriction") else ("huffman",)
    return {**_plain(model), **{coder: coded_size(model, coder=coder) for coder in coders}}


def _plain(model: nn.Module) -> dict[str, int]:
    """What the plain file takes, and what general packers make of it."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.safetensors"
        write_model(model, file, origin=origin_of(model))
        found = measure_file(file)
    sizes = {"raw": found.raw, "gzip": found.gzip, "zstd": found.zstd, "xz": found.xz}
    return {kind: size for kind, size in sizes.items() if size is not None}


def _save(result: CompressResult, file: Path, data: Splits | None, earlier: Sequence[Any]) -> None:
    figures: dict[str, Any] = {"bytes_before": result.size_before, "sizes": dict(result.sizes)}
    if data is not None and result.before is not None and result.after is not None:
        figures |= {
            "data": data.name,
            "input_shape": list(data.input_shape),
            "validation_accuracy": result.after.accuracy,
            "validation_accuracy_before": result.before.accuracy,
            "validation_examples": result.after.count,
        }
    event = {
        "event": "compress",
        "options": result.settings.model_dump(mode="json"),
        "epochs": len(result.history),
    }
    save(result.model, file, evaluation=figures, history=[*earlier, event], coder=result.settings.coder)
