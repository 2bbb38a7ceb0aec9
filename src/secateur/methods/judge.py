"""Whether a candidate is within the bound: on validation examples, and where these are few persons' on training ones, too."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur.data import Split, Splits
from secateur.evaluate import Drop, Evaluation, evaluate, paired_drop
from secateur.methods.seeds import seed_for
from secateur.methods.settings import ReduceSettings

GUARDS = 10_000
"""Training examples that guard at most."""

_SHOWN = 0.95
"""The confidence of the limits that are reported where the bound is on the drop as measured."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a candidate reached.

    Attributes:
        accuracy: On the validation split, in percent.
        drop: Of the validation accuracy.
        guard: How many points fewer of the guarding training examples are right; None without a guard.
        loss: Mean cross-entropy on all examples that are looked at; None where only answers were compared.
    """

    accuracy: float
    drop: Drop
    guard: float | None
    loss: float | None = None


class Judge:
    """Compares candidates with the unreduced network, always on the same examples.

    Hundreds of decisions on one validation split fit that split more and more. Where its examples come from a few persons
    only, its accuracy can even rise while that on new persons falls. Then the drop on training examples must be within the
    bound, too: it is conservative, since a network knows those better than new ones, and cannot be fitted by decisions.
    """

    def __init__(self, unreduced: nn.Module, data: Splits, settings: ReduceSettings) -> None:
        """Evaluate the unreduced network; it is the reference from now on."""
        self.settings = settings
        self.validation = data.validation
        wanted = settings.guard == "on" or (settings.guard == "auto" and data.validation.groups is not None)
        self.examples = (
            _joined(data.validation, _sample(data.train, settings.seed)) if wanted else data.validation
        )
        self.before: Evaluation = evaluate(unreduced, data.validation, classes=data.classes)
        self._reference = evaluate(unreduced, self.examples).correct if wanted else self.before.correct

    def look(self, model: nn.Module) -> Verdict:
        """Run a candidate."""
        found = evaluate(model, self.examples)
        return self.verdict(found.correct, loss=found.loss)

    def verdict(self, correct: Tensor | None, *, loss: float | None = None) -> Verdict:
        """Judge by which of the examples were right."""
        if correct is None:
            raise RuntimeError("the training loop validated nothing")
        count = len(self.validation)
        drop = paired_drop(
            self._reference[:count],
            correct[:count],
            confidence=self.settings.confidence or _SHOWN,
            groups=self.validation.groups,
        )
        guard = None
        if len(correct) > count:
            lost = self._reference[count:].double().mean() - correct[count:].double().mean()
            guard = 100.0 * float(lost)
        return Verdict(100.0 * float(correct[:count].double().mean()), drop, guard, loss)

    def limit(self, verdict: Verdict) -> float:
        """What is held against the bound: the greater of the validation drop (its upper limit) and the guard's."""
        limit = self.settings.limit(verdict.drop)
        return limit if verdict.guard is None else max(limit, verdict.guard)

    def within(self, verdict: Verdict, best: float) -> bool:
        """Whether a candidate is within the bound; ``best`` is the best validation accuracy so far, in percent."""
        limit = self.limit(verdict)
        if (
            self.settings.reference == "best"
        ):  # counted from the best so far, with the same allowance for sampling
            limit += best - verdict.accuracy - verdict.drop.points
        return limit <= self.settings.max_drop + 1e-9


def _sample(train: Split, seed: int) -> Split:
    if len(train) <= GUARDS:
        return train
    generator = torch.Generator().manual_seed(seed_for(seed, "guard"))
    return train.select(torch.randperm(len(train), generator=generator)[:GUARDS])


def _joined(first: Split, second: Split) -> Split:
    return Split(torch.cat([first.inputs, second.inputs]), torch.cat([first.targets, second.targets]))
