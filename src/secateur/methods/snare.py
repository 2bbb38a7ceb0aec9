"""SNARE: reduce a whole network, layer by layer, for as long as its accuracy stays within a bound.

Each layer has an operation size, the share of its units that the next cut removes. While some layer is open, take the one
with the greatest potential times operation size; remove that share of its units, chosen by a criterion; retrain; accept the
candidate if its accuracy is within the bound, else discard it and halve the size for that layer; below the smallest size the
layer closes.

Source: SNARE (KIT, 2020), chapter 5, with the reading that the *greatest* score is taken (the pseudocode prints argmin, the
score is a potential). Everything beyond it is an option of :class:`secateur.methods.settings.ReduceSettings`.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from secateur.channels import Channels, Group, watch
from secateur.cost import Cost, CostModel
from secateur.criteria import criterion_named
from secateur.criteria.score import BATCH_SIZE
from secateur.data import Split, Splits
from secateur.evaluate import Evaluation
from secateur.methods.cuts import Cut, Cuts
from secateur.methods.judge import Judge, Verdict
from secateur.methods.listener import Listener, Silent
from secateur.methods.potential import check_choice, chosen_groups, potentials
from secateur.methods.result import Step
from secateur.methods.seeds import seed_for
from secateur.methods.settings import ReduceSettings
from secateur.methods.state import SearchState
from secateur.methods.widths import limits_of, next_width
from secateur.observe import Need, observe
from secateur.observe.values import AT_READERS
from secateur.surgery import apply
from secateur.train import EpochRecord, TrainSettings, fit, teacher_logits

_FAR = 3.0
"""A cut is passed over when its shock is so many times the smallest that retraining did not make good: less is noise."""


_NOISE = 0.1
"""Cuts whose shock is less than so much of the network's loss are compared by what they save alone."""


@dataclass(frozen=True, slots=True)
class _Tried:
    """A candidate before it is judged."""

    group: str
    share: float
    before: int
    after: int
    shock: float
    cost: Cost
    started: float


class Search:
    """A SNARE search over one network. :meth:`step` does one candidate; between two steps it can be stored and resumed."""

    def __init__(
        self,
        unreduced: nn.Module,
        data: Splits,
        settings: ReduceSettings,
        *,
        listener: Listener | None = None,
        model: nn.Module | None = None,
        state: SearchState | None = None,
    ) -> None:
        """Prepare a search.

        Args:
            unreduced: The network as given; it is the reference and the teacher, and is not changed.
            data: Training and validation splits; the test split is not touched.
            settings: How to search.
            listener: Told of progress.
            model: The network that has been accepted so far, when a search goes on.
            state: Where that search stood.
        """
        self.settings, self.data = settings, data
        self.listener: Listener = listener or Silent()
        self.unreduced = unreduced
        self.model = unreduced if model is None else model
        self.state = SearchState() if state is None else state
        self.judge = Judge(unreduced, data, settings)
        self.current: Verdict = self.judge.look(self.model)
        self.state.best = max(self.state.best, self.before.accuracy)
        self._sample = _sample(data.train, settings)
        self._answers: Tensor | None = None
        self._cuts: Cuts | None = None
        self.channels = self.watched(self.model)
        # of the unreduced network, so that a resumed search leaves the same layers alone
        first = self.channels if model is None else self.watched(unreduced)
        self.unseen = unseen(unreduced, first, data.train, settings)
        if model is None:  # refuse before anything runs
            check_choice(self.channels, settings, unseen=self.unseen)

    @property
    def before(self) -> Evaluation:
        """The unreduced network on the validation split."""
        return self.judge.before

    # --- the loop -------------------------------------------------------------------------------------------------

    def step(self) -> Step | None:
        """Try one candidate, or finish a round; None when the search is over."""
        state = self.state
        while not state.done:
            pick = None if state.iteration >= self.settings.max_iterations else self._pick()
            if pick is not None:
                made = self._candidate(pick)
                if made is not None:
                    return made
                continue
            if self.settings.finish is not None and not state.finished and state.gained:
                return self._finish(self.settings.finish)
            self._next_round()
        return None

    def _pick(self) -> Cut | None:
        """The cut to try next, of those open: of the layer that promises most, or the one that saves most for its shock."""
        settings, state = self.settings, self.state
        chosen = chosen_groups(self.channels, layers=settings.layers, kinds=settings.kinds)
        limits = limits_of(self.channels, settings)
        still_open = [
            group
            for group in chosen
            if group.name not in state.closed
            and group.name not in self.unseen
            and next_width(group, 1.0, limits[group.name]) is not None
        ]
        if not still_open:
            return None
        if settings.choose == "shock":
            return max((self._looked_at(group) for group in still_open), key=self._saving_for_shock)
        ranked = potentials(self.channels, still_open, beta=settings.beta, gamma=settings.gamma)
        most = max(ranked.values(), key=lambda entry: entry.score * self._share(entry.group.name))
        return self._looked_at(most.group)

    def _looked_at(self, group: Group) -> Cut:
        """The next cut of a layer, remembered for as long as the network stays what it is."""
        if self._cuts is None:
            chosen = chosen_groups(self.channels, layers=self.settings.layers, kinds=self.settings.kinds)
            self._cuts = Cuts(
                self.model,
                self.channels,
                self.settings,
                groups=[one.name for one in chosen if one.name not in self.unseen],
                judge=self.judge,
                sample=self._sample,
                number=self.state.accepted,
            )
        return self._cuts.of(group, self._share(group.name))

    def _saving_for_shock(self, cut: Cut) -> float:
        """The shares of parameters and multiply-adds that a cut saves, for what it adds to the loss (small rises are noise)."""
        before, after = CostModel(self.channels).total(), cut.plan.after
        saved = self.settings.beta * (1 - after.parameters / before.parameters)
        saved += self.settings.gamma * (1 - after.macs / max(before.macs, 1))
        return saved / max(cut.shock, _NOISE * cut.loss, 1e-12)

    def _next_round(self) -> None:
        state = self.state
        exhausted = state.iteration >= self.settings.max_iterations
        if exhausted or state.round + 1 >= self.settings.rounds:
            state.done = True
            return
        state.round += 1
        state.shares, state.closed, state.rejected = {}, [], {}
        state.gained = state.finished = False
        state.accepted_shock, state.rejected_shock = float("-inf"), float("inf")

    def _share(self, group: str) -> float:
        return self.state.shares.get(group, self.settings.first_share)

    def _halve(self, group: str) -> None:
        share = self._share(group) / 2
        self.state.shares[group] = share
        if share < self.settings.last_share - 1e-12:
            self.state.closed.append(group)

    # --- one candidate ----------------------------------------------------------------------------------------------

    def _candidate(self, cut: Cut) -> Step | None:
        """Cut, retrain, decide. None if the size was passed over."""
        started = time.perf_counter()
        group = cut.group.name
        if self._passed_over(cut):
            self._halve(group)
            return None
        retraining = self.settings.retraining(self.state.round)
        candidate, epochs = apply(self.model, cut.plan), 0
        found = self.judge.look(candidate)
        self.state.iteration += 1
        tried = _Tried(group, cut.share, cut.group.width, cut.width_after, cut.shock, cut.plan.after, started)
        self.listener.candidate(self.state.iteration, group, tried.before, tried.after, retraining.epochs)
        if not (self.settings.accept_early and self.judge.within(found, self.state.best)):
            epochs = self._train(candidate, retraining, ("retrain", self.state.iteration), stop=True)
            found = self.judge.look(candidate)
        accepted = self.judge.within(found, self.state.best)
        step = self._judged(tried, found, accepted=accepted, epochs=epochs)
        if accepted:
            self._accept(candidate, found)
            self.state.accepted_shock = max(self.state.accepted_shock, cut.shock)
        else:
            self.state.rejected_shock = min(self.state.rejected_shock, cut.shock)
            self.state.rejected[group] = cut.width_after
            self._halve(group)
        self.listener.step(step)
        return step

    def _passed_over(self, cut: Cut) -> bool:
        """Whether what was learned says that retraining cannot make this cut good; else the smallest size is always tried."""
        if not self.settings.learn_shares:
            return False
        if self.state.rejected.get(cut.group.name) == cut.width_after:
            return True  # half of a share of a narrow layer can be as many units
        learned = max(
            _FAR * self.state.rejected_shock,
            self.state.accepted_shock,
            cut.loss,  # below, a shock says nothing: it does not even double the loss
        )
        smallest = cut.share / 2 < self.settings.last_share - 1e-12
        return not smallest and cut.shock > learned

    def _finish(self, settings: TrainSettings) -> Step:
        """Train what was accepted for longer, and keep that if it is still within the bound and no worse."""
        self.state.iteration += 1
        cost = CostModel(self.channels).total()
        started = time.perf_counter()
        candidate = copy.deepcopy(self.model)
        self.listener.candidate(self.state.iteration, "", 0, 0, settings.epochs)
        epochs = self._train(candidate, settings, ("finish", self.state.iteration), stop=False)
        found = self.judge.look(candidate)
        tried = _Tried("", 0.0, 0, 0, (found.loss or 0.0) - (self.current.loss or 0.0), cost, started)
        accepted = self.judge.within(found, self.state.best) and found.accuracy >= self.current.accuracy
        step = self._judged(tried, found, accepted=accepted, epochs=epochs)
        if accepted:
            self._accept(candidate, found)
        self.state.finished = True
        self.listener.step(step)
        return step

    def _train(
        self,
        candidate: nn.Module,
        settings: TrainSettings,
        purpose: tuple[str, int],
        *,
        stop: bool,
    ) -> int:
        """Retrain a candidate in place; how many epochs it took."""
        history: list[float] = []

        def enough(record: EpochRecord) -> bool:
            found = self.judge.verdict(record.correct)
            self.listener.epoch(record, found.drop)
            history.append(self.judge.limit(found, self.state.best))
            if not stop:
                return False
            if self.settings.accept_early and self.judge.within(found, self.state.best):
                return True
            return self.settings.give_up_early and self._hopeless(history, settings.epochs)

        if stop and self.settings.accept_early:
            # the epoch that was found to be within the bound is the one to keep
            settings = settings.but(keep="last")
        attentive = bool(settings.attention_layers)
        distil = self.settings.distil and (settings.distil_weight > 0 or attentive)
        same = settings.augment == "none" and not attentive  # else the teacher runs on every batch
        answers = self._teacher_answers() if distil and same else None
        train, chosen = self._examples(purpose)
        result = fit(
            candidate,
            train,
            self.judge.examples,
            settings,
            seed=seed_for(self.settings.seed, *purpose),
            teacher=self.unreduced if distil and answers is None else None,
            teacher_answers=answers if answers is None or chosen is None else answers[chosen],
            stop_when=enough,
            on_batch=self.listener.batch,
        )
        return len(result.history)

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

    # --- the bound --------------------------------------------------------------------------------------------------

    def _accept(self, candidate: nn.Module, found: Verdict) -> None:
        self.model = candidate
        self.current = found
        self.state.best = max(self.state.best, found.accuracy)
        self.state.gained = True
        self.state.accepted += 1
        self.state.rejected = {}
        self._cuts = None
        self.channels = self.watched(candidate)

    def watched(self, model: nn.Module) -> Channels:
        """The channels of a network on this data."""
        return watch(
            model, self.data.train.inputs[:1], inputs=self.settings.inputs, attention=self.settings.attention
        )

    def _judged(self, tried: _Tried, found: Verdict, *, accepted: bool, epochs: int) -> Step:
        drop = found.drop
        return Step(
            iteration=self.state.iteration,
            round=self.state.round,
            kind="cut" if tried.group else "finish",
            group=tried.group,
            share=tried.share,
            width_before=tried.before,
            width_after=tried.after,
            accepted=accepted,
            reason=self._reason(tried, found, accepted=accepted, epochs=epochs),
            accuracy=found.accuracy,
            drop=drop.points,
            upper=drop.upper,
            shock=tried.shock,
            parameters=tried.cost.parameters,
            macs=tried.cost.macs,
            epochs=epochs,
            seconds=time.perf_counter() - tried.started,
        )

    def _reason(self, tried: _Tried, found: Verdict, *, accepted: bool, epochs: int) -> str:
        bound = f"the bound of {self.settings.max_drop:g} point{'' if self.settings.max_drop == 1 else 's'}"
        if not tried.group:
            return "trained on, and no worse" if accepted else "training on did not help"
        if accepted:
            return f"within {bound} {f'after {epochs} epochs' if epochs else 'without retraining'}"
        if found.guard is not None and found.guard >= self.judge.limit(found, self.state.best):
            return f"{found.guard:.2f} points lost on training examples, beyond {bound}"
        most = " at most" if self.settings.confidence else ""
        return f"{self.judge.limit(found, self.state.best):.2f} points lost{most}, beyond {bound}"


def unseen(model: nn.Module, channels: Channels, train: Split, settings: ReduceSettings) -> Mapping[str, str]:
    """The chosen groups that the criterion cannot score, because what reads them cannot be watched reading, and why."""
    if not criterion_named(settings.criterion).needs & AT_READERS:
        return {}
    first = next(iter(_sample(train, settings).batches(BATCH_SIZE)))
    chosen = [group.name for group in chosen_groups(channels, layers=settings.layers, kinds=settings.kinds)]
    return observe(model, channels, [first], needs={Need.ACTIVATION}, groups=chosen).skipped


def _sample(train: Split, settings: ReduceSettings) -> Split:
    """Examples for scores and compensation, in random order: a stored order may be by class."""
    count = min(settings.score_examples, len(train))
    taken = train.take(count, seed=seed_for(settings.seed, "sample") % 2**31)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed_for(settings.seed, "order")))
    return taken.select(order)
