"""Whether a candidate is within the bound: on validation examples, and where these are few persons' on training ones, too."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from statistics import NormalDist

import torch
from torch import Tensor, nn

from secateur.data import Split, Splits
from secateur.evaluate import Drop, Evaluation, evaluate, paired_drop
from secateur.evaluate.change import upper_bound
from secateur.methods.deployment import Writer
from secateur.methods.seeds import seed_for
from secateur.methods.settings import ReduceSettings

GUARDS = 10_000
"""Training examples that guard at most."""

GLANCED = 2_000
"""Examples on which cuts are compared before any is retrained."""

_SHOWN = 0.95
"""The confidence of the limits that are reported where the bound is on the drop as measured."""

_BOUNDS = (0.5, 1, 2, 3, 5)
"""What is suggested as a bound, in points."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a candidate reached.

    Attributes:
        accuracy: On the validation split, in percent.
        drop: Of the validation accuracy.
        guard: How many points fewer of the guarding training examples are right; None without a guard.
        loss: Mean cross-entropy on all examples that are looked at; None where only answers were compared.
        file: The file that was judged in the network's place, where the network is to be deployed.
    """

    accuracy: float
    drop: Drop
    guard: float | None
    loss: float | None = None
    file: bytes | None = field(default=None, compare=False, repr=False)


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
            _joined(data.validation, _sample(data.train, settings.seed, GUARDS))
            if wanted
            else data.validation
        )
        self._few = _sample(self.examples, settings.seed, GLANCED)
        self.before: Evaluation = evaluate(unreduced, data.validation, classes=data.classes)
        self._reference = evaluate(unreduced, self.examples).correct if wanted else self.before.correct
        self.writer = (
            None if settings.deploy is None else Writer(data.train, settings.deploy, seed=settings.seed)
        )
        self.unreduced: Verdict = (
            self.look(unreduced) if self.writer is None else self.look_at_file(unreduced)
        )
        self.spare = max(0.0, self.unreduced.drop.points)

    def glance(self, model: nn.Module) -> float:
        """The mean loss on some of the examples: enough to compare cuts by."""
        return evaluate(model, self._few).loss

    def look(self, model: nn.Module) -> Verdict:
        """Run a candidate."""
        found = evaluate(model, self.examples)
        return self.verdict(found.correct, loss=found.loss)

    def look_at_file(self, model: nn.Module) -> Verdict:
        """Run the file that a network becomes."""
        if self.writer is None:
            raise RuntimeError("the network is not to be deployed")
        content = self.writer.content_of(model)
        return replace(self.look(self.writer.opened(content)), file=content)

    def decide(self, model: nn.Module, best: float) -> Verdict:
        """Look at a candidate; where it is to be deployed at its file, unless the network itself is beyond the bound."""
        found = self.look(model)
        if self.writer is None or not self.within(found, best):
            return found
        return self.look_at_file(model)

    def enough(self, verdict: Verdict, best: float) -> bool:
        """Whether training may end early: what the unreduced network's file loses is left to the candidate's."""
        return self.limit(verdict, best) + self.spare <= self.settings.max_drop + 1e-9

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

    def limit(self, verdict: Verdict, best: float) -> float:
        """What is held against the bound: the greater of the validation drop (its upper limit) and the guard's.

        ``best`` is the best validation accuracy so far, in percent. Where drops are counted from it, the limit is as much
        greater as it lies above the unreduced network's: the allowance for sampling stays the same.
        """
        limit = self.settings.limit(verdict.drop)
        if self.settings.reference == "best":
            limit += best - verdict.accuracy - verdict.drop.points
        if verdict.guard is not None:
            limit = max(limit, verdict.guard)
        return limit

    def within(self, verdict: Verdict, best: float) -> bool:
        """Whether a candidate is within the bound; ``best`` as for :meth:`limit`."""
        return self.limit(verdict, best) <= self.settings.max_drop + 1e-9


def least_bound(examples: int, *, confidence: float) -> float:
    """The upper limit of the drop, in points, of a network that answers so many examples exactly as before.

    No narrower bound can be held without answering *more* of them right.

    Example:
        >>> round(least_bound(360, confidence=0.95), 2)
        0.89
    """
    same = torch.ones(examples, dtype=torch.bool)
    return paired_drop(same, same, confidence=confidence or _SHOWN).upper


def bound_with_room(examples: int) -> float:
    """A bound, in points, that so many validation examples can hold: the sampling error takes half of it at most.

    Example:
        >>> bound_with_room(360), bound_with_room(10_000)
        (2, 0.5)
    """
    # The error is that of an unchanged network's drop: what is left, half of the bound or more, may really be lost.
    least = least_bound(examples, confidence=_SHOWN)
    return next((bound for bound in _BOUNDS if least <= bound / 2), _BOUNDS[-1])


def too_narrow(examples: int, settings: ReduceSettings) -> str | None:
    """What a bound asks of every candidate that is narrower than the sampling error of so many examples; else None.

    Example:
        >>> print(too_narrow(360, ReduceSettings(max_drop=1.0)))
        None
        >>> too_narrow(360, ReduceSettings(max_drop=0.5))[-108:]
        'only if it gets at least 4 more of them right than before; widen the bound or give more validation examples.'
    """
    bound, confidence = settings.max_drop, settings.confidence
    if not confidence or least_bound(examples, confidence=confidence) <= bound + 1e-9:
        return None
    # With a net gain of g the limit is least where none is lost; groups, a guard or the best so far only add to it.
    z = NormalDist().inv_cdf(confidence)
    gain = next(
        (g for g in range(1, examples + 1) if 100 * upper_bound(0, g, examples, z=z) <= bound + 1e-9), None
    )
    then = "no candidate can be" if gain is None else "a candidate is"
    only = "" if gain is None else f" only if it gets at least {gain} more of them right than before"
    return (
        f"The bound of {bound:g} point{'' if bound == 1 else 's'} is narrower than the sampling error of {examples:,} validation examples"
        f" ({least_bound(examples, confidence=confidence):.2f} points at {confidence * 100:g} %, also where every answer stays"
        f" the same), so that {then} accepted{only}; widen the bound or give more validation examples."
    )


def _sample(split: Split, seed: int, count: int) -> Split:
    if len(split) <= count:
        return split
    generator = torch.Generator().manual_seed(seed_for(seed, "guard"))
    return split.select(torch.randperm(len(split), generator=generator)[:count])


def _joined(first: Split, second: Split) -> Split:
    return Split(torch.cat([first.inputs, second.inputs]), torch.cat([first.targets, second.targets]))
