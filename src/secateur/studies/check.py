"""Whether a study can be run here: what is looked at before anything is trained."""

from __future__ import annotations

import itertools
from collections.abc import Collection
from pathlib import Path

from secateur._options import about
from secateur.criteria import criterion_named, weight_criterion_named
from secateur.data import Splits
from secateur.data import load as load_data
from secateur.errors import NothingToCutError, SettingsError
from secateur.evaluate import evaluate
from secateur.methods.protocol import NETWORK, OBS, Granularity
from secateur.methods.steps import scopes_of
from secateur.networks import build, classes_argument
from secateur.studies.study import Experiment, Study


def check(study: Study, *, data_dir: str | Path | None = None) -> dict[str, Splits]:
    """Refuse what would stop a study: unknown criteria, networks, data and layers, and networks that do not fit their data.

    Args:
        study: What is to be run.
        data_dir: The folder of data sets.

    Returns:
        The data sets that it needs, by name.

    Raises:
        SettingsError: A criterion or layer is unknown.
        ModelError: A network is unknown, or cannot be built.
        DataError: A data set is unknown or not on this machine, or a network does not take it.
        NothingToCutError: Nothing of a network can be cut.

    Example:
        >>> study = Study(networks="digits-net", data="digits", experiment=[{"name": "1", "scope": "conv9"}])
        >>> check(study)
        Traceback (most recent call last):
        ...
        secateur.errors.SettingsError: experiment '1': scope='conv9' is no layer of 'digits-net' that can be cut; it may be \
'network', conv1, conv2, conv3, dense1
    """
    for experiment in study.experiment:
        with about(f"experiment {experiment.name!r}"):
            _check_criteria(experiment)
    data: dict[str, Splits] = {}
    for name in study.data:
        with about(f"data set {name!r}"):
            data[name] = load_data(name, data_dir=data_dir, validation=study.validation)
    for network, name in itertools.product(study.networks, study.data):
        wanted: set[Granularity] = {
            kind for experiment in study.experiment for kind in experiment.granularity
        }
        layers = _layers(network, name, data[name], wanted)
        for granularity, found in layers.items():
            if not found:
                raise NothingToCutError(
                    f"network {network!r} on data {name!r}: nothing can be cut, of {granularity}s; `secateur watch` says what stays and why"
                )
        for experiment in study.experiment:
            for granularity in experiment.granularity:
                _check_scopes(experiment, network, layers[granularity])
    return data


def _check_criteria(experiment: Experiment) -> None:
    levels = experiment.levels()
    for name, granularity in itertools.product(levels["criterion"], levels["granularity"]):
        if granularity != "unit":
            if name != OBS:
                weight_criterion_named(name)
            continue
        criterion = criterion_named(name)
        if criterion.name in ("similarity", "correlation") and set(levels["recompute"]) != {1}:
            raise SettingsError(
                f"criterion {criterion.name!r} folds each unit into one that is there, so its scores are taken anew after each"
                " step; say recompute = 1"
            )


def _layers(network: str, name: str, data: Splits, wanted: Collection[Granularity]) -> dict[str, list[str]]:
    """The layers that a scope may name at each granularity, of a network that takes the data."""
    with about(f"network {network!r}"):
        model = build(network, seed=0, **classes_argument(network, classes=len(data.classes)))
    with about(f"network {network!r} on data {name!r}"):
        evaluate(model, data.validation.take(1), classes=data.classes)
        return {granularity: scopes_of(model, data, granularity) for granularity in wanted}


def _check_scopes(experiment: Experiment, network: str, layers: list[str]) -> None:
    for scope in experiment.scope:
        if scope != NETWORK and scope not in layers:
            raise SettingsError(
                f"experiment {experiment.name!r}: scope={scope!r} is no layer of {network!r} that can be cut;"
                f" it may be {NETWORK!r}, {', '.join(layers) or 'nothing else'}"
            )
