"""What becomes of a trained network before it is measured, and one cell of a matrix, with everything resolved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from secateur.methods import CompressSettings, Deployment, GradualSettings, ReduceSettings
from secateur.methods.deep_compression import CompressMethod
from secateur.methods.gradual_settings import PrunedThing
from secateur.methods.prepared import QAT
from secateur.studies.cells import digest, plain
from secateur.train import TrainSettings


class Treatment(BaseModel):
    """What becomes of a trained network before it is measured.

    Attributes:
        name: What it is called.
        sparsity: The share of weights (or units) that is pruned gradually.
        granularity: ``weights``, which become zero, or ``units``, which are cut out.
        max_drop: Reduced until it would lose more points on validation examples than this; in ``mode``, where that is narrower than float.
        mode: The numbers in the file: a mode of `secateur.export`, or ``qat``: trained in int8.
        prepare: Whether layers are equalised and biases corrected before int8.
        compress: Levels and coding, after pruning: a method of `secateur.methods.deep_compression`. What is deployed is the file made of the coded
            network; the coded one is what is sent.
        pruning: Changes to the study's table of that name, for this treatment; so are the others. In a table ``networks``, by name, further
            changes for some.
        reduction: Likewise.
        coding: Likewise.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = Field(min_length=1)
    sparsity: float | None = Field(default=None, gt=0, lt=1)
    granularity: PrunedThing = "weights"
    max_drop: float | None = Field(default=None, ge=0, lt=100)
    mode: str = "float32"
    prepare: bool = False
    compress: CompressMethod | None = None
    pruning: dict[str, Any] = Field(default_factory=dict)
    reduction: dict[str, Any] = Field(default_factory=dict)
    coding: dict[str, Any] = Field(default_factory=dict)

    @property
    def written(self) -> str:
        """The mode in which the file is exported."""
        return "int8" if self.mode == QAT else self.mode

    @property
    def plain(self) -> bool:
        """Whether it changes nothing."""
        return not self.cuts and self.compress is None and self.mode == "float32" and not self.prepare

    @property
    def cuts(self) -> bool:
        """Whether the network is pruned or reduced first."""
        return self.sparsity is not None or self.max_drop is not None


@dataclass(frozen=True)
class MatrixCell:
    """One network, one seed, one treatment, with everything resolved.

    Attributes:
        network: The network's name.
        data: The data set's name.
        seed: Draws the network, and everything that is random.
        training: How the network is trained.
        treatment: What becomes of it.
        deployment: The file's target, mode and calibration.
        pruning: How it is pruned, if it is.
        reduction: How it is reduced, if it is.
        coding: How it is coded, if it is.
        aware: How it is trained in int8, if it is.
        validation: Validation examples, as `secateur.data.load` takes them.
        runs: Timed passes.
        warmup: Passes before them.
    """

    network: str
    data: str
    seed: int
    training: TrainSettings
    treatment: Treatment
    deployment: Deployment
    pruning: GradualSettings | None = None
    reduction: ReduceSettings | None = None
    coding: CompressSettings | None = None
    aware: TrainSettings | None = None
    validation: int | float | None = None
    runs: int = 50
    warmup: int = 1

    @property
    def untreated(self) -> bool:
        """Whether the network stays as it was trained, in float32: what others are compared with."""
        return self.treatment.plain

    @property
    def base(self) -> dict[str, Any]:
        """What the trained network follows from."""
        return {
            "network": self.network,
            "data": self.data,
            "seed": self.seed,
            "validation": self.validation,
            "training": self.training.model_dump(mode="json"),
        }

    @property
    def base_key(self) -> str:
        """A name for the trained network."""
        return f"{plain(self.network)}-{plain(self.data)}-seed{self.seed}-{digest(self.base)}"

    @property
    def cut_key(self) -> str:
        """A name for the pruned or reduced network, which several cells may share.

        Options at their defaults do not count, so that those that are yet to come leave it as it is.
        """
        said: dict[str, Any] = {"base": self.base}
        for name, settings in (("pruning", self.pruning), ("reduction", self.reduction)):
            if settings is not None:
                said[name] = settings.model_dump(mode="json", exclude_defaults=True)
        return f"{plain(self.network)}-seed{self.seed}-{digest(said)}"

    @property
    def key(self) -> str:
        """A name for the cell, by what it does."""
        made = {
            "cut": self.cut_key,
            "treatment": self.treatment.model_dump(
                mode="json", exclude={"pruning", "reduction", "coding"}, exclude_defaults=True
            ),  # these are in what follows from them
            "coding": None
            if self.coding is None
            else self.coding.model_dump(mode="json", exclude_defaults=True),
            "aware": None if self.aware is None else self.aware.model_dump(mode="json"),
            "deployment": [self.deployment.target, self.deployment.observer, self.deployment.calibration],
            "bench": [self.runs, self.warmup],
        }
        return f"{plain(self.network)}-{plain(self.treatment.name)}-seed{self.seed}-{digest(made)}"
