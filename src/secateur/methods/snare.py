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
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from secateur.channels import Channels, Group, watch
from secateur.cost import Cost, CostModel
from secateur.criteria import criterion_named
from secateur.criteria.score import BATCH_SIZE
from secateur.data import Split, Splits
from secateur.evaluate import Evaluation
from secateur.methods.candidates import Candidate, Errand, Trials, Tried, run_errand
from secateur.methods.cuts import Cut, Cuts
from secateur.methods.judge import Verdict
from secateur.methods.listener import Listener, Silent
from secateur.methods.potential import check_choice, chosen_groups, potentials
from secateur.methods.result import Step
from secateur.methods.seeds import seed_for
from secateur.methods.settings import ReduceSettings
from secateur.methods.state import SearchState
from secateur.methods.widths import limits_of, next_width
from secateur.observe import Need, observe
from secateur.observe.values import AT_READERS
from secateur.scale import Shared, Workers
from secateur.train import TrainSettings

_FAR = 3.0
"""A cut is passed over when its shock is so many times the smallest that retraining did not make good: less is noise."""


_NOISE = 0.1
"""Cuts whose shock is less than so much of the network's loss are compared by what they save alone."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a step is about."""

    group: str
    share: float
    before: int
    after: int
    shock: float
    cost: Cost


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
        workers: Workers | None = None,
    ) -> None:
        """Prepare a search.

        Args:
            unreduced: The network as given; it is the reference and the teacher, and is not changed.
            data: Training and validation splits; the test split is not touched.
            settings: How to search.
            listener: Told of progress.
            model: The network that has been accepted so far, when a search goes on.
            state: Where that search stood.
            workers: Try the candidates (of which ``settings.candidates`` are tried at once); None for this process. The result
                does not depend on it.
        """
        self.settings, self.data = settings, data
        self.listener: Listener = listener or Silent()
        self.unreduced = unreduced
        self.model = unreduced if model is None else model
        self.state = SearchState() if state is None else state
        self.trials = Trials(unreduced, data, settings)
        self.judge = self.trials.judge
        self._workers = workers
        self._shared: Shared[Trials] | None = None
        self.state.best = max(self.state.best, self.before.accuracy)
        self.current: Verdict = (
            self.judge.unreduced if model is None else self.judge.decide(self.model, self.state.best)
        )
        self._sample = _sample(data.train, settings)
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

    def step(self) -> tuple[Step, ...]:
        """Try a candidate, or as many as are tried at once, or finish a round; empty when the search is over."""
        state, settings = self.state, self.settings
        while not state.done:
            cuts = self._picked(min(settings.candidates, settings.max_iterations - state.iteration))
            if cuts:
                return self._tried(cuts)
            if settings.finish is not None and not state.finished and state.gained:
                return (self._finish(settings.finish),)
            self._next_round()
        return ()

    def _picked(self, count: int) -> list[Cut]:
        """The cuts to try next, each of another layer; sizes that promise nothing are halved on the way."""
        cuts: list[Cut] = []
        while len(cuts) < count:
            cut = self._pick([cut.group.name for cut in cuts])
            if cut is None:
                break
            if self._passed_over(cut):
                self._halve(cut.group.name)
            else:
                cuts.append(cut)
        return cuts

    def _pick(self, without: Collection[str]) -> Cut | None:
        """The cut to try next, of those open: of the layer that promises most, or the one that saves most for its shock."""
        settings = self.settings
        still_open = [group for group in self._open() if group.name not in without]
        if not still_open:
            return None
        if settings.choose == "shock":
            return max((self._looked_at(group) for group in still_open), key=self._saving_for_shock)
        beta, gamma = settings.weights
        ranked = potentials(self.channels, still_open, beta=beta, gamma=gamma)
        most = max(ranked.values(), key=lambda entry: entry.score * self._share(entry.group.name))
        return self._looked_at(most.group)

    def _open(self) -> list[Group]:
        """The layers of which a further cut is to be tried in this round."""
        chosen = chosen_groups(self.channels, layers=self.settings.layers, kinds=self.settings.kinds)
        limits = limits_of(self.channels, self.settings)
        return [
            group
            for group in chosen
            if group.name not in self.state.closed
            and group.name not in self.unseen
            and next_width(group, 1.0, limits[group.name]) is not None
        ]

    @property
    def stopped(self) -> bool:
        """Whether the limit on candidates ended the search, though there was more to try."""
        state = self.state
        further = bool(self._open()) or state.round + 1 < self.settings.rounds
        return state.iteration >= self.settings.max_iterations and further

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
        return self._saving(cut) / max(cut.shock, _NOISE * cut.loss, 1e-12)

    def _saving(self, cut: Cut) -> float:
        before, after = CostModel(self.channels).total(), cut.plan.after
        beta, gamma = self.settings.weights
        saved = beta * (1 - after.parameters / before.parameters)
        return saved + gamma * (1 - after.macs / max(before.macs, 1))

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

    # --- candidates -------------------------------------------------------------------------------------------------

    def _tried(self, cuts: Sequence[Cut]) -> tuple[Step, ...]:
        """Cut, retrain, decide. Of several that are within the bound the one that saves most is kept."""
        state = self.state
        candidates = [
            Candidate(cut.plan, state.iteration + number, state.round, state.best)
            for number, cut in enumerate(cuts, start=1)
        ]
        state.iteration += len(cuts)
        outcomes = [self._aimed(tried) for tried in self._carried_out(cuts, candidates)]
        within = [place for place, tried in enumerate(outcomes) if tried.model is not None]
        best = max(within, key=lambda place: self._saving(cuts[place]), default=None)
        steps: list[Step] = []
        for place, (cut, candidate, tried) in enumerate(zip(cuts, candidates, outcomes, strict=True)):
            asked = _Asked(
                cut.group.name, cut.share, cut.group.width, cut.width_after, cut.shock, cut.plan.after
            )
            other = cuts[best].group.name if best is not None and place != best else ""
            steps.append(self._judged(candidate.iteration, asked, tried, accepted=place == best, other=other))
            if tried.model is not None:
                state.accepted_shock = max(state.accepted_shock, cut.shock)
            else:
                state.rejected_shock = min(state.rejected_shock, cut.shock)
                state.rejected[asked.group] = cut.width_after
                self._halve(asked.group)
        if best is not None:
            self._accept(outcomes[best])
        for step in steps:
            self.listener.step(step)
        return tuple(steps)

    def _aimed(self, tried: Tried) -> Tried:
        """A candidate that is within the bound, discarded where its file is not what is aimed at."""
        writer, file = self.judge.writer, tried.found.file
        if tried.model is None or writer is None or file is None:
            return tried
        if self.current.file is None:
            self.current = self.judge.look_at_file(self.model)
        missed = writer.misses(file, self.current.file or b"")
        return replace(tried, model=None, missed=missed) if missed else tried

    def _carried_out(self, cuts: Sequence[Cut], candidates: Sequence[Candidate]) -> list[Tried]:
        """Each candidate's outcome, in their order."""
        if self._workers is None:
            outcomes_here: list[Tried] = []
            for cut, candidate in zip(cuts, candidates, strict=True):
                self._tell(cut, candidate)
                outcomes_here.append(self.trials.of(self.model, candidate, self.listener))
            return outcomes_here
        if self._shared is None:
            self.trials.prepare()
            self._shared = self._workers.share(self.trials)
        model = self._workers.share(self.model)
        for cut, candidate in zip(cuts, candidates, strict=True):
            self._tell(cut, candidate)
        errands = [Errand(self._shared, model, candidate) for candidate in candidates]
        outcomes = {
            errand.candidate.iteration: tried for errand, tried in self._workers.each(run_errand, errands)
        }
        return [outcomes[candidate.iteration] for candidate in candidates]

    def _tell(self, cut: Cut, candidate: Candidate) -> None:
        epochs = self.settings.retraining(candidate.round).epochs
        self.listener.candidate(candidate.iteration, cut.group.name, cut.group.width, cut.width_after, epochs)

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
        number, started = self.state.iteration, time.perf_counter()
        candidate = copy.deepcopy(self.model)
        self.listener.candidate(number, "", 0, 0, settings.epochs)
        epochs = self.trials.retrain(
            candidate,
            settings,
            ("finish", number),
            best=self.state.best,
            listener=self.listener,
        )
        found = self.judge.decide(candidate, self.state.best)
        shock = (found.loss or 0.0) - (self.current.loss or 0.0)
        asked = _Asked("", 0.0, 0, 0, shock, CostModel(self.channels).total())
        accepted = self.judge.within(found, self.state.best) and found.accuracy >= self.current.accuracy
        tried = Tried(candidate, found, epochs, time.perf_counter() - started)
        step = self._judged(number, asked, tried, accepted=accepted)
        if accepted:
            self._accept(tried)
        self.state.finished = True
        self.listener.step(step)
        return step

    # --- the bound --------------------------------------------------------------------------------------------------

    def _accept(self, tried: Tried) -> None:
        if tried.model is None:
            raise RuntimeError("a candidate without a network was accepted")
        self.model = tried.model
        self.current = tried.found
        self.state.best = max(self.state.best, tried.found.accuracy)
        self.state.gained = True
        self.state.accepted += 1
        self.state.rejected = {}
        self._cuts = None
        self.channels = self.watched(tried.model)

    def watched(self, model: nn.Module) -> Channels:
        """The channels of a network on this data."""
        return watch(
            model, self.data.train.inputs[:1], inputs=self.settings.inputs, attention=self.settings.attention
        )

    def _judged(self, number: int, asked: _Asked, tried: Tried, *, accepted: bool, other: str = "") -> Step:
        drop = tried.found.drop
        return Step(
            iteration=number,
            round=self.state.round,
            kind="cut" if asked.group else "finish",
            group=asked.group,
            share=asked.share,
            width_before=asked.before,
            width_after=asked.after,
            accepted=accepted,
            reason=self._reason(asked, tried, accepted=accepted, other=other),
            accuracy=tried.found.accuracy,
            drop=drop.points,
            upper=drop.upper,
            shock=asked.shock,
            parameters=asked.cost.parameters,
            macs=asked.cost.macs,
            epochs=tried.epochs,
            seconds=tried.seconds,
        )

    def _reason(self, asked: _Asked, tried: Tried, *, accepted: bool, other: str) -> str:
        found, epochs = tried.found, tried.epochs
        bound = f"the bound of {self.settings.max_drop:g} point{'' if self.settings.max_drop == 1 else 's'}"
        if not asked.group:
            return "trained on, and no worse" if accepted else "training on did not help"
        if tried.model is not None:
            within = f"within {bound} {f'after {epochs} epochs' if epochs else 'without retraining'}"
            return within if accepted else f"{within}, but the cut of {other} saves more"
        if tried.missed:
            return f"within {bound}, but {tried.missed}"
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
