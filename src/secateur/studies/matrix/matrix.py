"""A matrix: networks by treatments (quantised, pruned, coded, ...), each measured as the file that is deployed; read from one small file."""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from secateur._options import about, did_you_mean, sentence, worst
from secateur.errors import SettingsError
from secateur.export import check_offered
from secateur.methods import CompressSettings, Deployment, GradualSettings, ReduceSettings
from secateur.methods.prepared import QAT, settling
from secateur.studies.matrix.treatment import MatrixCell, Treatment
from secateur.studies.study import Several, read_seeds
from secateur.train import TrainSettings
from secateur.train.recipes import recipe_for, recipe_named

_OWN: Final[Mapping[str, Mapping[str, str]]] = {
    "pruning": {
        "sparsity": "give it as a treatment's sparsity",
        "granularity": "give it as a treatment's granularity",
        "seed": "it is the cell's, of seeds",
    },
    "reduction": {
        "max_drop": "give it as a treatment's max_drop",
        "deploy": "it follows from a treatment's mode",
        "seed": "it is the cell's, of seeds",
    },
    "coding": {"method": "give it as a treatment's compress", "seed": "it is the cell's, of seeds"},
}
"""Tables of options, and which options stand elsewhere."""

METRICS: Final = ("accuracy", "top3", "bytes", "gzip", "milliseconds", "memory")
"""What may be printed elsewhere, and is shown beside: percent, bytes, and milliseconds for one example."""


class Matrix(BaseModel):
    """Networks by treatments, for ``secateur compare``.

    Attributes:
        name: Its title.
        networks: Names of networks (`secateur.networks.build`).
        data: The name of a data set.
        seeds: A list; each draws its own network, and everything that is random in its cells.
        validation: Validation examples: a count, or a share (see `secateur.data.load`).
        target: The runtime that the files are for.
        observer: How ranges of activations are found.
        calibration: Training examples on which they are found.
        runs: Timed passes of one example.
        warmup: Passes before them.
        train: How networks are trained: ``recipe``, and changes to it; in a table ``networks``, by name, further changes for some.
        pruning: Options of gradual pruning (`secateur.methods.GradualSettings`; of its training in a table ``training``). Like ``train`` it may hold
            a table ``networks``; so may the next two.
        reduction: Options of a reduction (`secateur.methods.ReduceSettings`).
        coding: Options of compression (`secateur.methods.CompressSettings`).
        quantising: How networks are trained in mode ``qat``: changes to their own training, for 3 epochs at a fiftieth of its rate.
        treatment: The treatments.
        source: Where the printed figures are from.
        printed: By network and treatment, what is printed elsewhere, shown beside; see `METRICS`.

    Raises:
        SettingsError: A key is unknown, a value is out of its range, or a combination is impossible; it says where.

    Example:
        >>> matrix = Matrix(networks="digits-net", data="digits", seeds=[0], treatment=[
        ...     {"name": "trained"}, {"name": "int8", "mode": "int8"}])
        >>> [cell.treatment.name for cell in matrix.cells()]
        ['trained', 'int8']
        >>> Matrix(networks="digits-net", data="digits", treatment=[{"name": "int8", "modus": "int8"}])
        Traceback (most recent call last):
        ...
        secateur.errors.SettingsError: no key of a treatment is named 'modus'; did you mean 'mode'?
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = "matrix"
    networks: Several[str]
    data: str
    seeds: Annotated[tuple[int, ...], BeforeValidator(read_seeds), Field(min_length=1)] = (0,)
    validation: int | float | None = None
    target: str = "litert"
    observer: str = "minmax"
    calibration: int = Field(default=100, ge=1)
    runs: int = Field(default=50, ge=1)
    warmup: int = Field(default=1, ge=1)
    train: dict[str, Any] = Field(default_factory=dict)
    pruning: dict[str, Any] = Field(default_factory=dict)
    reduction: dict[str, Any] = Field(default_factory=dict)
    coding: dict[str, Any] = Field(default_factory=dict)
    quantising: dict[str, Any] = Field(default_factory=dict)
    treatment: tuple[Treatment, ...] = Field(min_length=1)
    source: str = ""
    printed: dict[str, dict[str, dict[str, float]]] = Field(default_factory=dict)

    if not TYPE_CHECKING:

        def __init__(self, **options):
            try:
                super().__init__(**options)
            except ValidationError as error:
                raise SettingsError(_where(error)) from None
            self._check()

    @classmethod
    def read(cls, path: str | Path) -> Matrix:
        """A matrix from its TOML file.

        Raises:
            SettingsError: There is no such file, it is no TOML, or what it says is wrong.
        """
        file = Path(path)
        options: dict[str, Any] = {"name": file.stem, **read_toml(file)}
        with about(file, SettingsError):
            return cls(**options)

    def training(self, network: str) -> TrainSettings:
        """How a network is trained."""
        changes = dict(self.train)
        changes |= changes.pop("networks", {}).get(network, {})
        recipe = changes.pop("recipe", None)
        known = recipe_for(network, self.data) if recipe is None else recipe_named(recipe)
        return known.but(**changes)

    def cells(self) -> tuple[MatrixCell, ...]:
        """Every cell, network by network; the first treatment of each is what others are compared with."""
        return tuple(
            self._cell(network, seed, treatment)
            for network, seed, treatment in itertools.product(self.networks, self.seeds, self.treatment)
        )

    def _cell(self, network: str, seed: int, treatment: Treatment) -> MatrixCell:
        training = self.training(network)
        deployment = Deployment(
            target=self.target, mode=treatment.written, observer=self.observer, calibration=self.calibration
        )
        return MatrixCell(
            network, self.data, seed, training, treatment, deployment,
            pruning=self._pruning(network, treatment, seed),
            reduction=self._reduction(network, treatment, deployment, seed),
            coding=self._coding(network, treatment, seed),
            aware=settling(training, **self.quantising) if treatment.mode == QAT else None,
            validation=self.validation, runs=self.runs, warmup=self.warmup,
        )  # fmt: skip

    def _pruning(self, network: str, treatment: Treatment, seed: int) -> GradualSettings | None:
        if treatment.sparsity is None:
            return None
        options = _merged(self.pruning, treatment.pruning, network)
        usual = GradualSettings(sparsity=treatment.sparsity).training
        options["training"] = usual.but(**options.get("training", {}))
        return GradualSettings(
            sparsity=treatment.sparsity, granularity=treatment.granularity, seed=seed, **options
        )

    def _reduction(
        self, network: str, treatment: Treatment, deployment: Deployment, seed: int
    ) -> ReduceSettings | None:
        if treatment.max_drop is None:
            return None
        options = _merged(self.reduction, treatment.reduction, network)
        if "retrain" in options:
            changes = options.pop("retrain")
            options["retrain"] = ReduceSettings(max_drop=treatment.max_drop).retrain.but(**changes)
        narrow = treatment.mode not in ("float32", QAT)
        return ReduceSettings(
            max_drop=treatment.max_drop, deploy=deployment if narrow else None, seed=seed, **options
        )

    def _coding(self, network: str, treatment: Treatment, seed: int) -> CompressSettings | None:
        if treatment.compress is None:
            return None
        options = _merged(self.coding, treatment.coding, network)
        usual = CompressSettings().training
        if "training" in options and usual is not None:
            options["training"] = usual.but(**options["training"])
        return CompressSettings(method=treatment.compress, seed=seed, **options)

    def _check(self) -> None:
        """Refuse what cannot be, before anything runs."""
        names = [treatment.name for treatment in self.treatment]
        for key, values in (("networks", self.networks), ("seeds", self.seeds), ("treatment", names)):
            again = next((value for value in values if list(values).count(value) > 1), None)
            if again is not None:
                raise SettingsError(f"{key} names {again!r} more than once; name each once")
        tables = {name: getattr(self, name) for name in ("train", *_OWN)}
        for one in self.treatment:
            tables |= {f"{name} of treatment {one.name!r}": getattr(one, name) for name in _OWN}
        for name, table in tables.items():
            with about(name, SettingsError):
                _check_table(table, self.networks, taken=_OWN.get(name.split()[0], {}))
        for network in self.networks:
            with about("train", SettingsError):
                self.training(network)
        for treatment in self.treatment:
            with about(f"treatment {treatment.name!r}", SettingsError):
                _check_treatment(treatment, self.target)
                for network in self.networks:
                    self._cell(network, self.seeds[0], treatment)
        _check_first(self.treatment[0])
        self._check_printed(names)

    def _check_printed(self, treatments: list[str]) -> None:
        known = {"network": self.networks, "treatment": treatments, "figure": METRICS}
        for network, rows in self.printed.items():
            for treatment, figures in rows.items():
                for what, name in (
                    ("network", network),
                    ("treatment", treatment),
                    *(("figure", f) for f in figures),
                ):
                    if name not in known[what]:
                        raise SettingsError(
                            f"printed names {name!r}, which is no {what} here; {did_you_mean(name, known[what])}"
                        )


def read_toml(file: Path) -> dict[str, Any]:
    """What a study's file says.

    Raises:
        SettingsError: There is no such file, or it is no TOML.
    """
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{file} cannot be read ({error.strerror}); name a study's TOML file") from error
    except ValueError as error:
        raise SettingsError(f"{file} is not a study: {error}") from error


def holds_matrix(file: Path) -> bool:
    """Whether a study's file asks for a matrix of treatments, not for curves of strategies.

    Raises:
        SettingsError: There is no such file, it is no TOML, or it asks for both.
    """
    found = read_toml(file)
    if "treatment" in found and "experiment" in found:
        raise SettingsError(
            f"{file} has treatments, which are measured as files, and experiments, which make curves; put them into two files"
        )
    if isinstance(found.get("treatment"), dict):
        raise SettingsError(f"{file}: a treatment begins with [[treatment]], in two pairs of brackets")
    return "treatment" in found


def _check_table(table: Mapping[str, Any], networks: Sequence[str], *, taken: Mapping[str, str]) -> None:
    """Refuse options that stand elsewhere, tables that are none, and unknown networks."""
    for name in ("networks", "training", "retrain"):
        if name in table and not isinstance(table[name], dict):
            raise SettingsError(f"{name} is {table[name]!r}, and a table is wanted: {name} = {{ ... }}")
    for name, own in table.get("networks", {}).items():
        if name not in networks:
            raise SettingsError(
                f"networks names {name!r}, which is no network here; {did_you_mean(name, networks)}"
            )
        if not isinstance(own, dict):
            raise SettingsError(f"networks has {own!r} for {name!r}, and a table is wanted")
        _check_table(cast("dict[str, Any]", own), networks, taken=taken)
    for name, place in taken.items():
        if name in table:
            raise SettingsError(f"{name} does not stand here; {place}")


def _merged(common: Mapping[str, Any], own: Mapping[str, Any], network: str) -> dict[str, Any]:
    """Options with changes, and with those for one network; tables among them are merged, too."""
    merged: dict[str, Any] = {}
    for table in (
        common,
        common.get("networks", {}).get(network, {}),
        own,
        own.get("networks", {}).get(network, {}),
    ):
        for name, value in table.items():
            before = merged.get(name)
            both = isinstance(before, dict) and isinstance(value, dict)
            merged[name] = (
                {**cast("dict[str, Any]", before), **cast("dict[str, Any]", value)} if both else value
            )
    merged.pop("networks", None)
    return merged


def _check_treatment(one: Treatment, target: str) -> None:
    check_offered(target, one.written)
    if one.sparsity is not None and one.max_drop is not None:
        raise SettingsError(
            "sparsity prunes to a share and max_drop reduces to a bound; take one, and the other in a treatment of its own"
        )
    for table, needed in (("pruning", "sparsity"), ("reduction", "max_drop"), ("coding", "compress")):
        if getattr(one, table) and getattr(one, needed) is None:
            raise SettingsError(f"{table} changes nothing without {needed}; give that, or leave it out")
    if one.granularity != "weights" and one.sparsity is None:
        raise SettingsError("granularity is of pruning; give sparsity, or leave it out")
    if one.prepare and one.mode not in ("int8", "int8-only"):
        raise SettingsError("prepare is for int8 and int8-only; leave it out with other modes")
    if (one.prepare or one.mode == QAT) and target != "litert":
        raise SettingsError(
            f'{"prepare" if one.prepare else QAT} hands ranges to the file, which only files for litert take; say target = "litert"'
        )
    if one.mode == QAT and one.compress is not None:
        raise SettingsError(f"mode {QAT!r} trains weights that compress clusters; take one of the two")


def _check_first(first: Treatment) -> None:
    if not first.plain:
        raise SettingsError(
            f"the first treatment is what all others are compared with, and {first.name!r} changes the network; begin with one that"
            " has a name alone"
        )


def _where(error: ValidationError) -> str:
    """What is wrong, and with which treatment."""
    first = worst(error)
    place: list[int | str] = list(first["loc"])
    if len(place) < 2 or place[0] != "treatment":
        return sentence(
            error,
            Matrix,
            named="key",
            of=" of a matrix",
            missing="a matrix names networks, data and treatments",
        )
    name = str(place[2]) if len(place) > 2 else ""
    if first["type"] == "extra_forbidden":
        return f"no key of a treatment is named {name!r}; {did_you_mean(name, Treatment.model_fields)}"
    message = str(first["msg"])
    return f"treatment {int(place[1]) + 1}: key {name!r} cannot be {first['input']!r}: {message[:1].lower()}{message[1:]}"
