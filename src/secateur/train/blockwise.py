"""Block training: retrain the part of a network around a cut, so that it gives what it gave before."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import ClassVar, Literal, TypeAlias

import torch
from torch import Tensor, nn

from secateur._model import unwrapped
from secateur._options import expect
from secateur.errors import DataError, ModelError, SettingsError
from secateur.train.blocks import Kept, TrainingBlock, reached
from secateur.train.conditions import check_options
from secateur.train.forward import Examples, check_examples, check_split, device_of, dtype_of, logits, mode
from secateur.train.loop import Run, computing
from secateur.train.settings import TrainSettings
from secateur.train.state import EpochRecord, FitResult, restore, snapshot

MEMORY = 1 << 30
"""Bytes of intermediate results that a training stores."""

PairsFrom: TypeAlias = Literal["reduced", "unreduced"]
"""Whose input of the block it learns on."""

_BATCH = 512
_SAMPLE = 1024
"""Examples on which the spread of a block's output is taken."""


def block_outputs(unreduced: nn.Module, block: TrainingBlock, inputs: Tensor) -> Tensor:
    """What a network's block gives for some inputs, to be computed once and used by many trainings.

    Args:
        unreduced: The network in which the block was found; left as found.
        block: The block.
        inputs: ``[n, ...]``.

    Returns:
        ``[n, ...]`` on the network's device, all channels.

    Raises:
        ModelError: The block was found in another network.

    Example:
        >>> import secateur
        >>> from secateur import networks
        >>> from secateur.train import block_around
        >>> net, x = networks.build("digits-net", seed=0), torch.zeros(5, 1, 8, 8)
        >>> block_outputs(net, block_around(net, secateur.watch(net, x), "conv1", x), x).shape
        torch.Size([5, 32, 8, 8])
    """
    expect(
        "block_outputs(unreduced, block, inputs)",
        unreduced=(unreduced, nn.Module),
        block=(block, TrainingBlock),
    )
    block.check(unwrapped(unreduced))
    return _through(unwrapped(unreduced), block, inputs, before=False)


def fit_block(
    model: nn.Module,
    unreduced: nn.Module,
    block: TrainingBlock,
    train: Examples,
    settings: TrainSettings,
    *,
    validation: Examples | None = None,
    seed: int = 0,
    pairs_from: PairsFrom = "reduced",
    outputs: Tensor | None = None,
    memory: int = MEMORY,
    stop_when: Callable[[EpochRecord], bool] | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    on_batch: Callable[[int, int], None] | None = None,
) -> FitResult:
    r"""Train one block of a cut network in place, until it gives what the unreduced network's block gives.

    What is minimised over the training examples is

    .. math:: E\,\|b(x) - y\|^2 \,/\, E\,\|y - E y\|^2

    with y what the unreduced network's block gives (its channels that are left) and x what goes into the reduced network's:
    0 where both give the same, 1 for a block that always gives the mean. Only the block's parameters change, and of these only
    what no other part of the network holds, too. The block is trained as it will be used, in eval mode: norms keep their
    statistics and dropout is off. Everything else stays as it is, to the bit.

    Of the settings those of labels and of a teacher do not apply and are not looked at: ``label_smoothing``, ``distil_weight``,
    ``distil_temperature``, ``attention_weight`` and ``attention_layers``.

    Args:
        model: The network after the cut.
        unreduced: The network that the block was found in, and of which the other was cut; it is left as found.
        block: What to train (:func:`secateur.train.block_around`).
        train: What to learn from; the labels are not looked at.
        settings: How to train.
        validation: What epochs are judged by: the whole network's accuracy with the block as it is; None keeps the last epoch.
        seed: Not negative.
        pairs_from: What goes into the block: the ``reduced`` network's own intermediate results, so that the block also makes good
            what earlier cuts changed before it; or those of the ``unreduced`` network.
        outputs: What the unreduced network's block gives for the training examples (:func:`block_outputs`), to be shared by
            many trainings.
        memory: Bytes of pairs that may be stored. Where they take more, or examples are changed at random, they are
            computed for each batch anew.
        stop_when: Asked after each epoch; True ends the training.
        on_epoch: Told of each epoch. ``train_loss`` is the quotient above.
        on_batch: Told after each step how many of how many steps are done.

    Returns:
        History, best epoch, why it ended, and the optimiser.

    Raises:
        SettingsError: Options contradict each other.
        DataError: The network does not take the inputs, or the outputs are not those of the block on these examples.
        ModelError: The networks are not those that belong to the block, nothing in it is trainable, or the loss is no longer
            finite.

    Example:
        >>> import secateur
        >>> from secateur import data, networks
        >>> from secateur.train import block_around
        >>> digits = data.load("digits", limit=200)
        >>> net = networks.build("digits-net", seed=0)
        >>> channels = secateur.watch(net, digits.train.inputs[:1])
        >>> block = block_around(net, channels, "dense1", digits.train.inputs[:1])
        >>> half = secateur.plan(channels, secateur.score(net, channels, "l1"), remove={"dense1": 0.5}, groups=["dense1"])
        >>> small = secateur.apply(net, half)
        >>> history = fit_block(small, net, block, digits.train, TrainSettings(epochs=5, clip=1.0)).history
        >>> history[-1].train_loss < history[0].train_loss
        True

    Source:
        SNARE (KIT, 2020), sections 6.1 and 6.2: pairs are the unreduced network's intermediate results. Inputs of the reduced
        network with targets of the unreduced one: He et al. 2017, arXiv:1707.06168, there for one layer by least squares.
    """
    expect(
        "fit_block(model, unreduced, block, data.train, TrainSettings()), with a block of block_around",
        model=(model, nn.Module), unreduced=(unreduced, nn.Module), block=(block, TrainingBlock),
        settings=(settings, TrainSettings),
    )  # fmt: skip
    check_examples(train=train, **({} if validation is None else {"validation": validation}))
    model, unreduced = unwrapped(model), unwrapped(unreduced)
    where = device_of(model)
    check_options(validation, settings, seed=seed, device=where, teachers=(None, None))
    if memory < 0:
        raise SettingsError(f"memory is {memory}; it is a number of bytes, 0 or more")
    check_split(model, train, "training", device=where)
    if validation is not None:
        check_split(model, validation, "validation", device=where)
    pairs = _Pairs(model, unreduced, block, pairs_from)
    own = block.of(model)
    with (
        computing(own, settings),
        _trained_alone(model, own),
        mode(model, training=False),
        mode(unreduced, training=False),
    ):
        run = _BlockRun(
            own, train, validation, settings, seed=seed, optimizer=None, device=where, penalty=None
        )
        run.on_batch = on_batch
        run.begin(model, pairs, outputs, memory)
        return run.to_the_end(None, stop_when=stop_when, on_epoch=on_epoch, on_state=None)


@contextmanager
def _trained_alone(model: nn.Module, block: nn.Module) -> Generator[None]:
    """Freeze what the block shares with the rest of the network."""
    inside = set(block.modules())
    outside = {id(p) for m in model.modules() if m not in inside for p in m.parameters(recurse=False)}
    shared = [p for p in block.parameters() if id(p) in outside and p.requires_grad]
    for parameter in shared:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in shared:
            parameter.requires_grad_(True)


def _through(model: nn.Module, block: TrainingBlock, inputs: Tensor, *, before: bool) -> Tensor:
    """What goes into a network's block, or comes out of it."""
    module = model.get_submodule(block.modules[0 if before else -1])
    where, dtype = device_of(model), dtype_of(model)
    parts: list[Tensor] = []
    with mode(model, training=False), torch.no_grad():
        for start in range(0, len(inputs), _BATCH):
            ready = inputs[start : start + _BATCH].to(where, dtype)
            parts.append(reached(model, module, ready, before=before))
    return torch.cat(parts)


def _narrowed(x: Tensor, kept: Kept) -> Tensor:
    for axis, positions in enumerate(kept):
        if positions is not None:
            x = x.index_select(axis, positions.to(x.device))
    return x


class _Pairs:
    """What the block learns from: what goes in, and what should come out."""

    def __init__(
        self, model: nn.Module, unreduced: nn.Module, block: TrainingBlock, pairs_from: PairsFrom
    ) -> None:
        if pairs_from not in ("reduced", "unreduced"):
            raise SettingsError(f"pairs_from={pairs_from!r} must be 'reduced' or 'unreduced'")
        self.model, self.unreduced, self.block, self.pairs_from = model, unreduced, block, pairs_from
        self._taken, self._given = block.kept(unreduced, model)

    def into(self, inputs: Tensor) -> Tensor:
        """What goes into the block for some inputs of the network."""
        if self.pairs_from == "reduced":
            return _through(self.model, self.block, inputs, before=True)
        return _narrowed(_through(self.unreduced, self.block, inputs, before=True), self._taken)

    def out_of(self, inputs: Tensor) -> Tensor:
        """What should come out."""
        return self.left(_through(self.unreduced, self.block, inputs, before=False))

    def left(self, outputs: Tensor) -> Tensor:
        """Of what the unreduced network's block gives, the channels that are left."""
        return _narrowed(outputs, self._given)


class _BlockRun(Run):
    """A training whose network is the block, judged by the whole."""

    averages_buffers: ClassVar = False

    def begin(self, whole: nn.Module, pairs: _Pairs, outputs: Tensor | None, memory: int) -> None:
        """Store the pairs, where they stay the same and there is room."""
        self.whole, self.pairs = whole, pairs
        few = self.inputs[:_SAMPLE]
        wanted = pairs.out_of(few) if outputs is None else pairs.left(outputs[:_SAMPLE].to(self.device))
        got = pairs.block.of(whole)(pairs.into(few[:1]))
        if got.shape[1:] != wanted.shape[1:]:
            raise ModelError(
                f"the block {pairs.block} gives {tuple(got.shape[1:])} an example in the reduced network, and {tuple(wanted.shape[1:])}"
                " are left of what the unreduced network gives; pass the network that it was cut from"
            )
        if outputs is not None and len(outputs) != len(self.inputs):
            raise DataError(
                f"there are {len(outputs):,} outputs for {len(self.inputs):,} training examples; compute them with block_outputs"
            )
        self.spread = float(wanted.var(dim=0, correction=0).mean()) or 1.0
        self.stored: tuple[Tensor, Tensor] | None = None
        each = wanted[0].nbytes + pairs.into(few[:1]).nbytes
        if self.augment is None and each * len(self.inputs) <= memory:
            given = pairs.out_of(self.inputs) if outputs is None else pairs.left(outputs.to(self.device))
            self.stored = pairs.into(self.inputs), given

    def loss(self, model: nn.Module, rows: Tensor, generator: torch.Generator) -> Tensor:
        """How far the block's output is from what it should be, by the spread of that."""
        if self.stored is not None:
            taken, wanted = self.stored[0][rows], self.stored[1][rows]
        else:
            inputs = self.inputs[rows]
            if self.augment is not None:
                inputs = self.augment(inputs, generator)
            taken, wanted = self.pairs.into(inputs), self.pairs.out_of(inputs)
        return (model(taken) - wanted).square().mean() / self.spread

    def answers(self, inputs: Tensor) -> Tensor:
        """What the whole network would answer if training ended here."""
        if self.average is None:
            return logits(self.whole, inputs, device=self.device)
        now = snapshot(self.model)
        restore(self.model, snapshot(self.judged()))
        try:
            return logits(self.whole, inputs, device=self.device)
        finally:
            restore(self.model, now)
