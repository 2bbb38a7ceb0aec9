"""The training loop: a small network, examples in memory, one device."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, ClassVar, TypeAlias, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from secateur._options import expect
from secateur.errors import NotFiniteError, SettingsError
from secateur.surgery import Masks, holding
from secateur.train.attention import Attention
from secateur.train.augment import Moves, make_augmenter
from secateur.train.companion import Companion
from secateur.train.conditions import (
    batches,
    channels_last,
    check_finite,
    check_options,
    check_owner,
    derived_seed,
    own_randomness,
    precision_of,
)
from secateur.train.distil import distil_loss
from secateur.train.forward import Examples, check_examples, check_split, device_of, dtype_of, logits, mode
from secateur.train.ghost import GhostNorms
from secateur.train.inconsistent import LossLimit, conserve
from secateur.train.rates import learning_rate, make_optimizer
from secateur.train.settings import TrainSettings
from secateur.train.small_maps import SmallMaps
from secateur.train.sparse_gradients import sparse_gradients
from secateur.train.state import (
    FORMAT,
    EpochRecord,
    FitResult,
    Stop,
    TrainState,
    pack_optimizer,
    restore,
    snapshot,
    unpack_optimizer,
)
from secateur.train.teacher import Teacher

Penalty: TypeAlias = Callable[[nn.Module], Tensor]
"""A number to add to the loss, for instance a group lasso."""

_NO_BEST = (-1.0, 0.0)

CHECK_EVERY = 50
"""Steps between two looks at whether the loss is finite: reading it at every step would stall a GPU."""


def fit(
    model: nn.Module,
    train: Examples,
    validation: Examples | None,
    settings: TrainSettings,
    *,
    seed: int = 0,
    teacher: nn.Module | None = None,
    teacher_answers: Tensor | None = None,
    penalty: Penalty | None = None,
    companion: Companion | None = None,
    masks: Masks | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    state: TrainState | None = None,
    stop_when: Callable[[EpochRecord], bool] | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    on_state: Callable[[TrainState], None] | None = None,
    on_batch: Callable[[int, int], None] | None = None,
    device: torch.device | str | None = None,
) -> FitResult:
    r"""Train a network in place.

    The loss is :math:`(1-w)\,\mathrm{CE} + w\,T^2\,\mathrm{KL}` with a teacher, else the cross-entropy, plus
    attention transfer (``attention_weight``) and the penalty. Every random number comes from ``seed`` and the epoch's number, so that a run can be repeated and resumed;
    the caller's random state, the network's modes and its hooks are left as found, its gradients are cleared. After an
    error or an interrupt the weights are those of the last step.

    Args:
        model: A classifier ``[n, ...] → [n, classes]``. At the end it has the best epoch's weights (see ``keep``).
        train: What to learn from.
        validation: What epochs are judged by; None judges none and keeps the last.
        settings: How to train.
        seed: Not negative.
        teacher: A network to imitate. Without augmentation its answers are computed once; with it, it sees the same
            changed examples as the network. With attention transfer it runs on every batch.
        teacher_answers: In place of a teacher, its logits for the unchanged training examples, ``[n, classes]``
            (:func:`secateur.train.teacher_logits`), so that many short runs share them.
        penalty: Added to the loss at every step.
        companion: A method that works while the network trains: it adds to the loss, and may change the network between epochs; the
            optimiser and the running average follow. The best epoch is then one since the last change.
        masks: Weights that do not stay by these are zero throughout, also in the running average.
        optimizer: Goes on with this one, over the network's own parameters; the settings rule its learning rate.
        state: Goes on from here, bit by bit as the run that gave it to ``on_state``.
        stop_when: Asked after each epoch; True ends the run.
        on_epoch: Told of each epoch.
        on_state: Given a copy of everything after each epoch, for storing.
        on_batch: Told after each step how many of how many steps are done.
        device: Where to train; the network stays there. By default where it is.

    Returns:
        History, best epoch, why it ended, and the optimiser.

    Raises:
        SettingsError: Options contradict each other, or the state is of another run.
        DataError: The network does not take the inputs, or labels or teacher do not fit its outputs.
        ModelError: Nothing is trainable.
        NotFiniteError: Loss or outputs are no longer finite.
        PlanError: The masks are of another network.

    Example:
        >>> from types import SimpleNamespace
        >>> class Two(SimpleNamespace):
        ...     def __len__(self): return len(self.targets)
        >>> x = torch.tensor([[-1.0], [1.0]]).repeat(32, 1)
        >>> data = Two(inputs=x, targets=(x[:, 0] > 0).long())
        >>> fit(nn.Linear(1, 2), data, data, TrainSettings(epochs=5, lr=0.5)).history[-1].validation_accuracy
        100.0

    Source:
        Averaged weights: Polyak and Juditsky 1992, SIAM J. Control Optim. 30(4), in torch's exponential form.
        A teacher that sees the same changed examples: Beyer et al. 2022, arXiv:2106.05237.
    """
    call = "fit(model, data.train, data.validation, TrainSettings())"
    expect(call, model=(model, nn.Module), settings=(settings, TrainSettings))
    check_examples(train=train, **({} if validation is None else {"validation": validation}))
    if teacher is not None:
        expect("fit(..., teacher=model)", teacher=(teacher, nn.Module))
    if masks is not None:
        expect("fit(..., masks=Masks({'conv1.weight': stays}))", masks=(masks, Masks))
    where = device_of(model) if device is None else torch.device(device)
    check_options(validation, settings, seed=seed, device=where, teachers=(teacher, teacher_answers))
    if masks is not None:
        if companion is not None:
            raise SettingsError(
                "masks belong to one structure of a network and a companion may change it; give one of them"
            )
        masks.check(model)
    model.to(where)
    classes = check_split(model, train, "training", device=where)
    if validation is not None:
        check_split(model, validation, "validation", device=where)
    with computing(model, settings):
        run = Run(
            model, train, validation, settings, seed=seed, optimizer=optimizer, device=where, penalty=penalty
        )
        run.on_batch, run.masks, run.companion = on_batch, masks, companion
        run.set_teacher(teacher, teacher_answers, classes=classes)
        return run.through(state, teacher=teacher, stop_when=stop_when, on_epoch=on_epoch, on_state=on_state)


@contextmanager
def computing(model: nn.Module, settings: TrainSettings) -> Generator[None]:
    """Hold and compute the network's layers as the settings say."""
    with ExitStack() as modes:
        if settings.channels_last:
            modes.enter_context(channels_last(model))
        if settings.small_maps:
            modes.enter_context(SmallMaps())
        if settings.ghost_batch is not None:
            modes.enter_context(GhostNorms(settings.ghost_batch))
        if settings.sparse_gradients:
            modes.enter_context(sparse_gradients(model, settings.sparse_gradients))
        yield


class Run:
    """The moving parts of one training; what is minimised and what is judged can be said anew."""

    averages_buffers: ClassVar = True

    def __init__(
        self,
        model: nn.Module,
        train: Examples,
        validation: Examples | None,
        settings: TrainSettings,
        *,
        seed: int,
        optimizer: torch.optim.Optimizer | None,
        device: torch.device,
        penalty: Penalty | None,
    ) -> None:
        from lightning_fabric import Fabric  # noqa: PLC0415  takes longer to import than a short run trains

        self.model, self.settings, self.seed, self.device, self.penalty = (
            model,
            settings,
            seed,
            device,
            penalty,
        )
        self.inputs = train.inputs.to(device, dtype_of(model))
        self.targets = train.targets.to(device, torch.int64)
        self.validation = validation
        self.augment = make_augmenter(settings, self.inputs)
        self.steps = len(batches(torch.arange(len(train)), settings.batch_size))
        self.optimizer = make_optimizer(model.parameters(), settings) if optimizer is None else optimizer
        check_owner(self.optimizer, model)
        self.average: AveragedModel | None = None
        if settings.ema is not None:
            average = get_ema_multi_avg_fn(settings.ema)  # pyright: ignore[reportUnknownVariableType]
            self.average = AveragedModel(model, multi_avg_fn=average, use_buffers=self.averages_buffers)  # pyright: ignore[reportUnknownArgumentType]
        # Lightning counts a processor's "devices" as processes, a GPU's by number.
        devices = [device.index or 0] if device.type == "cuda" else 1
        self.fabric = Fabric(
            accelerator=device.type, devices=devices, precision=precision_of(model, settings, device)
        )
        self.history: list[EpochRecord] = []
        self.best: dict[str, Tensor] | None = None
        self.best_epoch = 0
        self.best_key = _NO_BEST
        self.changed_after = 0
        self.teacher: Teacher | None = None
        self.attention: Attention | None = None
        self.on_batch: Callable[[int, int], None] | None = None
        self.masks: Masks | None = None
        self.companion: Companion | None = None
        self.ready: tuple[nn.Module, torch.optim.Optimizer] | None = None
        self.limit = LossLimit(self.steps) if settings.inconsistent else None

    def set_teacher(self, teacher: nn.Module | None, answers: Tensor | None, *, classes: int) -> None:
        """Take a teacher, or its answers."""
        if self.settings.attention_layers:
            self.attention = Attention(self.model, teacher, self.settings)
        self.teacher = Teacher(
            teacher,
            answers,
            inputs=self.inputs,
            classes=classes,
            augment=self.augment,
            each_step=self.attention is not None,
            settings=self.settings,
            autocast=cast("Any", self.fabric).autocast,
        )

    def through(
        self,
        state: TrainState | None,
        *,
        teacher: nn.Module | None,
        stop_when: Callable[[EpochRecord], bool] | None,
        on_epoch: Callable[[EpochRecord], None] | None,
        on_state: Callable[[TrainState], None] | None,
    ) -> FitResult:
        """From the start, or from a state, to the end; network and teacher get their modes back."""
        if self.limit is not None and (self.companion is not None or self.masks is not None):
            raise SettingsError(
                "inconsistent trains on batches again past the optimiser, which masks and what cuts meanwhile rely on; leave it out"
            )
        if self.companion is not None:
            self.companion.begin(self.optimizer, self.average, batch_size=self.settings.batch_size)
        if state is not None:
            self.load(state)
        with ExitStack() as modes:
            if self.attention is not None:
                modes.enter_context(self.attention.listening())
            modes.enter_context(mode(self.model, training=True))
            if teacher is not None:
                modes.enter_context(mode(teacher, training=False))
            if self.masks is not None:
                modes.enter_context(holding(self.model, self.masks, self.optimizer))
            last = state.history[-1] if state is not None and state.history else None
            return self.to_the_end(last, stop_when=stop_when, on_epoch=on_epoch, on_state=on_state)

    def to_the_end(
        self,
        last: EpochRecord | None,
        *,
        stop_when: Callable[[EpochRecord], bool] | None,
        on_epoch: Callable[[EpochRecord], None] | None,
        on_state: Callable[[TrainState], None] | None,
    ) -> FitResult:
        """Train until there is a reason to stop, and keep the weights that are to be kept."""
        while (stopped := self.why_stop(last, stop_when)) is None:
            last = self.epoch()
            if on_epoch is not None:
                on_epoch(last)
            if self.companion is not None and self.companion.after_epoch(last.epoch):
                self._begin_anew()
            if on_state is not None:
                on_state(self.state(last))
        self.finish()
        return FitResult(tuple(self.history), self.best_epoch, stopped, self.optimizer)

    def _begin_anew(self) -> None:
        """The network has another structure: weights of before do not fit it, and no epoch is the best yet."""
        self.best, self.best_key = None, _NO_BEST
        self.best_epoch = self.changed_after = len(self.history)

    def epoch(self) -> EpochRecord:
        """Train one epoch, validate, remember the best."""
        started = time.perf_counter()
        number = len(self.history) + 1
        generator = torch.Generator().manual_seed(derived_seed(self.seed, number, 0))
        order = torch.randperm(len(self.inputs), generator=generator).to(self.device)
        size = self.settings.batch_size if self.companion is None else self.companion.batch_size
        self.steps = len(batches(torch.arange(len(order)), size))
        with own_randomness(self.device, derived_seed(self.seed, number, 1)):
            train_loss = self._steps(batches(order, size), number, generator, size / self.settings.batch_size)
        for parameter in self.model.parameters():
            parameter.grad = None
        loss, accuracy, correct = self._validate(number)
        lr = float(self.optimizer.param_groups[0]["lr"])
        seconds = time.perf_counter() - started
        record = EpochRecord(number, train_loss, loss, accuracy, lr, seconds, correct, size)
        self.history.append(replace(record, correct=None))
        self._remember(record)
        return record

    def _steps(self, chosen: list[Tensor], number: int, generator: torch.Generator, larger: float) -> float:
        """All steps of one epoch, on batches so many times as large as at first; the mean of the loss."""
        if self.ready is None:
            wrapped = self.fabric.setup(self.model, self.optimizer, move_to_device=False)
            self.ready = (wrapped[0], wrapped[1])
        model, optimizer = self.ready
        done = (number - 1) * self.steps
        total = self.settings.epochs * self.steps
        losses: list[Tensor] = []
        for step, rows in enumerate(chosen, start=1):
            lr = learning_rate(self.settings, step=done, steps_per_epoch=self.steps) * larger
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            loss = self.loss(model, rows, generator)
            optimizer.zero_grad(set_to_none=True)
            self.fabric.backward(loss)
            if self.settings.clip is not None:
                self.fabric.clip_gradients(
                    model, optimizer, max_norm=self.settings.clip, error_if_nonfinite=False
                )
            optimizer.step()
            if self.limit is not None:
                self._again(model, rows, generator, float(loss.detach()), lr)
            if self.average is not None:
                self.average.update_parameters(self.model)
            losses.append(loss.detach())
            if step % CHECK_EVERY == 0 or step == len(chosen):
                first = step - (step - 1) % CHECK_EVERY
                check_finite(losses[first - 1 :], epoch=number, first_step=first, lr=lr)
            done += 1
            if self.on_batch is not None:
                self.on_batch(done, total)
        sizes = torch.tensor([len(rows) for rows in chosen], dtype=torch.float64)
        return float((torch.stack(losses).double().cpu() * sizes).sum() / sizes.sum())

    def _again(
        self, model: nn.Module, rows: Tensor, generator: torch.Generator, loss: float, lr: float
    ) -> None:
        """Train on a batch again whose loss stands out."""
        if self.limit is None or not loss > (limit := self.limit.after(loss)):
            return
        conserve(
            lambda: self.loss(model, rows, generator),
            [parameter for group in self.optimizer.param_groups for parameter in group["params"]],
            limit=limit, lr=lr, steps=self.settings.inconsistent, backward=self.fabric.backward,
        )  # fmt: skip

    def loss(self, model: nn.Module, rows: Tensor, generator: torch.Generator) -> Tensor:
        """What is minimised, on one batch."""
        inputs, targets = self.inputs[rows], self.targets[rows]
        drawn: Tensor | None = None
        if isinstance(self.augment, Moves):
            drawn = self.augment.draw(len(rows), generator)
            inputs = self.augment.apply(inputs, drawn)
        elif self.augment is not None:
            inputs = self.augment(inputs, generator)
        outputs = model(inputs)
        loss = F.cross_entropy(outputs, targets, label_smoothing=self.settings.label_smoothing)
        soft = None if self.teacher is None else self.teacher.of(rows, inputs, drawn)
        if soft is not None:
            weight = self.settings.distil_weight
            distance = distil_loss(outputs, soft, temperature=self.settings.distil_temperature)
            loss = (1.0 - weight) * loss + weight * distance
        if self.attention is not None:
            loss = loss + self.attention.loss()
        if self.penalty is not None:
            loss = loss + self.penalty(self.model)
        return loss if self.companion is None else loss + self.companion.penalty(loss)

    def judged(self) -> nn.Module:
        """What counts of the weights that are trained: their average where there is one."""
        return self.model if self.average is None else self.average.module

    def answers(self, inputs: Tensor) -> Tensor:
        """What the network would answer if training ended here."""
        return logits(self.judged(), inputs, device=self.device)

    def _validate(self, number: int) -> tuple[float | None, float | None, Tensor | None]:
        """Loss, accuracy in percent, and which examples were right."""
        if self.validation is None:
            return None, None, None
        answers = self.answers(self.validation.inputs)
        targets = self.validation.targets.to(self.device, torch.int64)
        loss = float(F.cross_entropy(answers.double(), targets))
        if not np.isfinite(loss):
            raise NotFiniteError(
                f"after epoch {number} the network's outputs are no longer finite; "
                f"lower the learning rate ({self.settings.lr:g}) or set clip"
            )
        correct = answers.argmax(dim=1) == targets
        return loss, 100.0 * float(correct.double().mean()), correct.cpu()

    def _remember(self, record: EpochRecord) -> None:
        """Keep the weights where they are the best so far."""
        if record.validation_accuracy is None or record.validation_loss is None:
            self.best_epoch = record.epoch
            return
        key = (record.validation_accuracy, -record.validation_loss)
        if key > self.best_key:
            self.best_key, self.best_epoch = key, record.epoch
            self.best = snapshot(self.judged()) if self.settings.keep == "best" else None

    def why_stop(
        self, last: EpochRecord | None, stop_when: Callable[[EpochRecord], bool] | None
    ) -> Stop | None:
        """The reason to end here, if there is one."""
        if last is not None and stop_when is not None and stop_when(last):
            return "stop_when"
        patience = self.settings.early_stopping
        if patience is not None and len(self.history) - self.best_epoch >= patience:
            return "early_stopping"
        return "epochs" if len(self.history) >= self.settings.epochs else None

    def finish(self) -> None:
        """Give the network the weights to be kept."""
        if self.best is not None:
            restore(self.model, self.best)
            return
        self.best_epoch = len(self.history)
        if self.average is not None:
            restore(self.model, snapshot(self.average.module))

    def state(self, last: EpochRecord) -> TrainState:
        """A copy of everything that the next epoch depends on."""
        optimizer_tensors, optimizer_document = pack_optimizer(self.optimizer)
        parts = {"model": snapshot(self.model), "optimizer": optimizer_tensors, "best": self.best or {}}
        count = 0
        if self.average is not None:
            parts["ema"] = snapshot(self.average.module)
            count = int(self.average.n_averaged)
        if last.correct is not None:
            parts["last"] = {"correct": last.correct}
        scaler = getattr(self.fabric.strategy.precision, "scaler", None)
        document = {
            "format": FORMAT,
            "epoch": len(self.history),
            "seed": self.seed,
            "settings": self.settings.model_dump(),
            "history": [record.as_dict() for record in self.history],
            "best_epoch": self.best_epoch,
            "optimizer": optimizer_document,
            "ema_count": count,
            "scaler": None if scaler is None else scaler.state_dict(),
        }
        if self.limit is not None:
            document["losses"] = list(self.limit.losses)
        if self.masks is not None:
            document["masks"] = self.masks.digest
        if self.companion is not None:
            document |= {"companion": dict(self.companion.state()), "changed_after": self.changed_after}
        tensors = {f"{prefix}/{name}": t for prefix, part in parts.items() for name, t in part.items()}
        return TrainState(tensors, document)

    def load(self, state: TrainState) -> None:
        """Go on from a state of the same run."""
        asked: dict[str, object] = {"seed": self.seed, **_all_of(self.settings)}
        stored = TrainSettings(
            **state.document["settings"]
        )  # options of which an older version knew nothing have their defaults
        saved: dict[str, object] = {"seed": state.document["seed"], **_all_of(stored)}
        for name, value in asked.items():
            if saved[name] != value:
                raise SettingsError(
                    f"the run was begun with {name}={saved[name]!r} and cannot go on with {value!r}; "
                    "use the settings that it was begun with"
                )
        if state.document.get("masks") != (None if self.masks is None else self.masks.digest):
            raise SettingsError(
                "the run was begun with other masks, or with none, and cannot go on with these; pass the masks that it was begun with"
            )
        companion = state.document.get("companion")
        if (companion is None) != (self.companion is None):
            raise SettingsError(
                f"the run was begun {'without' if companion is None else 'with'} a companion and cannot go on"
                f" {'with' if companion is None else 'without'} one; go on as it was begun"
            )
        restore(self.model, state.part("model"))
        unpack_optimizer(self.optimizer, state.part("optimizer"), state.document["optimizer"])
        if self.average is not None:
            restore(self.average.module, state.part("ema"))
            self.average.n_averaged.fill_(int(state.document["ema_count"]))
        scaler = getattr(self.fabric.strategy.precision, "scaler", None)
        if scaler is not None and state.document["scaler"] is not None:
            scaler.load_state_dict(state.document["scaler"])
        for record in state.history:
            self.history.append(replace(record, correct=None))
        if self.companion is not None:
            self.companion.load(state.document["companion"])
            self.changed_after = int(state.document["changed_after"])
        if self.limit is not None:
            self.limit = LossLimit(self.steps, state.document["losses"])
        self.best_epoch = int(state.document["best_epoch"])
        chosen = self.history[self.best_epoch - 1] if self.best_epoch > self.changed_after else None
        if chosen and chosen.validation_accuracy is not None and chosen.validation_loss is not None:
            self.best_key = (chosen.validation_accuracy, -chosen.validation_loss)
        self.best = {name: t.to(self.device).clone() for name, t in state.part("best").items()} or None


def _all_of(settings: TrainSettings) -> dict[str, object]:
    """Every option, those at their defaults included."""
    return {name: getattr(settings, name) for name in TrainSettings.model_fields}
