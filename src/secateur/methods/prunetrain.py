"""PruneTrain: a group lasso lets units die while a network trains, and every few epochs the dead are cut out for real."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import torch
from torch import Tensor, nn

from secateur._model import check_finite as check_tensors
from secateur._model import named_tensors, unwrapped
from secateur._options import expect
from secateur.channels import Channels, watch
from secateur.channels.nested import ForwardFn
from secateur.cost import Cost, CostModel
from secateur.errors import ModelError, NotFiniteError, NothingToCutError, PlanError, RunError, SettingsError
from secateur.methods.batch_growth import BatchGrowth
from secateur.methods.dead_units import dead_units, largest_weights
from secateur.methods.prunetrain_settings import PruneTrainSettings
from secateur.plan import Plan
from secateur.surgery import apply, find_gates, gate, gates_of
from secateur.surgery.processes import alike, mean_over_processes
from secateur.train import GroupLasso, device_of, restore, snapshot
from secateur.train.conditions import check_finite
from secateur.train.loop import CHECK_EVERY

_FORMAT: Final = 2


def widths_of(channels: Channels) -> dict[str, int]:
    """How many units each group has.

    Args:
        channels: What watching a network found.

    Example:
        >>> widths_of(watch(nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3)), torch.zeros(1, 2)))
        {'0': 4}
    """
    return {group.name: group.width for group in channels.groups}


@dataclass(frozen=True, slots=True)
class Reconfiguration:
    """What went at one time.

    Attributes:
        epoch: After how many epochs.
        units: How many units went, those in whole blocks not counted.
        blocks: The blocks that went whole.
        cost: What the network costs from then on.
        nearest: The smallest, among the units that live, of the largest weight of each: a threshold above it would have taken more.
            None where none lives.
        gated: How many convolutions read or write fewer channels than they share with others.
        widths: How many units each group has from then on; those in blocks that are gone have none.
        batch_size: Examples of a step from then on, where batches grow.
        seconds: What the reconfiguration itself took; not part of equality.
    """

    epoch: int
    units: int
    blocks: tuple[str, ...]
    cost: Cost
    nearest: float | None
    gated: int = 0
    widths: Mapping[str, int] = field(default_factory=dict[str, int])
    batch_size: int | None = None
    seconds: float = field(default=0.0, compare=False)

    @property
    def changed(self) -> bool:
        """Whether anything went."""
        return bool(self.units or self.blocks or self.gated)

    def as_dict(self, *, times: bool = True) -> dict[str, Any]:
        """The same as JSON values.

        Args:
            times: Whether with what it took, which is never the same again.
        """
        left_out = {name for name, unused in (("gated", not self.gated), ("seconds", not times)) if unused}
        found = asdict(self) | {"blocks": list(self.blocks), "widths": dict(self.widths)}
        return {name: value for name, value in found.items() if name not in left_out}

    @staticmethod
    def from_dict(document: Mapping[str, Any]) -> Reconfiguration:
        """What `as_dict` wrote."""
        known: dict[str, Any] = dict(document)
        known["blocks"], known["cost"] = tuple(known["blocks"]), Cost(**known["cost"])
        return Reconfiguration(**known)


class PruneTrain:
    """PruneTrain beside one training. `secateur.prunetrain` makes it.

    Attributes:
        model: The network, which changes in place.
        settings: The options.
        epochs: Of the whole training.
        done: Epochs that are done.
        strength: λ, which the first step sets; None before.
        cost_before: What the network cost at first.
        widths_before: How many units each group had at first.
        reconfigurations: What went, and when.
        ratios: For each epoch that is done the penalty's share of loss and penalty together, over all of its steps; None where a loop
            did not give the losses. It starts near the asked ratio and says how the two have moved since.
    """

    def __init__(
        self,
        model: nn.Module,
        example: Any,
        settings: PruneTrainSettings,
        *,
        epochs: int,
        forward_fn: ForwardFn | None = None,
        on_cut: Callable[[Reconfiguration], None] | None = None,
    ) -> None:
        self.model, self.settings, self.epochs = model, settings, epochs
        self.done = 0
        self.strength: float | None = None
        self.reconfigurations: tuple[Reconfiguration, ...] = ()
        self.ratios: tuple[float | None, ...] = ()
        self._due = frozenset(settings.reconfigured_after(epochs))
        self._example, self._forward_fn, self._on_cut = example, forward_fn, on_cut
        self._growth: BatchGrowth | None = None
        self._first_batch: int | None = None
        self._optimizers: list[torch.optim.Optimizer] = []
        self._averages: list[nn.Module] = []
        self._first_number: int | None = None
        self._losses: list[Tensor] = []
        self._sums: list[Tensor] = []
        self._steps = 0
        channels = self._watched()
        self._lasso = GroupLasso(channels)
        if settings.gating and forward_fn is not None:
            raise SettingsError(
                "gating runs the network as model(example) to see which convolutions can have gates, and forward_fn runs it in another way;"
                " leave one of them out"
            )
        if not self._lasso.weights and not gates_of(model):  # with gates it is at its last epochs
            raise NothingToCutError(
                "no unit that is trained may go, so that none could die; see what stays and why with `print(secateur.watch(model, example))`"
            )
        self.cost_before = CostModel(channels).total()
        self.widths_before = widths_of(channels)
        self._good = snapshot(unwrapped(model))

    def begin(
        self,
        optimizer: torch.optim.Optimizer | Iterable[torch.optim.Optimizer],
        average: nn.Module | Iterable[nn.Module] | None,
        *,
        batch_size: int | None = None,
    ) -> None:
        """Learn what else follows when units go.

        Args:
            optimizer: One or several that train the network.
            average: Running averages of its weights, if there are any.
            batch_size: Examples of a step at first; batches that are to grow need it.

        Raises:
            SettingsError: Batches are to grow, and the first does not fit, or it is not said.
        """
        self._optimizers = [optimizer] if isinstance(optimizer, torch.optim.Optimizer) else list(optimizer)
        self._averages = (
            [] if average is None else [average] if isinstance(average, nn.Module) else list(average)
        )
        self._first_batch, self._growth = batch_size, None
        if self.settings.grow_batch:
            if batch_size is None:
                raise SettingsError(
                    "batches can grow only from one that is known; add batch_size=64, or what it is"
                )
            self._growth = BatchGrowth(
                self.model, self._example, first=batch_size,
                memory=self.settings.memory, limit=self.settings.batch_limit, forward_fn=self._forward_fn,
            )  # fmt: skip

    @property
    def batch_size(self) -> int:
        """Examples of a step, from the next on.

        Raises:
            SettingsError: It was not said how many there are at first.
        """
        if self._growth is not None:
            return self._growth.size
        if self._first_batch is None:
            raise SettingsError("how large batches are was not said; give prunetrain batch_size")
        return self._first_batch

    @property
    def rate(self) -> float:
        """By what the learning rate is to be multiplied: how many times as large as at first batches are."""
        return 1.0 if self._growth is None else self._growth.size / self._growth.first

    @property
    def pruning(self) -> bool:
        """Whether units still die: not in the last epochs, and not at a ratio of 0."""
        return self.settings.penalty_ratio > 0 and self.done < self.settings.pruned_until(self.epochs)

    def penalty(self, loss: Tensor | None = None) -> Tensor:
        """What is to be added to the loss of this step.

        Args:
            loss: The loss of the step without it. The first step needs it, since λ follows from it. Given at every step, it is also seen
                when it is no longer finite.

        Returns:
            λ times the group lasso, a scalar with a gradient; zero while pruning is off.

        Raises:
            SettingsError: It is the first step, and no loss is given, or one that is not above zero.
            NotFiniteError: A loss is not finite. The network has the weights that it had after the last epoch again.
        """
        if loss is not None:
            self._steps += 1
            self._losses.append(loss.detach())
            if len(self._losses) >= CHECK_EVERY:
                self._check()
        if not self.pruning:
            return torch.zeros((), device=device_of(unwrapped(self.model)))
        value = self._lasso(self.model)
        if self.strength is None:
            self.strength = self._strength(loss, float(value.detach()))
        added = value * self.strength
        if loss is not None:
            self._sums.append(torch.stack([added.detach(), loss.detach() + added.detach()]))
        return added

    def _strength(self, loss: Tensor | None, lasso: float) -> float:
        """λ by which the penalty is the asked share of the sum: of the loss on the examples of all processes."""
        if loss is None:
            raise SettingsError(
                "at the first step the penalty's strength follows from the loss; write loss = loss + session.penalty(loss)"
            )
        self._check()
        ratio = self.settings.penalty_ratio
        both = torch.tensor([float(loss.detach()), lasso], dtype=torch.float64)
        first, lasso = map(float, mean_over_processes(self.model, both))
        if not lasso:
            raise SettingsError(
                "every weight that the group lasso is over is zero at the first step, so that no strength follows from the ratio;"
                " initialise the network"
            )
        if first <= 0:
            raise SettingsError(
                f"the loss is {first:g} at the first step, and the penalty can be a share only of one above zero; add a constant to it, or use"
                " secateur.train.GroupLasso with a strength of your own"
            )
        return ratio / (1 - ratio) * first / lasso

    def _check(self) -> None:
        """Give the last good weights back, and say which step it was, if a loss is not finite."""
        losses, self._losses = self._losses, []
        if not losses:
            return
        lr = float(self._optimizers[0].param_groups[0]["lr"])
        first = self._steps - len(losses) + 1
        together = mean_over_processes(self.model, torch.stack(losses))  # each process sees the others' too
        try:
            check_finite(list(together), epoch=self.done + 1, first_step=first, lr=lr)
        except NotFiniteError as error:
            self.restore()
            raise NotFiniteError(f"{error}; the network has the weights of {self._when()} again") from error

    def _check_weights(self) -> None:
        """Give the last good weights back if those of now are not finite, which no loss need have told."""
        wrong: ModelError | None = None
        try:
            check_tensors(named_tensors(unwrapped(self.model)))
        except ModelError as error:
            wrong = error
        if mean_over_processes(self.model, torch.tensor(float(wrong is not None))).item():
            self.restore()
            raise NotFiniteError(
                f"after epoch {self.done + 1} the weights are no longer finite; lower the learning rate or clip gradients;"
                f" the network has the weights of {self._when()} again"
            ) from wrong

    def restore(self) -> None:
        """Give the network the weights that it had after the last epoch that is done."""
        restore(unwrapped(self.model), self._good)

    def _when(self) -> str:
        return f"epoch {self.done}" if self.done else "its start"

    def step(self, epoch: int | None = None) -> Plan | None:
        """Say that an epoch is done. If it is time, units that are dead are cut out, and the optimiser and the averages follow.

        Args:
            epoch: Your loop's own number of the epoch, counted from 0 or from 1; it is only compared, so that none is left out or
                told twice.

        Returns:
            What was cut, if anything.

        Raises:
            SettingsError: The number is not the one that comes next, or there are more epochs than were said.
            NotFiniteError: A loss of the epoch is not finite, or one of another process.
            ModelError: The optimiser keeps what cannot be cut. Nothing has changed then.
            PlanError: The processes that train the network would cut different units. Nothing has changed then.
        """
        self._check()
        self._count(epoch)
        self._check_weights()
        if self.pruning and self.strength is None:
            raise SettingsError(
                "an epoch is done and no penalty was asked for, so that no unit would die; write loss = loss + session.penalty(loss) in every step"
            )
        self.ratios = (*self.ratios, self._ratio())
        self._steps = 0
        self.done += 1
        made: Plan | None = None
        if self._growth is not None:
            self._growth.settle(unwrapped(self.model), self._optimizers, self._averages)
        if self.done in self._due and self.settings.penalty_ratio > 0:
            made = self._reconfigure()
        self._good = snapshot(unwrapped(self.model))
        return made

    def _ratio(self) -> float | None:
        """The penalty's share over the steps since the last epoch, of all processes."""
        sums, self._sums = self._sums, []
        mine = torch.stack(sums).double().sum(0) if sums else torch.zeros(2, dtype=torch.float64)
        penalty, whole = map(float, mean_over_processes(self.model, mine))
        if whole:
            return penalty / whole
        return None if self.pruning else 0.0

    def _count(self, epoch: int | None) -> None:
        if self.done >= self.epochs:
            raise SettingsError(
                f"all of the {self.epochs} epochs that were said are done; give prunetrain the epochs of the whole training"
            )
        if epoch is None:
            return
        if self._first_number is None:
            self._first_number = min(max(epoch - self.done, 0), 1)
        if epoch != self.done + self._first_number:
            raise SettingsError(
                f"step({epoch}) does not come next: {self.done} epochs are done, so that {self.done + self._first_number} is expected;"
                " call it once after each epoch"
            )

    def after_epoch(self, epoch: int) -> bool:
        """`step` as the library's own training loop calls it; whether the structure has changed."""
        self.step(epoch)
        last = self.reconfigurations[-1:]
        return any(one.changed and one.epoch == self.done for one in last)

    def _watched(self) -> Channels:
        return watch(unwrapped(self.model), self._example, forward_fn=self._forward_fn)

    def _reconfigure(self) -> Plan | None:
        """Cut what is dead, and go on from what is left."""
        started = time.perf_counter()
        network, channels = unwrapped(self.model), self._watched()
        scores = largest_weights(network, channels)
        made = dead_units(
            network, channels, scores, self._example, self.settings, forward_fn=self._forward_fn
        )
        self._check_decision(made)
        living = [
            float(value)
            for values in scores.values.values()
            for value in values[values >= self.settings.threshold]
        ]
        if made is not None:
            self.model = apply(
                self.model, made, optimizer=self._optimizers, averages=self._averages, inplace=True
            )
            channels = self._watched()
            self._lasso = GroupLasso(channels)
        widths = dict.fromkeys(self.widths_before, 0) | widths_of(channels)
        gated = self._gate(channels) if self.settings.gating and self.done == max(self._due) else 0
        if gated:
            channels = self._watched()
        if self._growth is not None and (made is not None or gated):
            self._growth.grow(unwrapped(self.model), self._optimizers, self._averages)
        record = Reconfiguration(
            self.done,
            0 if made is None else made.removed,
            () if made is None else tuple(block.name for block in made.blocks),
            CostModel(channels).total(),
            min(living, default=None),
            gated,
            widths,
            None if self._growth is None else self._growth.size,
            time.perf_counter() - started,
        )
        self.reconfigurations = (*self.reconfigurations, record)
        if self._on_cut is not None:
            self._on_cut(record)
        return made

    def _gate(self, channels: Channels) -> int:
        """Let convolutions that share channels leave out those that they alone are done with; how many do."""
        gates = find_gates(self.model, channels, self._example, threshold=self.settings.threshold)
        gate(self.model, gates, optimizer=self._optimizers, averages=self._averages)
        return len(gates)

    def _check_decision(self, made: Plan | None) -> None:
        """Refuse to cut, or to go on without a cut, where another process decides otherwise: the next step would wait for ever."""
        if not alike(self.model, "" if made is None else made.to_json()):
            raise PlanError(
                f"after epoch {self.done} the processes would cut different units, since their weights differ; run every forward through"
                " DistributedDataParallel, and let all have the same optimiser and the same schedule"
            )

    def macs(self, examples: int) -> tuple[int, int]:
        """Multiply-adds of all forward passes of the epochs that are done, counted from the widths that each epoch had.

        The backward passes take about twice as many more, in the same proportion. The penalty, a few operations for each weight,
        is not counted.

        Args:
            examples: Examples in an epoch, of all processes together.

        Returns:
            Those of this training, and those that it would have taken at the widths of the start.
        """
        ends = [*(one.epoch for one in self.reconfigurations), self.done]
        costs = [self.cost_before, *(one.cost for one in self.reconfigurations)]
        spent = sum(
            (end - start) * cost.macs for start, end, cost in zip([0, *ends[:-1]], ends, costs, strict=True)
        )
        return spent * examples, self.done * self.cost_before.macs * examples

    def state(self) -> dict[str, Any]:
        """What a session needs to go on beside the network, its optimiser and its averages: JSON values."""
        return {
            "format": _FORMAT,
            "settings": self.settings.model_dump(mode="json"),
            "epochs": self.epochs,
            "done": self.done,
            "strength": self.strength,
            "cost_before": asdict(self.cost_before),
            "widths_before": self.widths_before,
            "ratios": list(self.ratios),
            "reconfigurations": [one.as_dict() for one in self.reconfigurations],
            "growth": None if self._growth is None else self._growth.state(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave; the network is the one of that time.

        Raises:
            RunError: The state is of a session with other options, or of another version.
        """
        if state.get("format") != _FORMAT:
            raise RunError(
                f"the state of PruneTrain has format {state.get('format')!r}, this version reads {_FORMAT}; start the training anew"
            )
        if PruneTrainSettings(**state["settings"]) != self.settings or state["epochs"] != self.epochs:
            raise RunError(
                "the state is of a training with other epochs or options of PruneTrain; give those that it was begun with"
            )
        self.done, self.strength = int(state["done"]), state["strength"]
        self.cost_before = Cost(**state["cost_before"])
        self.widths_before = dict(state["widths_before"])
        self.ratios = tuple(state["ratios"])
        if self._growth is not None:
            self._growth.load(state["growth"])
        self.reconfigurations = tuple(map(Reconfiguration.from_dict, state["reconfigurations"]))
        self._good = snapshot(unwrapped(self.model))


def prunetrain(
    model: nn.Module,
    optimizer: torch.optim.Optimizer | Iterable[torch.optim.Optimizer],
    example: Any,
    *,
    epochs: int,
    averages: nn.Module | Iterable[nn.Module] | None = None,
    batch_size: int | None = None,
    settings: PruneTrainSettings | None = None,
    state: Mapping[str, Any] | None = None,
    forward_fn: ForwardFn | None = None,
    on_cut: Callable[[Reconfiguration], None] | None = None,
    **options: Any,
) -> PruneTrain:
    r"""Cut a network while it trains: a group lasso lets units die, and every few epochs the dead ones are removed for real.

    The loss of every step is :math:`L + \lambda\,\mathrm{GL}` with the group lasso of `secateur.train.GroupLasso`. With the asked ratio
    r, :math:`r = \lambda\,\mathrm{GL} / (L + \lambda\,\mathrm{GL})` at the first step gives
    :math:`\lambda = \frac{r}{1-r} \frac{L}{\mathrm{GL}}`, which then stays. Every k epochs the units of which all
    weights that write or read them are below a threshold are cut out. Where layers meet in an addition, a unit goes when all of them are done with
    it. A block of whose branch nothing is left goes whole. Momentum and averages follow. In the last epochs there is no penalty and nothing goes.

    Call ``loss = loss + session.penalty(loss)`` in every step, and ``session.step(epoch)`` after every epoch.

    Args:
        model: The network, which changes in place. Where several processes train it, the DistributedDataParallel around it, which is set up
            anew in place after each cut; λ then follows from the mean of their losses, and all of them must decide alike.
        optimizer: One or several that train it. Schedules and scalers hold the optimiser, and go on by themselves.
        example: An input as the network takes it; several examples are better where it has blocks.
        epochs: Of the whole training.
        averages: Running averages of its weights, which follow.
        batch_size: Examples of a step at first, for batches that grow (``grow_batch=True``): ``session.batch_size`` says how many the next epoch's steps
            have, and ``session.rate`` by what the learning rate is to be multiplied.
        settings: All options at once; ``options`` then are not given.
        state: What ``session.state()`` gave, to go on with the network, the optimiser and the averages of that time.
        forward_fn: How you run the network, where that is not ``model(example)``.
        on_cut: Told of each reconfiguration.
        options: Any option of `secateur.methods.PruneTrainSettings`.

    Returns:
        The session.

    Raises:
        SettingsError: An option is unknown or out of its range, the interval is longer than the training, or the processes that train
            the network were told different things.
        NothingToCutError: No unit of the network may go.
        RunError: The state is of another training.

    Example:
        >>> import secateur
        >>> from secateur import data, networks
        >>> digits, net = data.load("digits", limit=300), networks.build("digits-net", seed=0)
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
        >>> session = secateur.prunetrain(net, optimizer, digits.train.inputs[:8], epochs=3, every=1, threshold=0.02)
        >>> for epoch in range(3):
        ...     for x, y in digits.train.batches(64):
        ...         loss = nn.functional.cross_entropy(net(x), y)
        ...         loss = loss + session.penalty(loss)
        ...         optimizer.zero_grad()
        ...         loss.backward()
        ...         optimizer.step()
        ...     _ = session.step(epoch)
        >>> [one.epoch for one in session.reconfigurations]
        [1, 2]

    Source:
        Lym et al. 2019, PruneTrain: fast neural network training by dynamic sparse model reconfiguration, arXiv:1901.09290. There of convolutions; here of
        every tensor that writes or reads a unit. There no epochs are without the penalty, and a block's constant that is left when nothing of its branch
        is stays unmentioned; here it goes with the block.
    """
    kinds = (torch.optim.Optimizer, Iterable)
    expect(
        "prunetrain(model, optimizer, example, epochs=90)",
        model=(model, nn.Module),
        optimizer=(optimizer, kinds),
        epochs=(epochs, int),
    )
    if settings is not None and options:
        raise SettingsError(f"settings= and {', '.join(options)}= are both given; say each option once")
    chosen = PruneTrainSettings(**options) if settings is None else settings
    expect("prunetrain(..., settings=PruneTrainSettings())", settings=(chosen, PruneTrainSettings))
    session = PruneTrain(model, example, chosen, epochs=epochs, forward_fn=forward_fn, on_cut=on_cut)
    session.begin(optimizer, averages, batch_size=batch_size)
    if state is not None:
        session.load(state)
    began = session.state() | {
        "reconfigurations": [one.as_dict(times=False) for one in session.reconfigurations]
    }
    if not alike(model, json.dumps(began, sort_keys=True)):
        raise SettingsError(
            "the processes were given different networks, epochs, options or states of PruneTrain, so that they would not cut alike;"
            " give all of them the same"
        )
    return session
