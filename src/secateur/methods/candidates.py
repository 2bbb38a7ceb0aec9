"""Candidates of a search: cut, retrained and judged, by this process or by others."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from secateur.channels import Group
from secateur.data import Split, Splits
from secateur.methods.block_training import BlockTraining
from secateur.methods.judge import Judge, Verdict
from secateur.methods.listener import Listener, Silent
from secateur.methods.seeds import seed_for
from secateur.methods.settings import ReduceSettings
from secateur.plan import Plan
from secateur.scale import Shared
from secateur.surgery import apply
from secateur.train import EpochRecord, TrainSettings, fit, teacher_logits


@dataclass(frozen=True, eq=False)
class Candidate:
    """A cut that is to be tried.

    Attributes:
        plan: The cut.
        iteration: Its number; what its retraining draws follows from it.
        round: The round, which says for how long it is retrained.
        best: The best accuracy that was reached so far, in percent.
    """

    plan: Plan
    iteration: int
    round: int
    best: float


@dataclass(frozen=True, eq=False)
class Tried:
    """What became of a candidate.

    Attributes:
        model: The network, cut and retrained; None where it missed the bound.
        found: How it was judged.
        epochs: Epochs of retraining.
        seconds: Wall time.
        missed: Why it was discarded though it is within the bound.
    """

    model: nn.Module | None
    found: Verdict
    epochs: int
    seconds: float
    missed: str = ""


class Trials:
    """Cuts, retrains and judges candidates. All it needs is in it, so that it goes to other processes as a whole."""

    def __init__(self, unreduced: nn.Module, data: Splits, settings: ReduceSettings) -> None:
        """Judge the unreduced network.

        Args:
            unreduced: The reference, and the teacher; it is not changed.
            data: Training and validation splits.
            settings: How candidates are retrained and judged.
        """
        self.unreduced, self.data, self.settings = unreduced, data, settings
        self.judge = Judge(unreduced, data, settings)
        self.blocks = BlockTraining(
            unreduced, data.train, inputs=settings.inputs, attention=settings.attention
        )
        self._answers: Tensor | None = None

    def prepare(self) -> None:
        """Compute what all candidates have in common, before this goes to other processes."""
        if self._from_answers(self.settings.retrain):
            self._teacher_answers()

    def of(self, model: nn.Module, candidate: Candidate, listener: Listener | None = None) -> Tried:
        """Cut a network, retrain it if need be, and judge it."""
        listener = listener or Silent()
        started, epochs = time.perf_counter(), 0
        retraining = self.settings.retraining(candidate.round)
        cut = apply(model, candidate.plan)
        found = self.judge.decide(cut, candidate.best)
        if not (self.settings.accept_early and self.judge.within(found, candidate.best)):
            epochs = self.retrain(
                cut,
                retraining,
                ("retrain", candidate.iteration),
                groups=candidate.plan.groups,
                best=candidate.best,
                listener=listener,
            )
            found = self.judge.decide(cut, candidate.best)
        kept = cut if self.judge.within(found, candidate.best) else None
        return Tried(kept, found, epochs, time.perf_counter() - started)

    def retrain(
        self,
        model: nn.Module,
        settings: TrainSettings,
        purpose: tuple[str, int],
        *,
        best: float,
        listener: Listener,
        groups: Sequence[Group] = (),
    ) -> int:
        """Train a network in place; how many epochs it took. Where groups were cut, training ends when that is enough."""
        early = bool(groups)
        if early and self.settings.accept_early:
            # the epoch that was found to be within the bound is the one to keep
            settings = settings.but(keep="last")
        train, chosen = self._examples(purpose)
        scope, epochs = self.settings.retrain_scope, 0
        block = self.blocks.of(groups) if early and scope != "network" else None
        if block is not None:
            found = self.blocks.fit(
                model, block, train, settings,
                seed=seed_for(self.settings.seed, "block", *purpose),
                chosen=chosen,
                validation=self.judge.examples,
                stop_when=self._stop(settings, best=best, listener=listener, early=True),
                on_batch=listener.batch,
            )  # fmt: skip
            epochs = len(found.history)
            if scope == "block" or self.judge.enough(self.judge.look(model), best):
                return epochs
        wanted = settings.distil_weight > 0 or bool(settings.attention_layers)
        distil = self.settings.distil and wanted
        answers = self._teacher_answers() if self._from_answers(settings) else None
        result = fit(
            model,
            train,
            self.judge.examples,
            settings,
            seed=seed_for(self.settings.seed, *purpose),
            teacher=self.unreduced if distil and answers is None else None,
            teacher_answers=answers if answers is None or chosen is None else answers[chosen],
            stop_when=self._stop(settings, best=best, listener=listener, early=early),
            on_batch=listener.batch,
        )
        return epochs + len(result.history)

    def _stop(
        self, settings: TrainSettings, *, best: float, listener: Listener, early: bool
    ) -> Callable[[EpochRecord], bool]:
        """Asked after each epoch: tells the listener, and ends what is good enough or hopeless if it may end early."""
        history: list[float] = []

        def enough(record: EpochRecord) -> bool:
            found = self.judge.verdict(record.correct)
            listener.epoch(record, found.drop)
            history.append(self.judge.limit(found, best))
            if not early:
                return False
            if self.settings.accept_early and self.judge.enough(found, best):
                return True
            return self.settings.give_up_early and self._hopeless(history, settings.epochs)

        return enough

    def _from_answers(self, settings: TrainSettings) -> bool:
        """Whether the teacher's answers can be computed beforehand: examples do not change, and answers are all that is asked."""
        same = settings.augment == "none" and not settings.attention_layers
        return self.settings.distil and settings.distil_weight > 0 and same

    def _examples(self, purpose: tuple[str, int]) -> tuple[Split, Tensor | None]:
        """What a candidate learns from, and which of the training examples that is."""
        train, wanted = self.data.train, self.settings.retrain_examples
        if wanted is None or wanted >= len(train) or purpose[0] == "finish":
            return train, None
        generator = torch.Generator().manual_seed(seed_for(self.settings.seed, "examples", *purpose))
        chosen = torch.randperm(len(train), generator=generator)[:wanted]
        return train.select(chosen), chosen

    def _teacher_answers(self) -> Tensor:
        if self._answers is None:
            self._answers = teacher_logits(self.unreduced, self.data.train)
        return self._answers

    def _hopeless(self, limits: list[float], epochs: int) -> bool:
        """Whether the bound is out of reach: too far for the epochs left at the best pace seen, or too far for the time.

        A candidate may be beyond the bound by as much again as the bound at the start, and less with every epoch, before it
        is given up: near the bound the pace of single epochs is noise.
        """
        left = epochs - len(limits)
        if len(limits) < 2 or left == 0:
            return False
        pace = max(before - after for before, after in pairwise(limits))
        bound = self.settings.max_drop
        hoped = min(limits) - max(0.0, pace) * left
        return hoped > bound and min(limits) > bound * (1 + left / epochs)


@dataclass(frozen=True, eq=False)
class Errand:
    """A candidate for another process, with where it finds what all candidates need.

    Attributes:
        trials: Retrains and judges.
        model: The network that is cut.
        candidate: The cut.
    """

    trials: Shared[Trials]
    model: Shared[nn.Module]
    candidate: Candidate


def run_errand(errand: Errand) -> Tried:
    """Try a candidate where this is called."""
    return errand.trials.get().of(errand.model.get(), errand.candidate)
