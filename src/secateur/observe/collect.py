"""One pass over the batches."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from secateur._model import check_finite, left_as_found, named_tensors, unwrapped
from secateur.channels.groups import Channels, Group
from secateur.channels.nested import ForwardFn, tensors_in, with_tensors
from secateur.errors import DataError, ModelError, SettingsError
from secateur.observe.batch import run_batch
from secateur.observe.derivatives import Loss, cross_entropy, gradients, hessian_diagonal
from secateur.observe.readers import Reader, readers_of
from secateur.observe.subsets import SHARE, Drawn, Subsets
from secateur.observe.sums import GramSum, MomentSum, TaylorSum
from secateur.observe.uses import Uses
from secateur.observe.values import AT_READERS, DERIVATIVES, Need, Observations


def observe(
    model: nn.Module,
    channels: Channels,
    batches: Iterable[tuple[Any, Any]],
    *,
    needs: Collection[Need],
    loss: Loss | None = None,
    forward_fn: ForwardFn | None = None,
    groups: Collection[str] | None = None,
    probes: int = 8,
    draws: int = 32,
    share: float = SHARE,
    generator: torch.Generator | None = None,
    training: bool = False,
) -> Observations:
    """Watch a model work on data: one pass, streaming, the model left as found.

    A group's units are observed where they are *read*: at the inputs of the dense and convolutional layers whose weights
    read them. A group with a reader that is no such layer is listed in ``skipped`` with the reason. A reader that the pass
    does not use (an auxiliary head in evaluation) reads nothing: it adds no samples, and its covariance is zero.

    Args:
        model: The model. Its batches go to the device of its parameters.
        channels: The groups that were found in it.
        batches: Pairs of inputs (a tensor, a tuple of the forward's arguments, or a dictionary of them) and targets. The
            first axis of the first tensor counts the examples.
        needs: What to observe.
        loss: From output and targets to the mean loss over the batch; cross entropy by default. Used for derivatives.
        forward_fn: How a batch's inputs are run, where that is not ``model(inputs)``: ``forward_fn(model, inputs)``. What it
            returns goes to the loss.
        groups: Names of the groups to observe at their readers; all by default.
        probes: Probes a batch for the Hessian's diagonal, which is estimated for every parameter that writes or reads a
            group.
        draws: For ``Need.RELEVANCE``: passes over each batch, each without a random part of every group's units (`Subsets`), and
            compared with the mean of all over that batch. All in all there should be more of them than units.
        share: The share of a group's units that takes part in such a pass.
        generator: Source of the probes and draws; by default one with seed 0.
        training: Whether the model is in training mode in the pass. Running statistics are put back in any case.

    Raises:
        SettingsError: ``needs`` is empty, ``probes`` below 1, ``draws`` below 2, or ``share`` not above 0 and up to 1.
        DataError: There is no batch, or its inputs are not finite or not what the network takes.
        ModelError: Weights, activations, the loss or gradients are not finite; the layer is named.

    Example:
        >>> from secateur.channels import watch
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> channels = watch(model, torch.zeros(1, 2))
        >>> batches = [(torch.ones(4, 2), torch.zeros(4, dtype=torch.int64))]
        >>> seen = observe(model, channels, batches, needs={Need.ACTIVATION})
        >>> seen
        Observations(activation; 4 examples)
        >>> seen.activations["0"].mean.shape
        torch.Size([3])
    """
    model = unwrapped(model)
    wanted = frozenset(needs)
    if not wanted:
        raise SettingsError(f"nothing to observe; name what is needed, e.g. needs={{{Need.ACTIVATION}}}")
    if probes < 1:
        raise SettingsError(f"probes is {probes}; it must be at least 1")
    if draws < 2:
        raise SettingsError(f"draws is {draws}; it must be at least 2, which can be compared")
    chosen = [group for group in channels.groups if groups is None or group.name in groups]
    check_finite(named_tensors(model))
    source = generator or torch.Generator().manual_seed(0)
    collector = _Collector(model, chosen, wanted, probes, source)
    if Need.RELEVANCE in wanted:
        seed = int(torch.randint(2**31, (1,), generator=source))
        collector.subsets = Subsets(model, channels, share=share, seed=seed, groups=groups)
    with left_as_found(model), torch.set_grad_enabled(bool(wanted & DERIVATIVES)):
        model.train(training)
        collector.attach()
        for inputs, targets in batches:
            with collector.uses:
                outputs = collector.forward(model, inputs, forward_fn)
            collector.learn(outputs, targets, loss or cross_entropy)
            collector.compare(
                model, inputs, targets, loss or cross_entropy, forward_fn=forward_fn, draws=draws
            )
    return collector.result()


@dataclass(slots=True)
class _Sums:
    """What is added up for one group."""

    moments: MomentSum
    taylor: TaylorSum
    grams: dict[str, GramSum]
    calls: dict[str, int] = field(default_factory=dict[str, int])


class _Collector:
    """The hooks and running sums of one pass."""

    def __init__(
        self,
        model: nn.Module,
        groups: list[Group],
        needs: frozenset[Need],
        probes: int,
        generator: torch.Generator,
    ) -> None:
        self._needs, self._probes, self._generator = needs, probes, generator
        named = cast("Iterator[tuple[str, nn.Module]]", model.named_modules())
        self._names = {module: name for name, module in named}
        self._device = next((p.device for p in model.parameters()), torch.device("cpu"))
        self._examples = self._now = 0
        self._skipped: dict[str, str] = {}
        self._sums: dict[str, _Sums] = {}
        self._readers: dict[nn.Module, list[Reader]] = {}
        if needs & AT_READERS:
            for group in groups:
                self._add_group(model, group)
        self.uses = Uses(
            {r.tensor: model.get_parameter(r.tensor) for of in self._readers.values() for r in of}
        )
        floating = {n: p for n, p in model.named_parameters() if p.is_floating_point()}
        in_groups = {m.tensor for group in groups for m in group.by_role("write", "read")}
        self._parameters = floating if Need.GRADIENT in needs else {}
        self._curved = (
            {n: p for n, p in floating.items() if n in in_groups} if Need.HESSIAN_DIAGONAL in needs else {}
        )
        self._totals = {
            kind: {
                n: torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32))
                for n, p in of.items()
            }
            for kind, of in ((Need.GRADIENT, self._parameters), (Need.HESSIAN_DIAGONAL, self._curved))
        }
        self._gates: list[tuple[nn.Module, Tensor]] = []
        self.subsets: Subsets | None = None
        self._listening = True

    def _add_group(self, model: nn.Module, group: Group) -> None:
        try:
            readers = readers_of(model, group)
        except ModelError as reason:
            self._skipped[group.name] = str(reason)
            return
        covariance = Need.COVARIANCE in self._needs
        self._sums[group.name] = _Sums(
            MomentSum(group.width),
            TaylorSum(group.width),
            {reader.tensor: GramSum(group.width) for reader in readers} if covariance else {},
            {reader.tensor: 0 for reader in readers},
        )
        for reader in readers:
            for module in reader.modules:
                self._readers.setdefault(module, []).append(reader)

    def attach(self) -> None:
        """Hook the readers, and let what is differentiated have a gradient."""
        for module in self._readers:
            module.register_forward_pre_hook(self._on_input, with_kwargs=True)
        for parameter in (*self._parameters.values(), *self._curved.values()):
            parameter.requires_grad_(True)

    def _on_input(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Add up what a layer is about to read; give it a copy of its own if its gradient is wanted."""
        if not self._listening:
            return None
        x: Tensor = args[0] if args else kwargs["input"]
        if not bool(torch.isfinite(x).all()):
            raise ModelError(
                f"the input of layer {self._names[module]!r} is not finite, though weights and data are: an activation"
                " before it overflows; scale the data as in training, or use a wider number format"
            )
        for reader in self._readers[module]:
            sums = self._sums[reader.group]
            sums.calls[reader.tensor] += 1
            try:
                h_npw = reader.samples(x.detach(), examples=self._now)
            except ModelError as reason:
                self._skipped[reader.group] = str(reason)
                continue
            if Need.ACTIVATION in self._needs:
                sums.moments.add(h_npw)
            if Need.COVARIANCE in self._needs:
                sums.grams[reader.tensor].add(h_npw)
        if Need.TAYLOR_ACTIVATION not in self._needs:
            return None
        gate = x.clone()
        if not gate.requires_grad:
            gate.requires_grad_(True)
        self._gates.append((module, gate))
        return ((gate, *args[1:]), kwargs) if args else ((), {**kwargs, "input": gate})

    def forward(self, model: nn.Module, inputs: Any, forward_fn: ForwardFn | None) -> Any:
        """Run one batch; the hooks add what the readers see."""
        placed = self._ready(inputs, forward_fn)
        first = next(tensors_in(placed), None)
        if first is None:
            raise DataError(
                "a batch's inputs hold no tensor; give a tensor, a tuple or a dictionary of tensors"
            )
        self._now = int(first.shape[0])
        if self._now == 0:
            raise DataError("a batch has no examples; drop empty batches")
        self._gates.clear()
        return run_batch(model, placed, forward_fn)

    def learn(self, outputs: Any, targets: Any, loss: Loss) -> None:
        """Add what the batch's loss shows."""
        if self._needs & DERIVATIVES:
            self._derive(loss(outputs, self._at(targets)))
        self._examples += self._now

    @torch.no_grad()
    def compare(
        self,
        model: nn.Module,
        inputs: Any,
        targets: Any,
        loss: Loss,
        *,
        forward_fn: ForwardFn | None,
        draws: int,
    ) -> None:
        """Run the batch again and again, each time without a random part of the units, where that is wanted."""
        if self.subsets is None:
            return
        placed, target = self._ready(inputs, forward_fn), self._at(targets)
        seen: list[tuple[Drawn, float]] = []
        self._listening = False
        for _ in range(draws):
            with self.subsets.drawn() as drawn:
                outputs = run_batch(model, placed, forward_fn)
            seen.append((drawn, float(loss(outputs, target))))
        self._listening = True
        self.subsets.compare(seen)

    def _at(self, targets: Any) -> Any:
        return targets.to(self._device) if isinstance(targets, Tensor) else targets

    def _ready(self, inputs: Any, forward_fn: ForwardFn | None) -> Any:
        """A batch's inputs, checked, where the network is."""
        if isinstance(inputs, list) and forward_fn is None:  # as a data loader collates several arguments
            inputs = tuple(cast("list[Any]", inputs))
        return with_tensors(inputs, self._placed)

    def _placed(self, value: Tensor) -> Tensor:
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            bad = int((~torch.isfinite(value)).sum())
            raise DataError(
                f"a batch of inputs holds {bad} values that are NaN or infinite; clean the data, e.g. with"
                " torch.nan_to_num, before it is observed"
            )
        return value.to(self._device)

    def _derive(self, loss: Tensor) -> None:
        if not bool(torch.isfinite(loss).all()):
            raise ModelError(
                "the loss is not finite, though weights and data are; check the loss function and the targets"
            )
        parameters = {**self._parameters, **self._curved}
        found = gradients(
            loss, [*(gate for _, gate in self._gates), *parameters.values()], twice=bool(self._curved)
        )
        at_inputs = list(zip(self._gates, found, strict=False))
        for (module, gate), g in reversed(at_inputs):  # a NaN is named where it arose: nearest to the loss
            self._check(g, f"the gradient at the input of layer {self._names[module]!r}")
            product = gate.detach() * g.detach()
            for reader in self._readers[module]:
                if reader.group not in self._skipped:
                    self._sums[reader.group].taylor.add(reader.samples(product, examples=self._now))
        for sums in self._sums.values():
            sums.taylor.end_batch()
        first = dict(zip(parameters, found[len(self._gates) :], strict=True))
        for name, g in first.items():
            self._check(g, f"the gradient of {name!r}")
        self._add(Need.GRADIENT, {name: first[name] for name in self._parameters})
        if self._curved:
            curved = hessian_diagonal(
                [first[name] for name in self._curved],
                list(self._curved.values()),
                probes=self._probes,
                generator=self._generator,
            )
            named = dict(zip(self._curved, curved, strict=True))
            for name, value in named.items():
                self._check(value, f"the curvature of {name!r}")
            self._add(Need.HESSIAN_DIAGONAL, named)

    def _add(self, kind: Need, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            self._totals[kind][name] += value.detach() * self._now

    def _check(self, value: Tensor, what: str) -> None:
        if not bool(torch.isfinite(value).all()):
            raise ModelError(f"{what} is not finite, though the loss is; use a weight criterion such as 'l1'")

    def result(self) -> Observations:
        """The observations, once every batch was seen."""
        if self._examples == 0:
            raise DataError("there is no batch to observe; an iterator that was used up gives none")
        skipped = dict(self._skipped)
        for group, sums in self._sums.items():
            hidden = [
                tensor for tensor, calls in sums.calls.items() if calls == 0 and tensor in self.uses.used
            ]
            if hidden and group not in skipped:
                skipped[group] = (
                    f"{hidden[0]} is used without calling its layer, so that its input cannot be seen"
                )
        seen = {group: sums for group, sums in self._sums.items() if group not in skipped}
        want = self._needs.__contains__
        return Observations(
            needs=self._needs,
            examples=self._examples,
            activations={g: s.moments.result() for g, s in seen.items() if want(Need.ACTIVATION)},
            covariances={(g, t): gram.result() for g, s in seen.items() for t, gram in s.grams.items()},
            taylor={g: s.taylor.result() for g, s in seen.items() if want(Need.TAYLOR_ACTIVATION)},
            gradients={n: total / self._examples for n, total in self._totals[Need.GRADIENT].items()},
            relevance={g: r for g, r in (self.subsets.found() if self.subsets else {}).items() if g in seen},
            curvature={n: total / self._examples for n, total in self._totals[Need.HESSIAN_DIAGONAL].items()},
            skipped=skipped,
        )
