"""Training in which a random part of each layer's units is left out of every step, so that their relevance is gathered on the way."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from secateur._options import expect
from secateur.errors import SettingsError
from secateur.observe import Subsets
from secateur.train.conditions import check_options
from secateur.train.forward import Examples, check_examples, check_split, device_of
from secateur.train.loop import Run, computing
from secateur.train.settings import TrainSettings
from secateur.train.state import EpochRecord, FitResult, TrainState

_PREFIX = "subsets"


def fit_subsets(
    model: nn.Module,
    train: Examples,
    validation: Examples | None,
    settings: TrainSettings,
    subsets: Subsets,
    *,
    seed: int = 0,
    teacher: nn.Module | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    state: TrainState | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    on_state: Callable[[TrainState], None] | None = None,
    on_batch: Callable[[int, int], None] | None = None,
) -> FitResult:
    """Train a network in place, as `secateur.train.fit` does, each step without a random part of the units.

    What is left out of a step neither takes part in it nor learns from it. The step's loss says how relevant what took part is: it is
    what ``subsets`` gathers. Epochs are judged on the whole network.

    Args:
        model: A classifier ``[n, ...] → [n, classes]``.
        train: What to learn from.
        validation: What epochs are judged by; None judges none.
        settings: How to train.
        subsets: Those of this network (`secateur.observe.Subsets`); they go on from what they have gathered so far.
        seed: Not negative.
        teacher: A network to imitate, which is whole in every step.
        optimizer: Goes on with this one.
        state: Goes on from here, bit by bit, with what had been gathered by then.
        on_epoch: Told of each epoch.
        on_state: Given a copy of everything after each epoch, what was gathered among it.
        on_batch: Told after each step how many of how many steps are done.

    Returns:
        History, best epoch, why it ended, and the optimiser.

    Raises:
        SettingsError: Options contradict each other, or the state is of another run.
        DataError: The network does not take the inputs, or labels or teacher do not fit its outputs.
        ModelError: Nothing is trainable, or loss or weights are no longer finite.

    Example:
        >>> import secateur
        >>> from secateur import data, networks
        >>> digits, net = data.load("digits", limit=200), networks.build("digits-net", seed=0)
        >>> channels = secateur.watch(net, digits.train.inputs[:1])
        >>> subsets = Subsets(net, channels)
        >>> _ = fit_subsets(net, digits.train, None, TrainSettings(epochs=2, batch_size=40), subsets)
        >>> secateur.score(net, channels, "relevance", data=subsets.observations()).values["conv1"].shape
        torch.Size([16])

    Source:
        As for `secateur.observe.Subsets`.
    """
    expect(
        "fit_subsets(model, data.train, data.validation, TrainSettings(), Subsets(model, channels))",
        model=(model, nn.Module), settings=(settings, TrainSettings), subsets=(subsets, Subsets),
    )  # fmt: skip
    check_examples(train=train, **({} if validation is None else {"validation": validation}))
    where = device_of(model)
    check_options(validation, settings, seed=seed, device=where, teachers=(teacher, None))
    classes = check_split(model, train, "training", device=where)
    if validation is not None:
        check_split(model, validation, "validation", device=where)
    with computing(model, settings):
        run = _SubsetRun(
            model, train, validation, settings, seed=seed, optimizer=optimizer, device=where, penalty=None
        )
        run.on_batch, run.subsets = on_batch, subsets
        run.set_teacher(teacher, None, classes=classes)
        return run.through(state, teacher=teacher, stop_when=None, on_epoch=on_epoch, on_state=on_state)


class _SubsetRun(Run):
    """A training whose every step is a draw."""

    subsets: Subsets

    def loss(self, model: nn.Module, rows: Tensor, generator: torch.Generator) -> Tensor:
        """What is minimised, on one batch and one draw."""
        with self.subsets.drawn() as drawn:
            loss = super().loss(model, rows, generator)
        self.subsets.learn(drawn, float(loss.detach()))
        return loss

    def state(self, last: EpochRecord) -> TrainState:
        """A copy of everything, what was gathered among it."""
        found = super().state(last)
        own = {f"{_PREFIX}/{name}": tensor for name, tensor in self.subsets.tensors().items()}
        return TrainState({**found.tensors, **own}, found.document)

    def load(self, state: TrainState) -> None:
        """Go on from a state of the same run."""
        gathered = state.part(_PREFIX)
        if not gathered:
            raise SettingsError(
                "the run was begun without subsets and cannot go on with them; use the settings that it was begun with"
            )
        super().load(state)
        self.subsets.load(gathered)
