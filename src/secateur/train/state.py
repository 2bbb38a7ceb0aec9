"""What training gives back, and all that it needs to go on where it stopped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from secateur.errors import ModelError, SettingsError

FORMAT = 1

Stop = Literal["epochs", "early_stopping", "stop_when"]


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """One epoch of training.

    Attributes:
        epoch: From 1.
        train_loss: Mean of what was minimised (with penalty and teacher) over the epoch's examples.
        validation_loss: Mean cross-entropy on the validation examples; None without any.
        validation_accuracy: Percent.
        lr: Learning rate of the epoch's last step.
        seconds: Wall time with validation, until the device has done all of it (its losses are read); not part of equality.
        correct: Which validation examples were right, bool ``[n]``: for paired comparisons in ``stop_when`` and
            ``on_epoch``. Not kept in the history and not part of equality.
        batch_size: Examples of a step.
    """

    epoch: int
    train_loss: float
    validation_loss: float | None
    validation_accuracy: float | None
    lr: float
    seconds: float = field(compare=False)
    correct: Tensor | None = field(default=None, compare=False, repr=False)
    batch_size: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Everything but ``correct``, ready for JSON.

        Example:
            >>> EpochRecord(1, 0.5, None, None, 0.1, seconds=2.0).as_dict()["train_loss"]
            0.5
        """
        return {
            "epoch": self.epoch,
            "train_loss": self.train_loss,
            "validation_loss": self.validation_loss,
            "validation_accuracy": self.validation_accuracy,
            "lr": self.lr,
            "seconds": self.seconds,
            "batch_size": self.batch_size,
        }


@dataclass(frozen=True, slots=True, eq=False)
class FitResult:
    """What one training run did.

    Attributes:
        history: One record an epoch.
        best_epoch: The epoch whose weights the network now has.
        stopped: Why the run ended.
        optimizer: With its state after the last epoch, to be passed to the next run.
    """

    history: tuple[EpochRecord, ...]
    best_epoch: int
    stopped: Stop
    optimizer: torch.optim.Optimizer = field(repr=False)

    def __str__(self) -> str:
        """How long it ran, why it ended, and what the network now has."""
        count = len(self.history)
        text = f"{count} epoch{'' if count == 1 else 's'}, ended by {self.stopped}; weights of epoch {self.best_epoch}"
        kept = next((record for record in self.history if record.epoch == self.best_epoch), None)
        if kept is None:
            return text
        judged = kept.validation_accuracy
        return f"{text}: train loss {kept.train_loss:.4g}" + (
            "" if judged is None else f", validation accuracy {judged:.2f} %"
        )


@dataclass(frozen=True, slots=True, eq=False)
class TrainState:
    """A run between two epochs: enough to go on bit by bit as if it had never stopped.

    Both parts can be written without pickle, for instance as safetensors and JSON.

    Attributes:
        tensors: Flat: ``model/…``, ``ema/…``, ``best/…``, ``optimizer/<index>/…``, ``last/correct``.
        document: Plain JSON: settings, seed, history, best epoch, the optimiser's options.
    """

    tensors: Mapping[str, Tensor]
    document: Mapping[str, Any]

    def __post_init__(self) -> None:
        found = self.document.get("format")
        if found != FORMAT:
            raise SettingsError(
                f"the training state has format {found!r}, this version reads {FORMAT}; start the training anew"
            )

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return int(self.document["epoch"])

    @property
    def history(self) -> tuple[EpochRecord, ...]:
        """One record for each epoch done; the last one has its ``correct``."""
        records = [EpochRecord(**entry) for entry in self.document["history"]]
        if records and "last/correct" in self.tensors:
            records[-1] = replace(records[-1], correct=self.tensors["last/correct"])
        return tuple(records)

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors below a prefix, without it."""
        start = f"{prefix}/"
        return {name.removeprefix(start): t for name, t in self.tensors.items() if name.startswith(start)}


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all parameters and buffers (also those that ``state_dict`` leaves out), by name.

    Example:
        >>> sorted(snapshot(nn.Linear(2, 1)))
        ['bias', 'weight']
    """
    named = [*model.named_parameters(), *model.named_buffers()]
    return {name: tensor.detach().clone() for name, tensor in named}


def restore(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy a snapshot back into a network, in place.

    Args:
        model: The network.
        tensors: From :func:`snapshot` of a network of the same structure.

    Raises:
        ModelError: Names or shapes differ; nothing is changed then.

    Example:
        >>> net = nn.Linear(2, 1)
        >>> before = snapshot(net)
        >>> _ = nn.init.zeros_(net.weight)
        >>> restore(net, before)
        >>> torch.equal(net.weight, before["weight"])
        True
    """
    named = dict([*model.named_parameters(), *model.named_buffers()])
    wanted = {name: tuple(t.shape) for name, t in named.items()}
    given = {name: tuple(t.shape) for name, t in tensors.items()}
    if wanted != given:
        name = sorted(wanted.items() ^ given.items())[0][0]
        raise ModelError(
            f"the saved weights are of another network: {name!r} is {given.get(name, 'missing')} in them and "
            f"{wanted.get(name, 'missing')} in the network; use the network that they were saved from"
        )
    with torch.no_grad():
        for name, tensor in named.items():
            tensor.copy_(tensors[name])


def pack_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimiser's state as flat tensors and plain JSON.

    Args:
        optimizer: Left as it is; tensors are copied.

    Returns:
        Tensors by ``<parameter index>/<key>``, and a document with its class, options and other numbers.

    Example:
        >>> tensors, document = pack_optimizer(torch.optim.SGD(nn.Linear(2, 1).parameters(), lr=0.1))
        >>> tensors, document["class"], document["groups"][0]["lr"]
        ({}, 'SGD', 0.1)
    """
    full = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    others: dict[str, dict[str, Any]] = {}
    for index, entries in full["state"].items():
        others[str(index)] = {}
        for key, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"{index}/{key}"] = value.detach().clone()
            else:
                others[str(index)][key] = value
    groups = [{k: list(v) if k == "betas" else v for k, v in group.items()} for group in full["param_groups"]]
    return tensors, {"class": type(optimizer).__name__, "groups": groups, "others": others}


def unpack_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], document: Mapping[str, Any]
) -> None:
    """Put a packed state into an optimiser of the same class over the same parameters.

    Args:
        optimizer: Changed in place.
        tensors: From :func:`pack_optimizer`.
        document: From :func:`pack_optimizer`.

    Raises:
        SettingsError: The state belongs to another kind of optimiser or to other parameters.
    """
    if document["class"] != type(optimizer).__name__:
        raise SettingsError(
            f"the saved state is of {document['class']}, the optimiser is {type(optimizer).__name__}; "
            "go on with the optimiser that the run began with"
        )
    state: dict[int, dict[str, Any]] = {int(i): dict(values) for i, values in document["others"].items()}
    for name, tensor in tensors.items():
        index, key = name.split("/", 1)
        state.setdefault(int(index), {})[key] = tensor.clone()
    groups = [{k: tuple(v) if k == "betas" else v for k, v in group.items()} for group in document["groups"]]
    try:
        optimizer.load_state_dict({"state": state, "param_groups": groups})
    except ValueError as error:
        raise SettingsError(f"the saved optimiser state is of other parameters: {error}") from error
    for parameter, held in optimizer.state.items():
        for key, value in held.items():
            # A moment in another layout than its parameter's is summed in another order, and files keep no layout.
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                held[key] = torch.empty_like(parameter, dtype=value.dtype, device=value.device).copy_(value)
